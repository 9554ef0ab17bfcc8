"""Weights are lent around the calls of their modules: by hooks, or around compiled code."""

from __future__ import annotations

import contextlib
import ctypes
import threading
import weakref
from typing import Any

import torch

from .._torch.lending import (
    compiled_call_of,
    current_stream,
    is_capturing,
    is_compiling,
    is_observed,
    set_compiled_call,
    users_of,
)
from . import held
from .weight import Weight

# Held while weights are lent and given back. Reentrant, as a finalizer or a handler of a signal
# may call a module.
LOCK = threading.RLock()

# The handles of streams, as arguments for the library.
_streams: dict[int, ctypes.c_void_p] = {}


def stream_of(device: int) -> ctypes.c_void_p:
    """The current stream of a device."""
    handle = current_stream(device)
    try:
        return _streams[handle]
    except KeyError:
        return _streams.setdefault(handle, ctypes.c_void_p(handle))


class Lending:
    """The weights that are lent around the calls of one module."""

    __slots__ = ("device", "has_lent", "weights")

    def __init__(self, device: int, weights: list[Weight]) -> None:
        self.device, self.weights = device, weights
        # Whether its weights were lent, in a slot or in place, since the pass began.
        self.has_lent = False

    def lend(self, arguments: tuple[Any, ...]) -> None:
        """Lends the weights, unless something would keep the address of a slot for later."""
        if not self.weights:
            return
        stays = (torch.is_grad_enabled() and self._needs_gradients(arguments)) or is_capturing() or is_observed()
        with LOCK:
            stream = stream_of(self.device)
            if stays:
                for weight in self.weights:
                    weight.recall(stream)
                return
            self.has_lent = True
            for weight in self.weights:
                weight.lend(stream)

    def give_back(self) -> None:
        """Gives back what was lent."""
        with LOCK:
            stream = stream_of(self.device)
            for weight in self.weights:
                weight.give_back(stream)
            if held.slots:
                held.release(self.device, stream.value)

    def _needs_gradients(self, arguments: tuple[Any, ...]) -> bool:
        # Autograd would hold what it reads until it goes back. It reads nothing where neither the
        # weights nor the inputs need gradients, as in a frozen text encoder.
        return (
            users_of is None
            or any(weight.requires_grad() for weight in self.weights)
            or any(isinstance(one, torch.Tensor) and one.requires_grad for one in arguments)
        )


class _Hook:
    """A hook of a module. A copy of the module, or what is loaded from a file, has none."""

    __slots__ = ("_lending", "_owner")

    def __init__(self, module: Any, lending: Lending) -> None:
        self._owner, self._lending = weakref.ref(module), lending

    def __reduce__(self) -> Any:
        return inert()


class _Before(_Hook):
    __slots__ = ()

    def __call__(self, module: Any, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        # A replica of the module has parameters of its own.
        if not is_compiling() and module is self._owner():
            self._lending.lend((*arguments, *named.values()) if named else arguments)


class _After(_Hook):
    __slots__ = ()

    def __call__(self, module: Any, arguments: tuple[Any, ...], output: Any) -> None:
        if not is_compiling() and module is self._owner():
            self._lending.give_back()


class _Around:
    """Calls compiled code with weights lent around it. No hook of its parts runs inside."""

    def __init__(self, call: Any, lending: Lending) -> None:
        self.call, self._lending = call, lending

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        if is_compiling():
            return self.call(*arguments, **named)
        try:
            self._lending.lend((*arguments, *named.values()))
            return self.call(*arguments, **named)
        finally:
            self._lending.give_back()


class Installed:
    """Hooks that are installed on one module, and their removal."""

    def __init__(self, module: Any, lending: Lending) -> None:
        self._module, self.lending = weakref.ref(module), lending
        self._handles: list[Any] = []
        self._around: _Around | None = None
        call = compiled_call_of(module)
        if call is not None:
            self._around = _Around(call, lending)
            set_compiled_call(module, self._around)
        else:
            before = _Before(module, lending)
            self._handles.append(module.register_forward_pre_hook(before, prepend=True, with_kwargs=True))
            self._handles.append(module.register_forward_hook(_After(module, lending), always_call=True))

    def is_on(self, module: Any, weights: list[Weight]) -> bool:
        """Whether these are the hooks that lend some weights around the calls of a module."""
        around = None if self._around is None else compiled_call_of(module)
        return self._module() is module and self.lending.weights == weights and around is self._around

    def remove(self) -> None:
        """Removes the hooks."""
        for handle in self._handles:
            handle.remove()
        module = self._module()
        if self._around is not None and module is not None and compiled_call_of(module) is self._around:
            set_compiled_call(module, self._around.call)


def inert() -> tuple[Any, ...]:
    """What stands for a hook in a copy or a file, for `__reduce__`: a function that does nothing.

    It is one of Python's own, so that a file can be loaded where giant-kitten is not installed.
    """
    return getattr, (contextlib.nullcontext(), "__exit__")
