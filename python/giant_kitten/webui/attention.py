"""AUTOMATIC1111's own attention cut to the card.

It works in pieces as large as the memory that it is told is free. Of both tiers, pieces would be as large as both, and
lie in shared memory where smaller ones had fitted the card. So it is told what is idle of the card; and of both tiers
only where it finds no piece small enough, and would give up.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

MIB = 1 << 20

# How AUTOMATIC1111's error begins where 64 pieces are too few.
GIVES_UP = "Not enough memory"


def fit(theirs: Any, idle: Callable[[], int]) -> Callable[[], None]:
    """Cuts the attention in `theirs`, the module `sd_hijack_optimizations`, to the bytes that `idle` tells.

    Returns what undoes it. To be called before a model is loaded, which takes its attention from the module. One
    generation runs at a time. A module without that attention (Forge has none) is left alone.
    """
    free = getattr(theirs, "get_available_vram", None)
    split = getattr(theirs, "split_cross_attention_forward", None)
    if free is None or split is None:
        return lambda: None
    on_the_card = True

    def available() -> int:
        # Of nothing at all it can take no share.
        return max(idle(), MIB) if on_the_card else int(free())

    def split_to_fit(*arguments: Any, **named: Any) -> Any:
        nonlocal on_the_card
        try:
            return split(*arguments, **named)
        except RuntimeError as why:
            if not str(why).startswith(GIVES_UP):
                raise
        before, on_the_card = on_the_card, False
        try:
            return split(*arguments, **named)
        finally:
            on_the_card = before

    def undo() -> None:
        nonlocal on_the_card
        on_the_card = False
        theirs.get_available_vram, theirs.split_cross_attention_forward = free, split

    theirs.get_available_vram, theirs.split_cross_attention_forward = available, split_to_fit
    return undo
