"""The .pth file in a WebUI's Python, which installs the allocator before CUDA starts.

It does so only for programs of that WebUI. Python runs its one line at each start. The line is
ASCII, whatever the folder is called, because Python up to 3.12.3 reads it in the encoding of the
locale and fails to start if it cannot. Paths are bytes, which are the same in every locale.
"""

from __future__ import annotations

import ast
import hashlib
import os
from pathlib import Path

from ... import _variable
from ..actions import Refused
from . import files
from .kinds import WebUI

# The name of the file of earlier versions, for any WebUI.
OLD_NAME = "giant-kitten-webui.pth"

# It runs before sys.argv exists. If somebody has removed the extension's folder by hand, it does
# nothing. The folder is the real one; users may come by links to it, or by short names.
_PROGRAM = """\
import os, sys
def inside():
    try:
        parts = [os.fsencode(part) for part in getattr(sys, "orig_argv", ())[1:]]
        if os.path.normcase(os.path.realpath(os.getcwdb())) == folder:
            return True
        paths = [os.path.normcase(full(part)) for full in (os.path.abspath, os.path.realpath) for part in parts]
        return any(path.startswith(folder + os.fsencode(os.sep)) for path in paths)
    except (OSError, ValueError):
        return False
if not (OFF) and inside():
    try:
        if package and os.fsdecode(package) not in sys.path:
            sys.path.append(os.fsdecode(package))
        import importlib.util
        if importlib.util.find_spec("giant_kitten"):
            import giant_kitten._startup
    except Exception as why:
        print("giant-kitten is not in use:", why, file=sys.stderr)
""".replace("OFF", _variable.off_in_source("1"))


def name(folder: Path) -> str:
    """The name of the file for a WebUI's folder; WebUIs can share a Python, so each has its own."""
    return f"giant-kitten-webui-{hashlib.sha256(_bytes(folder)).hexdigest()[:12]}.pth"


def text(folder: Path, package: Path | None) -> str:
    """The content of the file; `package` is the package's folder if it came with the extension."""
    known = {"folder": _bytes(folder), "package": package and os.fsencode(package)}
    return f"import sys; exec({_PROGRAM!a}, {known!a})\n"


def is_ours(file: Path, folder: Path, package: Path) -> bool:
    """Whether a file is such a file for this folder, of this version or an earlier one."""
    if file.is_symlink() or not file.is_file():
        return False
    content = file.read_bytes().decode("utf-8", "surrogateescape").replace("\r\n", "\n")
    old = content.removeprefix(f"{package}\n")
    if old.startswith('import os, sys; "GIANT_KITTEN" in os.environ or not (') and old.count("\n") == 1:
        return f"or os.getcwd() == {str(folder)!r})" in old and '__import__("giant_kitten._startup")' in old
    return _folder_of(content) == _bytes(folder)


def write(file: Path, content: str) -> None:
    """Writes the file completely or not at all."""
    files.write(file, content.encode("ascii"))


def places(webui: WebUI) -> list[Path]:
    """The paths at which the file of a WebUI can be."""
    if not webui.kind.starts_cuda_first:
        return []
    names = (name(webui.folder), OLD_NAME)
    try:
        sites = [webui.ask_python()[0]]
    except Refused:
        # An old file can keep Python from starting. Then it is looked for in the environment's
        # usual folders.
        try:
            environment = webui.python().parent.parent
        except Refused:
            return []
        sites = [*environment.glob("lib/python*/site-packages"), environment / "Lib/site-packages"]
    return [site / one for site in sites for one in names]


def remove_written(file: Path, webui: WebUI) -> bool:
    """Removes the file that an extension's mark names; returns whether it was there and ours.

    The WebUI's folder may have another name since. A file of a folder that still exists is that
    folder's, of which this one may be a copy.
    """
    if file.is_symlink() or not file.is_file():
        return False
    named = _folder_of(file.read_bytes().decode("utf-8", "surrogateescape"))
    is_moved = isinstance(named, bytes) and not os.path.exists(named)
    if not is_moved:
        return remove(file, webui)
    file.unlink()
    return True


def remove(file: Path, webui: WebUI) -> bool:
    """Removes a file if it is such a file for this WebUI; returns whether it was."""
    if not is_ours(file, webui.folder, webui.extension / "package"):
        return False
    file.unlink()
    return True


def _bytes(folder: Path) -> bytes:
    return os.fsencode(os.path.normcase(folder))


def _folder_of(content: str) -> object:
    """The folder that is named in a text of ours; None for other texts."""
    try:
        line = ast.parse(content).body[-1]
        if not (isinstance(line, ast.Expr) and isinstance(line.value, ast.Call) and len(line.value.args) == 2):
            return None
        program, known = map(ast.literal_eval, line.value.args)
        return known["folder"] if "giant_kitten._startup" in program else None
    except (SyntaxError, ValueError, TypeError, KeyError, IndexError, RecursionError, MemoryError):
        return None
