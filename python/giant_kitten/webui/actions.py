"""The actions of users, and the values of their options as forms and API calls give them."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

ACTIONS = ("disable", "free VRAM", "activate")
# What can be asked for besides, where no options belong to it.
RETURNS = ("automatic", "take back")

GIB = 1 << 30
# The step of the sliders, in bytes.
SLIDER_STEP = GIB // 10


class Refused(Exception):
    """A request of a user that cannot be done; the text says why and what to do."""


@dataclass(frozen=True)
class Action:
    """An action with its options. Sizes are in bytes."""

    name: str
    reserve: int | None = None
    """None: the automatic mode determines it."""
    persist: int = 0
    no_abort: bool = False
    sort_reversed: bool = False
    ignored_model: bool = False
    note: str = field(default="", compare=False)
    """A sentence about values that were changed to be possible."""


def parse_action(
    action: Any,
    reserve: Any = 0,
    persist: Any = 0,
    no_abort: Any = False,
    sort_reversed: Any = False,
    ignored_model: Any = False,
    *,
    most: int | None = None,
) -> Action:
    """The action of a form or an API call, with `action` as number or name and sizes in GiB.

    Raises `Refused` with a sentence for every invalid value, whatever it is. `most` is the card's
    size in bytes. A larger size becomes that one, and the action's note says so: the script that
    this one follows takes up to 24 GiB on every card. Sizes mean something to `activate` only.
    """
    name = action_name(action)
    sizes = {"reserve": _gib("reserve", reserve), "persist": _gib("persist", persist)}
    if name != "activate":
        sizes = dict.fromkeys(sizes, 0)
    notes = [_too_large(size, given, most) for size, given in sizes.items()] if most is not None else []
    fitting = sizes if most is None else {size: min(given, most) for size, given in sizes.items()}
    return Action(
        name=name,
        **fitting,
        no_abort=_flag("no abort", no_abort),
        sort_reversed=_flag("sort reversed", sort_reversed),
        ignored_model=_flag("ignored model", ignored_model),
        note=" ".join(filter(None, notes)),
    )


def action_name(value: Any, also: tuple[str, ...] = ()) -> str:
    """The name of an action that a form or an API call gives as number or name.

    Raises `Refused` where it is none of `ACTIONS` and `also`.
    """
    names = (*ACTIONS, *also)
    if isinstance(value, str):
        plain = value.removeprefix("GK:").strip().lower()
        for name in names:
            if plain == name.lower():
                return name
    elif isinstance(value, (int, float)) and not isinstance(value, bool) and value in range(len(ACTIONS)):
        return ACTIONS[int(value)]
    raise Refused(f"There is no action {shown(value)}: choose one of {', '.join(names)} (or 0, 1, 2).")


def _too_large(name: str, size: int, most: int) -> str:
    """A sentence if a size is above the card's; the sliders' last step may round up to it."""
    if size < most + SLIDER_STEP:
        return ""
    return (
        f"“{name}” is {size / GIB:g} GiB, and the card has {most / GIB:.1f} GiB for giant-kitten: that much was taken."
    )


def _gib(name: str, value: Any) -> int:
    if value is None or value == "":
        return 0
    try:
        # Texts are restricted to what people write. Python would also read "1_000" and the digits
        # of other scripts.
        if isinstance(value, str) and not re.fullmatch(r"\s*(\d+\.?\d*|\.\d+)\s*", value, re.ASCII):
            raise ValueError
        number = float(value)
    except (TypeError, ValueError):
        raise Refused(f"“{name}” must be a number of GiB, such as 1.6, not {shown(value)}.") from None
    except OverflowError:
        number = float("inf")
    if isinstance(value, bool) or not 0 <= number < 1 << 20:
        raise Refused(f"“{name}” must be a number of GiB from 0 to the card's size, not {shown(value)}.")
    return int(number * GIB)


def _flag(name: str, value: Any) -> bool:
    if value in (None, ""):
        return False
    if value in (True, False):
        return bool(value)
    raise Refused(f"“{name}” must be yes or no (true or false), not {shown(value)}.")


def shown(value: Any) -> str:
    """A value for use in a sentence: printable and of limited length."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):
        # Numbers of thousands of digits, and lists within lists.
        return f"such a {type(value).__name__}"
    return text if len(text) <= 100 else f"{text[:100]}…"
