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


def fit(theirs: Any, idle: Callable[[], int]) -> Callable[[], None]:
    """Cuts the attention in `theirs`, the module `sd_hijack_optimizations`, to the bytes that `idle` tells.

    Returns what undoes it. To be called before a model is loaded, which takes its attention from the module. One
    generation runs at a time. A module without that attention (Forge has none) is left alone.
    """
    free = getattr(theirs, "get_available_vram", None)
    split = getattr(theirs, "split_cross_attention_forward", None)
    if free is None or split is None:
        return lambda: None
    # Of nothing at all it can take no share.
    least = MIB
    undone = False

    def available() -> int:
        return int(free()) if undone else max(idle(), least)

    def split_to_fit(*arguments: Any, **named: Any) -> Any:
        nonlocal least
        try:
            return split(*arguments, **named)
        except RuntimeError as why:
            if undone or not str(why).startswith(GIVES_UP):
                raise
            needs = NEEDS.search(str(why))
        both = int(free())
        least = min(both, int((float(needs[1]) + 0.1) * GIB)) if needs else both
        try:
            return split(*arguments, **named)
        finally:
            least = MIB

    def undo() -> None:
        nonlocal undone
        undone = True
        theirs.get_available_vram, theirs.split_cross_attention_forward = free, split

    theirs.get_available_vram, theirs.split_cross_attention_forward = available, split_to_fit
    return undo
