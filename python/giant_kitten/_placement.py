"""The placement of tensors in the tiers: actions on a device, and single tensors and modules."""

from __future__ import annotations

import contextlib
import ctypes
import logging
from typing import TYPE_CHECKING, Any, TypeVar

from . import _in_use, _library
from ._device import index as _index
from ._tensors import pointers, tensors

if TYPE_CHECKING:
    from collections.abc import Iterator

T = TypeVar("T")


def activate(
    reserve: int | str | None = None,
    model: Any = None,
    sort_reversed: bool | None = None,
    ignore_model: bool | None = None,
    persist: int | str | None = None,
    device: Any = None,
    sort_by: str | None = None,
) -> None:
    """Places all memory of a device anew and freezes it; later allocations get the reserve first.

    `reserve` and `persist` are sizes, in bytes or as text such as "1.6GiB". A reserve of "auto" is
    determined from the memory that the work asks for, as it is from the start if no reserve is ever
    given. `model` is a module, a tensor, or several, to be placed first. `sort_by` is "size", or
    "reads" or "recency", which are known for modules under `follow`. Arguments that are not given
    have the values of the options.

    Tensors keep their addresses and contents. On a driver that can only pin host memory
    (`stats()["migrates"]` is 0), tensors are copied to the host and back. They keep their contents
    but change their addresses, and no CUDA graph may exist.

    Call this between two pieces of work, never while another thread launches GPU work.
    """
    if model is not None:
        mark(model)
    request = _activation(reserve, persist, sort_reversed, ignore_model, sort_by)
    _act("gk_activate", _index(device), request, ctypes.byref(request))


def disable(sort_reversed: bool | None = None, ignore_model: bool | None = None, device: Any = None) -> None:
    """Places all memory of a device anew, without reserve and persist, and unfreezes it."""
    request = _activation(0, 0, sort_reversed, ignore_model)
    _act("gk_disable", _index(device), request, ctypes.byref(request))


def free_vram(device: Any = None) -> None:
    """Moves all memory of a device to the shared tier and returns the dedicated to the driver.

    Tensors stay usable.
    """
    _act("gk_free_vram", _index(device), _activation(0, 0, None, None), to=_library.SHARED)


def _act(name: str, device: int, request: _library.Activation, *arguments: Any, to: int = _library.DEDICATED) -> None:
    """Calls an action.

    If the driver cannot move memory, tensors are copied out and back instead, and the action is
    called again.
    """
    _in_use.notice(device)

    def finish() -> None:
        if not _library.act(name, device, *arguments):
            logging.getLogger("giant_kitten").warning(
                "%s: %s", name, _library.library().gk_last_error().decode("utf-8", "replace")
            )

    if not _library.act(name, device, *arguments):
        from . import _out_and_back

        _out_and_back.place(device, request, to, finish)


def _activation(
    reserve: int | str | None,
    persist: int | str | None,
    sort_reversed: bool | None,
    ignore_model: bool | None,
    sort_by: str | None = None,
) -> _library.Activation:
    wanted = _library.Activation()
    _library.call("gk_defaults", ctypes.byref(wanted))
    if reserve is not None:
        wanted.reserve = _library.AUTO if reserve == "auto" else _library.parse_size(reserve)
    if persist is not None:
        wanted.persist = _library.parse_size(persist)
    if sort_reversed is not None:
        wanted.sort_reversed = sort_reversed
    if ignore_model is not None:
        wanted.ignore_model = ignore_model
    if sort_by is not None:
        if sort_by not in _library.SORT_BY:
            raise ValueError(f"sort_by must be one of {', '.join(_library.SORT_BY)}, not {sort_by!r}")
        wanted.sort_by = _library.SORT_BY.index(sort_by)
    return wanted


def mark(model: Any, is_model: bool = True) -> None:
    """Marks modules or tensors as part of the model, which is placed first, or unmarks them."""
    for pointer in pointers(model):
        _library.call("gk_mark", pointer, int(is_model))


def residency(tensor: Any) -> dict[str, int]:
    """The bytes of a tensor or a module in each tier, and those of them that are pinned.

    The keys are "dedicated", "shared" and "pinned".
    """
    total = {"dedicated": 0, "shared": 0, "pinned": 0}
    for pointer in pointers(tensor):
        dedicated, shared = ctypes.c_uint64(), ctypes.c_uint64()
        _library.call("gk_tier", pointer, ctypes.byref(dedicated), ctypes.byref(shared))
        total["dedicated"] += dedicated.value
        total["shared"] += shared.value
        if _library.library().gk_pinned(pointer) != _library.NO_TIER:
            total["pinned"] += dedicated.value + shared.value
    return total


def tier(tensor: Any) -> str:
    """The tier of a tensor or a module: "dedicated", "shared", or "both"."""
    found = residency(tensor)
    if not any(found.values()):
        raise _library.Error(
            "not managed by giant-kitten: the tensor is not on a GPU, is empty, or was allocated before giant-kitten "
            "was installed"
        )
    if found["shared"] == 0:
        return "dedicated"
    return "both" if found["dedicated"] else "shared"


def to_shared(x: T, pin: bool = True) -> T:
    """Moves a tensor, or a module's parameters and buffers, to the shared tier, and returns it.

    It stays there, whatever the automatic mode and `activate` would do, until it is moved again or
    `unpin` is called. Without `pin` they may move it elsewhere. Addresses do not change, except on
    drivers that can only pin host memory.
    """
    return _move(x, _library.SHARED, pin)


def to_dedicated(x: T, pin: bool = True) -> T:
    """Moves a tensor, or a module's parameters and buffers, to dedicated memory, and returns it.

    It stays there, as after `to_shared`, except that `free_vram` moves it until the next placement.
    """
    return _move(x, _library.DEDICATED, pin)


def unpin(x: T) -> T:
    """Lets the automatic mode and `activate` move a tensor or a module again, and returns it."""
    return _pin(x, _library.NO_TIER)


def _move(x: T, to: int, pin: bool) -> T:
    _say_if_elsewhere(x)
    if not all([_library.act("gk_move", pointer, to) for pointer in pointers(x)]):
        from . import _out_and_back

        _out_and_back.move(list(tensors(x)), to)
    return _pin(x, to if pin else _library.NO_TIER)


def _say_if_elsewhere(x: Any) -> None:
    """Logs it where none of some tensors is on a GPU, so that there is nothing to move."""
    found = list(tensors(x))
    if found and not any(tensor.is_cuda for tensor in found):
        logging.getLogger("giant_kitten").warning(
            "nothing of this is on a GPU, so nothing moves: the first tensor is on %s. Move it to a GPU before this",
            found[0].device,
        )


def _pin(x: T, to: int) -> T:
    for pointer in pointers(x):
        _library.call("gk_pin", pointer, to)
    return x


@contextlib.contextmanager
def shared() -> Iterator[None]:
    """Allocations of this thread inside go to the shared tier as long as it has room."""
    with _library.preferring(_library.SHARED):
        yield


@contextlib.contextmanager
def dedicated() -> Iterator[None]:
    """Allocations of this thread inside go to dedicated memory as usual, also within `shared()`."""
    with _library.preferring(_library.DEDICATED):
        yield
