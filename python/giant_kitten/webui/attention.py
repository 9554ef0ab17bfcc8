"""AUTOMATIC1111's own attention cut to the card.

It works in pieces as large as the memory that it is told is free. Of both tiers, pieces would be as large as both, and
lie in shared memory where smaller ones had fitted the card. So it is told what is idle of the card; and only where it
finds no piece small enough, and would give up, as much more as it needs for its smallest.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

MIB = 1 << 20
GIB = 1 << 30

# How AUTOMATIC1111's error begins where 64 pieces are too few, and how it says what would do, to a tenth.
GIVES_UP = "Not enough memory"
NEEDS = re.compile(r"Need: ([\d.]+)GB free")


class _Fitted:
    """What is theirs, and what it is told. A model keeps the attention that it was given, so this outlives an undo."""

    def __init__(self, theirs: Any) -> None:
        self.free, self.split = theirs.get_available_vram, theirs.split_cross_attention_forward
        self.idle: Callable[[], int] | None = None
        # Of nothing at all it can take no share.
        self.least = MIB

        def attend(*arguments: Any, **named: Any) -> Any:
            return self.attend(*arguments, **named)

        # A function, which becomes a method of their class.
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
    """Cuts the attention in `theirs`, the module `sd_hijack_optimizations`, to the bytes that `idle` tells.

    Returns what undoes it. To be called before a model is loaded, which takes its attention from the module. One
    generation runs at a time. A module without that attention (Forge has none) is left alone.
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
