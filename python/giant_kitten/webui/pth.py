"""The .pth file of a WebUI's Python: it makes the allocator come before CUDA starts, for programs of that WebUI alone.

Python runs its one line at each start. It is ASCII whatever the folder is called: Python up to 3.12.3 reads it in the
encoding of the locale, and does not start where it cannot. Paths are bytes, which are the same in all of them.
"""

from __future__ import annotations

import ast
import contextlib
import hashlib
import os
from pathlib import Path

from .. import _variable

# What earlier versions called it, of whatever WebUI.
OLD_NAME = "giant-kitten-webui.pth"

# sys.argv is not there yet when it runs. Where somebody has removed the extension's folder by hand, it does nothing.
_PROGRAM = """\
import os, sys
def inside():
    try:
        if os.path.normcase(os.getcwdb()) == folder:
            return True
        parts = [os.path.normcase(os.path.abspath(os.fsencode(part))) for part in getattr(sys, "orig_argv", ())[1:]]
        return any(part.startswith(folder + os.fsencode(os.sep)) for part in parts)
    except (OSError, ValueError):
        return False
if os.environ.get("GIANT_KITTEN", "1").strip().lower() not in off and inside():
    try:
        if package and os.fsdecode(package) not in sys.path:
            sys.path.append(os.fsdecode(package))
        import importlib.util
        if importlib.util.find_spec("giant_kitten"):
            import giant_kitten._startup
    except Exception as why:
        print("giant-kitten is not in use:", why, file=sys.stderr)
"""


def name(folder: Path) -> str:
    """The name of the file for a WebUI's folder: each has its own, for WebUIs can share a Python."""
    return f"giant-kitten-webui-{hashlib.sha256(_bytes(folder)).hexdigest()[:12]}.pth"


def text(folder: Path, package: Path | None) -> str:
    """What is in it; `package` is where the package is, if it came with the extension."""
    known = {"folder": _bytes(folder), "package": package and os.fsencode(package), "off": _variable.OFF}
    return f"import sys; exec({_PROGRAM!a}, {known!a})\n"


def is_ours(file: Path, folder: Path, package: Path) -> bool:
    """Whether a file is one of these, of this version or another, for this folder."""
    if file.is_symlink() or not file.is_file():
        return False
    content = file.read_bytes().decode("utf-8", "surrogateescape").replace("\r\n", "\n")
    old = content.removeprefix(f"{package}\n")
    if old.startswith('import os, sys; "GIANT_KITTEN" in os.environ or not (') and old.count("\n") == 1:
        return f"or os.getcwd() == {str(folder)!r})" in old and '__import__("giant_kitten._startup")' in old
    return _folder_of(content) == _bytes(folder)


def write(file: Path, content: str) -> None:
    """Writes it whole or not at all."""
    unfinished = file.with_name(f"{file.name}.unfinished")
    try:
        unfinished.write_bytes(content.encode("ascii"))
        os.replace(unfinished, file)
    except OSError:
        with contextlib.suppress(OSError):
            unfinished.unlink()
        raise


def _bytes(folder: Path) -> bytes:
    return os.fsencode(os.path.normcase(folder))


def _folder_of(content: str) -> object:
    """The folder that a text of ours names, or None."""
    try:
        line = ast.parse(content).body[-1]
        if not (isinstance(line, ast.Expr) and isinstance(line.value, ast.Call) and len(line.value.args) == 2):
            return None
        program, known = map(ast.literal_eval, line.value.args)
        return known["folder"] if "giant_kitten._startup" in program else None
    except (SyntaxError, ValueError, TypeError, KeyError, IndexError, RecursionError, MemoryError):
        return None
