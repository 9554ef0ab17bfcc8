"""Out and back: how tensors change tier on drivers that can only pin host memory.

Existing blocks cannot move there. So the bytes are copied to host memory, and the storages free
their blocks. Then they allocate new ones in the order of their claims to dedicated memory, while
the allocator keeps the reserve, and the bytes are copied back. The original extension worked like
this. A storage stays the same object, so tensors, views, parameters and the state of optimizers
stay valid; only addresses change.

Nothing may interrupt this while tensors are out: see `_uninterrupted`.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import threading
import time
from typing import TYPE_CHECKING, Any

from . import _library, _status
from ._tensors import known_tensors
from ._torch.cublas import clear_workspaces
from ._torch.tensors import storage_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_TIERS = ("dedicated", "shared")


class _Storage:
    """A storage to be taken out and back, with the claim and the tier of its old block."""

    def __init__(self, storage: Any, claim: dict[str, Any]) -> None:
        self.storage, self.claim, self.size = storage, claim, storage.nbytes()
        self.tier = _tier_of(claim["address"])
        # Its bytes in host memory while it is out.
        self.bytes: Any = None

    def go_out(self) -> None:
        """Copies the bytes to host memory and frees the block.

        If the host has no memory left, this raises and nothing has changed.
        """
        self.bytes = self.storage.cpu()
        self.storage.resize_(0)

    def come_back(self, device: int, to: int) -> None:
        """Allocates a block in a tier with room, on the old stream, and copies the bytes back."""
        import torch

        claim, storage = self.claim, self.storage
        stream = torch.cuda.default_stream(device)
        if claim["stream"]:
            stream = torch.cuda.ExternalStream(claim["stream"], device)
        with torch.cuda.device(device), torch.cuda.stream(stream), _library.preferring(to):
            storage.resize_(self.size)
            storage.copy_(self.bytes)
        if claim["model"]:
            _library.call("gk_mark", storage.data_ptr(), 1)
        _library.call("gk_pin", storage.data_ptr(), claim["pinned"])
        for other in claim["used_on"]:
            _library.library().gk_record_stream(storage.data_ptr(), other)
        # This is last, so that a copy that was interrupted is repeated.
        self.bytes = None


def place(device: int, request: _library.Activation, to: int, finish: Callable[[], None]) -> None:
    """Takes every storage on a device out and back, with the reserve and the order of `request`.

    `to` is the tier that they return to as long as it has room, unless they are pinned to the other
    one. `finish` is called when all have returned. The storages are those of all tensors that
    Python knows, because one that stayed would keep its memory from the model. Only the garbage
    collector knows all tensors.
    """
    claims = _claims(device, request)
    # Only C++ knows the workspaces of cuBLAS, and they would keep their memory. They are freed
    # after `_claims`, which has made sure that no kernel and no graph uses them.
    clear_workspaces()
    storages = _storages(known_tensors(), device)

    def work() -> None:
        _library.call("gk_begin_loading", device, ctypes.byref(request))
        in_order = [_Storage(storages[claim["address"]], claim) for claim in claims if claim["address"] in storages]
        # Storages that are pinned to dedicated memory return first. Freeing the VRAM overrides
        # pins.
        in_order.sort(key=lambda storage: storage.claim["pinned"] != _library.DEDICATED)
        _move(in_order, device, request, to, pins_hold=to == _library.DEDICATED)
        finish()

    _uninterrupted(work)


def move(chosen: Iterable[Any], to: int) -> None:
    """Takes the storages of some tensors out and back to a tier."""
    import torch

    chosen = list(chosen)
    for device in range(torch.cuda.device_count()):
        storages = _storages(chosen, device)
        if not storages:
            continue
        for claim in _claims(device, None):
            storage = storages.get(claim["address"])
            if storage is not None and _tier_of(claim["address"]) != to:
                one = _Storage(storage, claim)
                _uninterrupted(functools.partial(_move, [one], device, None, to))
                if _tier_of(storage.data_ptr()) != to:
                    raise _library.Error(
                        f"there is no room in the {_TIERS[to]} tier for a tensor of {claim['size']} bytes: "
                        "free something there first"
                    )


def _claims(device: int, request: _library.Activation | None) -> list[dict[str, Any]]:
    """The blocks of a device in the order of their claims, after all work on them is done."""
    import torch

    if not _status.is_installed():
        _library.fail()
    if _library.read_json("gk_stats_json", device)["graph_pools"]:
        raise _library.Error(
            "a CUDA graph exists, and would continue to use the current addresses of tensors: on this driver, whose "
            "shared memory is pinned, tensors cannot move while it exists. Delete the graphs first; tensors in the "
            "wrong tier stay there"
        )
    torch.cuda.synchronize(device)
    found: list[dict[str, Any]] = _library.read_json("gk_claims_json", device, request and ctypes.byref(request))
    return found


def _storages(known: Iterable[Any], device: int) -> dict[int, Any]:
    """The storages of tensors on a device that can be resized, by their addresses."""
    found = {}
    for storage in map(storage_of, known):
        # Old releases do not say whether a storage can be resized.
        if storage is not None and storage.device.index == device and getattr(storage, "resizable", lambda: True)():
            found[storage.data_ptr()] = storage
    return found


def _tier_of(pointer: int) -> int:
    shared = ctypes.c_uint64()
    _library.call("gk_tier", pointer, None, ctypes.byref(shared))
    return _library.SHARED if shared.value else _library.DEDICATED


# Keys of the state of `_uninterrupted`. The first to set the owner decides whether the work is
# done.
_OWNER, _OUTCOME = "owner", "outcome"


def _uninterrupted(work: Callable[[], None]) -> None:
    """Does work that must not stop in the middle; raises interrupting exceptions afterwards.

    The work runs in a thread of its own. Exceptions from outside (Ctrl-C, other signal handlers,
    exceptions that one thread raises in another) reach the calling thread. That thread only waits,
    and continues to wait. An exception that comes before the work has begun cancels it.
    """
    state: dict[str, Any] = {}
    noted: list[BaseException] = []

    def do(owner: str) -> None:
        failed: BaseException | None = None
        try:
            if state.setdefault(_OWNER, owner) == owner:
                work()
        except BaseException as why:
            failed = why
        finally:
            if state.get(_OWNER) == owner:
                state[_OUTCOME] = failed
            # The traceback refers to this frame. Together they would keep the tensors alive.
            failed = None

    # The thread is not a daemon, so the end of the program waits for it.
    thread = threading.Thread(target=do, args=("thread",), name="giant-kitten-out-and-back", daemon=False)
    # Each level handles an exception that comes between the lines of the next inner level.
    try:
        try:
            try:
                try:
                    thread.start()
                except RuntimeError:
                    # No thread can be started any more, for example at the end of the interpreter.
                    do("caller")
                _wait(state, noted)
            finally:
                _call_off(state, noted)
        finally:
            _call_off(state, noted)
    except BaseException as why:
        _call_off(state, noted)
        noted.insert(0, why)
    # A failure takes precedence over an interruption, because it says what became of the tensors
    # and may hold their bytes.
    raised = state.pop(_OUTCOME, None) or next(iter(noted), None)
    noted.clear()
    if raised is not None:
        try:
            raise raised
        finally:
            del raised


def _call_off(state: dict[str, Any], noted: list[BaseException]) -> None:
    """Cancels work that has not begun; waits for work that has."""
    if state.setdefault(_OWNER, "nobody") != "nobody":
        _wait(state, noted)


def _wait(state: dict[str, Any], noted: list[BaseException]) -> None:
    while _OUTCOME not in state:
        try:
            # An exception inside a lock or an event can leave it locked, so neither is used here.
            while _OUTCOME not in state:
                time.sleep(0.0005)
        except BaseException as why:
            noted.append(why)
            if state.setdefault(_OWNER, "nobody") == "nobody":
                return


def _move(
    storages: list[_Storage], device: int, request: _library.Activation | None, to: int, pins_hold: bool = False
) -> None:
    """Takes storages out, then back in this order; if that fails, back to their old tiers."""
    returned: list[_Storage] = []
    try:
        for storage in storages:
            storage.go_out()
        if request is not None:
            # Only now is the memory idle that must be returned to the driver, so that no storage
            # gets more than the reserve leaves.
            _library.call("gk_begin_loading", device, ctypes.byref(request))
        for storage in storages:
            pinned = storage.claim["pinned"]
            storage.come_back(device, pinned if pins_hold and pinned != _library.NO_TIER else to)
            returned.append(storage)
    except BaseException as why:
        _rescue(storages, returned, device, why)
        raise


# How often bringing back is attempted if it is interrupted.
_ATTEMPTS = 5


def _rescue(storages: list[_Storage], returned: list[_Storage], device: int, why: BaseException) -> None:
    """Brings back the storages that are out, without a reserve, and raises an error about it."""
    for attempt in range(_ATTEMPTS):
        try:
            # A storage that has returned may occupy the memory that another one needs.
            _bring_back(storages, returned if attempt == 0 else [], device)
            break
        except BaseException:
            # Each attempt continues where the last one ended: the bytes stay with their storages.
            continue
    if any(storage.bytes is not None for storage in storages):
        raise _parking(storages, why) from why
    if isinstance(why, Exception):
        raise _library.Error(
            f"{why}. Every tensor is usable and has kept its contents, but nothing is sorted and no reserve is kept: "
            "choose a smaller reserve or persist, or free something"
        ) from why


def _parking(storages: list[_Storage], why: BaseException) -> _library.Error:
    left = [storage for storage in storages if storage.bytes is not None]
    error = _library.Error(
        f"{why}. {len(left)} storages got no GPU memory again; their bytes are in this error's attribute `parked`, as "
        "pairs of a storage and its bytes: `storage.resize_(bytes.nbytes()); storage.copy_(bytes)` brings one back "
        "once there is room"
    )
    error.parked = tuple((storage.storage, storage.bytes) for storage in left)
    return error


def _bring_back(storages: list[_Storage], returned: list[_Storage], device: int) -> None:
    for storage in returned:
        # If the host has no memory left, the storage stays where it is.
        with contextlib.suppress(RuntimeError):
            storage.go_out()
    with contextlib.suppress(_library.Error):
        _library.call("gk_begin_loading", device, ctypes.byref(_library.Activation()))
    for storage in sorted(storages, key=lambda storage: -storage.size):
        if storage.bytes is not None:
            with contextlib.suppress(RuntimeError):
                storage.come_back(device, storage.tier)
