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
    slot: Slot
    # The stream on which the weight was lent; None for the default stream, as ctypes has it.
    stream: int | None


# All of them, of all devices.
slots: list[_Held] = []


def hold(device: int, slot: Slot, stream: int | None) -> None:
    """Notes a slot that somebody holds, once: after an interrupt this is called again."""
    if all(held.slot is not slot for held in slots):
        slots.append(_Held(device, slot, stream))


def release(device: int, stream: int | None, may_wait: bool = False) -> None:
    """Releases the slots of a device that nobody holds any more.

    The library then waits for the work that is in `stream` now. A slot that was lent on another
    stream is released only if this may wait for the device.
    """
    for held in slots[:]:
        if held.device != device or held.slot.is_held():
            continue
        if held.stream != stream:
            if not may_wait:
                continue
            torch.cuda.synchronize(device)
        _give_back(device, held.slot.address, stream, _library.RELEASED)
        slots.remove(held)
