"""The statistics, as numbers and in human-readable form."""

from __future__ import annotations

from typing import Any

from . import _in_use, _library, _status
from ._device import index_asked as _index


def stats(device: Any = None) -> dict[str, Any]:
    """The statistics of a device.

    The names are those of `struct gk_stats` in include/giant_kitten.h.
    """
    found = _library.read_json("gk_stats_json", _index(device))
    return dict(found)


def memory_map(device: Any = None) -> dict[str, Any]:
    """The memory map of a device: the bytes of each kind in each tier, and all granules.

    `gk_map_json` in include/giant_kitten.h describes it.
    """
    return dict(_library.read_json("gk_map_json", _index(device)))


def summary(device: Any = None) -> str:
    """The most important statistics, as a few lines of text."""
    ignored = _status.variable_ignored()
    if ignored:
        return f"giant-kitten is not in use: {ignored}"
    found = stats(device)
    if problem := _in_use.problem(_index(device)):
        return problem
    if not found["in_use"]:
        return f"giant-kitten: cuda:{_index(device)} is not in use yet"
    lines = [
        f"giant-kitten on {found['device']}: {found['phase_name']}, shared memory by {found['rung']}",
        f"{'':12}{'capacity':>12}{'allocated':>12}{'peak':>12}{'mapped':>12}{'held':>12}",
    ]
    for tier in ("dedicated", "shared"):
        fields = ("capacity", "allocated", "allocated_peak", "mapped", "reserved")
        lines.append(f"{tier:12}" + "".join(f"{size(found[f'{tier}_{field}']):>12}" for field in fields))
    lines.append(f"reserve {size(found['reserve'])} ({found['reserve_reason']})")
    blocks = "1 block" if found["fell_to_shared"] == 1 else f"{found['fell_to_shared']} blocks"
    lines.append(
        f"reserve used {size(found['reserve_used'])}, peak {size(found['reserve_high_water'])}; fell to shared "
        f"{size(found['fell_to_shared_bytes'])} in {blocks}; "
        f"moved {size(found['migrated_bytes'])}"
    )
    return "\n".join(lines)


def size(count: int) -> str:
    """A human-readable number of bytes."""
    value = float(count)
    for unit in ("B", "KiB", "MiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.2f} GiB"
