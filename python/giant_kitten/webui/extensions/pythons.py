"""Which Python a WebUI starts with: found by its folder and launch scripts, never guessed."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from ..actions import Refused
from .files import shown, typed

_NAMES = ("Scripts/python.exe", "bin/python", "python.exe")
# Environments in the folder of a WebUI: its own, those of conda and of launchers.
_INSIDE = ("venv", ".venv", "env", "conda", "installer_files/env")
# Pythons of packages that are unpacked: ComfyUI's portable one, and those of one click.
_BESIDE = ("python_embeded", "python_embedded", "system/python")
_NAME_IT = "name the Python that starts it with --python"

# Settings in the scripts that AUTOMATIC1111 and Forge give their users.
_SHELL = re.compile(r"""^\s*(?:export\s+)?(venv_dir|python_cmd)=(["']?)(.*?)\2\s*(?:#.*)?$""", re.MULTILINE)
_BATCH = re.compile(r"""^\s*@?set\s+"?(VENV_DIR|PYTHON|SKIP_VENV)(=)"?(.*?)"?\s*$""", re.MULTILINE | re.IGNORECASE)


def find(folder: Path) -> Path:
    """The Python with which a WebUI starts. Raises `Refused` if that is not certain."""
    settings = _settings(folder)
    place = settings.get("venv_dir", "")
    if place == "-" or settings.get("skip_venv"):
        return _named(folder, settings.get("python", ""))
    if place:
        found = _in(folder / place)
        if found is None:
            raise Refused(
                f"the launch script of {shown(folder)} names the environment {shown(place)}, which has no Python: "
                f"start the WebUI once, so that it makes one, or {_NAME_IT}"
            )
        return found
    return _only(folder)


def _only(folder: Path) -> Path:
    """The Python of the only environment in a folder or beside it."""
    inside = [found for found in (_in(folder / name) for name in _INSIDE) if found]
    beside = [found for found in (_in(folder.parent / name) for name in _BESIDE) if found]
    scripts = any((folder / name).exists() for name in ("webui.sh", "webui.bat"))
    if scripts and not beside and inside[:1] == [_in(folder / "venv")]:
        # Without a setting, those scripts always start the environment with this name.
        return inside[0]
    found = inside + beside
    if not found:
        raise Refused(
            f"{shown(folder)} has no Python of its own ({', '.join(_INSIDE)}), and none lies beside it: start the "
            f"WebUI once, so that it makes one, or {_NAME_IT}"
        )
    if len(found) > 1:
        names = ", ".join(map(shown, found))
        raise Refused(f"{shown(folder)} could start with more than one Python: {names}: {_NAME_IT}")
    return found[0]


def given(path: str) -> Path:
    """The Python that the user has named: a program, or the folder of an environment."""
    named = Path(typed(path)).expanduser().absolute()
    found = _in(named) if named.is_dir() else named
    if os.name == "nt" and found is not None and not found.exists():
        found = found.with_name(f"{found.name}.exe")
    if found is None or not found.exists():
        raise Refused(f"there is no Python at {shown(path)}: give the path of the program")
    return found


def _in(place: Path) -> Path | None:
    # A dangling link is the sign of a broken environment, not of a missing one.
    return next((place / name for name in _NAMES if os.path.lexists(place / name)), None)


def _named(folder: Path, command: str) -> Path:
    """The Python that a launch script names in place of an environment."""
    found = shutil.which(command) if command else None
    if found is None:
        named = shown(command) if command else "no Python"
        raise Refused(f"the launch script of {shown(folder)} uses no environment and names {named}: {_NAME_IT}")
    program = Path(found).absolute()
    if Path(command).name == command and any(environment in program.parents for environment in _of_this_shell()):
        raise Refused(
            f"the launch script of {shown(folder)} names {shown(command)}, which is {shown(program)} in the "
            f"environment of this shell alone: {_NAME_IT}"
        )
    return program


def _of_this_shell() -> list[Path]:
    """The environments that are active here, and need not be where the WebUI is started."""
    active = [os.environ.get("VIRTUAL_ENV"), os.environ.get("CONDA_PREFIX")]
    if sys.prefix != sys.base_prefix:
        active.append(sys.prefix)
    return [Path(environment).absolute() for environment in active if environment]


def _settings(folder: Path) -> dict[str, str]:
    """The settings in the launch script of this system: `venv_dir`, `python` and `skip_venv`."""
    script, pattern = ("webui-user.bat", _BATCH) if os.name == "nt" else ("webui-user.sh", _SHELL)
    try:
        text = _decoded((folder / script).read_bytes())
    except OSError:
        return {}
    settings = {}
    for name, _, value in pattern.findall(text):
        value = value.replace("%~dp0", f"{folder}{os.sep}")
        if value.startswith(("~/", "$HOME/")):
            value = str(Path.home() / value.partition("/")[2])
        if "$" in value or "%" in value or "`" in value:
            raise Refused(f"{shown(folder / script)} sets {name} to {shown(value)}, which only it can read: {_NAME_IT}")
        settings[{"python_cmd": "python"}.get(name.lower(), name.lower())] = value
    return settings


def _decoded(script: bytes) -> str:
    """The text of a launch script."""
    try:
        return script.decode("utf-8-sig")
    except UnicodeDecodeError:
        # Batch files are read in the code page of the terminal.
        return script.decode("oem") if os.name == "nt" else script.decode("utf-8", "surrogateescape")


def environment(python: Path) -> Path:
    """The folder of the environment that a Python is in."""
    folder = python.parent
    return folder.parent if folder.name in ("bin", "Scripts") else folder


def ask(python: Path, program: str, *arguments: str) -> Any:
    """What a program prints as JSON in a Python, in its last line; raises `Refused` if it fails."""
    try:
        # -I hides the current folder, in which the WebUI will not look.
        done = subprocess.run(
            [str(python), "-I", "-c", program, *arguments], capture_output=True, text=True, errors="replace",
            timeout=120, env={**os.environ, "GIANT_KITTEN": "0"}, check=True,
        )  # fmt: skip
        return json.loads(done.stdout.splitlines()[-1])
    except subprocess.CalledProcessError as why:
        said = why.stderr.strip().splitlines()
        raise Refused(said[-1] if said else str(why)) from why
    except (OSError, ValueError, IndexError, subprocess.SubprocessError) as why:
        raise Refused(str(why)) from why


# `package` is the folder that the extension brings, for which the WebUI looks last.
_USE = (
    "import importlib.util, json, sys; sys.version_info >= (3, 9) or sys.exit('it is Python ' + "
    "sys.version.split()[0] + ', and giant-kitten needs 3.9 or later'); sys.path += sys.argv[1:]; import giant_kitten; "
    "from giant_kitten import _library; has_torch = importlib.util.find_spec('torch') is not None; "
    "print(json.dumps([giant_kitten.__file__, _library.version(), has_torch]))"
)


def use(python: Path, package: Path) -> tuple[str, str, bool]:
    """Path and version of giant-kitten as a Python imports it, and whether that has PyTorch.

    Raises `Refused` if giant-kitten cannot be imported.
    """
    origin, version, has_torch = ask(python, _USE, str(package))
    return origin, version, has_torch
