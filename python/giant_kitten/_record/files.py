"""Plain and compressed files, written whole or not at all."""

from __future__ import annotations

import contextlib
import gzip
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._library import Error

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_LEVEL = 15


def check(path: Path) -> None:
    """Raises an error if a trace cannot be written there, before there is anything to write."""
    folder = path.parent
    if path.is_dir():
        raise Error(f"{path} is a folder: name the file that the recording is to be written to")
    if not folder.is_dir():
        raise Error(f"there is no folder {folder}: create it, or record to another one")
    if not os.access(folder, os.W_OK):
        raise Error(f"the folder {folder} is not writable: record to another one")
    _compressor(path)


@contextlib.contextmanager
def written_whole(path: Path) -> Iterator[Any]:
    """A file to write bytes to. It replaces the one at `path` if all goes well."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(beside, "wb") as raw, _compressor(path)(raw) as file:
            yield file
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def _compressor(path: Path) -> Callable[[Any], Any]:
    """What compresses a file of this name."""
    if path.suffix == ".gz":
        return lambda raw: gzip.GzipFile("", "wb", 9, raw, 0)
    if path.suffix != ".zst":
        return contextlib.nullcontext
    with contextlib.suppress(ImportError):
        from compression import zstd

        return lambda raw: zstd.ZstdFile(raw, "wb", level=_LEVEL)
    with contextlib.suppress(ImportError):
        import zstandard

        return lambda raw: zstandard.ZstdCompressor(level=_LEVEL).stream_writer(raw, closefd=False)
    raise Error(
        f"this Python cannot write {path.name}: pip install zstandard, or use Python 3.14. "
        f"{path.with_suffix('.gz').name} needs neither"
    )
