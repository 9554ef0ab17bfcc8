"""The statistics that the programs print; they must be the same on every allocator."""

from __future__ import annotations

import gc

import torch

KINDS = ("requested_bytes", "allocated_bytes", "active_bytes", "allocation", "active")
FIELDS = ("current", "peak", "allocated", "freed")


# The excess of blocks over their requests is left out: PyTorch's own allocator leaves remainders of
# up to 1 MiB in a block.
EXACT = ("requested_bytes", "allocation", "active")


def sample(label: object, kinds: tuple[str, ...] = KINDS) -> None:
    """Prints PyTorch's statistics of the current device, after a garbage collection."""
    gc.collect()
    stats = torch.cuda.memory_stats()
    figures = {kind: [stats[f"{kind}.all.{field}"] for field in FIELDS] for kind in kinds}
    print(label, figures, stats["num_ooms"], flush=True)
