"""The tensors with memory of their own inside tensors, modules, and collections of them."""

from __future__ import annotations

import contextlib
import gc
from typing import TYPE_CHECKING, Any

from ._torch.tensors import attributes, parts, storage_of

if TYPE_CHECKING:
    from collections.abc import Iterator

# The attributes under which modules of bitsandbytes keep the quantization state of their weights.
_STATES = ("quant_state", "state")


def tensors(x: Any) -> Iterator[Any]:
    """The tensors with memory of their own in a tensor, a module, or several of them.

    A module stands for its parameters and buffers. A tensor that is made of others, such as a
    sparse, a quantized, a nested or a distributed one, stands for those.
    """
    import torch

    if isinstance(x, torch.Tensor):
        yield from _made_of(x, {})
    elif isinstance(x, torch.nn.Module):
        for part in (*x.parameters(), *x.buffers(), *_states(x)):
            yield from tensors(part)
    elif isinstance(x, (list, tuple, set, frozenset)):
        for part in x:
            yield from tensors(part)
    elif isinstance(x, dict):
        yield from tensors(list(x.values()))
    else:
        raise TypeError(f"expected a tensor, a module, or a collection of them, not {type(x).__name__}")


def on_gpu(x: Any) -> Iterator[Any]:
    """The tensors of `tensors` that have memory on a GPU.

    The tensors of tracers, which only appear to be on a GPU, have none.
    """
    return (tensor for tensor in tensors(x) if storage_of(tensor) is not None)


def pointers(x: Any) -> list[int]:
    """The addresses of the storages on a GPU of a tensor, a module, or several; each once."""
    found = (storage_of(tensor) for tensor in tensors(x))
    return list(dict.fromkeys(storage.data_ptr() for storage in found if storage is not None))


def known_tensors() -> Iterator[Any]:
    """Every tensor that Python knows, and its gradient; those that only C++ knows are missing."""
    import torch

    for known in gc.get_objects():
        # isinstance would ask proxies for the class that they pretend to be.
        if issubclass(type(known), torch.Tensor):
            # A tensor under construction may be unable to list its parts. Python knows those
            # anyway.
            with contextlib.suppress(Exception):
                yield from tensors(known)
            with contextlib.suppress(Exception):
                if known.is_leaf and known.grad is not None:
                    yield from tensors(known.grad)


def _made_of(tensor: Any, seen: dict[int, Any]) -> Iterator[Any]:
    """The tensors that a tensor is made of, and the tensor itself if it has memory of its own."""
    # `seen` keeps the tensor alive, because another one could get the id of a tensor that is gone.
    seen[id(tensor)] = tensor
    inside = list(parts(tensor))
    if not inside or storage_of(tensor) is not None:
        yield tensor
    for part in inside:
        if id(part) not in seen:
            yield from _made_of(part, seen)


def _states(module: Any) -> Iterator[Any]:
    for part in module.modules():
        for name in _STATES:
            state = vars(part).get(name)
            if hasattr(state, "__dict__") and not callable(state):
                yield from attributes(state)
