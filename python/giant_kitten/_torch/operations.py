"""Operations as PyTorch dispatches them, and the storages that they touch."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from .tensors import parts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# The number of the graph that autograd runs backwards in this thread; -1 if it runs none.
_backward: Any = getattr(torch._C, "_current_graph_task_id", lambda: -1)


def is_backward() -> bool:
    """Whether autograd runs this thread's work."""
    return bool(_backward() != -1)


def has_values(tensor: Any) -> bool:
    """Whether a tensor has values: those on `meta` and those of FakeTensorMode have none."""
    return not (isinstance(tensor, FakeTensor) or tensor.device.type == "meta")


class Operand(NamedTuple):
    """A tensor that an operation is given."""

    # The number of the argument that it is, or is part of.
    at: int
    tensor: Any
    is_written: bool


class Operation:
    """An operation that was done."""

    def __init__(self, function: Any, arguments: tuple[Any, ...], keywords: dict[str, Any], result: Any) -> None:
        schema = function._schema
        # As in `aten::add_` and `Tensor`.
        self.name: str = schema.name
        self.overload: str = schema.overload_name
        self.arguments, self.keywords, self.result = arguments, keywords, result
        self._packet = function.overloadpacket
        self.results = list(_dense(result))
        self.operands = [
            Operand(at, tensor, argument.alias_info is not None and argument.alias_info.is_write)
            for at, argument in enumerate(schema.arguments)
            for tensor in _dense(arguments[at] if at < len(arguments) else keywords.get(argument.name))
        ]

    def flops(self) -> int:
        """Its floating-point operations by PyTorch's own formulas; 0 where it has none."""
        formula = _formulas().get(self._packet)
        return int(formula(*self.arguments, **self.keywords, out_val=self.result)) if formula else 0


class Watch(TorchDispatchMode):  # type: ignore[misc]
    """Reports every operation of this thread, and of autograd's for it, while it is entered."""

    def __init__(self, see: Callable[[Operation], None]) -> None:
        super().__init__()
        self._see = see

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Does an operation, and reports it."""
        # A tensor that is made of others takes its operations apart, and those come here.
        if any(_takes_apart(kind) for kind in types):
            return NotImplemented
        keywords = kwargs or {}
        result = func(*args, **keywords)
        self._see(Operation(func, args, keywords, result))
        return result


def key_of(storage: Any) -> int:
    """A number that no other living storage has, also without memory."""
    return int(storage._cdata)


def _takes_apart(kind: Any) -> bool:
    """Whether tensors of a class do operations by other operations."""
    return not issubclass(kind, FakeTensor) and kind.__torch_dispatch__ is not torch.Tensor.__torch_dispatch__


def _dense(x: Any) -> Iterator[Any]:
    """The tensors with a storage of their own in an argument or a result."""
    for leaf in tree_leaves(x):
        if isinstance(leaf, torch.Tensor):
            yield from (leaf,) if leaf.layout == torch.strided else _dense(list(parts(leaf)))


def _formulas() -> Any:
    # It warns about the kernels of triton that it cannot count, which are not counted here either.
    logging.getLogger("torch.utils.flop_counter").setLevel(logging.ERROR)
    from torch.utils.flop_counter import flop_registry

    return flop_registry
