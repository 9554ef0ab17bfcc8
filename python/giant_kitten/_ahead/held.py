"""Slots that cannot be reused yet, because somebody holds a view of them.

A module may return a view of its weight, or keep one in an attribute. The library leaves the slot
alone until nobody holds it any more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

from .. import _library

if TYPE_CHECKING:
    from .slot import Slot

_give_back = _library.library().gk_give_back


class _Held(NamedTuple):
    device: int
    # The address of the weight.
    address: int
    slot: Slot
    # The stream on which the weight was lent.
    stream: int


_held: list[_Held] = []


def hold(device: int, address: int, slot: Slot, stream: int) -> None:
    """Notes a slot that somebody holds."""
    _held.append(_Held(device, address, slot, stream))


def release(device: int, stream: int, may_wait: bool = False) -> None:
    """Releases the slots of a device that nobody holds any more.

    The library then waits for the work that is in `stream` now. A slot that was lent on another
    stream is released only if this may wait for the device.
    """
    for held in _held[:]:
        if held.device != device or held.slot.is_held():
            continue
        if held.stream != stream:
            if not may_wait:
                continue
            torch.cuda.synchronize(device)
        _held.remove(held)
        _give_back(device, held.address, stream, _library.RELEASED)


def is_any() -> bool:
    """Whether any slot is held."""
    return bool(_held)
