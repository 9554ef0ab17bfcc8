"""Our statistics of a device in the format of `torch.cuda.memory_stats`.

PyTorch flattens and sorts nested statistics anew at each look, and takes a single figure out of all
of them. Ours are more. So what does that is replaced too.
"""

from __future__ import annotations

import functools
from collections import OrderedDict
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from .. import _library

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# The statistics of a device when its totals were last reset. Ours count on from what was there at
# that moment, PyTorch's start at zero.
_at_reset: dict[int, dict[str, int]] = {}

_POOLS = {"all": "", "small_pool": "small_", "large_pool": "large_"}
_ZERO = {"current": 0, "peak": 0, "allocated": 0, "freed": 0}

# The functions that return one figure, and its name in `gk_stats`.
_FIGURES = {
    "memory_allocated": "allocated",
    "max_memory_allocated": "allocated_peak",
    "memory_reserved": "reserved",
    "max_memory_reserved": "reserved_peak",
}


def complete(torch: Any, package: Any) -> None:
    """Replaces the functions of `torch.cuda` or `torch.accelerator` that flatten the statistics."""

    def replace(name: str, answer: Callable[[int], Any], unused: Any) -> None:
        @functools.wraps(getattr(package, name))
        def replaced(device: Any = None) -> Any:
            if not torch.cuda.is_initialized():
                return unused()
            return answer(package.memory._get_device_index(device, optional=True))

        setattr(package, name, replaced)
        setattr(package.memory, name, replaced)

    replace("memory_stats", _flat_stats, OrderedDict)
    for name, figure in _FIGURES.items():
        replace(name, functools.partial(_figure, figure), int)


def _figure(name: str, device: int) -> int:
    return _library.statistics(device)[name]


def _flat_stats(device: int) -> OrderedDict[str, int]:
    """All statistics by their paths, in the order of these."""
    paths, in_order = _sorted_paths()
    return OrderedDict(zip(paths, in_order(_leaves(memory_stats(device)))))


@functools.lru_cache(maxsize=1)
def _sorted_paths() -> tuple[list[str], Callable[[list[int]], tuple[int, ...]]]:
    """The paths of all statistics, sorted, and what puts the leaves into that order."""
    paths = list(_paths(memory_stats(0)))
    order = sorted(range(len(paths)), key=paths.__getitem__)
    return sorted(paths), itemgetter(*order)


def _paths(nested: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for name, value in nested.items():
        if isinstance(value, dict):
            yield from _paths(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def _leaves(nested: dict[str, Any]) -> list[int]:
    """The numbers in nested statistics, in the order of `_paths`."""
    found: list[int] = []
    for group in nested.values():
        if not isinstance(group, dict):
            found.append(group)
        elif "all" in group:
            for gauge in group.values():
                found += gauge.values()
        else:
            found += group.values()
    return found


def reset_totals(device: int) -> None:
    """Replaces `_cuda_resetAccumulatedMemoryStats`."""
    _library.call("gk_reset_totals", device)
    _at_reset[device] = _library.statistics(device)


def memory_stats(device: int) -> dict[str, Any]:
    """Replaces `_cuda_memoryStats`: both tiers together, and each tier under "giant_kitten"."""
    stats, before = _library.statistics(device), _at_reset.get(device, {})
    blocks, allocated = _pools(stats, before, "blocks"), _pools(stats, before, "allocated")
    active_blocks = _pools(stats, before, "active_blocks", "blocks")
    active = _pools(stats, before, "active", "allocated")
    reserved = _gauge(stats, before, *_names("reserved", "reserved"))
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
        "requested_bytes": _pools(stats, before, "requested"),
        "reserved_bytes": {"all": reserved, "small_pool": small, "large_pool": large},
        "reserved_bytes_by_private_pools": {},
        "inactive_split_bytes": _without_history(stats, "split_bytes"),
        "oversize_allocations": dict(_ZERO),
        "oversize_segments": dict(_ZERO),
        "giant_kitten": stats,
    }


def _pools(
    stats: dict[str, int], before: dict[str, int], name: str, counted_as: str | None = None
) -> dict[str, dict[str, int]]:
    """A statistic of all, small and large blocks; `counted_as` names the one with its total."""
    return {pool: _gauge(stats, before, *names) for pool, names in _names_by_pool(name, counted_as or name).items()}


def _gauge(stats: dict[str, int], before: dict[str, int], name: str, peak: str, total: str) -> dict[str, int]:
    current, ever = stats[name], stats[total]
    return {
        "current": current,
        "peak": stats[peak],
        "allocated": max(0, ever - before.get(name, 0)),
        "freed": max(0, ever - current),
    }


@functools.cache
def _names_by_pool(name: str, counted_as: str) -> dict[str, tuple[str, str, str]]:
    return {pool: _names(f"{prefix}{name}", f"{prefix}{counted_as}") for pool, prefix in _POOLS.items()}


def _names(name: str, counted_as: str) -> tuple[str, str, str]:
    """The names of a statistic's current value, of its peak, and of the total that it counts in."""
    return name, f"{name}_peak", f"{counted_as}_total"


def _without_history(stats: dict[str, int], name: str) -> dict[str, dict[str, int]]:
    """A statistic that is computed only on request: its peak and total are its current value."""
    small, large = stats[f"small_{name}"], stats[f"large_{name}"]
    current = {"all": small + large, "small_pool": small, "large_pool": large}
    return {pool: {"current": now, "peak": now, "allocated": now, "freed": 0} for pool, now in current.items()}
