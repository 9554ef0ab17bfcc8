"""The parts of PyTorch that lending a weight needs and that PyTorch does not document.

These are streams by their handles, the versions of tensors, the users of a storage, what observes
operations, and modules that are compiled.
"""

from __future__ import annotations

import sys
from operator import attrgetter
from typing import Any

import torch

# The handle of the current stream of a device, by the number of the device.
current_stream: Any = torch._C._cuda_getCurrentRawStream
is_capturing: Any = torch._C._cuda_isCurrentStreamCapturing
# Counts the writes to a tensor, except those through `.data`. Inference tensors have none.
version_of: Any = attrgetter("_version")
# The parameters of a module itself, by their names; other objects may be put there for a while.
parameters_of: Any = attrgetter("_parameters")
# How many tensors and Python objects share a storage, by its number. Some releases cannot say.
users_of: Any = getattr(torch._C, "_storage_Use_Count", None)
number_of: Any = attrgetter("_cdata")
# Dynamo evaluates this while it traces: code under it is not part of the graph.
is_compiling: Any = getattr(torch.compiler, "is_compiling", lambda: False)

_is_tracing: Any = torch._C._is_tracing
_modes: Any = getattr(torch._C, "_len_torch_dispatch_stack", lambda: 0)
_level: Any = getattr(getattr(torch._C, "_functorch", None), "peek_interpreter_stack", lambda: None)


def is_observed() -> bool:
    """Whether a tracer, a dispatch mode or a function transform sees the operations."""
    return _is_tracing() or _modes() > 0 or _level() is not None


class _Memory:
    """Memory at an address, in the form in which libraries offer each other arrays on a GPU."""

    def __init__(self, address: int, size: int) -> None:
        self.__cuda_array_interface__ = {"data": (address, False), "shape": (size,), "typestr": "|u1", "version": 3}


def tensor_at(address: int, like: Any) -> Any:
    """A tensor over memory that it does not own, with the shape, strides and type of another."""
    with torch.inference_mode(False), torch.no_grad():
        memory = _Memory(address, like.numel() * like.element_size())
        return torch.as_tensor(memory, device=like.device).view(like.dtype).as_strided(like.shape, like.stride())


def parameter_over(tensor: Any) -> Any:
    """A parameter over the memory of a tensor. It counts its writes, also in inference mode."""
    with torch.inference_mode(False), torch.no_grad():
        return torch.nn.Parameter(tensor, requires_grad=False)


def is_compiled(module: Any) -> bool:
    """Whether the calls of a module run compiled code, in which no hook of its parts runs."""
    return getattr(module, "_compiled_call_impl", None) is not None or hasattr(module, "_orig_mod")


def compiled_call_of(module: Any) -> Any:
    """The function that the calls of a module run, if `module.compile()` has set one."""
    return getattr(module, "_compiled_call_impl", None)


def set_compiled_call(module: Any, call: Any) -> None:
    """Replaces the function that the calls of a compiled module run."""
    module._compiled_call_impl = call


def calls_of(module: Any) -> int:
    """How many calls of a module are under way in this thread."""
    frame: Any = sys._getframe(1)
    calls = 0
    while frame is not None:
        calls += frame.f_code.co_name == "_call_impl" and frame.f_locals.get("self") is module
        frame = frame.f_back
    return calls
