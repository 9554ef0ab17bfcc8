"""The folder of our extension in a WebUI: which files in it are ours.

Only files that the install command has written are ever replaced or removed.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from ..actions import Refused
from .files import is_link, shown
from .kinds import NAME, WebUI

if TYPE_CHECKING:
    from collections.abc import Iterator

# A file of ours in the extension's folder, with the names of our other files there.
MARK = "installed-by-giant-kitten.json"
# Siblings of the extension's folder: a new version that is not complete, and the old version until
# it is replaced. ComfyUI does not load folders with such names.
_UNFINISHED, _BEFORE = f"{NAME}-unfinished.disabled", f"{NAME}-before.disabled"


def unfinished(webui: WebUI) -> Path:
    """Where a new version of the extension is put together."""
    return webui.extension.with_name(_UNFINISHED)


def before(webui: WebUI) -> Path:
    """Where the old version waits until it is replaced."""
    return webui.extension.with_name(_BEFORE)


def is_ours(webui: WebUI) -> bool:
    """Whether the extension's folder exists and the install command has made it.

    Raises `Refused` if somebody else has made it.
    """
    folder = webui.extension
    if is_link(folder):
        raise Refused(
            f"{shown(folder)} is a link to {shown(os.readlink(folder))}, and this command neither follows nor removes "
            "links: remove the link, or change its target by hand"
        )
    if not os.path.lexists(folder):
        return False
    if (folder / MARK).is_file() or _is_cut_short(folder, webui):
        return True
    raise Refused(
        f"{shown(folder)} already exists and was not put there by this command: remove it, or update it the way it "
        "was installed"
    )


def refuse_in_use(webui: WebUI) -> None:
    """Raises `Refused` if a program has loaded our library, which Windows then does not remove."""
    carried = webui.extension / "package" / "giant_kitten" / "giant_kitten.dll"
    if os.name != "nt" or not carried.is_file():
        return
    try:
        carried.open("r+b").close()
    except PermissionError as why:
        raise Refused(f"{shown(carried)} is in use: close {webui.kind.name}, and try again") from why


def _is_cut_short(folder: Path, webui: WebUI) -> bool:
    """Whether a folder without a mark is an incomplete copy that an earlier version has left.

    Earlier versions left one if the disk was full. A complete copy of the extension without the
    package belongs to somebody who copied it by hand.
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
    """All files of ours that an extension's folder can have, by their names, with their sources."""
    source, package = _source(webui.kind.source), Path(__file__).resolve().parents[2]
    parts = {part: source / part for part in _files(source)}
    parts.update({f"package/{package.name}/{part}": package / part for part in _files(package)})
    return parts


def _source(name: str) -> Path:
    """Our copy of an extension: in the package, or in the checkout of the package."""
    here = Path(__file__).resolve()
    for place in (here.parents[1] / "folders" / name, here.parents[4] / "webui" / name):
        if place.is_dir():
            return place
    raise Refused(f"this installation of giant-kitten lacks the extension {name!r}: reinstall the package")


def _files(folder: Path) -> Iterator[str]:
    """The names of the files in a folder and below, without Python's caches and without links."""
    for where, folders, names in os.walk(folder):
        links = [name for name in folders if is_link(os.path.join(where, name))]
        folders[:] = [name for name in folders if name != "__pycache__" and name not in links]
        for name in names + links:
            yield Path(where, name).relative_to(folder).as_posix()


def _own(folder: Path, webui: WebUI) -> set[str]:
    """The names of our files in a folder, by its mark; the marks of early versions had no names."""
    try:
        files = json.loads((folder / MARK).read_text(encoding="utf-8"))["files"]
        return {MARK, *(str(file) for file in files)}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        carried = {file for file in _files(folder) if file.startswith("package/giant_kitten/")}
        return {MARK, *_parts(webui), *carried}


def python_of(webui: WebUI) -> Path | None:
    """The Python that the user had named when the extension was installed."""
    named = _marked(webui, "python")
    return named if named and os.path.lexists(named) else None


def pth_of(webui: WebUI) -> Path | None:
    """The .pth file that was written when the extension was installed."""
    return _marked(webui, "pth")


def _marked(webui: WebUI, name: str) -> Path | None:
    """A path that the extension's mark names."""
    try:
        path = json.loads((webui.extension / MARK).read_text(encoding="utf-8"))[name]
        return Path(path) if path and isinstance(path, str) else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def put_together(folder: Path, webui: WebUI, package: bool, pth: Path | None) -> None:
    """Copies the extension into a folder, with the package if `package`.

    `pth` is the .pth file that will be written for it.
    """
    parts = {name: part for name, part in _parts(webui).items() if package or not name.startswith("package/")}
    # The mark comes first, so that an incomplete copy is known to be ours.
    mark: dict[str, object] = {"files": sorted(parts)}
    if webui.given:
        mark["python"] = str(webui.given)
    if pth:
        mark["pth"] = str(pth)
    (folder / MARK).write_text(json.dumps(mark, indent=4) + "\n", encoding="utf-8")
    for name, part in parts.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(part, folder / name)


def keep_others(webui: WebUI, to: Path) -> None:
    """Copies the files of others in the extension's folder to the folder that replaces it."""
    ours = _own(webui.extension, webui)
    for name in set(_files(webui.extension)) - ours:
        if not os.path.lexists(to / name):
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(webui.extension / name, to / name, follow_symlinks=False)


def remove_ours(webui: WebUI) -> list[str]:
    """Removes our files, and the folder if it is empty then; returns the names of the others."""
    folder = webui.extension
    own = _own(folder, webui)
    for where, folders, names in os.walk(folder, topdown=False):
        cache = os.path.basename(where) == "__pycache__"
        for name in names:
            part = Path(where, name).relative_to(folder).as_posix()
            # The mark goes last, because it identifies what could not be removed.
            if (part in own or (cache and name.endswith(".pyc"))) and part != MARK:
                os.unlink(os.path.join(where, name))
        for name in folders:
            # Windows would remove a link of somebody's that leads to a folder.
            if not is_link(os.path.join(where, name)):
                with contextlib.suppress(OSError):
                    os.rmdir(os.path.join(where, name))
    left = [part for part in _files(folder) if part != MARK]
    (folder / MARK).unlink(missing_ok=True)
    if not left:
        folder.rmdir()
    return left


def clear_up(webui: WebUI) -> None:
    """Repairs what an interrupted install left: restores the old version, removes the rest."""
    to, old, new = webui.extension, before(webui), unfinished(webui)
    if (old / MARK).is_file() and not is_link(old):
        if not os.path.lexists(to):
            old.rename(to)
        else:
            shutil.rmtree(old)
    if (new / MARK).is_file() and not is_link(new):
        shutil.rmtree(new)
