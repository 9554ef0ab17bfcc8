"""What helps the automatic mode: moments at which memory may move, and who reads what."""

from __future__ import annotations

import ctypes
from typing import Any

from . import _library
from ._device import index as _index
from ._placement import tensors as _tensors

# A pass tells of its reads only now and then: what was told is kept, and parameters rarely change.
_TELL_EVERY = 16


def safe_point(kind: str = "", device: Any = None) -> None:
    """Says that nobody launches work until this returns, and names the work that comes next.

    In the automatic mode memory may move now, if that pays: what scratch lacked, and what it needed when this kind of
    work was done before, is made room for. `kind` is any words that are the same for the same work, such as "unet".
    `torch.cuda.empty_cache()` is a safe point too, without a name.
    """
    if not isinstance(kind, str):
        raise TypeError(f'the kind of work is a text such as "unet", not {kind!r}')
    _library.call("gk_safe_point", _index(device), kind.encode())


class Following:
    """What `follow` returns: ends with `remove()`, or as a context manager."""

    def __init__(self, module: Any, kind: str, device: Any) -> None:
        self._kind, self._device, self._passes = kind, device, 0
        self._hooks = (
            module.register_forward_pre_hook(self._before, prepend=True),
            module.register_forward_hook(self._after),
        )

    def _before(self, module: Any, *_: Any) -> None:
        safe_point(self._kind, self._device)

    def _after(self, module: Any, *_: Any) -> None:
        if self._passes % _TELL_EVERY == 0:
            told = {}
            for tensor in _tensors(module):
                if tensor.device.type == "cuda":
                    told[tensor.data_ptr()] = tensor.numel() * tensor.element_size()
            touch = _library.library().gk_touch
            for pointer, size in told.items():
                # A parameter that is not ours (made before the swap, or by another library) is none to place.
                if pointer:
                    touch(ctypes.c_void_p(pointer), size)
        self._passes += 1

    def remove(self) -> None:
        """Ends the following."""
        for hook in self._hooks:
            hook.remove()

    def __enter__(self) -> Following:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()


def follow(module: Any, kind: str | None = None, device: Any = None) -> Following:
    """Tells the automatic mode of the work of a module that nobody calls from within another: a UNet, a VAE's decoder.

    Each of its forward passes begins with a safe point, and is known to read the module's parameters and buffers once.
    `kind` is the class's name where it is not given. Costs some microseconds a pass, and some milliseconds for every
    sixteenth.
    """
    import torch

    if not isinstance(module, torch.nn.Module):
        raise TypeError(f"a module is wanted, not {type(module).__name__}")
    return Following(module, type(module).__name__ if kind is None else kind, device)
