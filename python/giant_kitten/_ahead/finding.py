"""Finds the weights of a module that may be lent, and the modules around whose calls they are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from .._torch.lending import compiled_call_of, is_compiled, parameters_of, users_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

# Smaller weights belong in dedicated memory, and larger ones would need too much of it.
_LEAST, _MOST = 1 << 20, 256 << 20

# They read a few rows of their weight. Copying all of it would be slower.
_SPARSE = (torch.nn.Embedding, torch.nn.EmbeddingBag)
# Modules that are left in place with all their parts: recurrent ones expect their weights side by
# side in memory, an encoder layer takes a slower way if it or its parts have hooks, and a script
# runs without Python.
_IN_PLACE = (torch.nn.RNNBase, torch.nn.TransformerEncoderLayer, torch.jit.ScriptModule)


class Found(NamedTuple):
    """A parameter that may be lent."""

    # The module around whose calls it is lent, the one that owns it, and its name there.
    around: Any
    owner: Any
    name: str
    parameter: Any
    # A layer that may merge an adapter into it without a trace, in the middle of a pass.
    tuner: Any


def weights(root: Any, device: int, in_place: Iterable[str]) -> list[Found]:
    """The parameters of a module on a device that may be lent, in no order.

    There are none in a module that is compiled as a whole: all would have to be lent at once.
    """
    if compiled_call_of(root) is not None:
        return []
    all_found = list(_walk(root, "", _Within(None, None), frozenset(in_place), set()))
    # A weight that is also read sparsely, such as that of an embedding, stays where it is.
    sparse = {id(found.parameter) for found in all_found if isinstance(found.owner, _SPARSE)}
    return [found for found in all_found if id(found.parameter) not in sparse and _may_be_lent(found.parameter, device)]


def check_names(root: Any, in_place: Iterable[str]) -> None:
    """Raises ValueError for a name that is none of a module or a parameter."""
    known = {name for name, _ in root.named_modules()} | {name for name, _ in root.named_parameters()}
    for name in in_place:
        if name not in known:
            raise ValueError(
                f'in_place names "{name}", which is neither a module nor a parameter of the followed module'
            )


class _Within(NamedTuple):
    """The compiled module and the tuner that a module is part of, if any."""

    compiled: Any
    tuner: Any


def _walk(module: Any, prefix: str, within: _Within, in_place: frozenset[str], seen: set[int]) -> Iterator[Found]:
    if id(module) in seen or isinstance(module, _IN_PLACE):
        return
    seen.add(id(module))
    if prefix and within.compiled is None and is_compiled(module):
        within = _Within(module, within.tuner)
    if hasattr(module, "merged") and hasattr(module, "base_layer"):
        within = _Within(within.compiled, module)
    if users_of is not None or type(module).__module__.startswith("torch.nn."):
        for name, parameter in list(parameters_of(module).items()):
            if parameter is not None and prefix + name not in in_place:
                around = module if within.compiled is None else within.compiled
                yield Found(around, module, name, parameter, within.tuner)
    for name, part in list(module.named_children()):
        if prefix + name not in in_place:
            yield from _walk(part, f"{prefix}{name}.", within, in_place, seen)


def _may_be_lent(parameter: Any, device: int) -> bool:
    return (
        _is_plain(parameter)
        and parameter.device.type == "cuda"
        and parameter.device.index == device
        and parameter.layout == torch.strided
        and not parameter.is_quantized
        and not parameter.is_conj()
        and not parameter.is_neg()
        and _LEAST <= parameter.numel() * parameter.element_size() <= _MOST
        and _is_dense(parameter.shape, parameter.stride())
    )


def _is_plain(parameter: Any) -> bool:
    """Whether a parameter's `data` is all of it.

    That is also so for the 4-bit weights of bitsandbytes, whose scales are attributes.
    """
    kind = type(parameter)
    return kind is torch.nn.Parameter or (kind.__name__ == "Params4bit" and kind.__module__.startswith("bitsandbytes"))


def _is_dense(shape: Iterable[int], strides: Iterable[int]) -> bool:
    """Whether elements lie without gaps and overlaps, in any order of the dimensions."""
    expected = 1
    for stride, length in sorted(zip(strides, shape)):
        if length != 1:
            if stride != expected:
                return False
            expected *= length
    return True
