"""What tensors, modules, and several of them are made of: the tensors that have memory of their own."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

# Where modules of bitsandbytes keep what their weights are told by, beside the weights themselves.
_STATES = ("quant_state", "state")


def tensors(x: Any) -> Iterator[Any]:
    """The tensors of a tensor, a module (its parameters and buffers), or several of them, down to those with memory.

    A tensor that is made of others, such as a sparse, a quantized, a nested or a distributed one, stands for them.
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
        raise TypeError(f"a tensor, a module, or several of them are wanted, not {type(x).__name__}")


def on_gpu(x: Any) -> Iterator[Any]:
    """Those of `tensors` that have memory on a GPU. Those of tracers, that only seem to be there, have none."""
    return (tensor for tensor in tensors(x) if storage_of(tensor) is not None)


def storage_of(tensor: Any) -> Any:
    """The storage of a tensor if it has memory on a GPU; None otherwise."""
    import torch

    # Where there is no storage, or not yet: each kind of tensor says so in its own way.
    with torch._C.DisableTorchFunctionSubclass(), contextlib.suppress(RuntimeError, NotImplementedError, ValueError):
        storage = tensor.untyped_storage()
        if storage.device.type == "cuda" and storage.data_ptr():
            return storage
    return None


def _made_of(tensor: Any, seen: dict[int, Any]) -> Iterator[Any]:
    """The tensors that a tensor is made of; the tensor itself, where there are none or it has memory besides."""
    # It is kept meanwhile: another could have the number of one that has gone.
    seen[id(tensor)] = tensor
    parts = list(_parts(tensor))
    if not parts or storage_of(tensor) is not None:
        yield tensor
    for part in parts:
        if id(part) not in seen:
            yield from _made_of(part, seen)


def _parts(tensor: Any) -> Iterable[Any]:
    import torch
    from torch.utils._python_dispatch import is_traceable_wrapper_subclass

    if is_traceable_wrapper_subclass(tensor):
        parts = (getattr(tensor, name) for name in tensor.__tensor_flatten__()[0])
        return [part for part in parts if isinstance(part, torch.Tensor)]
    if type(tensor) not in (torch.Tensor, torch.nn.Parameter):
        return _attributes(tensor)
    if tensor.is_quantized and tensor.qscheme() in (torch.per_channel_affine, torch.per_channel_affine_float_qparams):
        return (tensor.q_per_channel_scales(), tensor.q_per_channel_zero_points())
    if tensor.layout == torch.sparse_coo:
        return (tensor._indices(), tensor._values())
    if tensor.layout in (torch.sparse_csr, torch.sparse_bsr):
        return (tensor.crow_indices(), tensor.col_indices(), tensor.values())
    if tensor.layout in (torch.sparse_csc, torch.sparse_bsc):
        return (tensor.ccol_indices(), tensor.row_indices(), tensor.values())
    return ()


def _attributes(thing: Any, depth: int = 2) -> Iterator[Any]:
    """The tensors among the attributes of something, and of what it has for attributes itself.

    So does a weight of bitsandbytes know the state of its quantization, and that the state of its scales' own. What can
    be called is none of that: a weight may know its module.
    """
    import torch

    for value in list(getattr(thing, "__dict__", {}).values()):
        if isinstance(value, torch.Tensor):
            yield value
        elif depth and hasattr(value, "__dict__") and not callable(value):
            yield from _attributes(value, depth - 1)


def _states(module: Any) -> Iterator[Any]:
    for part in module.modules():
        for name in _STATES:
            state = vars(part).get(name)
            if hasattr(state, "__dict__") and not callable(state):
                yield from _attributes(state)
