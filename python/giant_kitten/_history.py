"""PyTorch's history of what is allocated by whom: kept in the library, told in the words of PyTorch's viewer."""

from __future__ import annotations

import atexit
import sys
from typing import Any

from . import _library

# Whose stacks the library keeps, by PyTorch's words: those of live blocks, of requests too, of what is given back too.
_STACKS = {None: 0, "state": 1, "alloc": 2, "all": 3}
_CONTEXTS = ("state", "alloc", "all")
_KINDS = ("state", "all")
# The actions that can be left out, by the numbers of their bits. Ours maps segments where PyTorch's own allocates them.
_ACTIONS = {
    "alloc": 0, "free_requested": 1, "free_completed": 2, "segment_map": 3, "segment_alloc": 3, "segment_unmap": 4,
    "segment_free": 4, "oom": 5,
}  # fmt: skip


class History:
    """Whether a history is kept, and how it is told."""

    def __init__(self) -> None:
        self.enabled = False
        # Whether the interpreter is about to end: it must not be asked for stacks then.
        self._over = False
        self._ends_with_python = False

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

        What was recorded before is kept, unless `clear_history` says otherwise or there is room for fewer entries.
        """
        for name, value, known in (("enabled", enabled, _KINDS), ("context", context, _CONTEXTS)):
            if value is not None and value not in known:
                raise ValueError(f"{name} of a history is None or one of {', '.join(known)}, not {value!r}")
        self._record(enabled is not None, max_entries if enabled == "all" else 1, context, skip_actions, clear_history)

    def record_legacy(
        self,
        enabled: bool,
        record_context: bool = True,
        trace_alloc_max_entries: int = 1,
        trace_alloc_record_context: bool = False,
        record_context_cpp: bool = False,
        clear_history: bool = False,
        compile_context: bool = False,
        global_record_annotations: bool = False,
        skip_actions: Any = (),
        *_: Any,
    ) -> None:
        """Replaces `_cuda_record_memory_history_legacy`."""
        context = "alloc" if trace_alloc_record_context else "state" if record_context else None
        self._record(enabled, trace_alloc_max_entries, context, skip_actions, clear_history)

    def _record(self, enabled: bool, most: int, context: str | None, skip: Any, clear: bool) -> None:
        import torch

        if clear or torch.__version__ < "2.2":
            # PyTorch 2.1 begins anew each time.
            _library.call("gk_record", 0, 0, 0)
        if enabled and not self._ends_with_python:
            atexit.register(self._end)
            self._ends_with_python = True
        skipped = sum({1 << _ACTIONS[action] for action in skip or () if action in _ACTIONS})
        entries = min(max(1, most), sys.maxsize) if enabled else 0
        _library.call("gk_record", entries, 0 if self._over else _STACKS[context], skipped)
        self.enabled = enabled

    def _end(self) -> None:
        self._over = True
        _library.call("gk_record", 0, 0, 0)

    def events(self, device: int) -> list[dict[str, Any]]:
        """What happened on a device, the oldest first."""
        if not self.enabled:
            return []
        told = _library.read_json("gk_history_json", device)
        for event in told["events"]:
            event["pool_id"] = tuple(event["pool_id"])
            event["compile_context"], event["user_metadata"] = "N/A", ""
            stack = event.pop("stack", None)
            if stack is not None:
                event["frames"] = told["stacks"][stack]
            elif event["action"].startswith("segment_"):
                # Nobody is known to have asked for it.
                event["frames"] = []
        events: list[dict[str, Any]] = told["events"]
        return events


history = History()


def segments(device: int) -> list[dict[str, Any]]:
    """The segments of a device with their blocks, and the frames of those who asked for what lives, where known."""
    told = _library.read_json("gk_snapshot_json", device)
    for segment in told["segments"]:
        for block in segment["blocks"]:
            stack = block.pop("stack", None)
            block["frames"] = [] if stack is None else told["stacks"][stack]
    found: list[dict[str, Any]] = told["segments"]
    return found
