"""The benchmark mode of cuDNN, under which convolutions fail with any allocator but PyTorch's own.

It asks the allocator a question that no other allocator can answer.
"""

from __future__ import annotations

import warnings
from typing import Any


def keep_benchmark_off(torch: Any) -> None:
    """Makes `torch.backends.cudnn.benchmark = True` a warning without effect."""
    set_benchmark = torch._C._set_cudnn_benchmark
    warned = False

    def harmless(wanted: bool) -> None:
        nonlocal warned
        if wanted and not warned:
            warned = True
            warnings.warn(
                "torch.backends.cudnn.benchmark stays off: with it, convolutions fail under any "
                "allocator except PyTorch's own",
                stacklevel=3,
            )
        set_benchmark(False)

    if torch._C._get_cudnn_benchmark():
        harmless(True)
    torch._C._set_cudnn_benchmark = harmless
    switch = type(torch.backends.cudnn).__dict__.get("benchmark")
    if switch is not None and hasattr(switch, "setter"):
        switch.setter = harmless
