"""The state of this process as JSON: the interface between the package and `map.js`."""

from __future__ import annotations

from typing import Any

from . import _follow, _guide, _library, _report, _status

UNUSED = "Nothing has used the GPU yet."


def state(devices: Any = None, observation: _guide.Observation | None = None) -> dict[str, Any]:
    """The state that `map.js` draws; of all devices unless some are named.

    `observation` is that of the last generation, for the guidance about the reserve.
    """
    if not _status.is_installed():
        return {"problem": _status.problem(), "devices": []}
    if devices is None:
        import torch

        if not torch.cuda.is_initialized():
            # Counting the devices would initialise CUDA, and the program could no longer fork.
            return {"problem": None, "note": UNUSED, "devices": []}
        devices = range(torch.cuda.device_count())
    shown: list[dict[str, Any]] = []
    problem = None
    for device in devices:
        try:
            stats = _report.stats(device)
            if stats["in_use"]:
                shown.append(_device(device, stats, observation))
        except _library.Error as why:
            problem = str(why)
    return {"problem": problem, "note": None if shown or problem else UNUSED, "devices": shown}


def mode(stats: dict[str, Any]) -> str:
    """The one mode that is in force, in the words of the pages."""
    if stats["phase_name"] == "freed":
        return "VRAM is free"
    if stats["phase_name"] == "disabled":
        return "disabled"
    return "automatic" if stats["automatic"] else "by hand"


def _others(device: int, stats: dict[str, Any]) -> int:
    """The bytes of our dedicated memory that others have: other programs, or this one past us."""
    free, _ = _library.memory_info(device, _library.DEDICATED)
    # What is free is counted in whole granules.
    found = int(stats["dedicated_capacity"]) - int(stats["dedicated_reserved"]) - free
    return found if found >= stats["granule"] else 0


def _device(device: int, stats: dict[str, Any], observation: _guide.Observation | None) -> dict[str, Any]:
    advice = _guide.guide(stats, observation)
    return {
        "index": device,
        "phase": mode(stats),
        "stats": stats,
        "others": _others(device, stats),
        "map": _report.memory_map(device),
        "modules": _follow.modules(device),
        "chosen": _guide.chosen(stats),
        "guide": vars(advice) if advice else None,
    }
