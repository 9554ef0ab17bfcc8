"""`giant-kitten webui`: installs the extension, removes it, and says what is installed."""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..actions import Refused
from . import folder as ours
from . import pth, pythons, traces
from .files import reason, shown
from .kinds import WebUI, find

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# An extension that was cloned or copied has no .pth file.
BY_PRELOAD = (
    "it was cloned or copied, so update it the same way. AUTOMATIC1111 lets it install the allocator early enough; "
    "Forge starts CUDA before: remove it there, and use giant-kitten webui install"
)
NO_TORCH = (
    "It has no PyTorch yet. If the WebUI does not install PyTorch there at its next start, name the Python that it "
    "uses with --python"
)


def _in_words(command: Callable[[WebUI], list[str]]) -> Callable[..., list[str]]:
    """Makes a command take a folder and a Python, and raise `Refused` for errors of the system."""

    @functools.wraps(command)
    def worded(folder: str | Path, python: str | None = None) -> list[str]:
        try:
            # What an earlier version has put anywhere can be removed.
            webui = find(folder, any_kind=command.__name__ == "remove")
            named = pythons.given(python) if python else ours.python_of(webui)
            return command(replace(webui, given=named))
        except OSError as why:
            raise Refused(f"this failed: {reason(why)}") from why

    return worded


@_in_words
def install(webui: WebUI) -> list[str]:
    """Installs the extension into a WebUI, replacing an older one; returns what was done.

    If it raises `Refused`, everything is as it was.
    """
    ours.refuse_in_use(webui)
    ours.clear_up(webui)
    older = ours.is_ours(webui)
    site, has_package = _ask_python(webui)
    starts = site / pth.name(webui.folder)
    if os.path.lexists(starts) and not pth.is_ours(starts, webui.folder, webui.extension / "package"):
        raise Refused(f"{shown(starts)} already exists and was not put there by this command: remove it")
    done = ["removed the extension that was there"] if older else []
    written = ours.pth_of(webui)
    with _undoing() as undo:
        marked = starts if webui.kind.starts_cuda_first else None
        _put_in_place(webui, older, package=not has_package, marked=marked, undo=undo)
        done.append(f"put the extension into {shown(webui.extension)}")
        if not has_package:
            done.append(f"with the package, because {shown(webui.python())} has no giant-kitten")
        done.append(_verified(webui))
        if webui.kind.starts_cuda_first:
            _write_pth(starts, pth.text(webui.folder, None if has_package else webui.extension / "package"))
            done.append(f"wrote {shown(starts)}, so that the allocator is installed before CUDA starts")
    with contextlib.suppress(OSError):
        ours.clear_up(webui)
        pth.remove(site / pth.OLD_NAME, webui)
        if written and written != starts and pth.remove_written(written, webui):
            done.append(f"removed {shown(written)}, which the extension before had written")
    done.append(f"start {webui.kind.name} as usual; GIANT_KITTEN=0 in its environment leaves giant-kitten out")
    return done


def _verified(webui: WebUI) -> str:
    """Imports the package in the WebUI's Python as the extension will; returns what was found."""
    try:
        origin, version, has_torch = pythons.use(webui.python(), webui.extension / "package")
    except Refused as why:
        raise Refused(
            f"the WebUI's Python, {shown(webui.python())}, cannot use giant-kitten, and everything is as it was "
            f"({why}): if it has an older giant-kitten, update that; otherwise name another Python with --python"
        ) from why
    found = f"{shown(webui.python())} imports giant-kitten {version}, from {shown(Path(origin).parent)}"
    return found if has_torch else f"{found}. {NO_TORCH}"


def _ask_python(webui: WebUI) -> tuple[Path, bool]:
    try:
        return webui.ask_python()
    except Refused:
        # An old .pth file of ours could keep Python from starting.
        if not any([pth.remove(file, webui) for file in pth.places(webui)]):
            raise
        return webui.ask_python()


def _put_in_place(
    webui: WebUI, older: bool, package: bool, marked: Path | None, undo: list[Callable[[], object]]
) -> None:
    """Puts the extension together, then replaces the older one by it; its mark names `marked`."""
    to, new, old = webui.extension, ours.unfinished(webui), ours.before(webui)
    if not to.parent.is_dir():
        to.parent.mkdir()
        undo.append(to.parent.rmdir)
    new.mkdir()
    undo.append(lambda: shutil.rmtree(new, ignore_errors=True))
    ours.put_together(new, webui, package, marked)
    if older:
        ours.keep_others(webui, new)
        to.rename(old)
        undo.append(lambda: old.rename(to))
    new.rename(to)
    undo.append(lambda: to.rename(new))


def _write_pth(file: Path, text: str) -> None:
    try:
        pth.write(file, text)
    except OSError as why:
        raise Refused(
            f"{shown(file)} cannot be written ({why.strerror}): run this as the user who installed the WebUI"
        ) from why


@_in_words
def remove(webui: WebUI) -> list[str]:
    """Removes the extension from a WebUI completely; returns what was done."""
    to = webui.extension
    ours.refuse_in_use(webui)
    ours.clear_up(webui)
    there = ours.is_ours(webui)
    done = []
    for file in pth.places(webui):
        if pth.remove(file, webui):
            done.append(f"removed {shown(file)}")
    written = ours.pth_of(webui) if there else None
    if written and pth.remove_written(written, webui):
        done.append(f"removed {shown(written)}")
    if there:
        left = ours.remove_ours(webui)
        done.append(f"removed {shown(to)}" if not left else f"left {shown(to / left[0])}, which is not ours")
    if not done:
        raise Refused(f"{shown(to)} does not exist: there is nothing to remove")
    return done + traces.remove(webui.folder)


@_in_words
def status(webui: WebUI) -> list[str]:
    """What is installed where. Raises `Refused` if the extension lacks what it needs to work."""
    if not _is_there(webui):
        webui.ask_python()
        raise Refused(
            f"{webui.kind.name} in {shown(webui.folder)} has no extension of giant-kitten: install it with "
            f'giant-kitten webui install "{shown(webui.folder)}", for {shown(webui.python())}'
        )
    python, (site, has_package) = webui.python(), webui.ask_python()
    found = [
        f"{webui.kind.name} in {shown(webui.folder)}",
        f"its Python is {shown(python)}" + (", named with --python" if webui.given else ""),
        f"the extension is in {shown(webui.extension)}",
    ]
    try:
        origin, version, has_torch = pythons.use(python, webui.extension / "package")
    except Refused as why:
        raise Refused(f"{shown(python)} cannot use giant-kitten ({why}): install the extension again") from why
    where = "its Python has the package" if has_package else "the extension brings the package"
    found.append(f"{where}, version {version}, in {shown(Path(origin).parent)}")
    if not has_torch:
        found.append(NO_TORCH)
    starts = site / pth.name(webui.folder)
    if webui.kind.starts_cuda_first:
        if not pth.is_ours(starts, webui.folder, webui.extension / "package"):
            if not (webui.extension / ours.MARK).exists():
                found.append(BY_PRELOAD)
                return found
            raise Refused(f"{shown(starts)} is missing, so CUDA starts too early: install the extension again")
        found.append(f"{shown(starts)} installs the allocator before CUDA starts")
    return found


def _is_there(webui: WebUI) -> bool:
    """Whether the extension is there, put there by this command or in another way."""
    return (
        (webui.extension / "metadata.ini").is_file()
        or (webui.extension / "__init__.py").is_file()
        or ours.is_ours(webui)
    )


@contextlib.contextmanager
def _undoing() -> Iterator[list[Callable[[], object]]]:
    """A list of the functions that undo each step; they are called if a later step fails."""
    undo: list[Callable[[], object]] = []
    try:
        yield undo
    except BaseException as why:
        for step in reversed(undo):
            with contextlib.suppress(OSError):
                step()
        if isinstance(why, OSError):
            raise Refused(f"this failed, and everything is as it was: {reason(why)}") from why
        raise


def main(action: str, folder: str, python: str | None = None) -> int:
    """The command: prints what was done, or why it failed. Returns the exit status."""
    try:
        done = {"install": install, "remove": remove, "status": status}[action](folder, python)
    except Refused as why:
        print(f"giant-kitten: {why}", file=sys.stderr)
        return 1
    for line in done:
        print(line)
    return 0
