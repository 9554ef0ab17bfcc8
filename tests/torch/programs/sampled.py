"""What the programs print of memory: figures that no allocator may change."""

from __future__ import annotations

import gc

import torch

KINDS = ("requested_bytes", "allocated_bytes", "active_bytes", "allocation", "active")
FIELDS = ("current", "peak", "allocated", "freed")


# Without what a block has beyond its request: where PyTorch's own keeps what is left of a block, up to 1 MiB, in it.
EXACT = ("requested_bytes", "allocation", "active")


def sample(label: object, kinds: tuple[str, ...] = KINDS) -> None:
    """Prints PyTorch's figures of the current device, without what only waits for Python's collector."""
    gc.collect()
    stats = torch.cuda.memory_stats()
    figures = {kind: [stats[f"{kind}.all.{field}"] for field in FIELDS] for kind in kinds}
    print(label, figures, stats["num_ooms"], flush=True)
