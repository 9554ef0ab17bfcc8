"""PyTorch's history of what is allocated by whom: kept in the library, told in the words of PyTorch's viewer."""

from __future__ import annotations

import atexit
import ctypes
import sys
from typing import Any

from . import _library

_MALLOC = 0
_WHO = ctypes.CFUNCTYPE(ctypes.c_uint64, ctypes.c_int)
# Whether it is told of live memory alone, and its frames: code and line.
_Stack = tuple[bool, tuple[tuple[Any, int], ...]]


class History:
    """Whether a history is kept, and whose stacks with it."""

    def __init__(self) -> None:
        self.enabled = False
        self._contexts: tuple[int, ...] = ()
        self._skipped: frozenset[str] = frozenset()
        self._state_only = False
        # Whether stacks are told of what lives alone, and not of events.
        self._stacks_of_state = False
        # How the recording was begun: its most events, and whether the library asks for stacks.
        self._begun: tuple[int, bool] = (0, False)
        # Stacks by number, from 1; and the number of each.
        self._stacks: list[_Stack] = []
        self._numbers: dict[_Stack, int] = {}
        self._who = _WHO(self._ask)

    def record(
        self,
        enabled: str | None = "all",
        context: str | None = "all",
        stacks: str = "all",
        max_entries: int = sys.maxsize,
        clear_history: bool = False,
        compile_context: bool = False,
        global_record_annotations: bool = False,
        skip_actions: Any = (),
        *_: Any,
    ) -> None:
        """Replaces `_cuda_record_memory_history`.

        What was recorded before is kept, unless `clear_history` says otherwise, or there are more or fewer entries, or
        stacks after a recording without any.
        """
        contexts = {None: 0, "all": 2}.get(context, 1)
        if clear_history or enabled is None or not self._goes_on(max_entries, contexts):
            self._start(enabled is not None, max_entries, contexts)
        self._contexts = tuple(range(contexts))
        self._skipped = frozenset(skip_actions or ())
        self._state_only = enabled == "state"
        self._stacks_of_state = context == "state"

    def record_legacy(
        self,
        enabled: bool,
        record_context: bool = True,
        trace_alloc_max_entries: int = 1,
        trace_alloc_record_context: bool = False,
        *_: Any,
    ) -> None:
        """Replaces `_cuda_record_memory_history_legacy`."""
        self._start(enabled, sys.maxsize, int(record_context))
        self._skipped = frozenset()
        self._stacks_of_state = False
        self._state_only = trace_alloc_max_entries <= 1

    def _goes_on(self, most: int, contexts: int) -> bool:
        """Whether the recording under way is of the kind that is wanted. PyTorch 2.1 begins anew each time."""
        import torch

        keeps = torch.__version__ >= "2.2"
        return keeps and self.enabled and most == self._begun[0] and (self._begun[1] or contexts == 0)

    def _start(self, enabled: bool, most: int, contexts: int) -> None:
        self._contexts, self._begun = tuple(range(contexts)), (most, contexts > 0)
        self._stacks.clear()
        self._numbers.clear()
        _library.call("gk_record", max(1, most) if enabled else 0, self._who if contexts else _WHO())
        if enabled and not self.enabled:
            # The library must not ask an interpreter that has ended.
            atexit.register(_library.call, "gk_record", 0, _WHO())
        self.enabled = enabled

    def _ask(self, what: int) -> int:
        """Called by the library at a malloc or free: the number of the stack of Python that leads there."""
        if what not in self._contexts:
            return 0
        stack, frame = [], sys._getframe(1) if sys._getframe().f_back else None
        while frame is not None:
            stack.append((frame.f_code, frame.f_lineno))
            frame = frame.f_back
        key = (self._stacks_of_state, tuple(stack))
        number = self._numbers.get(key)
        if number is None:
            self._stacks.append(key)
            number = self._numbers[key] = len(self._stacks)
        return number

    def _told(self, stack: int) -> tuple[bool, list[dict[str, Any]]]:
        """A stack by its number, in the viewer's words."""
        of_state, lines = self._stacks[stack - 1] if 0 < stack <= len(self._stacks) else (False, ())
        return of_state, [{"filename": code.co_filename, "line": line, "name": code.co_name} for code, line in lines]

    def events(self, device: int) -> tuple[list[dict[str, Any]], dict[int, list[dict[str, Any]]]]:
        """What happened on a device, as the viewer wants it; and who allocated what begins at which address."""
        if not self.enabled:
            return [], {}
        events = _library.read_json("gk_history_json", device)
        frames: dict[int, list[dict[str, Any]]] = {}
        known: dict[int, tuple[bool, list[dict[str, Any]]]] = {}
        for event in events:
            stack = event.pop("stack")
            if stack not in known:
                known[stack] = self._told(stack)
            of_state, told = known[stack]
            event["frames"] = [] if of_state else told
            if event["action"] == "alloc":
                frames[event["addr"]] = told
        kept = [] if self._state_only else [event for event in events if event["action"] not in self._skipped]
        return kept, frames


history = History()
