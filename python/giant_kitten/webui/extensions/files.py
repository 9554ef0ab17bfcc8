"""Files of WebUIs: how they are written, and how sentences name them."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from pathlib import Path


def write(file: Path, content: bytes) -> None:
    """Writes a file completely or not at all; an existing one keeps its mode."""
    unfinished = file.with_name(f"{file.name}.unfinished")
    try:
        unfinished.write_bytes(content)
        if file.exists():
            shutil.copymode(file, unfinished)
        os.replace(unfinished, file)
    except OSError:
        with contextlib.suppress(OSError):
            unfinished.unlink()
        raise


def is_link(path: str | Path) -> bool:
    """Whether a path is a link to another place: a symbolic one, or a junction of Windows."""
    try:
        found = os.lstat(path)
    except (OSError, ValueError):
        return False
    # Other systems have neither that tag nor, in Python's types, its name.
    junction = getattr(stat, "IO_REPARSE_TAG_MOUNT_POINT", None)
    return stat.S_ISLNK(found.st_mode) or (os.name == "nt" and getattr(found, "st_reparse_tag", 0) == junction)


def typed(path: str | Path) -> str | Path:
    """A path as its user meant it: without the quotes that a shell of Windows leaves in it.

    A backslash before the closing quote makes that quote a part of the path, and cmd does not take
    single ones for quotes.
    """
    if os.name != "nt" or isinstance(path, Path):
        return path
    text = path.strip()
    if len(text) > 1 and text[0] == text[-1] == "'":
        text = text[1:-1]
    return text.strip('"')


def shown(path: str | Path) -> str:
    """A path for use in a sentence: on one line, whatever it is called."""
    text = str(path)
    return text if text and text.isprintable() else ascii(text)


def reason(why: OSError) -> str:
    """An error of the system for use in a sentence."""
    where = f"{shown(why.filename)}: " if isinstance(why.filename, str) else ""
    remedy = ""
    if isinstance(why, PermissionError):
        remedy = ": run this as the user who installed the WebUI"
        if os.name == "nt":
            remedy = "; Windows says that of files in use too: close the WebUI, and try again"
    return f"{where}{why.strerror or why}{remedy}"
