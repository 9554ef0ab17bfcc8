"""Our statistics of a device in the format of `torch.cuda.memory_stats`."""

from __future__ import annotations

from typing import Any

from .. import _library

# The statistics of a device when its totals were last reset. Ours count on from what was there at
# that moment, PyTorch's start at zero.
_at_reset: dict[int, dict[str, Any]] = {}


def reset_totals(device: int) -> None:
    """Replaces `_cuda_resetAccumulatedMemoryStats`."""
    _library.call("gk_reset_totals", device)
    _at_reset[device] = _library.read_json("gk_stats_json", device)


def memory_stats(device: int) -> dict[str, Any]:
    """Replaces `_cuda_memoryStats`: both tiers together, and each tier under "giant_kitten"."""
    stats = {**_library.read_json("gk_stats_json", device), "at_reset": _at_reset.get(device, {})}
    blocks, allocated = _pools(stats, "blocks"), _pools(stats, "allocated")
    active_blocks, active = _pools(stats, "active_blocks", "blocks"), _pools(stats, "active", "allocated")
    reserved = _gauge(stats, "reserved", "reserved")
    # On a device that is not in use, the granule is 0 like everything else.
    granule = stats["granule"] or 1
    # Reserved memory is not divided by the size of blocks. All of it counts as the large pool's,
    # except the bytes in small blocks.
    small = {key: min(value, reserved[key]) for key, value in allocated["small_pool"].items()}
    large = {key: reserved[key] - small[key] for key in reserved}
    return {
        "num_alloc_retries": stats["retries"],
        "num_ooms": stats["out_of_memory"],
        # Newer PyTorch releases can reject allocations before they ask the driver; we never do.
        "num_oom_rejections": 0,
        "num_sync_all_streams": 0,
        "num_device_alloc": reserved["allocated"] // granule,
        "num_device_free": reserved["freed"] // granule,
        "max_split_size": -1,
        "allocation": blocks,
        "active": active_blocks,
        "segment": {
            "all": {key: value // granule for key, value in reserved.items()},
            "small_pool": {key: -(-value // granule) for key, value in small.items()},
            "large_pool": {key: value // granule for key, value in large.items()},
        },
        "inactive_split": _without_history(stats, "splits"),
        "allocated_bytes": allocated,
        "active_bytes": active,
        "requested_bytes": _pools(stats, "requested"),
        "reserved_bytes": {"all": reserved, "small_pool": small, "large_pool": large},
        "reserved_bytes_by_private_pools": {},
        "inactive_split_bytes": _without_history(stats, "split_bytes"),
        "oversize_allocations": dict(_ZERO),
        "oversize_segments": dict(_ZERO),
        "giant_kitten": {name: value for name, value in stats.items() if isinstance(value, int)},
    }


_ZERO = {"current": 0, "peak": 0, "allocated": 0, "freed": 0}


def _gauge(stats: dict[str, Any], name: str, counted_as: str) -> dict[str, int]:
    current, total = stats[name], stats[f"{counted_as}_total"]
    before = stats["at_reset"].get(name, 0)
    return {
        "current": current,
        "peak": stats[f"{name}_peak"],
        "allocated": max(0, total - before),
        "freed": max(0, total - current),
    }


def _pools(stats: dict[str, Any], name: str, counted_as: str = "") -> dict[str, dict[str, int]]:
    """A statistic of all, small and large blocks; `counted_as` names the one with its total."""
    prefixes = {"all": "", "small_pool": "small_", "large_pool": "large_"}
    return {
        pool: _gauge(stats, f"{prefix}{name}", f"{prefix}{counted_as or name}") for pool, prefix in prefixes.items()
    }


def _without_history(stats: dict[str, Any], name: str) -> dict[str, dict[str, int]]:
    """A statistic that is computed only on request: its peak and total are its current value."""
    small, large = stats[f"small_{name}"], stats[f"large_{name}"]
    current = {"all": small + large, "small_pool": small, "large_pool": large}
    return {pool: {"current": now, "peak": now, "allocated": now, "freed": 0} for pool, now in current.items()}
