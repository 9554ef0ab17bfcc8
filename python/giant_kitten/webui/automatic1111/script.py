"""The custom script “Giant kitten”: an action before the generation, or instead of it."""

from __future__ import annotations

from typing import Any

from ..actions import Refused, parse_action
from .host import session

HELP = {
    "activate": "places everything anew, the model first and small tensors before large ones, and leaves “reserve” GiB "
    "of VRAM to everything else that a generation needs; nothing moves afterwards",
    "disable": "does the same with all of the VRAM, and lets memory move again (choose this to undo everything)",
    "free VRAM": "moves everything to shared memory, so that another program can use the card; generating still works, "
    "more slowly",
    "no abort": "continues with the generation; without it, only the action is done",
    "sort reversed": "places large tensors in VRAM before small ones",
    "ignored model": "treats all tensors equally, instead of the UNet's first",
    "persist": "withholds so much VRAM while active, as if the card were smaller (leave it at 0 unless you test that)",
}
WHICH_RESERVE = (
    "Which reserve? The panel “Giant kitten: memory” suggests one after a generation; its automatic mode needs none of "
    "this."
)


def run_script(*values: Any) -> tuple[str, bool]:
    """Does the action that the controls choose.

    Returns a sentence about the result, and whether the generation continues.
    """
    if len(values) > 6 or not values:
        names = "action, reserve, persist, no abort, sort reversed, ignored model"
        return f"Giant kitten takes six values ({names}), not {len(values)}.", False
    try:
        wanted = parse_action(*values, most=session.capacity())
        said = session.act(wanted)
    except Refused as why:
        return str(why), False
    if wanted.no_abort:
        return said, True
    return f"{said} Done! (To keep generating images without deselecting this script, check “GK: no abort”)", False
