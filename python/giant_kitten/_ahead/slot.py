"""A slot of the ring, as a tensor over its memory."""

from __future__ import annotations

import ctypes
import sys
from typing import Any

from .._torch.lending import number_of, parameter_over, tensor_at, users_of

# A release that cannot count them lends only to modules that keep no view.
_users_of = users_of or (lambda _: 0)


class Slot:
    """A view of a weight's slot, and whether others hold one too."""

    __slots__ = ("_number", "_storage", "_twins", "_users", "address", "pointer", "twin", "version", "view")

    def __init__(self, address: int, like: Any) -> None:
        self.address, self.pointer = address, ctypes.c_void_p(address)
        self.view = tensor_at(address, like)
        if self.view.data_ptr() != address:
            raise RuntimeError(f"PyTorch has copied the memory at {address:#x} instead of using it")
        # Inference tensors count no writes, so such a parameter is replaced by one that does.
        self.twin = parameter_over(self.view) if like.is_inference() else None
        self.version = 0
        self._storage = self.view.untyped_storage()
        self._number = number_of(self._storage)
        # How many know the slot and its twin while nobody else does.
        self._users = _users_of(self._number)
        self._twins = sys.getrefcount(self.twin)

    def is_held(self) -> bool:
        """Whether somebody else holds the slot. It must not be lent."""
        return bool(
            _users_of(self._number) != self._users
            or (self.twin is not None and sys.getrefcount(self.twin) != self._twins)
        )
