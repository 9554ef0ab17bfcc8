"""Passes of a followed module on a device, whose weights are lent as far as the library asks."""

from __future__ import annotations

import ctypes
import weakref
from threading import get_ident
from typing import TYPE_CHECKING, Any

from .. import _library
from . import finding, held
from .hooks import LOCK, Installed, Lending, stream_of
from .weight import Weight

if TYPE_CHECKING:
    from collections.abc import Iterable

# A module is searched again after so many passes: its parts may have changed.
_SEARCH_EVERY = 16

# The passes that the library has open on each device, one within the other.
_open: dict[int, list[object]] = {}

_lenders: weakref.WeakSet[Lender] = weakref.WeakSet()


class Lender:
    """The weights of a followed module that lie on a device, and the hooks that lend them."""

    def __init__(self, device: int, kind: str, in_place: Iterable[str]) -> None:
        self._device, self._kind, self._in_place = device, kind.encode(), tuple(in_place)
        self._placement = 0
        self._passes = 0
        # The thread and the stream of the last pass.
        self._last: tuple[int, int | None] | None = None
        self._running: list[object] = []
        self._weights: list[Weight] = []
        # Whether all weights were what had been found as the last pass began. What has changed for
        # one pass may change back.
        self._was_known = True
        self._installed: list[Installed] = []
        # The weights that the followed module itself owns: its hooks begin the pass, so they lend.
        self._own = Lending(device, [])
        _lenders.add(self)

    def begin(self, token: object, module: Any, arguments: tuple[Any, ...]) -> None:
        """Begins a pass, which `token` stands for."""
        with LOCK:
            self._running.append(token)
            stream = stream_of(self._device)
            self._adopt(stream)
            placement, is_all = self._ask(token, stream)
            if len(self._running) == 1:
                self._prepare(module, placement, is_all, stream)
        self._own.lend(arguments)

    def end(self, token: object, whole: bool) -> None:
        """Ends a pass. `whole` says whether it came to its end; an interrupt leaves some lent."""
        self._own.give_back()
        with LOCK:
            self._running = [other for other in self._running if other is not token]
            if not self._running and not whole:
                self._bring_home()
            open_here = _open.get(self._device, [])
            if token in open_here:
                # A pass that lent nothing, for its gradients or a capture, teaches nothing.
                has_lent = any(lending.has_lent for lending in self._lendings())
                open_here.remove(token)
                _library.call("gk_end_pass", self._device, int(whole and has_lent))

    def _adopt(self, stream: ctypes.c_void_p) -> None:
        """Takes the weights over from another thread or stream, unless a pass still runs there."""
        own = get_ident(), stream.value
        if own == self._last or len(self._running) > 1:
            return
        if self._last is not None:
            for weight in self._weights:
                weight.adopt(stream)
        self._last = own

    def _ask(self, token: object, stream: ctypes.c_void_p) -> tuple[int, bool]:
        """Begins a pass of the library's; returns its placement, and whether it asks for all."""
        open_here = _open.setdefault(self._device, [])
        if not open_here:
            # An interrupt may have come before the last one was noted.
            _library.call("gk_end_pass", self._device, 0)
        placement, is_all = ctypes.c_uint64(), ctypes.c_int()
        answers = ctypes.byref(placement), ctypes.byref(is_all)
        _library.call("gk_begin_pass", self._device, self._kind, stream, *answers)
        # In a pass within another one, the library asks for nothing, and expects its end.
        if placement.value or open_here:
            open_here.append(token)
        return placement.value, bool(is_all.value)

    def _lendings(self) -> list[Lending]:
        return [self._own, *(installed.lending for installed in self._installed)]

    def remove(self) -> None:
        """Removes all hooks."""
        with LOCK:
            self._bring_home()
            self._remove_hooks()

    def written(self, identities: set[int]) -> None:
        """Notes that parameters, by their ids, were written."""
        for weight in self._weights:
            weight.was_written(identities)

    def _bring_home(self) -> None:
        stream = stream_of(self._device)
        for weight in self._weights:
            weight.come_home(stream)

    def _prepare(self, module: Any, placement: int, is_all: bool, stream: ctypes.c_void_p) -> None:
        if held.slots:
            held.release(self._device, stream.value, may_wait=True)
        if placement == 0:
            self.remove()
            return
        is_known = all([weight.renew() for weight in self._weights])
        is_due = self._passes % _SEARCH_EVERY == 0
        if placement != self._placement or not (is_known and self._was_known) or is_due:
            self._search(module, is_all)
            self._placement = placement
        self._was_known = is_known
        for lending in self._lendings():
            lending.has_lent = False
        self._passes += 1

    def _remove_hooks(self) -> None:
        for installed in self._installed:
            installed.remove()
        self._installed, self._weights, self._own = [], [], Lending(self._device, [])
        self._placement = 0

    def _search(self, module: Any, is_all: bool) -> None:
        """Finds the weights to lend, and installs hooks on the modules that use them."""
        self._bring_home()
        weights, around = self._find(module, is_all)
        own = around.pop(id(module), (module, []))[1]
        is_same = len(around) == len(self._installed) and all(
            installed.is_on(*one) for installed, one in zip(self._installed, around.values())
        )
        if not is_same:
            self._remove_hooks()
            self._installed = [Installed(one, Lending(self._device, lent)) for one, lent in around.values()]
        self._weights, self._own = weights, Lending(self._device, own)
        for weight in weights:
            weight.renew()

    def _find(self, module: Any, is_all: bool) -> tuple[list[Weight], dict[int, tuple[Any, list[Weight]]]]:
        """The weights to lend, and those for each module around whose calls that is, by its id."""
        known = {weight.address: weight for weight in self._weights}
        owners: dict[int, tuple[Weight, list[finding.Found]]] = {}
        around: dict[int, tuple[Any, list[Weight]]] = {}
        for found in finding.weights(module, self._device, self._in_place):
            address = found.parameter.data_ptr()
            if not (is_all or _is_shared(address)):
                continue
            if id(found.parameter) not in owners:
                weight = known.get(address)
                if weight is None or not weight.is_of(found.parameter):
                    weight = Weight(found.parameter, self._device)
                owners[id(found.parameter)] = (weight, [])
            weight, places = owners[id(found.parameter)]
            places.append(found)
            lent = around.setdefault(id(found.around), (found.around, []))[1]
            if weight not in lent:
                lent.append(weight)
        for weight, places in owners.values():
            weight.belongs_to([(found.owner, found.name) for found in places], [found.tuner for found in places])
        return [weight for weight, _ in owners.values()], around


def _is_shared(address: int) -> bool:
    shared = ctypes.c_uint64()
    code = _library.library().gk_tier(address, None, ctypes.byref(shared))
    return bool(code == 0 and shared.value > 0)


def note_written(parameters: Iterable[Any]) -> None:
    """Notes that parameters were written in a way that PyTorch does not count."""
    identities = {id(parameter) for parameter in parameters}
    with LOCK:
        for lender in list(_lenders):
            lender.written(identities)
