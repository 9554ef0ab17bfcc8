"""Hints for the automatic mode: when memory may move, and which modules read which memory."""

from __future__ import annotations

import contextlib
import ctypes
import threading
from typing import TYPE_CHECKING, Any

from . import _library
from ._device import index as _index
from ._tensors import on_gpu

if TYPE_CHECKING:
    from collections.abc import Iterator

# One pass in so many reports its reads. The library keeps them, and parameters rarely change.
_REPORT_EVERY = 16


def safe_point(kind: str = "", device: Any = None, certain: bool = False) -> None:
    """Promises that no thread launches work on a device until this returns; names the next work.

    In the automatic mode memory may move now, if that is worth it: it makes room for what scratch
    lacked, and for what it needed when this kind of work ran before. `kind` is any text that is the
    same for the same work, such as "unet".

    The promise is checked. Nothing moves this time if another thread has used the device since the
    last safe point, or if a graph is being captured (`stats()["abstained"]` counts that, and
    `summary()` gives the reason). `certain` asserts that all other threads are idle although they
    have been seen at work, as those of autograd are between two training steps. It does not cover
    threads inside `working()` or a followed module.
    """
    if not isinstance(kind, str):
        raise TypeError(f'the kind of work must be a text such as "unet", not {kind!r}')
    index = _index(device)
    if certain:
        _library.call("gk_vouch", index)
    _library.call("gk_safe_point", index, kind.encode())


@contextlib.contextmanager
def working(device: Any = None) -> Iterator[None]:
    """Declares that this thread launches its work on a device inside this context only.

    No safe point of another thread moves memory meanwhile. Afterwards the thread counts as idle
    until it uses the device again.
    """
    index = _index(device)
    _library.call("gk_begin_work", index)
    try:
        yield
    finally:
        _library.call("gk_end_work", index)
        _library.call("gk_rest", index)


class Following:
    """The handle that `follow` returns; `remove()` or leaving it as a context manager ends it."""

    def __init__(self, module: Any, kind: str, device: Any) -> None:
        self._kind, self._device, self._passes = kind, device, 0
        # The devices of the passes that run now: a stack for each thread, and their total number.
        self._running, self._count = threading.local(), 0
        self._before = module.register_forward_pre_hook(self._begin, prepend=True)
        # Also after a pass that raises. Otherwise its thread would count as working, and no other
        # thread could ever move memory again.
        self._after = module.register_forward_hook(self._end, always_call=True)
        self._removed = False

    def _begin(self, module: Any, *_: Any) -> None:
        index = _index(self._device)
        # PyTorch calls no hook after an interrupt, so passes that one has ended are ended here.
        while self._stack():
            _library.call("gk_end_work", self._stack().pop())
            self._count -= 1
        safe_point(self._kind, index)
        _library.call("gk_begin_work", index)
        self._stack().append(index)
        self._count += 1

    def _end(self, module: Any, *_: Any) -> None:
        stack = self._stack()
        if not stack:
            return
        _library.call("gk_end_work", stack.pop())
        self._count -= 1
        if self._passes % _REPORT_EVERY == 0:
            _report_reads(module)
        self._passes += 1
        if self._removed and self._count == 0:
            self._after.remove()

    def _stack(self) -> list[int]:
        found: list[int] | None = getattr(self._running, "stack", None)
        if found is None:
            found = self._running.stack = []
        return found

    def remove(self) -> None:
        """Stops following. A pass that is running is followed to its end."""
        self._before.remove()
        self._removed = True
        if self._count == 0:
            self._after.remove()

    def __enter__(self) -> Following:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()


def _report_reads(module: Any) -> None:
    """Reports to the library that a pass has read each parameter and buffer of a module once."""
    read = {tensor.data_ptr(): tensor.numel() * tensor.element_size() for tensor in on_gpu(module)}
    touch = _library.library().gk_touch
    for pointer, size in read.items():
        # Parameters that we did not allocate (made before the swap, or by another library) cannot
        # be placed, so the error that the library returns for them is ignored.
        if pointer:
            touch(ctypes.c_void_p(pointer), size)


def follow(module: Any, kind: str | None = None, device: Any = None) -> Following:
    """Reports the work of an outermost module, such as a UNet or a VAE's decoder.

    The automatic mode uses this: each forward pass begins with a safe point, is a piece of work
    during which no other thread's safe point moves memory, and reads the module's parameters and
    buffers once. The device is by default the one that is current when a pass begins, and `kind` is
    by default the name of the module's class. A pass costs some microseconds more, and every
    sixteenth some milliseconds.
    """
    import torch

    if not isinstance(module, torch.nn.Module):
        raise TypeError(f"expected a module, not {type(module).__name__}")
    return Following(module, type(module).__name__ if kind is None else kind, device)
