"""Devices in the forms in which PyTorch's functions take them.

These are a number, a text such as "cuda:1", a torch.device, or None for the current device.
"""

from __future__ import annotations

from typing import Any


def index(device: Any = None) -> int:
    """The number of a device."""
    import torch

    named = _named(device)
    return int(torch.cuda.current_device()) if named is None else named


def index_asked(device: Any = None) -> int:
    """The number of a device, for functions that must not initialise CUDA.

    Until CUDA is initialised, device 0 is the current one.
    """
    import torch

    named = _named(device)
    if named is not None:
        return named
    return int(torch.cuda.current_device()) if torch.cuda.is_initialized() else 0


def _named(device: Any) -> int | None:
    import torch

    if isinstance(device, int):
        return device
    if device is not None:
        device = torch.device(device)
        if device.type != "cuda":
            raise ValueError(f"{device} is not a CUDA device")
        if device.index is not None:
            return int(device.index)
    return None
