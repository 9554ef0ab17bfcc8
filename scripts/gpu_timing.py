"""Times work on the GPU by events, for the parts of `scripts/gpu-check` that need PyTorch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Callable


def times(work: Callable[[], object], rounds: int) -> list[float]:
    """Seconds of each of some rounds of work on the current stream, and on those it waits for."""
    found = []
    for _ in range(rounds):
        torch.cuda.synchronize()
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        work()
        end.record()
        end.synchronize()
        found.append(start.elapsed_time(end) / 1e3)
    return found
