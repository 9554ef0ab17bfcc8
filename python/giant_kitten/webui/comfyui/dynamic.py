"""ComfyUI's dynamic VRAM (the package comfy-aimdo), which keeps weights in memory of its own."""

from __future__ import annotations

import math
import sys
from typing import Any

import comfy.model_management

from ..._report import size


def is_on() -> bool:
    """Whether dynamic VRAM keeps the weights; older versions have no such module or flag."""
    return bool(getattr(sys.modules.get("comfy.memory_management"), "aimdo_enabled", False))


def held() -> int:
    """The bytes of VRAM that it keeps now; 0 where that is not known."""
    usage = getattr(sys.modules.get("comfy_aimdo.control"), "get_total_vram_usage", None)
    try:
        return int(usage()) if is_on() and usage is not None else 0
    except Exception:  # It is another library, whose versions differ. The page can do without.
        return 0


def unload() -> str:
    """Makes ComfyUI unload its models from dynamic VRAM; returns a sentence about the result."""
    if not is_on():
        return ""
    try:
        comfy.model_management.unload_all_models()
        comfy.model_management.soft_empty_cache()
    except Exception as why:  # As above. giant-kitten's own memory can still be moved.
        return f"ComfyUI could not unload its models from dynamic VRAM ({why}): it keeps {size(held())}."
    left = held()
    kept = f" It still keeps {size(left)}, which giant-kitten cannot move." if left else ""
    return f"ComfyUI's dynamic VRAM has unloaded its models, and loads them again at the next prompt.{kept}"


def note() -> str | None:
    """What dynamic VRAM means for giant-kitten; None where it is off."""
    if not is_on():
        return None
    return (
        "ComfyUI's dynamic VRAM manages the weights itself, and makes little room for the rest, which giant-kitten "
        "manages: start with --disable-dynamic-vram to have models placed, or with GIANT_KITTEN=0."
    )


def describe(device: dict[str, Any], overflow: int) -> None:
    """Names what others have of a device's memory in its state, and says what makes room for more.

    `overflow` has the bytes by which the last prompt has overflowed the card.
    """
    found = held()
    if found:
        device["others"] = max(found, device["others"])
        device["others_are"] = "ComfyUI's dynamic VRAM and others"
    if overflow and is_on():
        # No reserve is suggested: it could only move giant-kitten's own memory.
        device["guide"] = {"suggested": 0, "prefers_automatic": False, "text": _advice(overflow)}


def _advice(overflow: int) -> str:
    """What to do about a prompt that has overflowed beside dynamic VRAM."""
    overflowed = f"The last prompt overflowed by {size(overflow)}, and a reserve does not move the weights that "
    headroom = getattr(getattr(sys.modules.get("comfy.cli_args"), "args", None), "vram_headroom", None)
    if headroom is None:
        return overflowed + "dynamic VRAM keeps: start ComfyUI with --disable-dynamic-vram."
    # As a number of GiB, in tenths.
    wanted = math.ceil((headroom + overflow / (1 << 30)) * 10) / 10
    return overflowed + f"dynamic VRAM keeps: start ComfyUI with --vram-headroom {wanted}, and it makes room for that."
