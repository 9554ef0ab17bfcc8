"""One weight, which is lent from a slot of the ring while its module runs."""

from __future__ import annotations

import weakref
from typing import Any

import torch

from .. import _library
from .._library import KEPT, READ, WRITTEN
from .._torch.lending import parameters_of, version_of
from . import held
from .slot import Slot

# A version that no tensor has: the weight was written, and nothing else shows that.
_UNKNOWN = -1
# A weight of which views outlive its use so often is left in place.
_KEPT_TOO_OFTEN = 2
# Slots whose views are cached for each weight. A weight comes to lie in the same ones again.
_MOST_SLOTS = 8

_lend = _library.library().gk_lend
_give_back = _library.library().gk_give_back


class Weight:
    """A parameter of modules, and where it is lent.

    The parameter belongs to its modules, which are referred to weakly. It is held only while it is
    lent, as is its own memory. So nothing here keeps memory from being freed.
    """

    __slots__ = (
        "_device", "_how", "_identity", "_kept", "_lent", "_master", "_owners", "_parameter", "_shape", "_slot",
        "_slots", "_tuners", "_version", "address", "bytes",
    )  # fmt: skip

    def __init__(self, parameter: Any, device: int) -> None:
        self.address: int = parameter.data_ptr()
        self.bytes: int = parameter.numel() * parameter.element_size()
        self._device = device
        self._identity = id(parameter)
        self._shape = _shape_of(parameter)
        # The modules that own it, and its name there.
        self._owners: list[tuple[Any, str]] = []
        # Layers that may merge an adapter into the weight unseen, in the middle of a pass.
        self._tuners: list[Any] = []
        self._version = _UNKNOWN
        # How often it is lent now: its modules may call each other, or run in two threads.
        self._lent = 0
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

    def renew(self) -> bool:
        """Notes the parameter's version when a pass begins; False if it is not what was found."""
        if self._lent:
            return True
        parameter = self._find()
        if parameter is None or not self.is_of(parameter):
            return False
        is_merged = any(getattr(tuner(), "merged", False) for tuner in self._tuners)
        self._version = _UNKNOWN if is_merged else _version(parameter)
        return True

    def was_written(self, identities: set[int]) -> None:
        """Notes that the parameter was written, if it is one of several, by their ids."""
        if self._identity in identities:
            self._version = _UNKNOWN
            if self._slot is not None:
                self._slot.version = _UNKNOWN

    def lend(self, stream: int) -> None:
        """Gives the parameter the memory of its slot, if it has one."""
        if self._lent:
            self._join(stream)
            return
        parameter = self._find()
        if (
            parameter is None
            or self._kept >= _KEPT_TOO_OFTEN
            or parameter.data_ptr() != self.address
            or _version(parameter) != self._version
        ):
            return
        self._lent = 1
        address = _lend(self._device, self.address, self.bytes, stream)
        if address == self.address:
            return
        slot = self._slots.get(address)
        if slot is None:
            slot = self._slot_at(address, parameter)
        if slot is not None:
            self._enter(parameter, slot)

    def give_back(self, stream: int) -> None:
        """Gives the parameter its own memory back, unless another call still uses the slot."""
        if self._lent == 0:
            return
        if self._lent == 1:
            self._leave(stream)
        how = self._how if self._lent == 1 else READ
        code = _give_back(self._device, self.address, stream, how)
        self._lent -= 1
        self._how = READ if self._lent == 0 else self._how
        if code != 0:
            _library.fail()

    def recall(self, stream: int) -> None:
        """Gives the parameter its own memory back although other calls still use the slot.

        Whoever calls the module now must not see the slot.
        """
        if self._lent:
            self._leave(stream)

    def come_home(self, stream: int) -> None:
        """Ends all lending that an interrupt has left behind."""
        while self._lent:
            self.give_back(stream)

    def _find(self) -> Any:
        """The parameter, if each of its modules still has it."""
        parameter = None
        for owner, name in self._owners:
            module = owner()
            parameter = None if module is None else parameters_of(module).get(name)
            if id(parameter) != self._identity:
                return None
        return parameter

    def _join(self, stream: int) -> None:
        self._lent += 1
        address = _lend(self._device, self.address, self.bytes, stream)
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

    def _leave(self, stream: int) -> None:
        """Gives the parameter its own memory back, and notes how the slot is given back.

        An interrupt may come between any two lines, and then this is called again.
        """
        slot, parameter = self._slot, self._parameter
        if slot is None:
            return
        was_written = version_of(parameter if slot.twin is None else slot.twin) != slot.version
        if slot.twin is not None:
            self._put_back(parameter, slot.twin)
        elif parameter.data_ptr() == slot.address:
            parameter.data = self._master
        self._how = WRITTEN if was_written else READ
        if slot.is_held():
            if was_written:
                with torch.inference_mode():
                    (parameter.data if self._master is None else self._master).copy_(slot.view)
            self._how = KEPT
            self._kept += 1
            held.hold(self._device, self.address, slot, stream)
            self._slots.pop(slot.address, None)
        if self._how != READ:
            self._version = _version(parameter)
        self._slot = None
        self._parameter = self._master = None

    def _put_back(self, parameter: Any, twin: Any) -> None:
        for owner, name in self._owners:
            module = owner()
            if module is not None and parameters_of(module).get(name) is twin:
                parameters_of(module)[name] = parameter


def _version(parameter: Any) -> int:
    return 0 if parameter.is_inference() else int(version_of(parameter))


def _shape_of(parameter: Any) -> tuple[Any, ...]:
    return (parameter.shape, parameter.stride(), parameter.dtype)
