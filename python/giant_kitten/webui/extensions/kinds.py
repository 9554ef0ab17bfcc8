"""The kinds of WebUIs, how they are recognised by their folders, and their Python."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from ..actions import Refused
from . import pythons
from .files import shown, typed

NAME = "giant-kitten"


@dataclass(frozen=True)
class Kind:
    """A kind of WebUI, recognised by the contents of its folder."""

    name: str
    source: str
    extensions: str
    known_by: tuple[str, ...]
    starts_cuda_first: bool


@dataclass(frozen=True)
class Unsupported:
    """A program that looks like a WebUI of a kind, and what its user can do."""

    name: str
    known_by: tuple[str, ...]
    instead: str


UNSUPPORTED = (
    Unsupported(
        "SD.Next",
        ("webui.py", "installer.py", "modules"),
        "its pages and its queue differ from AUTOMATIC1111's, so there is no extension for it. Without one, install "
        "the package into its Python and start it with GIANT_KITTEN=1: memory that does not fit the card then "
        "overflows to host memory, and `giant-kitten monitor` shows the map",
    ),
    Unsupported(
        "the program of ComfyUI Desktop",
        ("main.py", "comfy", "../app.asar"),
        "updates replace it: give the folder that you chose when you installed it, with custom_nodes and .venv",
    ),
)
# The first that fits counts: Forge has everything that AUTOMATIC1111 has.
KINDS = (
    Kind("Forge", "automatic1111", "extensions", ("webui.py", "modules", "modules_forge"), True),
    Kind("AUTOMATIC1111", "automatic1111", "extensions", ("webui.py", "modules"), True),
    Kind("ComfyUI", "comfyui", "custom_nodes", ("main.py", "comfy"), False),
    # Its program lies elsewhere; this is the folder with the user's files and its Python.
    Kind("ComfyUI Desktop", "comfyui", "custom_nodes", ("custom_nodes", ".venv", "models", "user"), False),
)


@dataclass(frozen=True)
class WebUI:
    """A WebUI on this machine."""

    kind: Kind
    folder: Path
    given: Path | None = None
    """The Python that the user has named."""

    @property
    def extension(self) -> Path:
        """The folder of our extension in it."""
        return self.folder / self.kind.extensions / NAME

    def python(self) -> Path:
        """The Python with which it starts. Raises `Refused` if that is not certain."""
        return self.given or pythons.find(self.folder)

    def ask_python(self) -> tuple[Path, bool]:
        """The folder of its Python's packages, and whether giant-kitten is among its packages.

        A copy that an extension carries does not count.
        """
        python = self.python()
        program = (
            "import importlib.util, json, sysconfig; found = importlib.util.find_spec('giant_kitten'); "
            "print(json.dumps([sysconfig.get_path('purelib'), found and found.origin]))"
        )
        try:
            site, origin = pythons.ask(python, program)
        except Refused as why:
            if self.given:
                raise Refused(f"{shown(python)} is no Python that runs ({why}): name another with --python") from why
            raise Refused(
                f"the WebUI's Python, {shown(python)}, does not run ({why}): delete its environment, "
                f"{shown(pythons.environment(python))}, and start the WebUI once, so that it makes a new one"
            ) from why
        carried = origin is not None and self.extension in Path(origin).resolve().parents
        return Path(site), origin is not None and not carried


def find(folder: str | Path, any_kind: bool = False) -> WebUI:
    """The WebUI in a folder. Raises `Refused` if there is none.

    `any_kind` takes what is not supported for the kind that it looks like.
    """
    folder = typed(folder)
    if os.name == "nt" and '"' in str(folder):
        raise Refused(f"{shown(folder)} has a quote in it: leave out the backslash before the closing quote")
    try:
        path = Path(folder).expanduser().resolve()
        if not str(folder) or not path.is_dir():
            raise Refused(f"{shown(folder)} is not a folder: give the folder into which the WebUI was installed")
        for other in UNSUPPORTED:
            if _fits(other, path) and not any_kind:
                raise Refused(f"{shown(path)} is {other.name}: {other.instead}")
        for kind in KINDS:
            if _fits(kind, path):
                return WebUI(kind, path)
        inside = [
            child.name
            for child in path.iterdir()
            if child.is_dir()
            and any(_fits(kind, child) for kind in KINDS)
            and not any(_fits(other, child) for other in UNSUPPORTED)
        ]
    except (OSError, RuntimeError, ValueError) as why:
        raise Refused(f"{shown(folder)} cannot be read ({why})") from why
    hint = f"; its folder {shown(inside[0])} is one" if inside else ""
    raise Refused(
        f"{shown(path)} is neither AUTOMATIC1111's WebUI nor Forge (webui.py, modules) nor ComfyUI (main.py, comfy) "
        f"nor the folder of ComfyUI Desktop (custom_nodes, .venv, models, user){hint}"
    )


def _fits(kind: Kind | Unsupported, path: Path) -> bool:
    return all((path / name).exists() for name in kind.known_by)
