"""Attention of tensors without values, as it is on a card.

PyTorch asks the card which of its kernels to use. Without one it would compute attention step by
step, with a matrix of scores that no card ever holds.
"""

from __future__ import annotations

import contextlib
import math
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F

from .operations import has_values

if TYPE_CHECKING:
    from collections.abc import Iterator

_aten = torch.ops.aten
# The widest head of the flash kernels.
_WIDEST = 256


@contextlib.contextmanager
def attention_of_cards() -> Iterator[None]:
    """Attention without values is computed by the operation that a card would take."""
    original = F.scaled_dot_product_attention

    def attention(query: Any, key: Any, value: Any, *arguments: Any, **keywords: Any) -> Any:
        chosen = original if has_values(query) or query.dim() != 4 or query.dtype == torch.float64 else _attention
        return chosen(query, key, value, *arguments, **keywords)

    F.scaled_dot_product_attention = attention
    try:
        yield
    finally:
        F.scaled_dot_product_attention = original


def _attention(
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Any:
    """What a card from compute capability 8.0 does, as in PyTorch's chooser of kernels."""
    query, key, value = (_cast(tensor) for tensor in (query, key, value))
    width = query.shape[-1]
    is_half = query.dtype in (torch.float16, torch.bfloat16)
    is_square = not is_causal or query.shape[-2] == key.shape[-2]
    if is_half and attn_mask is None and is_square and max(width, value.shape[-1]) <= _WIDEST:
        return _flash(query, key, value, dropout_p, is_causal, scale)
    if enable_gqa:
        key, value = (_repeated(tensor, query.shape[-3]) for tensor in (key, value))
    keeps = any(tensor.requires_grad for tensor in (query, key, value)) and torch.is_grad_enabled()
    mask = _mask(attn_mask, query, key)
    return _aten._scaled_dot_product_efficient_attention(
        query, key, value, mask, keeps, dropout_p, is_causal, scale=scale
    )[0]


def _cast(tensor: Any) -> Any:
    """A tensor as autocast hands it to attention."""
    if tensor.device.type != "cuda" or not torch.is_autocast_enabled():
        return tensor
    newer = getattr(torch, "get_autocast_dtype", None)
    return tensor.to(newer("cuda") if newer else torch.get_autocast_gpu_dtype())


def _flash(query: Any, key: Any, value: Any, dropout: float, is_causal: bool, scale: float | None) -> Any:
    width = query.shape[-1]
    factor = scale if scale is not None else 1.0 / math.sqrt(width)
    missing = -width % 8
    if missing:
        query, key, value = (F.pad(tensor, (0, missing)) for tensor in (query, key, value))
    result = _aten._scaled_dot_product_flash_attention(query, key, value, dropout, is_causal, False, scale=factor)[0]
    return result[..., :width] if missing else result


def _repeated(tensor: Any, heads: int) -> Any:
    return tensor.repeat_interleave(heads // tensor.shape[-3], -3)


def _mask(mask: Any, query: Any, key: Any) -> Any:
    """The mask as the memory-efficient kernel reads it: numbers, in rows of whole eights."""
    if mask is None:
        return None
    if mask.dtype == torch.bool:
        mask = torch.where(mask, 0.0, -torch.inf).to(query.dtype)
    missing = -mask.shape[-1] % 8
    if missing:
        mask = F.pad(mask, (0, missing))[..., : key.shape[-2]]
    return mask.expand(*query.shape[:-1], key.shape[-2])
