"""Out and back: how tensors change tier where the driver can only pin host memory, and no block that exists can move.

As the original did it: the bytes go to host memory, the storages let go of theirs and get it anew, in the order in
which they claim dedicated memory, while the allocator keeps the reserve; then the bytes come back. A storage stays the
same object, so tensors, views, parameters and the state of optimizers stay what they are. Only addresses change.

While tensors are out nothing may interrupt: see `_uninterrupted`.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import gc
import threading
import time
from typing import TYPE_CHECKING, Any

from . import _install, _library
from ._placement import _preferring
from ._tensors import storage_of, tensors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

_TIERS = ("dedicated", "shared")


class _Storage:
    """A storage on its way, with the claim of the block that it had and the tier of that."""

    def __init__(self, storage: Any, claim: dict[str, Any]) -> None:
        self.storage, self.claim, self.size = storage, claim, storage.nbytes()
        self.tier = _tier_of(claim["address"])
        # Its bytes in host memory, while it is out.
        self.bytes: Any = None

    def go_out(self) -> None:
        """Brings the bytes to host memory and lets go of the block. Where the host has none nothing has changed."""
        self.bytes = self.storage.cpu()
        self.storage.resize_(0)

    def come_back(self, device: int, to: int) -> None:
        """Gets a block again, in a tier that has room, on the stream that it was of, and brings its bytes."""
        import torch

        claim, storage = self.claim, self.storage
        stream = torch.cuda.default_stream(device)
        if claim["stream"]:
            stream = torch.cuda.ExternalStream(claim["stream"], device)
        with torch.cuda.device(device), torch.cuda.stream(stream), _preferring(to):
            storage.resize_(self.size)
            storage.copy_(self.bytes)
        if claim["model"]:
            _library.call("gk_mark", storage.data_ptr(), 1)
        _library.call("gk_pin", storage.data_ptr(), claim["pinned"])
        for other in claim["used_on"]:
            _library.library().gk_record_stream(storage.data_ptr(), other)
        # Last: what is interrupted before is done again.
        self.bytes = None


def place(device: int, request: _library.Activation, to: int, finish: Callable[[], None]) -> None:
    """Takes every storage on a device out and back into its place, with the reserve and the order that `request` names.

    `to` is the tier that they come back to as long as it has room, except those that are pinned to the other one;
    `finish` is called once they have. The storages are those of all tensors that Python knows: one that stayed would
    keep its place from the model, and nobody but the garbage collector knows them all.
    """
    import torch

    claims = _claims(device, request)
    # The workspaces of cuBLAS are known to C++ alone, and would keep their place. The next product makes them anew.
    # Not before the claims were looked up: nothing works on them then, and no graph does later.
    torch._C._cuda_clearCublasWorkspaces()
    storages = _storages(_known_tensors(), device)

    def work() -> None:
        _library.call("gk_begin_loading", device, ctypes.byref(request))
        in_order = [_Storage(storages[claim["address"]], claim) for claim in claims if claim["address"] in storages]
        # What is pinned to the card has its place before all others; that the card is wanted empty goes before a pin.
        in_order.sort(key=lambda storage: storage.claim["pinned"] != _library.DEDICATED)
        _move(in_order, device, request, to, pins_hold=to == _library.DEDICATED)
        finish()

    _uninterrupted(work)


def move(chosen: Iterable[Any], to: int) -> None:
    """Takes the storages of some tensors out and back into a tier."""
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
                        f"a tensor of {claim['size']} bytes finds no room in the {_TIERS[to]} tier: "
                        "free something there first"
                    )


def _claims(device: int, request: _library.Activation | None) -> list[dict[str, Any]]:
    """The blocks of a device in the order of their claims, once nothing works on them any more."""
    import torch

    if not _install.is_installed():
        _library.fail()
    if _library.read_json("gk_stats_json", device)["graph_pools"]:
        raise _library.Error(
            "a CUDA graph is alive, and would go on to use the addresses that tensors have now: on this driver, whose "
            "shared memory is pinned, tensors cannot move under it. Delete the graphs first; what is in the wrong tier "
            "stays there"
        )
    torch.cuda.synchronize(device)
    found: list[dict[str, Any]] = _library.read_json("gk_claims_json", device, request and ctypes.byref(request))
    return found


def _known_tensors() -> Iterator[Any]:
    """Every tensor that Python knows, and its gradient. What else lives in C++ alone stays where it is."""
    import torch

    for known in gc.get_objects():
        # Not isinstance, which asks proxies what they pretend to be.
        if issubclass(type(known), torch.Tensor):
            # One may be in the making, of a class that cannot say its parts yet: Python knows those by themselves.
            with contextlib.suppress(Exception):
                yield from tensors(known)
            with contextlib.suppress(Exception):
                if known.is_leaf and known.grad is not None:
                    yield from tensors(known.grad)


def _storages(known: Iterable[Any], device: int) -> dict[int, Any]:
    """The storages of tensors on a device by their addresses, those that can let go of their memory."""
    found = {}
    for storage in map(storage_of, known):
        # Old releases cannot say whether a storage could be resized.
        if storage is not None and storage.device.index == device and getattr(storage, "resizable", lambda: True)():
            found[storage.data_ptr()] = storage
    return found


def _tier_of(pointer: int) -> int:
    shared = ctypes.c_uint64()
    _library.call("gk_tier", pointer, None, ctypes.byref(shared))
    return _library.SHARED if shared.value else _library.DEDICATED


# Who decides whether the work of `_uninterrupted` is done: the first that asks.
_OWNER, _OUTCOME = "owner", "outcome"


def _uninterrupted(work: Callable[[], None]) -> None:
    """Does work that must not stop in the middle, and returns once it is done; then raises what interrupted meanwhile.

    The work is done in a thread of its own. Exceptions from outside (Ctrl-C, other handlers of signals, what one thread
    raises in another) reach the calling thread, which only waits, and goes on to wait. One that comes before the work
    has begun calls it off.
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
            # Its traceback has this frame: together they would keep the tensors.
            failed = None

    # Not a daemon: the end of the program waits for it.
    thread = threading.Thread(target=do, args=("thread",), name="giant-kitten-out-and-back", daemon=False)
    # Each level is for an exception that comes between the lines of the one within.
    try:
        try:
            try:
                try:
                    thread.start()
                except RuntimeError:
                    # There can be no more threads: none at all once the interpreter ends.
                    do("caller")
                _wait(state, noted)
            finally:
                _call_off(state, noted)
        finally:
            _call_off(state, noted)
    except BaseException as why:
        _call_off(state, noted)
        noted.insert(0, why)
    # A failure before an interruption: it says what became of the tensors, and may hold their bytes.
    raised = state.pop(_OUTCOME, None) or next(iter(noted), None)
    noted.clear()
    if raised is not None:
        try:
            raise raised
        finally:
            del raised


def _call_off(state: dict[str, Any], noted: list[BaseException]) -> None:
    """Calls work off that has not begun; waits for it where it has."""
    if state.setdefault(_OWNER, "nobody") != "nobody":
        _wait(state, noted)


def _wait(state: dict[str, Any], noted: list[BaseException]) -> None:
    while _OUTCOME not in state:
        try:
            # No lock and no event: an exception in the middle of those can leave them taken.
            while _OUTCOME not in state:
                time.sleep(0.0005)
        except BaseException as why:
            noted.append(why)
            if state.setdefault(_OWNER, "nobody") == "nobody":
                return


def _move(
    storages: list[_Storage], device: int, request: _library.Activation | None, to: int, pins_hold: bool = False
) -> None:
    """Takes storages out, then back in this order. Where that fails they come back to where they were."""
    returned: list[_Storage] = []
    try:
        for storage in storages:
            storage.go_out()
        if request is not None:
            # Only now is idle what has to go back to the driver, so that nothing takes more than the reserve leaves.
            _library.call("gk_begin_loading", device, ctypes.byref(request))
        for storage in storages:
            pinned = storage.claim["pinned"]
            storage.come_back(device, pinned if pins_hold and pinned != _library.NO_TIER else to)
            returned.append(storage)
    except BaseException as why:
        _rescue(storages, returned, device, why)
        raise


# How often bringing back begins again after it was interrupted.
_ATTEMPTS = 5


def _rescue(storages: list[_Storage], returned: list[_Storage], device: int, why: BaseException) -> None:
    """Brings back what is out, without a reserve, and says what came of it."""
    for attempt in range(_ATTEMPTS):
        try:
            # What had come back may lie where another one was and has to go.
            _bring_back(storages, returned if attempt == 0 else [], device)
            break
        except BaseException:
            # Each attempt goes on where the one before it ended: the bytes stay with their storages.
            continue
    if any(storage.bytes is not None for storage in storages):
        raise _parking(storages, why) from why
    if isinstance(why, Exception):
        raise _library.Error(
            f"{why}. Every tensor is usable and holds what it held; nothing is sorted and no reserve is kept: choose a "
            "smaller reserve or persist, or free something"
        ) from why


def _parking(storages: list[_Storage], why: BaseException) -> _library.Error:
    left = [storage for storage in storages if storage.bytes is not None]
    error = _library.Error(
        f"{why}. {len(left)} storages found no memory on the GPU again; their bytes are in this error's `parked`, "
        "pairs of a storage and its bytes: `storage.resize_(bytes.nbytes()); storage.copy_(bytes)` brings one back "
        "once there is room"
    )
    error.parked = tuple((storage.storage, storage.bytes) for storage in left)
    return error


def _bring_back(storages: list[_Storage], returned: list[_Storage], device: int) -> None:
    for storage in returned:
        # If the host has no memory it stays there.
        with contextlib.suppress(RuntimeError):
            storage.go_out()
    with contextlib.suppress(_library.Error):
        _library.call("gk_begin_loading", device, ctypes.byref(_library.Activation()))
    for storage in sorted(storages, key=lambda storage: -storage.size):
        if storage.bytes is not None:
            with contextlib.suppress(RuntimeError):
                storage.come_back(device, storage.tier)
