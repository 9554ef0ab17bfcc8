"""Completes PyTorch's own functions about memory, which refuse to work with any allocator but its own.

They are replaced below `torch.cuda`, in `torch._C`, where everything that is derived from them looks them up.
"""

from __future__ import annotations

import os
import warnings
from typing import Any

from . import _accelerate, _library, _mem_pool
from ._history import history
from ._history import segments as _segments_of

_fractions: dict[int, float] = {}
# The figures of a device when its totals were last reset: ours begin with what was there, PyTorch's with nothing.
_at_reset: dict[int, dict[str, Any]] = {}


def complete(torch: Any) -> None:
    """Replaces what would raise."""
    c = torch._C
    c._cuda_memoryStats = memory_stats
    c._cuda_resetPeakMemoryStats = lambda device: _library.call("gk_reset_peaks", device)
    c._cuda_resetAccumulatedMemoryStats = _reset_totals
    c._cuda_memorySnapshot = memory_snapshot
    c._cuda_getMemoryFraction = lambda device: _fractions.get(device, 1.0)
    c._cuda_setMemoryFraction = _remembering(c._cuda_setMemoryFraction)
    c._cuda_record_memory_history = history.record
    c._cuda_record_memory_history_legacy = history.record_legacy
    c._cuda_isHistoryEnabled = lambda: history.enabled
    c._cuda_attach_out_of_memory_observer = _refuse("an observer of out of memory cannot be attached")
    # PyTorch would refuse these to any allocator but its own, without saying what they are for.
    c._cuda_getCheckpointState = c._cuda_checkPoolLiveAllocations = _refuse(
        'CUDA graph trees (torch.compile with mode="reduce-overhead" or backend="cudagraphs") cannot be used'
    )
    # Memory that can change tiers has no handle that another process could open. Old releases would try.
    torch.UntypedStorage._share_cuda_ = _refuse("CUDA tensors cannot be shared between processes (IPC)")
    torch.cuda.memory.change_current_allocator = torch.cuda.change_current_allocator = _another_allocator
    _mem_pool.complete(torch)
    _complete_mem_get_info(torch)
    _complete_accelerator(torch)
    _complete_cudnn_benchmark(torch)


def _refuse(what: str) -> Any:
    def refused(*_: Any, **__: Any) -> None:
        raise RuntimeError(f"{what} while giant-kitten is PyTorch's allocator; start without GIANT_KITTEN to use it")

    return refused


def _another_allocator(allocator: Any) -> None:
    """Takes the place of `change_current_allocator`: PyTorch would say of ours only that it has begun."""
    raise _library.Error(
        "this program brings a CUDA allocator of its own (change_current_allocator), and giant-kitten is PyTorch's "
        "already: a process has one. Start with GIANT_KITTEN=0, or without install(), to use the program's"
    )


def _remembering(set_fraction: Any) -> Any:
    def remembering(fraction: float, device: int) -> None:
        set_fraction(fraction, device)
        _fractions[device] = fraction

    return remembering


def _reset_totals(device: int) -> None:
    _library.call("gk_reset_totals", device)
    _at_reset[device] = _library.read_json("gk_stats_json", device)


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
    """A figure of all blocks, small ones and large ones; `counted_as` names the one that has its total."""
    prefixes = {"all": "", "small_pool": "small_", "large_pool": "large_"}
    return {
        pool: _gauge(stats, f"{prefix}{name}", f"{prefix}{counted_as or name}") for pool, prefix in prefixes.items()
    }


def _looked_up(stats: dict[str, Any], name: str) -> dict[str, dict[str, int]]:
    """A figure that is counted only when somebody looks, and so has no peak and no totals but what there is now."""
    small, large = stats[f"small_{name}"], stats[f"large_{name}"]
    current = {"all": small + large, "small_pool": small, "large_pool": large}
    return {pool: {"current": now, "peak": now, "allocated": now, "freed": 0} for pool, now in current.items()}


_NOTHING = {"current": 0, "peak": 0, "allocated": 0, "freed": 0}


def memory_stats(device: int) -> dict[str, Any]:
    """PyTorch's statistics of a device, of ours: both tiers together, and each by itself under "giant_kitten"."""
    stats = {**_library.read_json("gk_stats_json", device), "at_reset": _at_reset.get(device, {})}
    blocks, allocated = _pools(stats, "blocks"), _pools(stats, "allocated")
    active_blocks, active = _pools(stats, "active_blocks", "blocks"), _pools(stats, "active", "allocated")
    reserved = _gauge(stats, "reserved", "reserved")
    # Of a device that is not in use everything is 0.
    granule = stats["granule"] or 1
    # What is held is not divided by the size of blocks: all of it is the large pool's but for what small blocks fill.
    small = {key: min(value, reserved[key]) for key, value in allocated["small_pool"].items()}
    large = {key: reserved[key] - small[key] for key in reserved}
    return {
        "num_alloc_retries": stats["retries"],
        "num_ooms": stats["out_of_memory"],
        # Of refusals before the driver is asked, which newer releases can be told to make.
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
        "inactive_split": _looked_up(stats, "splits"),
        "allocated_bytes": allocated,
        "active_bytes": active,
        "requested_bytes": _pools(stats, "requested"),
        "reserved_bytes": {"all": reserved, "small_pool": small, "large_pool": large},
        "reserved_bytes_by_private_pools": {},
        "inactive_split_bytes": _looked_up(stats, "split_bytes"),
        "oversize_allocations": dict(_NOTHING),
        "oversize_segments": dict(_NOTHING),
        "giant_kitten": {name: value for name, value in stats.items() if isinstance(value, int)},
    }


def memory_snapshot(wanted: Any = None, *_: Any) -> dict[str, Any]:
    """PyTorch's snapshot of all devices in use: segments and blocks, and how much of each lies in which tier.

    `wanted` is a pool, by its two numbers, or two zeros for all; and, in newer releases, whether events are wanted.
    """
    import torch

    pool, with_events = None, True
    if isinstance(wanted, (tuple, list)) and len(wanted) >= 2:
        pool = list(wanted[:2]) if tuple(wanted[:2]) != (0, 0) else None
        with_events = all(wanted[2:3])
    segments, traces = [], []
    # A question begins nothing: before CUDA has begun there is nothing to tell of, and asking would forbid to fork.
    for device in range(torch.cuda.device_count() if torch.cuda.is_initialized() else 0):
        traces.append(history.events(device) if with_events else [])
        for segment in _segments_of(device):
            if pool is None or segment["segment_pool_id"] == pool:
                segments.append(_segment(segment, device))
    return {
        "segments": segments,
        "device_traces": traces,
        "allocator_settings": {
            "PYTORCH_CUDA_ALLOC_CONF": os.environ.get("PYTORCH_CUDA_ALLOC_CONF", ""),
            "GIANT_KITTEN": os.environ.get("GIANT_KITTEN", ""),
            "max_split_size": -1,
            "garbage_collection_threshold": 0.0,
            "expandable_segments": False,
            "pinned_num_register_threads": 1,
            "release_lock_on_cudamalloc": False,
            "pinned_use_cuda_host_register": False,
            "roundup_power2_divisions": {},
        },
        "external_annotations": [],
        "host_segments": [],
        "host_traces": [],
    }


def _segment(segment: dict[str, Any], device: int) -> dict[str, Any]:
    blocks = segment["blocks"]
    live = [block for block in blocks if block["state"] == "active_allocated"]
    active = [block for block in blocks if block["state"] != "inactive"]
    return {
        **segment,
        "device": device,
        "segment_pool_id": tuple(segment["segment_pool_id"]),
        "is_expandable": True,
        "frames": [],
        "allocated_size": sum(block["size"] for block in live),
        "active_size": sum(block["size"] for block in active),
        "requested_size": sum(block["requested_size"] for block in live),
        "dedicated_size": sum(block["dedicated_size"] for block in blocks),
        "shared_size": sum(block["shared_size"] for block in blocks),
    }


def _complete_mem_get_info(torch: Any) -> None:
    native = torch.cuda.mem_get_info

    wanted = os.environ.get("GIANT_KITTEN_MEM_GET_INFO", "") or "both"
    if wanted not in ("both", "dedicated"):
        warnings.warn(
            f'GIANT_KITTEN_MEM_GET_INFO={wanted} is not understood, "both" tiers are told: it takes both|dedicated'
        )
    tells_dedicated = wanted == "dedicated"

    def mem_get_info(device: Any = None) -> tuple[int, int]:
        """Free and total memory in bytes: that of the card and what may be shared, or the card's alone.

        Programs that offload by themselves go by it, and would let nothing overflow if it told of the card alone.
        The option is the environment variable GIANT_KITTEN_MEM_GET_INFO: "both" (the default) or "dedicated".
        """
        if tells_dedicated:
            free, total = native(device)
            return int(free), int(total)
        from ._device import index

        number = index(device)
        tiers = [_library.memory_info(number, tier) for tier in (_library.DEDICATED, _library.SHARED)]
        return sum(free for free, _ in tiers), sum(total for _, total in tiers)

    if not tells_dedicated:
        _accelerate.complete()
    mem_get_info.__module__ = native.__module__
    torch.cuda.mem_get_info = mem_get_info
    torch.cuda.memory.mem_get_info = mem_get_info


def _complete_accelerator(torch: Any) -> None:
    """What `torch.accelerator` asks, in the releases whose `torch.accelerator` tells of memory.

    It finds no allocator that it knows to have begun, and so tells of nothing and empties nothing.
    """
    c = torch._C
    if not hasattr(c, "_accelerator_isAllocatorInitialized"):
        return
    c._accelerator_isAllocatorInitialized = torch.cuda.is_initialized
    c._accelerator_emptyCache = torch.cuda.empty_cache
    c._accelerator_getDeviceStats = memory_stats
    c._accelerator_resetPeakStats = c._cuda_resetPeakMemoryStats
    c._accelerator_resetAccumulatedStats = c._cuda_resetAccumulatedMemoryStats
    c._accelerator_getMemoryInfo = torch.cuda.mem_get_info


def _complete_cudnn_benchmark(torch: Any) -> None:
    """CuDNN's benchmark mode asks the allocator what no allocator but PyTorch's own answers, and convolutions fail."""
    set_benchmark = torch._C._set_cudnn_benchmark
    warned = False

    def harmless(wanted: bool) -> None:
        nonlocal warned
        if wanted and not warned:
            warned = True
            warnings.warn(
                "torch.backends.cudnn.benchmark stays off: with it convolutions fail under any allocator but its own",
                stacklevel=3,
            )
        set_benchmark(False)

    if torch._C._get_cudnn_benchmark():
        harmless(True)
    torch._C._set_cudnn_benchmark = harmless
    switch = type(torch.backends.cudnn).__dict__.get("benchmark")
    if switch is not None and hasattr(switch, "setter"):
        switch.setter = harmless
