"""Our segments and blocks in the format of `torch.cuda.memory_snapshot`."""

from __future__ import annotations

import os
from typing import Any

from .. import _library
from .history import history


def memory_snapshot(wanted: Any = None, *_: Any) -> dict[str, Any]:
    """Replaces `_cuda_memorySnapshot`: segments, blocks, and how much of each lies in which tier.

    `wanted` is the pair of numbers of a pool, or two zeros for all pools. In newer releases a third
    element says whether events are wanted.
    """
    import torch

    pool, with_events = None, True
    if isinstance(wanted, (tuple, list)) and len(wanted) >= 2:
        pool = list(wanted[:2]) if tuple(wanted[:2]) != (0, 0) else None
        with_events = all(wanted[2:3])
    segments, traces = [], []
    # A snapshot must not initialise CUDA: before that there is nothing to report, and afterwards
    # the program could no longer fork.
    for device in range(torch.cuda.device_count() if torch.cuda.is_initialized() else 0):
        traces.append(history.events(device) if with_events else [])
        for segment in _segments(device):
            if pool is None or segment["segment_pool_id"] == pool:
                segments.append(_completed(segment, device))
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


def _segments(device: int) -> list[dict[str, Any]]:
    """The segments of a device and their blocks, with the stack of each allocation if known."""
    snapshot = _library.read_json("gk_snapshot_json", device)
    for segment in snapshot["segments"]:
        for block in segment["blocks"]:
            stack = block.pop("stack", None)
            block["frames"] = [] if stack is None else snapshot["stacks"][stack]
    found: list[dict[str, Any]] = snapshot["segments"]
    return found


def _completed(segment: dict[str, Any], device: int) -> dict[str, Any]:
    """A segment with the sums over its blocks that PyTorch's format has."""
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
