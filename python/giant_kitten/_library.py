"""The native library: its functions through ctypes, and its errors as exceptions."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import json
import os
import struct
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from . import _status

if TYPE_CHECKING:
    from collections.abc import Iterator

OUT_OF_MEMORY, NOT_ALLOCATED, IMMOVABLE = 1, 3, 7

DEDICATED, SHARED = 0, 1
# The tier of blocks that are pinned to neither, and of questions about both: GK_NO_TIER.
NO_TIER = -1

# The criteria for the order of placement: GK_BY_SIZE and so on.
SORT_BY = ("size", "reads", "recency")

# How a weight that was lent is given back: GK_READ and so on.
READ, WRITTEN, KEPT, RELEASED = range(4)

# The reserve that the automatic mode determines: GK_AUTO.
AUTO = 2**64 - 1


class Error(RuntimeError):
    """A failure of giant-kitten; the text says what happened and what to do about it."""

    # Storages that were copied to host memory and got no GPU memory again, each with its bytes.
    parked: tuple[tuple[Any, Any], ...] = ()


class Activation(ctypes.Structure):
    """`struct gk_activation` of the header."""

    _fields_ = (
        ("reserve", ctypes.c_uint64),
        ("persist", ctypes.c_uint64),
        ("sort_reversed", ctypes.c_int),
        ("ignore_model", ctypes.c_int),
        ("sort_by", ctypes.c_int),
    )


class Stats(ctypes.Structure):
    """The beginning of `struct gk_stats` of the header."""

    _fields_ = (("size", ctypes.c_uint32), ("version", ctypes.c_uint32))


class Snapshot(ctypes.Structure):
    """`struct gk_snapshot` of the header."""

    _fields_ = (("outline", ctypes.c_void_p), ("blocks", ctypes.c_void_p), ("count", ctypes.c_size_t))


# `struct gk_block` of the header.
_BLOCK = struct.Struct("=6Q")


def library_path() -> Path:
    """The path of the library: next to this file, or the value of GIANT_KITTEN_LIBRARY."""
    given = os.environ.get("GIANT_KITTEN_LIBRARY")
    if given:
        return Path(given)
    name = {"win32": "giant_kitten.dll", "darwin": "libgiant_kitten.dylib"}.get(sys.platform, "libgiant_kitten.so")
    return Path(__file__).with_name(name)


_SIGNATURES: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "gk_configure": (ctypes.c_int, (ctypes.c_char_p,)),
    "gk_defaults": (ctypes.c_int, (ctypes.POINTER(Activation),)),
    "gk_activate": (ctypes.c_int, (ctypes.c_int, ctypes.POINTER(Activation))),
    "gk_disable": (ctypes.c_int, (ctypes.c_int, ctypes.POINTER(Activation))),
    "gk_free_vram": (ctypes.c_int, (ctypes.c_int,)),
    "gk_begin_loading": (ctypes.c_int, (ctypes.c_int, ctypes.POINTER(Activation))),
    "gk_claims_json": (ctypes.c_void_p, (ctypes.c_int, ctypes.POINTER(Activation))),
    "gk_record_stream": (None, (ctypes.c_void_p, ctypes.c_void_p)),
    "gk_safe_point": (ctypes.c_int, (ctypes.c_int, ctypes.c_char_p)),
    "gk_begin_work": (ctypes.c_int, (ctypes.c_int,)),
    "gk_end_work": (ctypes.c_int, (ctypes.c_int,)),
    "gk_rest": (ctypes.c_int, (ctypes.c_int,)),
    "gk_vouch": (ctypes.c_int, (ctypes.c_int,)),
    "gk_open": (ctypes.c_int, (ctypes.c_int,)),
    "gk_keep_pool": (ctypes.c_int, (ctypes.c_uint64, ctypes.c_uint64)),
    "gk_drop_pool": (None, (ctypes.c_uint64, ctypes.c_uint64)),
    "gk_memory_info": (
        ctypes.c_int,
        (ctypes.c_int, ctypes.c_int, ctypes.POINTER(ctypes.c_uint64), ctypes.POINTER(ctypes.c_uint64)),
    ),
    "gk_device_json": (ctypes.c_void_p, (ctypes.c_int,)),
    "gk_farewell": (None, ()),
    "gk_forget": (ctypes.c_int, (ctypes.c_char_p, ctypes.POINTER(ctypes.c_size_t))),
    "gk_begin_pass": (
        ctypes.c_int,
        (
            ctypes.c_int,
            ctypes.c_char_p,
            ctypes.c_void_p,
            ctypes.POINTER(ctypes.c_uint64),
            ctypes.POINTER(ctypes.c_int),
        ),
    ),
    "gk_adopt": (ctypes.c_int, (ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)),
    "gk_lend": (ctypes.c_void_p, (ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p)),
    "gk_give_back": (ctypes.c_int, (ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int)),
    "gk_end_pass": (ctypes.c_int, (ctypes.c_int, ctypes.c_int)),
    "gk_touch": (ctypes.c_int, (ctypes.c_void_p, ctypes.c_size_t)),
    "gk_mark": (ctypes.c_int, (ctypes.c_void_p, ctypes.c_int)),
    "gk_tier": (ctypes.c_int, (ctypes.c_void_p, ctypes.POINTER(ctypes.c_uint64), ctypes.POINTER(ctypes.c_uint64))),
    "gk_pin": (ctypes.c_int, (ctypes.c_void_p, ctypes.c_int)),
    "gk_pinned": (ctypes.c_int, (ctypes.c_void_p,)),
    "gk_move": (ctypes.c_int, (ctypes.c_void_p, ctypes.c_int)),
    "gk_prefer": (ctypes.c_int, (ctypes.c_int,)),
    "gk_parse_size": (ctypes.c_int, (ctypes.c_char_p, ctypes.POINTER(ctypes.c_uint64))),
    "gk_reset_peaks": (ctypes.c_int, (ctypes.c_int,)),
    "gk_reset_totals": (ctypes.c_int, (ctypes.c_int,)),
    "gk_memory_fraction": (None, (ctypes.c_double, ctypes.c_int)),
    "gk_stats": (ctypes.c_int, (ctypes.c_int, ctypes.POINTER(Stats))),
    "gk_stats_json": (ctypes.c_void_p, (ctypes.c_int,)),
    "gk_map_json": (ctypes.c_void_p, (ctypes.c_int,)),
    "gk_snapshot": (ctypes.c_int, (ctypes.c_int, ctypes.POINTER(Snapshot))),
    "gk_snapshot_free": (None, (ctypes.POINTER(Snapshot),)),
    "gk_pool_holds": (ctypes.c_uint64, (ctypes.c_int, ctypes.c_uint64, ctypes.c_uint64)),
    "gk_record": (ctypes.c_int, (ctypes.c_size_t, ctypes.c_int, ctypes.c_uint32)),
    "gk_history_json": (ctypes.c_void_p, (ctypes.c_int,)),
    "gk_text_free": (None, (ctypes.c_void_p,)),
    "gk_last_error": (ctypes.c_char_p, ()),
    "gk_version": (ctypes.c_char_p, ()),
}


@functools.lru_cache(maxsize=1)
def library() -> ctypes.PyDLL:
    """The library, loaded once.

    Its calls hold Python's lock, so that no Python thread launches GPU work during an action.
    """
    where = library_path()
    try:
        _check_complete(where)
        loaded = ctypes.PyDLL(str(where))
        for name, (result, arguments) in _SIGNATURES.items():
            function = getattr(loaded, name)
            function.restype, function.argtypes = result, arguments
    except (OSError, AttributeError) as why:
        raise Error(
            f"giant-kitten's library cannot be loaded from {where} ({why}): reinstall the package, or set "
            "GIANT_KITTEN_LIBRARY to its path"
        ) from why
    return loaded


def version() -> str:
    """The version of the library, which is that of the package."""
    return str(library().gk_version().decode())


def _check_complete(where: Path) -> None:
    """Raises OSError for a truncated Linux library, which a full disk can leave behind.

    Loading one would end the process. The linker writes the table of sections last (System V ABI,
    "ELF Header"), so a library that has all of it is complete.
    """
    with where.open("rb") as file:
        header = file.read(64)
        if len(header) == 64 and header.startswith(b"\x7fELF\x02\x01"):
            (table,) = struct.unpack_from("<Q", header, 0x28)
            each, count = struct.unpack_from("<HH", header, 0x3A)
            size = os.fstat(file.fileno()).st_size
            if table + each * count > size:
                raise OSError(f"it is truncated: {size} of {table + each * count} bytes")


def fail(code: int = 0) -> NoReturn:
    """Raises the last error of the library."""
    text = library().gk_last_error().decode("utf-8", "replace")
    if code == NOT_ALLOCATED and (problem := _status.problem()):
        text = f"{text}. {problem}"
    raise Error(text)


def call(name: str, *arguments: Any) -> None:
    """Calls a function that returns an error code."""
    code = getattr(library(), name)(*arguments)
    if code != 0:
        fail(code)


def act(name: str, *arguments: Any) -> bool:
    """Calls an action; returns whether everything that it had to move could be moved."""
    code = getattr(library(), name)(*arguments)
    if code not in (0, IMMOVABLE):
        fail(code)
    return bool(code == 0)


def read_json(name: str, device: int, *arguments: Any) -> Any:
    """Calls a function that returns JSON about a device, and parses it."""
    text = getattr(library(), name)(device, *arguments)
    if text is None:
        fail()
    try:
        return json.loads(ctypes.string_at(text))
    finally:
        library().gk_text_free(text)


def statistics(device: int) -> dict[str, int]:
    """The numbers of `gk_stats_json` about a device, without a text to parse."""
    whole, names, numbers = _all_stats()
    found = whole(size=numbers.size)
    call("gk_stats", device, ctypes.byref(found))
    return dict(zip(names, numbers.unpack(found)))


@functools.lru_cache(maxsize=1)
def _all_stats() -> tuple[Any, tuple[str, ...], struct.Struct]:
    """The whole struct, the names of its numbers after the size, and how they lie in it.

    The library names them: the numbers of its text are in the order of the struct.
    """
    text = read_json("gk_stats_json", 0)
    names = tuple(name for name, value in text.items() if isinstance(value, int))
    # The version is a field of the beginning.
    others = tuple((name, ctypes.c_uint64) for name in names[1:])
    whole = type("AllStats", (Stats,), {"_fields_": others})
    return whole, names, struct.Struct(f"=4xI{len(others)}Q")


def snapshot(device: int) -> tuple[dict[str, Any], Iterator[tuple[int, ...]]]:
    """The outline of a device's segments, and the numbers of each block as in `struct gk_block`."""
    found = Snapshot()
    call("gk_snapshot", device, ctypes.byref(found))
    try:
        blocks = ctypes.string_at(found.blocks, found.count * _BLOCK.size)
        return json.loads(ctypes.string_at(found.outline)), _BLOCK.iter_unpack(blocks)
    finally:
        library().gk_snapshot_free(ctypes.byref(found))


def memory_info(device: int, tier: int) -> tuple[int, int]:
    """The free and the total bytes of a tier; with NO_TIER, of both together."""
    free, total = ctypes.c_uint64(), ctypes.c_uint64()
    call("gk_memory_info", device, tier, ctypes.byref(free), ctypes.byref(total))
    return free.value, total.value


def parse_size(size: int | str) -> int:
    """Converts a number of bytes, or a text such as "1.6GiB", to bytes."""
    if isinstance(size, int) and not isinstance(size, bool):
        if size < 0:
            raise ValueError(f"a size of {size} bytes is invalid: it must not be negative")
        if size >= AUTO:
            # ctypes would truncate it, to a small size or to the number that stands for "auto".
            raise ValueError(f"a size of {size} bytes is invalid: no memory is that large")
        return size
    if not isinstance(size, str):
        raise TypeError(f'a size must be a number of bytes or a text such as "1.6GiB", not {size!r}')
    parsed = ctypes.c_uint64()
    if library().gk_parse_size(size.encode(), ctypes.byref(parsed)) != 0:
        raise ValueError(library().gk_last_error().decode("utf-8", "replace"))
    return parsed.value


@contextlib.contextmanager
def preferring(tier: int) -> Iterator[None]:
    """Makes a tier the preferred one for what this thread allocates inside."""
    before = library().gk_prefer(tier)
    try:
        yield
    finally:
        library().gk_prefer(before)
