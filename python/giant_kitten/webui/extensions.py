"""`python -m giant_kitten webui install|remove FOLDER`: the extension into a WebUI, and out again without a trace.

What a WebUI gets:

* its extension folder, a copy of ours, which nothing else is written to;
* the package itself inside that folder, where the WebUI's own Python has no giant-kitten;
* one file `giant-kitten-webui-….pth` in the WebUI's own Python, which makes the allocator come before CUDA starts. It
  does so for programs of this WebUI's folder only, by whose path it is named: WebUIs can share a Python. ComfyUI needs
  none: its custom nodes are asked early enough.

What fails in the middle is undone. Nothing is removed but what this command has written.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from . import pth

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

NAME = "giant-kitten"
# A file of ours in the extension's folder, with the names of what else is: only that is removed.
MARK = "installed-by-giant-kitten.json"
# Where the extension is put together, and where the one before it waits meanwhile. ComfyUI loads nothing so called.
_UNFINISHED, _BEFORE = f"{NAME}-unfinished.disabled", f"{NAME}-before.disabled"


class Refused(Exception):
    """It cannot be done: the text says why, and what to do."""


def _in_words(command: Callable[[str | Path], list[str]]) -> Callable[[str | Path], list[str]]:
    """A command that refuses what the system refuses it."""

    @functools.wraps(command)
    def worded(folder: str | Path) -> list[str]:
        try:
            return command(folder)
        except OSError as why:
            raise Refused(f"it could not be done: {_reason(why)}") from why

    return worded


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
                # A link that leads nowhere is the sign of an environment that has to be mended, not of none.
                if os.path.lexists(place / name):
                    return place / name
        return Path(sys.executable)


def find(folder: str | Path) -> WebUI:
    """The WebUI in a folder. Raises `Refused` where there is none."""
    try:
        path = Path(folder).expanduser().resolve()
        if not str(folder) or not path.is_dir():
            raise Refused(f"{_shown(folder)} is not a folder: give the folder that the WebUI was installed into")
        for kind in KINDS:
            if all((path / name).exists() for name in kind.known_by):
                return WebUI(kind, path)
        inside = [child.name for child in path.iterdir() if child.is_dir() and _is_webui(child)]
    except (OSError, RuntimeError, ValueError) as why:
        raise Refused(f"{_shown(folder)} cannot be looked at ({why})") from why
    hint = f"; its folder {_shown(inside[0])} is one" if inside else ""
    raise Refused(
        f"{_shown(path)} is neither AUTOMATIC1111's WebUI nor Forge (webui.py, modules) nor ComfyUI (main.py, comfy)"
        f"{hint}"
    )


def _is_webui(path: Path) -> bool:
    return any(all((path / name).exists() for name in kind.known_by) for kind in KINDS)


@_in_words
def install(folder: str | Path) -> list[str]:
    """Puts the extension into a WebUI, over an older one, and says what was done.

    Raises `Refused`; then everything is as it was.
    """
    webui = find(folder)
    to = webui.extension
    unfinished, before = to.with_name(_UNFINISHED), to.with_name(_BEFORE)
    _clear_up(webui)
    older = _is_ours(to, webui)
    python = webui.python()
    try:
        site, has_package = _ask(python, to)
    except Refused:
        # Old ones of our own could keep Python from starting.
        if not any([_remove_pth(file, webui) for file in _pth_files(webui)]):
            raise
        site, has_package = _ask(python, to)
    starts = site / pth.name(webui.folder)
    if os.path.lexists(starts) and not pth.is_ours(starts, webui.folder, to / "package"):
        raise Refused(f"{_shown(starts)} is there already and was not put there by this command: take it away")
    done = ["took the extension that was there out"] if older else []
    with _undoing() as undo:
        if not to.parent.is_dir():
            to.parent.mkdir()
            undo.append(to.parent.rmdir)
        unfinished.mkdir()
        undo.append(lambda: shutil.rmtree(unfinished, ignore_errors=True))
        _put_together(unfinished, webui, package=not has_package)
        if older:
            _keep_what_is_not_ours(webui, unfinished)
            to.rename(before)
            undo.append(lambda: before.rename(to))
        unfinished.rename(to)
        undo.append(lambda: to.rename(unfinished))
        done.append(f"put the extension into {_shown(to)}")
        if not has_package:
            done.append(f"with the package, because {_shown(python)} has no giant-kitten")
        if webui.kind.starts_cuda_first:
            try:
                pth.write(starts, pth.text(webui.folder, None if has_package else to / "package"))
            except OSError as why:
                raise Refused(
                    f"{_shown(starts)} cannot be written ({why.strerror}): run this as the user who installed the WebUI"
                ) from why
            done.append(f"wrote {_shown(starts)}, so that the allocator comes before CUDA starts")
    with contextlib.suppress(OSError):
        _clear_up(webui)
        _remove_pth(site / pth.OLD_NAME, webui)
    done.append(f"start {webui.kind.name} as always; GIANT_KITTEN=0 in its environment leaves giant-kitten out")
    return done


@_in_words
def remove(folder: str | Path) -> list[str]:
    """Takes the extension out of a WebUI, with everything that came with it, and says what was done."""
    webui = find(folder)
    to = webui.extension
    _clear_up(webui)
    there = _is_ours(to, webui)
    done = []
    for file in _pth_files(webui):
        if _remove_pth(file, webui):
            done.append(f"removed {_shown(file)}")
    if there:
        left = _remove_own(to, _own(to, webui))
        done.append(f"removed {_shown(to)}" if not left else f"left {_shown(to / left[0])}, which is not from here")
    if not done:
        raise Refused(f"there is no {_shown(to)}: nothing is to be removed")
    done += _forget_settings(webui.folder / "config.json") + _forget_note(webui.folder / "params.txt")
    return done


@contextlib.contextmanager
def _undoing() -> Iterator[list[Callable[[], object]]]:
    """A list for what undoes each step, which is done if a later one fails."""
    undo: list[Callable[[], object]] = []
    try:
        yield undo
    except BaseException as why:
        for step in reversed(undo):
            with contextlib.suppress(OSError):
                step()
        if isinstance(why, OSError):
            raise Refused(f"it could not be done, and everything is as it was: {_reason(why)}") from why
        raise


# ---- What is whose -------------------------------------------------------------------------------------------------


def _is_ours(folder: Path, webui: WebUI) -> bool:
    """Whether an extension's folder is there and was put there by this command. Raises `Refused` if by anybody else."""
    if folder.is_symlink():
        raise Refused(
            f"{_shown(folder)} is a link to {_shown(os.readlink(folder))}, and this command neither follows links nor "
            "removes them: remove it, or see to what it leads to by hand"
        )
    if not os.path.lexists(folder):
        return False
    if (folder / MARK).is_file() or _is_cut_short(folder, webui):
        return True
    raise Refused(
        f"{_shown(folder)} is there already and was not put there by this command: take it away, or update it as it "
        "came"
    )


def _is_cut_short(folder: Path, webui: WebUI) -> bool:
    """Whether a folder without a mark is what an earlier version left where the disk was full: a part of ours alone.

    A whole copy of the extension without the package is somebody's own: they copied it by hand.
    """
    if not folder.is_dir():
        return False
    ours, found = _parts(webui), list(_files(folder))
    if not all(part in ours and _begins_with(ours[part], folder / part) for part in found):
        return False
    extension = [part for part in ours if not part.startswith("package/")]
    whole = all(part in found and (folder / part).stat().st_size == ours[part].stat().st_size for part in extension)
    return not whole or any(part.startswith("package/") for part in found)


def _begins_with(ours: Path, theirs: Path) -> bool:
    return not theirs.is_symlink() and ours.read_bytes().startswith(theirs.read_bytes())


def _parts(webui: WebUI) -> dict[str, Path]:
    """All that an extension's folder can have of ours, by its name there: where it is copied from."""
    source, package = _source(webui.kind.source), Path(__file__).resolve().parent.parent
    parts = {part: source / part for part in _files(source)}
    parts.update({f"package/{package.name}/{part}": package / part for part in _files(package)})
    return parts


def _files(folder: Path) -> Iterator[str]:
    """The names of the files in a folder and those below, without what Python keeps there. No link is followed."""
    for where, folders, names in os.walk(folder):
        links = [name for name in folders if os.path.islink(os.path.join(where, name))]
        folders[:] = [name for name in folders if name != "__pycache__"]
        for name in names + links:
            yield Path(where, name).relative_to(folder).as_posix()


def _own(folder: Path, webui: WebUI) -> set[str]:
    """The names of what this command put into a folder, by its mark; an old mark does not say."""
    try:
        files = json.loads((folder / MARK).read_text(encoding="utf-8"))["files"]
        return {MARK, *(str(file) for file in files)}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        carried = {file for file in _files(folder) if file.startswith("package/giant_kitten/")}
        return {MARK, *_parts(webui), *carried}


def _put_together(folder: Path, webui: WebUI, package: bool) -> None:
    parts = {name: part for name, part in _parts(webui).items() if package or not name.startswith("package/")}
    # First, so that what is cut short is known to be ours.
    (folder / MARK).write_text(json.dumps({"files": sorted(parts)}, indent=4) + "\n", encoding="utf-8")
    for name, part in parts.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(part, folder / name)


def _keep_what_is_not_ours(webui: WebUI, to: Path) -> None:
    """Copies what somebody else put into the extension's folder into the one that takes its place."""
    ours = _own(webui.extension, webui)
    for name in set(_files(webui.extension)) - ours:
        if not os.path.lexists(to / name):
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(webui.extension / name, to / name, follow_symlinks=False)


def _remove_own(folder: Path, own: set[str]) -> list[str]:
    """Removes what is ours from a folder, and the folder if nothing is left; the names of what is."""
    for where, folders, names in os.walk(folder, topdown=False):
        cache = os.path.basename(where) == "__pycache__"
        for name in names:
            part = Path(where, name).relative_to(folder).as_posix()
            # Last of all: what could not be removed is known by it.
            if (part in own or (cache and name.endswith(".pyc"))) and part != MARK:
                os.unlink(os.path.join(where, name))
        for name in folders:
            with contextlib.suppress(OSError):
                os.rmdir(os.path.join(where, name))
    left = [part for part in _files(folder) if part != MARK]
    (folder / MARK).unlink(missing_ok=True)
    if not left:
        folder.rmdir()
    return left


def _clear_up(webui: WebUI) -> None:
    """Puts right what was ended in the middle: takes back the extension that was to be replaced, removes the rest."""
    to = webui.extension
    before, unfinished = to.with_name(_BEFORE), to.with_name(_UNFINISHED)
    if (before / MARK).is_file() and not before.is_symlink():
        if not os.path.lexists(to):
            before.rename(to)
        else:
            shutil.rmtree(before)
    if (unfinished / MARK).is_file() and not unfinished.is_symlink():
        shutil.rmtree(unfinished)


# ---- The WebUI's Python --------------------------------------------------------------------------------------------


def _pth_files(webui: WebUI) -> list[Path]:
    """Where this WebUI's .pth file can be."""
    if not webui.kind.starts_cuda_first:
        return []
    names = (pth.name(webui.folder), pth.OLD_NAME)
    python = webui.python()
    try:
        site, _ = _ask(python, webui.extension)
        return [site / name for name in names]
    except Refused:
        # An old one can keep Python from starting: then it is looked for in the environment, as Python lays them out.
        places = [*python.parent.parent.glob("lib/python*/site-packages"), python.parent.parent / "Lib/site-packages"]
        return [place / name for place in places for name in names]


def _remove_pth(file: Path, webui: WebUI) -> bool:
    if not pth.is_ours(file, webui.folder, webui.extension / "package"):
        return False
    file.unlink()
    return True


def _ask(python: Path, extension: Path) -> tuple[Path, bool]:
    """Where a Python has its packages, and whether giant-kitten is among them, other than what an extension carries."""
    program = (
        "import importlib.util, json, sysconfig; found = importlib.util.find_spec('giant_kitten'); "
        "print(json.dumps([sysconfig.get_path('purelib'), found and found.origin]))"
    )
    try:
        # Isolated: what lies in the current folder is not what the WebUI will find.
        done = subprocess.run(
            [str(python), "-I", "-c", program], capture_output=True, text=True, errors="replace", timeout=120,
            env={**os.environ, "GIANT_KITTEN": "0"}, check=True,
        )  # fmt: skip
        site, origin = json.loads(done.stdout.splitlines()[-1])
    except (OSError, ValueError, IndexError, subprocess.SubprocessError) as why:
        raise Refused(
            f"the WebUI's Python, {_shown(python)}, does not run ({why}): start the WebUI once, so that it makes one"
        ) from why
    carried = origin is not None and extension in Path(origin).resolve().parents
    return Path(site), origin is not None and not carried


# ---- What the WebUI wrote of us ------------------------------------------------------------------------------------


def _forget_settings(file: Path) -> list[str]:
    """Takes our settings out of the WebUI's, written as the WebUI writes them. What is no settings is left alone."""
    try:
        settings = json.loads(file.read_bytes().decode())
        kept = {key: value for key, value in settings.items() if not key.startswith("giant_kitten_")}
        if kept == settings:
            return []
        text = json.dumps(kept, indent=4, ensure_ascii=False).encode()
    except (OSError, ValueError, AttributeError, RecursionError):
        return []
    return [_replace(file, text, "its settings")]


def _forget_note(file: Path) -> list[str]:
    """Takes our note out of the description of the last picture, which the WebUI keeps to fill its controls again."""
    try:
        described = file.read_bytes()
    except OSError:
        return []
    kept = re.sub(rb", Giant kitten: [^,\n]*", b"", described)
    return [_replace(file, kept, "its note")] if kept != described else []


def _replace(file: Path, content: bytes, what: str) -> str:
    """Writes a file anew, whole or not at all, and says so."""
    # A link stays one.
    file = file.resolve()
    unfinished = file.with_name(f"{file.name}.unfinished")
    try:
        unfinished.write_bytes(content)
        shutil.copymode(file, unfinished)
        os.replace(unfinished, file)
    except OSError as why:
        unfinished.unlink(missing_ok=True)
        return f"left {what} in {file.name}, where they do nothing: it cannot be written ({_reason(why)})"
    return f"took {what} out of {file.name}"


# ---- Helpers -------------------------------------------------------------------------------------------------------


def _source(name: str) -> Path:
    """Our copy of an extension: in the package, or in the checkout that the package lies in."""
    here = Path(__file__).resolve().parent
    for place in (here / "folders" / name, here.parents[2] / "webui" / name):
        if place.is_dir():
            return place
    raise Refused(f"this giant-kitten has no extension {name!r} with it: reinstall the package")


def _shown(path: str | Path) -> str:
    """A path as a sentence shows it: on one line, whatever it is called."""
    text = str(path)
    return text if text and text.isprintable() else ascii(text)


def _reason(why: OSError) -> str:
    where = f"{_shown(why.filename)}: " if isinstance(why.filename, str) else ""
    return f"{where}{why.strerror or why}"


def main(action: str, folder: str) -> int:
    """The command: says what was done, or why not. Returns the exit status."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            # Folders can have letters that the terminal has not.
            stream.reconfigure(errors="backslashreplace")
    try:
        done = install(folder) if action == "install" else remove(folder)
    except Refused as why:
        print(f"giant-kitten: {why}", file=sys.stderr)
        return 1
    for line in done:
        print(line)
    return 0
