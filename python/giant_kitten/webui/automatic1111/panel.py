"""The panel “Giant kitten: memory”: the values of its controls, and its buttons."""

from __future__ import annotations

from typing import Any

from modules import shared

from ..actions import Action
from . import settings
from .host import GIB, by_hand, in_turn, session
from .settings import MODES


def mode() -> str:
    """Whether the reserve is now determined automatically or set by hand."""
    return MODES[session.by_hand is not None]


def reserve_gib() -> float:
    """The reserve set by hand, in GiB."""
    if session.by_hand is not None:
        return round((session.by_hand.reserve or 0) / GIB, 2)
    return max(0.0, settings.number("giant_kitten_reserve", 0.0))


def greeting() -> str:
    """The sentence of the panel before any button is pressed."""
    options = shared.cmd_opts
    given = [name for name in ("lowvram", "medvram", "medvram_sdxl") if getattr(options, name, False)]
    if given:
        return f"--{given[0].replace('_', '-')} moves the model back and forth itself: omit it with giant-kitten."
    return ""


def interval() -> int:
    """Milliseconds between two updates of the memory map."""
    return int(1000 * min(60.0, max(0.5, settings.number("giant_kitten_interval", 1.0))))


def apply(chosen: Any, gib: Any) -> str:
    """Applies the mode and the reserve of the panel, and saves them in the settings."""
    if chosen not in MODES:
        return f"The reserve is automatic or by hand, not {chosen!r}."
    if chosen == "automatic":
        said = in_turn(session.automatic)
    else:
        said = in_turn(lambda: session.act(by_hand(gib), without_model=True))
    if mode() == chosen:
        settings.keep(chosen, None if chosen == "automatic" else reserve_gib())
    return said


def apply_suggestion() -> str:
    """Applies what the last generation suggests: a reserve, or the automatic mode."""
    found = session.guide()
    if found is None:
        return session.problem() or "giant-kitten has nothing to suggest."
    if found.suggested:
        return apply("by hand", found.suggested / GIB)
    return apply("automatic", 0) if found.prefers_automatic else found.text


def free_vram() -> str:
    """Frees the card for other programs."""
    return in_turn(lambda: session.act(Action("free VRAM")))


def take_back() -> str:
    """Ends that: what was in force before is again."""
    return in_turn(session.take_back)


def disable() -> str:
    """Undoes everything that was done by hand, and reserves nothing."""
    return in_turn(lambda: session.act(Action("disable"), without_model=True))
