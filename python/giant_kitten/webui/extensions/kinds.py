"""The kinds of WebUIs, how they are recognised by their folders, and their Python."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..actions import Refused
from . import pythons
from .files import shown

NAME = "giant-kitten"


@dataclass(frozen=True)
class Kind:
    """A kind of WebUI, recognised by the contents of its folder."""

    name: str
    source: str
    extensions: str
    known_by: tuple[str, ...]
    starts_cuda_first: bool


# The first that fits counts: Forge has everything that AUTOMATIC1111 has.
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
            raise Refused(
                f"the WebUI's Python, {shown(python)}, does not run ({why}): start the WebUI once, so that it "
                "installs one"
            ) from why
        carried = origin is not None and self.extension in Path(origin).resolve().parents
        return Path(site), origin is not None and not carried


def find(folder: str | Path) -> WebUI:
    """The WebUI in a folder. Raises `Refused` if there is none."""
    try:
        path = Path(folder).expanduser().resolve()
        if not str(folder) or not path.is_dir():
            raise Refused(f"{shown(folder)} is not a folder: give the folder into which the WebUI was installed")
        for kind in KINDS:
            if _fits(kind, path):
                return WebUI(kind, path)
        inside = [
            child.name for child in path.iterdir() if child.is_dir() and any(_fits(kind, child) for kind in KINDS)
        ]
    except (OSError, RuntimeError, ValueError) as why:
        raise Refused(f"{shown(folder)} cannot be read ({why})") from why
    hint = f"; its folder {shown(inside[0])} is one" if inside else ""
    raise Refused(
        f"{shown(path)} is neither AUTOMATIC1111's WebUI nor Forge (webui.py, modules) nor ComfyUI (main.py, comfy)"
        f"{hint}"
    )


def _fits(kind: Kind, path: Path) -> bool:
    return all((path / name).exists() for name in kind.known_by)
