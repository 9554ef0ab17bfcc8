"""The statistics that the programs print; they must be the same on every allocator."""

from __future__ import annotations

import gc
import time

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
    # Autograd's threads free their last tensors shortly after backward() has returned.
    for _ in range(100):
        time.sleep(0.002)
        before, stats = stats, torch.cuda.memory_stats()
        if before["allocation.all.freed"] == stats["allocation.all.freed"]:
            break
    figures = {kind: [stats[f"{kind}.all.{field}"] for field in FIELDS] for kind in kinds}
    print(label, figures, stats["num_ooms"], flush=True)
