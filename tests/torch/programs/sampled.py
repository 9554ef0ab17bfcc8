"""What the programs print of memory: figures that no allocator may change."""

from __future__ import annotations

import torch

KINDS = ("requested_bytes", "allocated_bytes", "active_bytes", "allocation", "active")
FIELDS = ("current", "peak", "allocated", "freed")


def sample(label: object) -> None:
    """Prints PyTorch's figures of the current device."""
    stats = torch.cuda.memory_stats()
    figures = {kind: [stats[f"{kind}.all.{field}"] for field in FIELDS] for kind in KINDS}
    print(label, figures, stats["num_ooms"], flush=True)
