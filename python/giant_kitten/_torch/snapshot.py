"""Our segments and blocks in the format of `torch.cuda.memory_snapshot`."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from .. import _library
from .history import history

if TYPE_CHECKING:
    from collections.abc import Iterator


def memory_snapshot(wanted: Any = None, *_: Any) -> dict[str, Any]:
    """Replaces `_cuda_memorySnapshot`: segments, blocks, and how much of each lies in which tier.

    `wanted` is the pair of numbers of a pool, or two zeros for all pools. In newer releases a third
    element says whether events are wanted.
    """
    import torch

    pool, with_events = None, True
    if isinstance(wanted, (tuple, list)) and len(wanted) >= 2:
        pool = tuple(wanted[:2]) if tuple(wanted[:2]) != (0, 0) else None
        with_events = all(wanted[2:3])
    segments: list[dict[str, Any]] = []
    traces = []
    # A snapshot must not initialise CUDA: before that there is nothing to report, and afterwards
    # the program could no longer fork.
    for device in range(torch.cuda.device_count() if torch.cuda.is_initialized() else 0):
        traces.append(history.events(device) if with_events else [])
        segments += [segment for segment in _segments(device) if pool in (None, segment["segment_pool_id"])]
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
    outline, rows = _library.snapshot(device)
    patterns = [_pattern(kind, outline["stacks"]) for kind in outline["kinds"]]
    blocks, at = _blocks(rows, patterns), 0
    for segment in outline["segments"]:
        count = segment["blocks"]
        segment["blocks"] = blocks[at : at + count]
        segment["segment_pool_id"] = tuple(segment["segment_pool_id"])
        segment.update(device=device, is_expandable=True, frames=[])
        at += count
    found: list[dict[str, Any]] = outline["segments"]
    return found


def _pattern(kind: dict[str, Any], stacks: list[list[dict[str, Any]]]) -> dict[str, Any]:
    """A block of a kind, in the order of its keys and without its numbers."""
    return {
        "address": 0,
        "size": 0,
        "requested_size": 0,
        "state": kind["state"],
        "stream": kind["stream"],
        "dedicated_size": 0,
        "shared_size": 0,
        "frames": stacks[kind["stack"]] if "stack" in kind else [],
    }


def _blocks(rows: Iterator[tuple[int, ...]], patterns: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The blocks of all segments. A copy of a pattern is quicker than a new dictionary."""
    blocks = []
    for address, size, requested, dedicated, shared, kind in rows:
        block = patterns[kind].copy()
        block["address"] = address
        block["size"] = size
        block["requested_size"] = requested
        block["dedicated_size"] = dedicated
        block["shared_size"] = shared
        blocks.append(block)
    return blocks
