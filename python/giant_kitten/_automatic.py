"""What helps the automatic mode: moments at which memory may move, and who reads what."""

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

# A pass tells of its reads only now and then: what was told is kept, and parameters rarely change.
_TELL_EVERY = 16


def safe_point(kind: str = "", device: Any = None, certain: bool = False) -> None:
    """Says that nobody launches work on a device until this returns, and names the work that comes next.

    In the automatic mode memory may move now, if that pays: what scratch lacked, and what it needed when this kind of
    work was done before, is made room for. `kind` is any words that are the same for the same work, such as "unet".

    The word is checked: nothing moves this time where another thread has used the device since the last safe point, or
    a graph is captured (`stats()["abstained"]` counts that, `summary()` says why). `certain` says that all other
    threads are at rest although they have been seen, as autograd's own are between two training steps; threads inside
    `working()` or a followed module are excepted.
    """
    if not isinstance(kind, str):
        raise TypeError(f'the kind of work is a text such as "unet", not {kind!r}')
    index = _index(device)
    if certain:
        _library.call("gk_vouch", index)
    _library.call("gk_safe_point", index, kind.encode())


@contextlib.contextmanager
def working(device: Any = None) -> Iterator[None]:
    """What this thread launches on a device it launches inside: no other thread's safe point moves memory meanwhile.

    Afterwards the thread counts as at rest, until it uses the device again.
    """
    index = _index(device)
    _library.call("gk_begin_work", index)
    try:
        yield
    finally:
        _library.call("gk_end_work", index)
        _library.call("gk_rest", index)


class Following:
    """What `follow` returns: ends with `remove()`, or as a context manager."""

    def __init__(self, module: Any, kind: str, device: Any) -> None:
        self._kind, self._device, self._passes = kind, device, 0
        # The devices of the passes that run, of each thread the innermost last; and how many run in all threads.
        self._running, self._count = threading.local(), 0
        self._before = module.register_forward_pre_hook(self._begin, prepend=True)
        # Also after a pass that raises: a thread that seems to be at work would keep others from moving for ever.
        self._after = module.register_forward_hook(self._end, always_call=True)
        self._removed = False

    def _begin(self, module: Any, *_: Any) -> None:
        index = _index(self._device)
        # PyTorch calls no hook after an interrupt: what that ended is ended here.
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
        if self._passes % _TELL_EVERY == 0:
            _tell_reads(module)
        self._passes += 1
        if self._removed and self._count == 0:
            self._after.remove()

    def _stack(self) -> list[int]:
        found: list[int] | None = getattr(self._running, "stack", None)
        if found is None:
            found = self._running.stack = []
        return found

    def remove(self) -> None:
        """Ends the following. A pass that runs goes to its end."""
        self._before.remove()
        self._removed = True
        if self._count == 0:
            self._after.remove()

    def __enter__(self) -> Following:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()


def _tell_reads(module: Any) -> None:
    """Tells the library that a pass has read each parameter and buffer of a module once."""
    told = {tensor.data_ptr(): tensor.numel() * tensor.element_size() for tensor in on_gpu(module)}
    touch = _library.library().gk_touch
    for pointer, size in told.items():
        # A parameter that is not ours (made before the swap, or by another library) is none to place.
        if pointer:
            touch(ctypes.c_void_p(pointer), size)


def follow(module: Any, kind: str | None = None, device: Any = None) -> Following:
    """Tells the automatic mode of the work of a module that nobody calls from within another: a UNet, a VAE's decoder.

    Each of its forward passes begins with a safe point, is a piece of work under which no other thread's safe point
    moves memory, and is known to read the module's parameters and buffers once. The device is the one that is current
    then, where none is given. `kind` is the class's name where it is not given. Costs some microseconds a pass, and
    some milliseconds for every sixteenth.
    """
    import torch

    if not isinstance(module, torch.nn.Module):
        raise TypeError(f"a module is wanted, not {type(module).__name__}")
    return Following(module, type(module).__name__ if kind is None else kind, device)
