"""Limits AUTOMATIC1111's own attention to the card's memory.

It works in slices as large as the memory that is reported as free. With the memory of both tiers,
slices would be so large that they lie in shared memory where smaller ones would fit the card. So
only the card's idle memory is reported here. If even its smallest slice does not fit, the attention
would give up; then as much more is reported as it needs for that slice.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

MIB = 1 << 20
GIB = 1 << 30

# AUTOMATIC1111's error if 64 slices are too few: its beginning, and the memory that would suffice,
# in tenths of its GB.
GIVES_UP = "Not enough memory"
NEEDS = re.compile(r"Need: ([\d.]+)GB free")


class _Fitted:
    """The original functions, and the memory that is reported to them.

    A model keeps the attention that it was given, so this object outlives `undo`.
    """

    def __init__(self, theirs: Any) -> None:
        self.free, self.split = theirs.get_available_vram, theirs.split_cross_attention_forward
        self.idle: Callable[[], int] | None = None
        # The attention divides by the free memory, so that must never be 0.
        self.least = MIB

        def attend(*arguments: Any, **named: Any) -> Any:
            return self.attend(*arguments, **named)

        # It must be a function, because it becomes a method of their class.
        self.attention = attend

    def available(self) -> int:
        return int(self.free()) if self.idle is None else max(self.idle(), self.least)

    def attend(self, *arguments: Any, **named: Any) -> Any:
        try:
            return self.split(*arguments, **named)
        except RuntimeError as why:
            if self.idle is None or not str(why).startswith(GIVES_UP):
                raise
            needs = NEEDS.search(str(why))
        both = int(self.free())
        self.least = min(both, int((float(needs[1]) + 0.1) * GIB)) if needs else both
        try:
            return self.split(*arguments, **named)
        finally:
            self.least = MIB


def fit(theirs: Any, idle: Callable[[], int]) -> Callable[[], None]:
    """Limits the attention in `theirs`, the module `sd_hijack_optimizations`, to `idle()` bytes.

    Returns a function that undoes it. Call this before a model is loaded, because the model takes
    its attention from the module. Only one generation may run at a time. A module without that
    attention (Forge has none) is not changed.
    """
    if not (hasattr(theirs, "get_available_vram") and hasattr(theirs, "split_cross_attention_forward")):
        return lambda: None
    fitted: _Fitted = getattr(theirs, "fitted_by_giant_kitten", None) or _Fitted(theirs)
    fitted.idle, theirs.fitted_by_giant_kitten = idle, fitted
    theirs.get_available_vram, theirs.split_cross_attention_forward = fitted.available, fitted.attention

    def undo() -> None:
        fitted.idle = None
        theirs.get_available_vram, theirs.split_cross_attention_forward = fitted.free, fitted.split

    return undo
