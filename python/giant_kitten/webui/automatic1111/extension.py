"""Everything that the extension (`webui/automatic1111`) calls."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from . import attention, host, settings
from .host import session, slider_most
from .names import accept_older_names, forget_older_names, rename_pasted
from .panel import apply, apply_suggestion, disable, free_vram, greeting, interval, mode, reserve_gib, take_back
from .previews import gate_previews
from .routes import add_routes
from .script import HELP, WHICH_RESERVE, run_script
from .settings import MODES, add_settings

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "HELP", "MODES", "WHICH_RESERVE", "accept_older_names", "add_routes", "add_settings", "apply", "apply_suggestion",
    "begin", "disable", "fit_attention", "forget_older_names", "free_vram", "gate_previews", "greeting", "interval",
    "mode", "note", "rename_pasted", "reserve_gib", "run_script", "session", "slider_most", "take_back",
]  # fmt: skip


def begin(p: Any) -> None:
    """Begins a generation: applies the settings, and adds a note to the picture's description."""
    if session.problem():
        return
    host.use_scripts(getattr(p, "scripts", None))
    settings.put_into_force()
    kind = f"{p.width}x{p.height}x{getattr(p, 'batch_size', 1)}"
    if getattr(p, "enable_hr", False):
        kind += f" hires {getattr(p, 'hr_scale', '')}"
    _note(p, session.begin(kind))


def note(p: Any) -> None:
    """Completes the note once the pictures of a batch are made, when their cost is known."""
    _note(p, session.note())


def _note(p: Any, noted: str) -> None:
    if noted and settings.option("giant_kitten_infotext", True) and hasattr(p, "extra_generation_params"):
        p.extra_generation_params["Giant kitten"] = noted


def fit_attention() -> Callable[[], None]:
    """Limits AUTOMATIC1111's own attention to the card; returns a function that undoes it."""
    try:
        from modules import sd_hijack_optimizations
    except ImportError:
        return lambda: None
    # A user who has chosen what is reported as free memory has the last word.
    if session.problem() or os.environ.get("GIANT_KITTEN_MEM_GET_INFO"):
        return lambda: None
    return attention.fit(sd_hijack_optimizations, session.idle_dedicated)
