"""The extension's section of the settings page, and the settings in force."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import gradio as gr
from modules import shared

from ..actions import Refused
from .host import by_hand, session, slider_most

MODES = ("automatic", "by hand")

# The mode and the reserve that were last put into force.
_in_force: tuple[Any, Any] | None = None


def option(name: str, otherwise: Any) -> Any:
    """The value of a setting; `otherwise` if there is none."""
    return getattr(shared.opts, name, otherwise)


def number(name: str, otherwise: float) -> float:
    """The value of a setting that is a number; `otherwise` if there is none.

    The file of settings and the API take any value.
    """
    try:
        found = float(option(name, otherwise))
    except (TypeError, ValueError):
        return otherwise
    return found if math.isfinite(found) else otherwise


def _wanted() -> tuple[Any, Any]:
    return option("giant_kitten_mode", MODES[0]), option("giant_kitten_reserve", 0.0)


def put_into_force() -> None:
    """Applies the settings if they have changed since they were last applied."""
    global _in_force
    before, _in_force = _in_force, _wanted()
    mode, reserve = _in_force
    if _in_force == before or (before is None and mode == MODES[0]):
        return
    try:
        if mode == "by hand":
            session.act(by_hand(reserve), without_model=True)
        elif session.by_hand is not None:
            session.automatic()
    except Refused as why:
        print(f"giant-kitten: {why}")


def keep(chosen: str, gib: float | None) -> None:
    """Saves the mode and the reserve that are in force now."""
    global _in_force
    shared.opts.set("giant_kitten_mode", chosen)
    if gib is not None:
        shared.opts.set("giant_kitten_reserve", gib)
    _in_force = _wanted()
    if not getattr(shared.cmd_opts, "freeze_settings", False):
        shared.opts.save(shared.config_filename)


def add_settings() -> None:
    """Adds the extension's section to the settings page."""
    add = partial(_add_setting, ("giant_kitten", "Giant kitten"))
    add("mode", MODES[0], "Reserve: determined automatically, or by hand", gr.Radio, {"choices": list(MODES)})
    sliding = {"minimum": 0.0, "maximum": slider_most(), "step": 0.1}
    add("reserve", 0.0, "Reserve by hand, in GiB (applied at the next generation)", gr.Slider, sliding)
    add("infotext", True, "Note the placement in the picture's description, so that its speed can be explained")
    add("interval", 1.0, "Seconds between two updates of the memory map (after a reload of the UI)", gr.Slider,
        {"minimum": 0.5, "maximum": 10.0, "step": 0.5})  # fmt: skip


def _add_setting(section: Any, name: str, default: Any, label: str, *component: Any) -> None:
    info = shared.OptionInfo(default, label, *component, section=section)
    shared.opts.add_option(f"giant_kitten_{name}", info)
