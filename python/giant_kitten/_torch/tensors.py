"""Storages of tensors, and the tensors that other tensors are made of."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


def storage_of(tensor: Any) -> Any:
    """The storage of a tensor if it has memory on a GPU; None otherwise."""
    import torch

    # A tensor without a storage says so by an exception, and each kind of tensor by another one.
    no_storage = contextlib.suppress(RuntimeError, NotImplementedError, ValueError)
    with torch._C.DisableTorchFunctionSubclass(), no_storage:
        storage = tensor.untyped_storage()
        if storage.device.type == "cuda" and storage.data_ptr():
            return storage
    return None


def weak(storage: Any) -> Any:
    """A weak reference to a storage. It equals another one only if the storage is the same object.

    An address is not enough for that: it is reused after a free.
    """
    from torch.multiprocessing.reductions import StorageWeakRef

    return StorageWeakRef(storage)


def parts(tensor: Any) -> Iterable[Any]:
    """The tensors that a tensor is directly made of; none for a plain dense tensor."""
    import torch
    from torch.utils._python_dispatch import is_traceable_wrapper_subclass

    if is_traceable_wrapper_subclass(tensor):
        inside = (getattr(tensor, name) for name in tensor.__tensor_flatten__()[0])
        return [part for part in inside if isinstance(part, torch.Tensor)]
    if type(tensor) not in (torch.Tensor, torch.nn.Parameter):
        return attributes(tensor)
    per_channel = (torch.per_channel_affine, torch.per_channel_affine_float_qparams)
    if tensor.is_quantized and tensor.qscheme() in per_channel:
        return (tensor.q_per_channel_scales(), tensor.q_per_channel_zero_points())
    if tensor.layout == torch.sparse_coo:
        return (tensor._indices(), tensor._values())
    if tensor.layout in (torch.sparse_csr, torch.sparse_bsr):
        return (tensor.crow_indices(), tensor.col_indices(), tensor.values())
    if tensor.layout in (torch.sparse_csc, torch.sparse_bsc):
        return (tensor.ccol_indices(), tensor.row_indices(), tensor.values())
    return ()


def attributes(thing: Any, depth: int = 2) -> Iterator[Any]:
    """The tensors among the attributes of an object, and among the attributes of these.

    A weight of bitsandbytes refers to the state of its quantization in this way, and that state to
    the state of its scales. Callable attributes are skipped: a weight may refer to its module.
    """
    import torch

    for value in list(getattr(thing, "__dict__", {}).values()):
        if isinstance(value, torch.Tensor):
            yield value
        elif depth and hasattr(value, "__dict__") and not callable(value):
            yield from attributes(value, depth - 1)
