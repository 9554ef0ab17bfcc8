"""Builds the library into the wheel, with cargo, and names the platform that it runs on."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

# The library to put into the wheel, where a release has built it already, for an older glibc.
BUILT = "GIANT_KITTEN_BUILT_LIBRARY"


class BuildLibrary(BuildHookInterface[Any]):
    """The build hook."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Puts the library beside the package's modules."""
        built = os.environ.get(BUILT)
        library = Path(built) if built else stripped(build(Path(self.root)))
        build_data["force_include"][str(library)] = f"giant_kitten/{library.name}"
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{platform(library)}"


def build(root: Path) -> Path:
    """The library, built in a checkout."""
    require_rust(root)
    name = {"win32": "giant_kitten.dll", "darwin": "libgiant_kitten.dylib"}.get(sys.platform, "libgiant_kitten.so")
    done = subprocess.run(["cargo", "build", "--release", "--locked", "-p", "giant-kitten"], cwd=root, check=False)
    if done.returncode:
        sys.exit("giant-kitten: cargo could not build the library; its message is above")
    return Path(os.environ.get("CARGO_TARGET_DIR", root / "target")) / "release" / name


def require_rust(root: Path) -> None:
    """Ends the build with one sentence where there is no cargo, or an old one."""
    found = re.search(r'^rust-version = "([\d.]+)"', (root / "Cargo.toml").read_text("utf-8"), re.MULTILINE)
    assert found, "Cargo.toml names no version of Rust"
    needed = found[1]
    advice = (
        f"install Rust {needed} or later from https://rustup.rs, or a wheel that scripts/wheels has built elsewhere"
    )
    if not shutil.which("cargo"):
        sys.exit(f"giant-kitten: there is no cargo, which builds the library: {advice}")
    asked = subprocess.run(["cargo", "--version"], cwd=root, capture_output=True, text=True, check=False)
    version = re.search(r"cargo (\d+)\.(\d+)", asked.stdout)
    if version is None:
        sys.exit(f"giant-kitten: cargo --version failed: {asked.stdout}{asked.stderr.strip()}: {advice}")
    if (int(version[1]), int(version[2])) < tuple(int(part) for part in needed.split(".")[:2]):
        sys.exit(f"giant-kitten: cargo is {version[1]}.{version[2]}, which is too old: {advice}")


def stripped(library: Path) -> Path:
    """The library without debug information, six sevenths of its size. Names stay."""
    strip = None if sys.platform == "win32" else shutil.which("strip")
    if strip is None:
        return library
    copy = library.parent / "stripped" / library.name
    copy.parent.mkdir(exist_ok=True)
    subprocess.run([strip, "-S", "-o", str(copy), str(library)], check=True)
    return copy


def platform(library: Path) -> str:
    """The wheel's platform: on Linux, the oldest manylinux whose glibc suffices.

    A library for Windows may have been built elsewhere, by `scripts/wheels`.
    """
    own = sysconfig.get_platform().replace("-", "_").replace(".", "_")
    if not own.startswith("linux"):
        return own
    if library.suffix == ".dll":
        return "win_amd64"
    needed = re.findall(rb"GLIBC_2\.(\d+)", library.read_bytes())
    return own.replace("linux", f"manylinux_2_{max(17, *map(int, needed))}")
