"""The statistics, as numbers and for people."""

from __future__ import annotations

from typing import Any

from . import _library, _variable
from ._device import index_asked as _index


def stats(device: Any = None) -> dict[str, Any]:
    """Everything that is counted on a device, by the names of `struct gk_stats` in include/giant_kitten.h."""
    found = _library.read_json("gk_stats_json", _index(device))
    return dict(found)


def memory_map(device: Any = None) -> dict[str, Any]:
    """What lies where on a device: bytes of each kind in each tier, and its granules (`gk_map_json` in the header)."""
    return dict(_library.read_json("gk_map_json", _index(device)))


def summary(device: Any = None) -> str:
    """What `stats` says, in a few lines."""
    late = _variable.too_late()
    if late:
        return f"giant-kitten is not in use: {late}"
    found = stats(device)
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
    lines.append(
        f"in use of it {size(found['reserve_used'])}, at most {size(found['reserve_high_water'])}; fell to shared "
        f"{size(found['fell_to_shared_bytes'])} in {found['fell_to_shared']} blocks; "
        f"moved {size(found['migrated_bytes'])}"
    )
    return "\n".join(lines)


def size(count: int) -> str:
    """Bytes for people."""
    value = float(count)
    for unit in ("B", "KiB", "MiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.2f} GiB"
