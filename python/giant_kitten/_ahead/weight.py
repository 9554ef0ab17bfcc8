"""One weight, which is lent from a slot of the ring while its module runs."""

from __future__ import annotations

import ctypes
import weakref
from threading import get_ident
from typing import Any

import torch

from .. import _library
from .._library import KEPT, READ, RELEASED, WRITTEN
from .._torch.lending import parameters_of, version_of
from . import held
from .slot import Slot

# A version that no tensor has: the weight was written, and nothing else shows that.
_UNKNOWN = -1
# A weight of which views outlive its use so often is left in place.
_KEPT_TOO_OFTEN = 2
# Slots whose views are cached for each weight. A weight comes to lie in the same ones again.
_MOST_SLOTS = 8

# These are called for every weight in every pass. Arguments that are ctypes objects already, and no
# argument types, halve the time of a call.
_lend = _library.library()["gk_lend"]
_lend.restype = ctypes.c_void_p
_give_back = _library.library()["gk_give_back"]


class Weight:
    """A parameter of modules, and where it is lent.

    The parameter belongs to its modules, which are referred to weakly. It is held only while it is
    lent, as is its own memory. So nothing here keeps memory from being freed.
    """

    __slots__ = (
        "_calls", "_counts_writes", "_device", "_how", "_identity", "_kept", "_master", "_owners", "_parameter",
        "_pointer", "_shape", "_size", "_slot", "_slots", "_tuners", "_version", "address",
    )  # fmt: skip

    def __init__(self, parameter: Any, device: int) -> None:
        self.address: int = parameter.data_ptr()
        self._pointer = ctypes.c_void_p(self.address)
        self._size = ctypes.c_size_t(parameter.numel() * parameter.element_size())
        self._device = device
        self._identity = id(parameter)
        self._shape = _shape_of(parameter)
        # Inference tensors do not.
        self._counts_writes = not parameter.is_inference()
        # The modules that own it, and its name there.
        self._owners: list[tuple[Any, str]] = []
        # Layers that may merge an adapter into the weight unseen, in the middle of a pass.
        self._tuners: list[Any] = []
        self._version = _UNKNOWN
        # To whom it is lent now, and where: a thread and an address for each call. Its modules may
        # call each other, or run in two threads.
        self._calls: list[list[int]] = []
        # How often a view of its slot has outlived its use. One that another thread reads while the
        # slot is recalled has not.
        self._kept = 0
        self._slots: dict[int, Slot] = {}
        # While it is lent from a slot: that, the parameter, and the parameter's own memory.
        self._slot: Slot | None = None
        self._parameter: Any = None
        self._master: Any = None
        # How it is given back, if it was recalled before.
        self._how = READ

    def belongs_to(self, owners: list[tuple[Any, str]], tuners: list[Any]) -> None:
        """Notes the modules that own the parameter with its name in each, and what may tune it."""
        self._owners = [(weakref.ref(module), name) for module, name in owners]
        self._tuners = [weakref.ref(tuner) for tuner in tuners if tuner is not None]

    def is_of(self, parameter: Any) -> bool:
        """Whether this is still the weight of a parameter."""
        return (
            self._identity == id(parameter)
            and self.address == parameter.data_ptr()
            and self._shape == _shape_of(parameter)
        )

    def requires_grad(self) -> bool:
        """Whether gradients of the parameter are wanted."""
        parameter = self._find()
        return parameter is None or bool(parameter.requires_grad)

    def adopt(self, stream: ctypes.c_void_p) -> None:
        """Lets the passes of this thread on a stream copy the weight ahead."""
        _library.call("gk_adopt", self._device, self._pointer, stream)

    def renew(self) -> bool:
        """Notes the parameter's version when a pass begins; False if it is not what was found."""
        if self._calls:
            return True
        parameter = self._find()
        if parameter is None or not self.is_of(parameter):
            return False
        is_merged = any(getattr(tuner(), "merged", False) for tuner in self._tuners)
        stays = is_merged or self._kept >= _KEPT_TOO_OFTEN
        self._version = _UNKNOWN if stays else self._version_of(parameter)
        return True

    def was_written(self, identities: set[int]) -> None:
        """Notes that the parameter was written, if it is one of several, by their ids."""
        if self._identity in identities:
            self._version = _UNKNOWN
            if self._slot is not None:
                self._slot.version = _UNKNOWN

    def lend(self, stream: ctypes.c_void_p) -> None:
        """Gives the parameter the memory of its slot, if it has one."""
        if self._calls:
            self._join(stream)
            return
        parameter = self._find()
        if (
            parameter is None
            or parameter.data_ptr() != self.address
            or (version_of(parameter) if self._counts_writes else 0) != self._version
        ):
            return
        address = self._call(stream)
        if address == self.address:
            return
        slot = self._slots.get(address)
        if slot is None:
            slot = self._slot_at(address, parameter)
        if slot is not None:
            self._enter(parameter, slot)

    def _call(self, stream: ctypes.c_void_p) -> int:
        call = [get_ident(), self.address]
        self._calls.append(call)
        call[1] = _lend(self._device, self._pointer, self._size, stream)
        return call[1]

    def give_back(self, stream: ctypes.c_void_p) -> None:
        """Gives the parameter its own memory back, unless another call still uses the slot."""
        me = get_ident()
        for call in reversed(self._calls):
            if call[0] == me:
                self._give_back(call, stream, READ)
                return

    def _give_back(self, call: list[int], stream: ctypes.c_void_p, how: int) -> None:
        calls, address, slot = self._calls, call[1], self._slot
        pointer = slot.pointer if slot is not None and slot.address == address else ctypes.c_void_p(address)
        if address != self.address and (len(calls) == 1 or self._is_last(call)):
            if slot is not None:
                self._leave(stream)
                self._kept += self._how == KEPT
            if self._how != READ:
                how, self._how = self._how, READ
        code = _give_back(self._device, pointer, stream, how)
        calls.remove(call)
        if code != 0:
            _library.fail()

    def _is_last(self, call: list[int]) -> bool:
        """Whether no other call uses the slot of one."""
        return all(other is call or other[1] != call[1] for other in self._calls)

    def recall(self, stream: ctypes.c_void_p) -> None:
        """Gives the parameter its own memory back although other calls still use the slot.

        Whoever calls the module now must not see the slot.
        """
        if self._calls:
            self._leave(stream)

    def come_home(self, stream: ctypes.c_void_p) -> None:
        """Ends all lending that an interrupt has left behind."""
        if not self._calls:
            return
        me = get_ident()
        while self._calls:
            call = self._calls[-1]
            # The work of another thread is on another stream.
            self._give_back(call, stream, READ if call[0] == me else RELEASED)
        # An interrupt may have come before it was noted where the weight was lent.
        _give_back(self._device, self._pointer, stream, RELEASED)

    def _find(self) -> Any:
        """The parameter, if each of its modules still has it."""
        parameter = None
        for owner, name in self._owners:
            module = owner()
            parameter = None if module is None else parameters_of(module).get(name)
            if id(parameter) != self._identity:
                return None
        return parameter

    def _join(self, stream: ctypes.c_void_p) -> None:
        address = self._call(stream)
        if self._slot is not None and address != self._slot.address:
            # Nothing makes this stream wait for the copy.
            self.recall(stream)

    def _slot_at(self, address: int, parameter: Any) -> Slot | None:
        while len(self._slots) >= _MOST_SLOTS:
            del self._slots[next(iter(self._slots))]
        try:
            slot = self._slots[address] = Slot(address, parameter)
        except (RuntimeError, TypeError):
            # Its elements are of a type that no view can have.
            self._kept = _KEPT_TOO_OFTEN
            return None
        return slot

    def _enter(self, parameter: Any, slot: Slot) -> None:
        self._parameter = parameter
        if slot.twin is None:
            slot.version = self._version
            self._master = parameter.data
            self._slot = slot
            parameter.data = slot.view
            return
        slot.version = version_of(slot.twin)
        self._slot = slot
        for owner, name in self._owners:
            parameters_of(owner())[name] = slot.twin

    def _leave(self, stream: ctypes.c_void_p) -> None:
        """Gives the parameter its own memory back, and notes how the slot is given back.

        An interrupt may come between any two lines, and then this is called again.
        """
        slot, parameter = self._slot, self._parameter
        if slot is None:
            return
        if slot.twin is None:
            was_written = version_of(parameter) != slot.version
            if parameter.data_ptr() == slot.address:
                parameter.data = self._master
        else:
            was_written = version_of(slot.twin) != slot.version
            self._put_back(parameter, slot.twin)
        if was_written:
            self._how = WRITTEN
            self._version = self._version_of(parameter)
        if slot.is_held():
            self._hold(slot, was_written, stream)
        self._slot = self._parameter = self._master = None

    def _hold(self, slot: Slot, was_written: bool, stream: ctypes.c_void_p) -> None:
        if was_written:
            with torch.inference_mode():
                (self._parameter.data if self._master is None else self._master).copy_(slot.view)
        self._how = KEPT
        held.hold(self._device, slot, stream.value)
        self._slots.pop(slot.address, None)

    def _version_of(self, parameter: Any) -> int:
        return int(version_of(parameter)) if self._counts_writes else 0

    def _put_back(self, parameter: Any, twin: Any) -> None:
        for owner, name in self._owners:
            module = owner()
            if module is not None and parameters_of(module).get(name) is twin:
                parameters_of(module)[name] = parameter


def _shape_of(parameter: Any) -> tuple[Any, ...]:
    return (parameter.shape, parameter.stride(), parameter.dtype)
