"""PyTorch's history of allocations.

The library records it; here it gets the format of PyTorch's viewer.
"""

from __future__ import annotations

import atexit
import sys
from typing import Any

from .. import _library

# The stacks that the library keeps, by PyTorch's names: those of live blocks (1), also those of
# past allocations (2), also those of frees (3).
_STACKS = {None: 0, "state": 1, "alloc": 2, "all": 3}
_CONTEXTS = ("state", "alloc", "all")
_KINDS = ("state", "all")
# The actions that can be skipped, with the numbers of their bits. We map segments where PyTorch's
# own allocator allocates them.
_ACTIONS = {
    "alloc": 0, "free_requested": 1, "free_completed": 2, "segment_map": 3, "segment_alloc": 3, "segment_unmap": 4,
    "segment_free": 4, "oom": 5,
}  # fmt: skip


class History:
    """Whether a history is recorded, and its events."""

    def __init__(self) -> None:
        self.enabled = False
        # The interpreter is about to end and must not be asked for stacks any more.
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

        Earlier entries are kept, unless `clear_history` says otherwise or fewer entries are wanted.
        """
        for name, value, known in (("enabled", enabled, _KINDS), ("context", context, _CONTEXTS)):
            if value is not None and value not in known:
                raise ValueError(f"{name} of a history must be None or one of {', '.join(known)}, not {value!r}")
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
            # PyTorch 2.1 starts a new history each time.
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
        """The events of a device, oldest first."""
        if not self.enabled:
            return []
        recorded = _library.read_json("gk_history_json", device)
        for event in recorded["events"]:
            event["pool_id"] = tuple(event["pool_id"])
            event["compile_context"], event["user_metadata"] = "N/A", ""
            stack = event.pop("stack", None)
            if stack is not None:
                event["frames"] = recorded["stacks"][stack]
            elif event["action"].startswith("segment_"):
                # No allocation is known to have caused it.
                event["frames"] = []
        events: list[dict[str, Any]] = recorded["events"]
        return events


history = History()
