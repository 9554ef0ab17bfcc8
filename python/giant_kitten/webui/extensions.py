"""`python -m giant_kitten webui install|remove FOLDER`: the extension into a WebUI, and out again without a trace.

What a WebUI gets:

* its extension folder, a copy of ours, which nothing else is written to;
* the package itself inside that folder, where the WebUI's own Python has no giant-kitten;
* one file `giant-kitten-webui.pth` in the WebUI's own Python, which makes the allocator come before CUDA starts. It
  does so for programs of this WebUI's folder only. ComfyUI needs none: its custom nodes are asked early enough.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

NAME = "giant-kitten"
PTH = "giant-kitten-webui.pth"
# A file of ours in the extension's folder: only what has it is removed.
MARK = "installed-by-giant-kitten.json"


class Refused(Exception):
    """It cannot be done: the text says why, and what to do."""


@dataclass(frozen=True)
class Kind:
    """A kind of WebUI, told by what lies in its folder."""

    name: str
    source: str
    extensions: str
    known_by: tuple[str, ...]
    starts_cuda_first: bool


# The first that fits: Forge has all that AUTOMATIC1111 has.
KINDS = (
    Kind("Forge", "automatic1111", "extensions", ("webui.py", "modules", "modules_forge"), True),
    Kind("AUTOMATIC1111", "automatic1111", "extensions", ("webui.py", "modules"), True),
    Kind("ComfyUI", "comfyui", "custom_nodes", ("main.py", "comfy"), False),
)


@dataclass(frozen=True)
class WebUI:
    """A WebUI on this machine."""

    kind: Kind
    folder: Path

    @property
    def extension(self) -> Path:
        """Where the extension goes."""
        return self.folder / self.kind.extensions / NAME

    def python(self) -> Path:
        """The Python that it runs on: of its own environment, or else this one."""
        names = ("Scripts/python.exe", "bin/python", "python.exe")
        for place in (self.folder / "venv", self.folder / ".venv", self.folder.parent / "python_embeded"):
            for name in names:
                if (place / name).exists():
                    return place / name
        return Path(sys.executable)


def find(folder: str | Path) -> WebUI:
    """The WebUI in a folder. Raises `Refused` where there is none."""
    path = Path(folder).expanduser().resolve()
    if not path.is_dir():
        raise Refused(f"{path} is not a folder: give the folder that the WebUI was installed into")
    for kind in KINDS:
        if all((path / name).exists() for name in kind.known_by):
            return WebUI(kind, path)
    inside = [child.name for child in path.iterdir() if child.is_dir() and _is_webui(child)]
    hint = f"; its folder {inside[0]} is one" if inside else ""
    raise Refused(
        f"{path} is neither AUTOMATIC1111's WebUI nor Forge (webui.py, modules) nor ComfyUI (main.py, comfy){hint}"
    )


def _is_webui(path: Path) -> bool:
    return any(all((path / name).exists() for name in kind.known_by) for kind in KINDS)


def install(folder: str | Path) -> list[str]:
    """Puts the extension into a WebUI, over an older one, and says what was done."""
    webui = find(folder)
    to = webui.extension
    if to.exists() and not (to / MARK).exists():
        raise Refused(
            f"{to} is there already and was not put there by this command: take it away, or update it as it came"
        )
    done = []
    if to.exists():
        # First: the package that came with it would be found below.
        remove(folder)
        done.append("took the extension that was there out")
    python = webui.python()
    site, has_package = _ask(python)
    shutil.copytree(_source(webui.kind.source), to, ignore=shutil.ignore_patterns("__pycache__"))
    done.append(f"put the extension into {to}")
    written: list[str] = []
    package = Path(__file__).resolve().parent.parent
    if not has_package:
        shutil.copytree(package, to / "package" / package.name, ignore=shutil.ignore_patterns("__pycache__"))
        done.append(f"with the package, because {python} has no giant-kitten")
    if webui.kind.starts_cuda_first:
        file = site / PTH
        try:
            file.write_text(_pth(webui, to / "package" if not has_package else None), encoding="utf-8")
        except OSError as why:
            shutil.rmtree(to)
            raise Refused(f"{file} cannot be written ({why}): run this as the user who installed the WebUI") from why
        written.append(str(file))
        done.append(f"wrote {file}, so that the allocator comes before CUDA starts")
    (to / MARK).write_text(json.dumps({"written": written}, indent=4) + "\n", encoding="utf-8")
    done.append(f"start {webui.kind.name} as always; GIANT_KITTEN=0 in its environment leaves giant-kitten out")
    return done


def remove(folder: str | Path) -> list[str]:
    """Takes the extension out of a WebUI, with everything that came with it, and says what was done."""
    webui = find(folder)
    to = webui.extension
    mark = to / MARK
    if not to.exists():
        raise Refused(f"there is no {to}: nothing is to be removed")
    if not mark.exists():
        raise Refused(f"{to} was not put there by this command: remove the folder by hand")
    done = []
    try:
        written = json.loads(mark.read_text(encoding="utf-8"))["written"]
    except (ValueError, KeyError, TypeError) as why:
        raise Refused(f"{mark} cannot be read ({why}): remove {to} by hand, and {PTH} in the WebUI's Python") from why
    for file in map(Path, written):
        # Nothing but our own file, whatever the mark says.
        if file.name == PTH and file.exists():
            file.unlink()
            done.append(f"removed {file}")
    shutil.rmtree(to)
    done.append(f"removed {to}")
    if _forget_settings(webui.folder / "config.json"):
        done.append("took its settings out of config.json")
    if _forget_note(webui.folder / "params.txt"):
        done.append("took its note out of params.txt")
    return done


def _forget_settings(file: Path) -> bool:
    """Takes our settings out of the WebUI's, written as the WebUI writes them."""
    if not file.exists():
        return False
    try:
        settings = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        return False
    kept = {key: value for key, value in settings.items() if not key.startswith("giant_kitten_")}
    if kept == settings:
        return False
    file.write_text(json.dumps(kept, indent=4, ensure_ascii=False), encoding="utf-8")
    return True


def _forget_note(file: Path) -> bool:
    """Takes our note out of the description of the last picture, which the WebUI keeps to fill its controls again."""
    try:
        described = file.read_bytes()
    except OSError:
        return False
    kept = re.sub(rb", Giant kitten: [^,\n]*", b"", described)
    if kept == described:
        return False
    file.write_bytes(kept)
    return True


def _source(name: str) -> Path:
    """Our copy of an extension: in the package, or in the checkout that the package lies in."""
    here = Path(__file__).resolve().parent
    for place in (here / "folders" / name, here.parents[2] / "webui" / name):
        if place.is_dir():
            return place
    raise Refused(f"this giant-kitten has no extension {name!r} with it: reinstall the package")


def _ask(python: Path) -> tuple[Path, bool]:
    """Where a Python has its packages, and whether giant-kitten is among them."""
    program = (
        "import importlib.util, json, sysconfig; "
        "print(json.dumps([sysconfig.get_path('purelib'), importlib.util.find_spec('giant_kitten') is not None]))"
    )
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "GIANT_KITTEN")}
    try:
        # Isolated: what lies in the current folder is not what the WebUI will find.
        done = subprocess.run(
            [str(python), "-I", "-c", program], capture_output=True, text=True, env=environment, check=True
        )
        site, found = json.loads(done.stdout)
    except (OSError, ValueError, subprocess.CalledProcessError) as why:
        raise Refused(
            f"the WebUI's Python, {python}, does not run ({why}): start the WebUI once, so that it makes one"
        ) from why
    return Path(site), bool(found)


def _pth(webui: WebUI, package: Path | None) -> str:
    """The text of the .pth file: run at every start of that Python, it does nothing but for this WebUI's folder."""
    folder = str(webui.folder)
    path = f"{package}\n" if package else ""
    # sys.argv is not there yet when this runs.
    inside = f"os.path.abspath(a).startswith({folder + os.sep!r}) for a in getattr(sys, 'orig_argv', ())[1:]"
    mine = f"any({inside}) or os.getcwd() == {folder!r}"
    # Where somebody has removed the extension's folder by hand, this stays, and does nothing.
    start = '__import__("importlib.util").util.find_spec("giant_kitten") and __import__("giant_kitten._startup")'
    return f'{path}import os, sys; "GIANT_KITTEN" in os.environ or not ({mine}) or {start}\n'


def main(action: str, folder: str) -> int:
    """The command: says what was done, or why not. Returns the exit status."""
    try:
        done = install(folder) if action == "install" else remove(folder)
    except Refused as why:
        print(f"giant-kitten: {why}", file=sys.stderr)
        return 1
    for line in done:
        print(line)
    return 0
