"""What lives where: the actions, and single tensors and modules."""

from __future__ import annotations

import contextlib
import ctypes
import logging
from typing import TYPE_CHECKING, Any, TypeVar

from . import _library
from ._device import index as _index
from ._tensors import storage_of, tensors

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
    """Places everything on a device anew and freezes it; what comes afterwards gets the reserve first.

    `reserve` and `persist` are sizes, in bytes or as "1.6GiB", and a reserve may be "auto": then it is found from what
    the work asks for, as it is from the start where no reserve is given. `model` is a module, a tensor, or several, to
    be placed first. `sort_by` is "size", or "reads" or "recency" as far as `follow` has told of them. What is not given
    is as the options say. Tensors keep their addresses and contents. Where the driver can only pin host memory
    (`stats()["migrates"]` is 0) they are taken out and back, and keep their contents alone; no graph may be alive then.

    To be called between two pieces of work, never while another thread launches any.
    """
    if model is not None:
        mark(model)
    request = _activation(reserve, persist, sort_reversed, ignore_model, sort_by)
    _act("gk_activate", _index(device), request, ctypes.byref(request))


def disable(sort_reversed: bool | None = None, ignore_model: bool | None = None, device: Any = None) -> None:
    """Places everything on a device anew without reserve and persist, and thaws it."""
    request = _activation(0, 0, sort_reversed, ignore_model)
    _act("gk_disable", _index(device), request, ctypes.byref(request))


def free_vram(device: Any = None) -> None:
    """Moves everything on a device to shared memory and gives its own back to the driver. Tensors stay usable."""
    _act("gk_free_vram", _index(device), _activation(0, 0, None, None), to=_library.SHARED)


def _act(name: str, device: int, request: _library.Activation, *arguments: Any, to: int = _library.DEDICATED) -> None:
    """Calls an action. What it cannot move goes out and back instead, and then it is called again."""

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
            raise ValueError(f"sort_by is one of {', '.join(_library.SORT_BY)}, not {sort_by!r}")
        wanted.sort_by = _library.SORT_BY.index(sort_by)
    return wanted


def mark(model: Any, is_model: bool = True) -> None:
    """Says of modules or tensors that they belong to the model (or do not): `activate` places the model first."""
    for pointer in _pointers(model):
        _library.call("gk_mark", pointer, int(is_model))


def residency(tensor: Any) -> dict[str, int]:
    """Bytes of a tensor's memory in each tier, and those that are pinned: "dedicated", "shared" and "pinned"."""
    total = {"dedicated": 0, "shared": 0, "pinned": 0}
    for pointer in _pointers(tensor):
        dedicated, shared = ctypes.c_uint64(), ctypes.c_uint64()
        _library.call("gk_tier", pointer, ctypes.byref(dedicated), ctypes.byref(shared))
        total["dedicated"] += dedicated.value
        total["shared"] += shared.value
        if _library.library().gk_pinned(pointer) != _library.NO_TIER:
            total["pinned"] += dedicated.value + shared.value
    return total


def tier(tensor: Any) -> str:
    """Where a tensor, or a module, lies: "dedicated", "shared", or "both"."""
    found = residency(tensor)
    if not any(found.values()):
        raise _library.Error(
            "it lies in neither tier: it is not on a GPU, has no elements, or was made before giant-kitten came"
        )
    if found["shared"] == 0:
        return "dedicated"
    return "both" if found["dedicated"] else "shared"


def to_shared(x: T, pin: bool = True) -> T:
    """Moves a tensor, or a module's parameters and buffers, to shared memory, and returns it.

    There it stays, whatever the automatic mode and `activate` would do, until it is moved again or `unpin` is called;
    without `pin` they may take it elsewhere. No address changes, but where the driver can only pin host memory.
    """
    return _move(x, _library.SHARED, pin)


def to_dedicated(x: T, pin: bool = True) -> T:
    """Moves a tensor, or a module's parameters and buffers, to the card's own memory, and returns it.

    There it stays, as after `to_shared`, except that `free_vram` moves it until something is placed anew.
    """
    return _move(x, _library.DEDICATED, pin)


def unpin(x: T) -> T:
    """Lets the automatic mode and `activate` place what `to_shared` or `to_dedicated` has put somewhere; returns it."""
    return _pin(x, _library.NO_TIER)


def _move(x: T, to: int, pin: bool) -> T:
    if not all([_library.act("gk_move", pointer, to) for pointer in _pointers(x)]):
        from . import _out_and_back

        _out_and_back.move(list(tensors(x)), to)
    return _pin(x, to if pin else _library.NO_TIER)


def _pin(x: T, to: int) -> T:
    for pointer in _pointers(x):
        _library.call("gk_pin", pointer, to)
    return x


@contextlib.contextmanager
def shared() -> Iterator[None]:
    """What this thread allocates inside goes to shared memory, as long as that has room."""
    with _preferring(_library.SHARED):
        yield


@contextlib.contextmanager
def dedicated() -> Iterator[None]:
    """What this thread allocates inside goes to the card's own memory as always, also within `shared()`."""
    with _preferring(_library.DEDICATED):
        yield


@contextlib.contextmanager
def _preferring(to: int) -> Iterator[None]:
    before = _library.library().gk_prefer(to)
    try:
        yield
    finally:
        _library.library().gk_prefer(before)


def _pointers(x: Any) -> list[int]:
    """The storages of a tensor, a module, or several of them: each once, and only what is on a GPU."""
    found = (storage_of(tensor) for tensor in tensors(x))
    return list(dict.fromkeys(storage.data_ptr() for storage in found if storage is not None))
