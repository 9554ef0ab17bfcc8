"""An operation: what it reads and writes, and what it does unseen."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

    from .._torch.operations import Operand, Operation
    from .blocks import Block, Blocks
    from .tape import Tape

# Operations that write a tensor without reading it.
_PURE_WRITES = frozenset({"copy_", "fill_", "zero_", "normal_", "uniform_"})
# Operations that read as much of an argument as they return.
_GATHERS = {"aten::embedding": 0, "aten::index_select": 0, "aten::index": 0, "aten::gather": 0}
# Operations that write as much of their first argument as another one has.
_SCATTERS = {"aten::index_copy_": 3, "aten::index_put_": 2, "aten::scatter_": 3}
_CHANNELS_LAST = torch.channels_last


class Work:
    """Puts the operations on the tape."""

    def __init__(self, tape: Tape, blocks: Blocks, module: Callable[[], dict[str, Any]]) -> None:
        self._tape, self._blocks, self._module = tape, blocks, module

    def see(self, operation: Operation) -> None:
        """An operation was done."""
        writes_operand = any(operand.is_written for operand in operation.operands)
        is_new = [tensor for tensor in operation.results if not self._blocks.knows(tensor)]
        touched = _Touched(self._blocks)
        for operand in operation.operands:
            touched.operand(operation, operand)
        # Otherwise it is a view.
        if writes_operand or is_new:
            self._put(operation, touched)

    def _put(self, operation: Operation, touched: _Touched) -> None:
        name = f"{operation.name}.{operation.overload}".rstrip(".")
        bias = self._hidden_copies(operation, touched)
        for tensor in operation.results:
            touched.writes(self._blocks.of(tensor, name), _span(tensor))
        unseen = self._accumulator(operation, touched)
        if not operation.name.startswith(("aten::empty", "aten::new_empty")):
            self._event(name, touched, _flops(operation))
        if bias:
            self._hidden_bias(bias, touched)
        for block in (*touched.copies, *unseen):
            self._blocks.free(block)

    def _event(self, name: str, touched: _Touched, flops: int = 0) -> None:
        read, written = touched.read, touched.written
        self._tape.put({
            "ev": "op", "name": name, "reads": list(read), "writes": list(written), "flops": flops,
            "read_bytes": list(read.values()), "write_bytes": list(written.values()), **self._module(),
        })  # fmt: skip

    # What follows is known from the source of PyTorch's operations on CUDA.

    def _hidden_copies(self, operation: Operation, touched: _Touched) -> Operand | None:
        """Copies of operands whose layout is the wrong one. Returns a bias that is added apart."""
        operands = operation.operands
        if operation.name in ("aten::native_layer_norm", "aten::native_group_norm"):
            self._hidden_copy(operands[0], operation, touched, torch.contiguous_format)
        elif operation.name == "aten::upsample_nearest2d":
            picture = operands[0].tensor
            if not (picture.is_contiguous(memory_format=_CHANNELS_LAST) and picture.shape[1] >= 4):
                self._hidden_copy(operands[0], operation, touched, torch.contiguous_format)
        elif operation.name == "aten::convolution":
            is_last = any(_is_channels_last(operand.tensor) for operand in operands[:2])
            for operand in operands[:2]:
                layout = _CHANNELS_LAST if is_last else torch.contiguous_format
                self._hidden_copy(operand, operation, touched, layout)
            if len(operands) > 2:
                touched.unread(operands[2])
                return operands[2]
        return None

    def _hidden_copy(self, operand: Operand, operation: Operation, touched: _Touched, layout: Any) -> None:
        tensor = operand.tensor
        block = self._blocks.of(tensor)
        if not block or (layout is _CHANNELS_LAST and tensor.dim() != 4) or tensor.is_contiguous(memory_format=layout):
            return
        size = tensor.numel() * tensor.element_size()
        copy = self._blocks.unseen(size, block.device, "hidden:contiguous:" + operation.name)
        made = _Touched(self._blocks)
        made.reads(block, size)
        made.writes(copy, size)
        self._event("aten::clone(hidden)", made)
        touched.unread(operand)
        touched.reads(copy, size)
        touched.copies.append(copy)

    def _accumulator(self, operation: Operation, touched: _Touched) -> list[Block]:
        """Memory-efficient attention adds up in single precision if heads are wide."""
        if operation.name != "aten::_scaled_dot_product_efficient_attention":
            return []
        query, value = operation.arguments[0], operation.arguments[2]
        if value.shape[-1] <= 128 or query.dtype == torch.float32:
            return []
        size = query.shape[0] * query.shape[1] * query.shape[2] * value.shape[-1] * 4
        block = self._blocks.unseen(size, str(query.device), "hidden:output_accum:" + operation.name)
        touched.reads(block, size)
        touched.writes(block, size)
        return [block]

    def _hidden_bias(self, bias: Operand, touched: _Touched) -> None:
        """The bias of a convolution is added by a kernel of its own."""
        added = _Touched(self._blocks)
        result, size = next(iter(touched.written.items()))
        added.read[result] = added.written[result] = size
        added.reads(self._blocks.of(bias.tensor), _span(bias.tensor))
        self._event("aten::add_(hidden)", added)


class _Touched:
    """The bytes that an operation reads and writes of each block."""

    def __init__(self, blocks: Blocks) -> None:
        self._blocks = blocks
        self.read: dict[int, int] = {}
        self.written: dict[int, int] = {}
        self.copies: list[Block] = []

    def operand(self, operation: Operation, operand: Operand) -> None:
        """Adds what the operation does with an operand."""
        block = self._blocks.of(operand.tensor)
        short = operation.name.split("::")[1]
        size = _span(operand.tensor)
        scattered = _scattered(operation) if operand.is_written else None
        if operand.is_written:
            self.writes(block, size if scattered is None else scattered)
        if scattered is not None or (operand.is_written and short in _PURE_WRITES):
            return
        if operation.results and _GATHERS.get(operation.name) == operand.at:
            size = operation.results[0].numel() * operand.tensor.element_size()
        self.reads(block, size)

    def reads(self, block: Block | None, size: int) -> None:
        """Adds bytes that are read."""
        if block:
            self._blocks.touched[block.device] += size
            self.read[block.id] = min(self.read.get(block.id, 0) + size, block.bytes)

    def writes(self, block: Block | None, size: int) -> None:
        """Adds bytes that are written."""
        if block:
            block.is_written = True
            self._blocks.touched[block.device] += size
            self.written[block.id] = min(self.written.get(block.id, 0) + size, block.bytes)

    def unread(self, operand: Operand) -> None:
        """An operand is not read after all."""
        block = self._blocks.of(operand.tensor)
        if block:
            self.read.pop(block.id, None)


def _span(tensor: Any) -> int:
    """Bytes of the storage that a tensor touches. Broadcast dimensions count once."""
    size: int = tensor.element_size()
    for length, stride in zip(tensor.shape, tensor.stride()):
        if stride != 0:
            size *= length
    return size


def _is_channels_last(tensor: Any) -> bool:
    return bool(tensor.dim() == 4 and tensor.is_contiguous(memory_format=_CHANNELS_LAST) and not tensor.is_contiguous())


def _scattered(operation: Operation) -> int | None:
    """The bytes that a scatter writes; None of another operation."""
    at = _SCATTERS.get(operation.name)
    source = operation.arguments[at] if at is not None and at < len(operation.arguments) else None
    return source.numel() * source.element_size() if isinstance(source, torch.Tensor) else None


def _flops(operation: Operation) -> int:
    if "scaled_dot_product" in operation.name:
        return _attention_flops(operation)
    # A formula may refuse shapes that the operation takes.
    with contextlib.suppress(Exception):
        return operation.flops()
    return 0


def _attention_flops(operation: Operation) -> int:
    """Allows fewer heads of keys than of queries; a causal mask does not halve it."""
    is_backward = operation.name.endswith("_backward")
    query, key, value = operation.arguments[1:4] if is_backward else operation.arguments[:3]
    batch, heads, length, width = query.shape
    pairs = 2 * batch * heads * length * key.shape[2]
    # Backwards: the scores again, and the gradients of each of the three and of the scores.
    return int(pairs * (3 * width + 2 * value.shape[-1] if is_backward else width + value.shape[-1]))
