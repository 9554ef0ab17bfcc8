"""Hints for the automatic mode: when memory may move, and which modules read which memory."""

from __future__ import annotations

import contextlib
import ctypes
import sys
import threading
import weakref
from typing import TYPE_CHECKING, Any

from . import _in_use, _library
from ._device import index as _index
from ._device import index_asked
from ._tensors import on_gpu
from ._torch import compiler

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from ._ahead.passes import Lender

# The handles of followed modules that are alive, and the lock of their list.
_followings: weakref.WeakSet[Following] = weakref.WeakSet()
_list = threading.Lock()

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
        vouch(index)
    _library.call("gk_safe_point", index, kind.encode())


def vouch(device: Any = None) -> None:
    """Asserts that all other threads are at rest, except those inside `working()` or a pass."""
    _library.call("gk_vouch", _index(device))


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


class _Hook:
    """A hook of a followed module. Copies of the module, also in files, are not followed."""

    def __init__(self, call: Callable[..., None]) -> None:
        self._call = call

    def __call__(self, *arguments: Any) -> None:
        compiler.call(self._call, arguments)

    def __reduce__(self) -> Any:
        from ._ahead.hooks import inert

        return inert()


class _Pass:
    """A pass of a followed module that runs."""

    def __init__(self, following: Following, module: Any, device: int) -> None:
        self.following, self.module, self.device = following, weakref.ref(module), device
        # The exception that was being handled when it began.
        self._handled = sys.exc_info()[1]

    def is_whole(self) -> bool:
        """Whether it comes to its end now, and not by an exception."""
        return sys.exc_info()[1] is self._handled


# The passes that run in this thread, one within the other.
_running = threading.local()


def _stack() -> list[_Pass]:
    found: list[_Pass] | None = getattr(_running, "stack", None)
    if found is None:
        found = _running.stack = []
    return found


def _end_interrupted(beginning: Any) -> None:
    """Ends passes of this thread whose modules are not called any more, when another one begins.

    PyTorch calls no hook after an interrupt. A thread whose pass did not end would go on counting
    as one that works, and no weight of another module would be lent.
    """
    from ._torch.lending import calls_of

    stack = _stack()
    while stack:
        module = stack[-1].module()
        passes = sum(running.module() is module for running in stack)
        if module is not None and calls_of(module) - (module is beginning) >= passes:
            return
        stack[-1].following.finish(whole=False)


class Following:
    """The handle that `follow` returns; `remove()` or leaving it as a context manager ends it."""

    def __init__(self, module: Any, kind: str, device: Any, in_place: Iterable[str] = ()) -> None:
        self._kind, self._device, self._in_place, self._passes = kind, device, tuple(in_place), 0
        # What lends the module's weights, for each device that was current when a pass began.
        self._lenders: dict[int, Lender] = {}
        # The number of passes that run now, in all threads.
        self._count = 0
        # The addresses that its last report named, for each device.
        self._read: dict[int, tuple[int, ...]] = {}
        compiler.watch()
        self._before = module.register_forward_pre_hook(_Hook(self._begin), prepend=True)
        # Also after a pass that raises. Otherwise its thread would count as working, and no other
        # thread could ever move memory again.
        self._after = module.register_forward_hook(_Hook(self._end), always_call=True)
        self._removed = False
        with _list:
            _followings.add(self)

    def _begin(self, module: Any, arguments: tuple[Any, ...]) -> None:
        index = _index(self._device)
        _end_interrupted(module)
        safe_point(self._kind, index)
        _library.call("gk_begin_work", index)
        running = _Pass(self, module, index)
        _stack().append(running)
        self._count += 1
        self._lender(index).begin(running, module, arguments)

    def _end(self, module: Any, *_: Any) -> None:
        stack = _stack()
        if all(running.following is not self for running in stack):
            return
        while stack[-1].following is not self:
            stack[-1].following.finish(whole=False)
        index = stack[-1].device
        self.finish(whole=stack[-1].is_whole())
        if self._passes % _REPORT_EVERY == 0:
            self._read[index] = _report_reads(module)
        self._passes += 1
        if self._removed and self._count == 0:
            self._remove()

    def finish(self, whole: bool) -> None:
        """Ends the pass that began last in this thread, which is one of this module.

        If another interrupt comes meanwhile, it is ended once more.
        """
        running = _stack()[-1]
        try:
            self._lender(running.device).end(running, whole)
        except Exception:
            self._forget()
            raise
        self._forget()

    def _forget(self) -> None:
        self._count -= 1
        _library.call("gk_end_work", _stack().pop().device)

    def _lender(self, index: int) -> Lender:
        from ._ahead.passes import Lender

        if index not in self._lenders:
            self._lenders[index] = Lender(index, self._kind, self._in_place)
        return self._lenders[index]

    def in_tiers(self, index: int) -> tuple[str, int, int] | None:
        """The kind of its work, and the bytes of what a pass reads on a device in each tier.

        None if no pass has reported its reads there.
        """
        if index not in self._read:
            return None
        total = [0, 0]
        dedicated, shared = ctypes.c_uint64(), ctypes.c_uint64()
        for pointer in self._read[index]:
            # A block that was freed since the report is in no tier.
            if _library.library().gk_tier(pointer, ctypes.byref(dedicated), ctypes.byref(shared)) == 0:
                total[0] += dedicated.value
                total[1] += shared.value
        return self._kind, total[0], total[1]

    def _remove(self) -> None:
        self._after.remove()
        for lender in self._lenders.values():
            lender.remove()

    def remove(self) -> None:
        """Stops following. A pass that is running is followed to its end."""
        self._before.remove()
        self._removed = True
        with _list:
            _followings.discard(self)
        if self._count == 0:
            self._remove()

    def __enter__(self) -> Following:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()


def modules(index: int) -> list[dict[str, Any]]:
    """The modules that are followed on a device: their `name`, and their bytes in each tier.

    The name is the kind of work. Modules of one name are counted together.
    """
    with _list:
        alive = list(_followings)
    found: dict[str, dict[str, Any]] = {}
    for name, dedicated, shared in filter(None, (following.in_tiers(index) for following in alive)):
        module = found.setdefault(name, {"name": name, "dedicated": 0, "shared": 0})
        module["dedicated"] += dedicated
        module["shared"] += shared
    return sorted(found.values(), key=lambda module: str(module["name"]))


def _report_reads(module: Any) -> tuple[int, ...]:
    """Reports to the library that a pass has read each parameter and buffer of a module once.

    Returns the addresses that are ours.
    """
    read = {tensor.data_ptr(): tensor.numel() * tensor.element_size() for tensor in on_gpu(module)}
    touch = _library.library().gk_touch
    # Parameters that we did not allocate (made before the swap, or by another library) cannot be
    # placed, so the error that the library returns for them is ignored.
    return tuple(pointer for pointer, size in read.items() if pointer and touch(ctypes.c_void_p(pointer), size) == 0)


def follow(module: Any, kind: str | None = None, device: Any = None, *, in_place: Iterable[str] = ()) -> Following:
    """Reports the work of an outermost module, such as a UNet or a VAE's decoder.

    The automatic mode uses this: each forward pass begins with a safe point, is a piece of work
    during which no other thread's safe point moves memory, and reads the module's parameters and
    buffers once. The device is by default the one that is current when a pass begins, and `kind` is
    by default the name of the module's class. A pass costs some microseconds more, and every
    sixteenth some milliseconds.

    Weights that lie in the shared tier are copied ahead of their use into a ring in dedicated
    memory, and are lent from there while their module runs. `in_place` has the names of modules and
    parameters, as in `named_modules()`, whose weights are read where they lie instead.
    """
    import torch

    if not isinstance(module, torch.nn.Module):
        raise TypeError(f"expected a module such as pipe.unet, not {type(module).__name__}")
    if isinstance(in_place, str):
        raise TypeError(f'in_place must be several names, such as ("{in_place}",), not one text')
    _in_use.notice(index_asked(device))
    names = tuple(in_place)
    if names:
        from ._ahead.finding import check_names

        check_names(module, names)
    return Following(module, type(module).__name__ if kind is None else kind, device, names)


def written(module: Any) -> None:
    """Reports that the weights of a module were written in a way that PyTorch does not count.

    Writes to a parameter are seen, except those through its `data`. Between two passes of a
    followed module those are seen as well. Only code that writes `parameter.data` during a pass
    needs to call this, right after it.
    """
    import torch

    if not isinstance(module, torch.nn.Module):
        raise TypeError(f"expected a module, not {type(module).__name__}")
    from ._ahead.passes import note_written

    note_written(module.parameters())
