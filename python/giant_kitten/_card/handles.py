"""Handles of the CUDA driver's virtual memory management, created until the card is full."""

from __future__ import annotations

import ctypes
import os
import sys
import time
from typing import Any

_OF_THE_SYSTEM = 0x800
_PINNED, _ON_DEVICE, _READ_AND_WRITE = 1, 1, 3
# Handles created beyond what the card has.
_BEYOND = 2
# A card is filled by about as many handles.
_HANDLES = 48


class _Refused(Exception):
    """A call of the driver that failed."""


class _Location(ctypes.Structure):
    _fields_ = (("type", ctypes.c_int), ("id", ctypes.c_int))


class _Prop(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_int),
        ("handle_types", ctypes.c_int),
        ("location", _Location),
        ("win32", ctypes.c_void_p),
        ("flags", ctypes.c_uint64),
    )


class _Access(ctypes.Structure):
    _fields_ = (("location", _Location), ("flags", ctypes.c_int))


class _Piece:
    """A handle with its address."""

    def __init__(self, driver: _Driver, count: int) -> None:
        self._driver, self.count = driver, count
        self._handle, self._address = ctypes.c_uint64(), ctypes.c_uint64()
        here = _Location(_ON_DEVICE, 0)
        prop, access = _Prop(_PINNED, 0, here, None, 0), _Access(here, _READ_AND_WRITE)
        length, none = ctypes.c_size_t(count), ctypes.c_uint64(0)
        driver.call("cuMemCreate", ctypes.byref(self._handle), length, ctypes.byref(prop), none)
        driver.call("cuMemAddressReserve", ctypes.byref(self._address), length, ctypes.c_size_t(0), none, none)
        driver.call("cuMemMap", self._address, length, ctypes.c_size_t(0), self._handle, none)
        driver.call("cuMemSetAccess", self._address, length, ctypes.byref(access), ctypes.c_size_t(1))
        self.rate()

    def rate(self) -> float:
        """Copies one half of it to the other; the best of three, in bytes read and written."""
        half, best = self.count // 2, 0.0
        to = ctypes.c_uint64(self._address.value + half)
        for _ in range(3):
            self._driver.call("cuCtxSynchronize")
            begun = time.perf_counter()
            self._driver.call("cuMemcpyDtoDAsync_v2", to, self._address, ctypes.c_size_t(half), None)
            self._driver.call("cuCtxSynchronize")
            best = max(best, 2 * half / max(time.perf_counter() - begun, sys.float_info.epsilon))
        return best

    def free(self) -> None:
        """Returns everything."""
        length = ctypes.c_size_t(self.count)
        self._driver.call("cuMemUnmap", self._address, length)
        self._driver.call("cuMemRelease", self._handle)
        self._driver.call("cuMemAddressFree", self._address, length)


class _Driver:
    """The driver's functions by name."""

    def __init__(self) -> None:
        named = os.environ.get("GIANT_KITTEN_CUDA_DRIVER")
        if sys.platform == "win32":
            self._library = ctypes.CDLL(named) if named else ctypes.CDLL("nvcuda.dll", winmode=_OF_THE_SYSTEM)
        else:
            self._library = ctypes.CDLL(named or "libcuda.so.1")

    def call(self, name: str, *arguments: Any) -> None:
        """Calls a function; raises `_Refused` where it fails."""
        status = getattr(self._library, name)(*arguments)
        if status:
            raise _Refused(f"{name} answered {status}")

    def granularity(self) -> int:
        """The bytes of which all handles are multiples."""
        found, prop = ctypes.c_size_t(), _Prop(_PINNED, 0, _Location(_ON_DEVICE, 0), None, 0)
        self.call("cuMemGetAllocationGranularity", ctypes.byref(found), ctypes.byref(prop), ctypes.c_int(0))
        return found.value


def on_a_full_card(found: dict[str, Any]) -> list[list[str]]:
    """Fills what is free, creates more, frees some, and times copies within handles all along.

    A handle in the card's own memory is copied many times as fast as one in the host's.
    """
    driver = _Driver()
    granted = found["dedicated_granted"] - found["dedicated_usage"] if found["dedicated_granted"] else None
    room = found["dedicated_free"] if granted is None else min(granted, found["dedicated_free"])
    granularity = driver.granularity()
    count = max(room // _HANDLES // granularity, 1) * granularity
    rows: list[list[str]] = []
    pieces: list[_Piece] = []
    beyond: list[_Piece] = []
    try:
        while (len(pieces) + 1) * count <= room:
            pieces.append(_Piece(driver, count))
        rows.append(["handles of the card's free memory", f"{len(pieces)}, {count >> 20} MiB each"])
    except _Refused as why:
        rows.append(["handles of the card's free memory", f"{len(pieces)}, {count >> 20} MiB each; then {why}"])
    if not pieces:
        return rows
    rows.append(["a copy within the first", _shown(pieces[0].rate())])
    try:
        beyond = [_Piece(driver, count) for _ in range(_BEYOND)]
        rows.append(["a copy within a handle beyond that", _shown(beyond[-1].rate())])
    except _Refused as why:
        rows.append(["a handle beyond that", f"refused: {why}"])
    rows.append(["a copy within the first then", _shown(pieces[0].rate())])
    freed = [pieces.pop() for _ in range(len(pieces) // 2)]
    for piece in freed:
        piece.free()
    time.sleep(1)
    if beyond:
        rows.append(["the handle beyond, after half was freed", _shown(beyond[-1].rate())])
    later = _Piece(driver, count)
    rows.append(["a handle that is created after that", _shown(later.rate())])
    for piece in (*pieces, *beyond, later):
        piece.free()
    return rows


def _shown(rate: float) -> str:
    return f"{rate / 1e9:.1f} GB/s"
