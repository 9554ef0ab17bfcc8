"""Builds the library into the wheel, with cargo, and names the platform that it runs on."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class BuildLibrary(BuildHookInterface[Any]):
    """The build hook."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Puts the library beside the package's modules."""
        root = Path(self.root)
        name = {"win32": "giant_kitten.dll", "darwin": "libgiant_kitten.dylib"}.get(sys.platform, "libgiant_kitten.so")
        subprocess.run(["cargo", "build", "--release", "--locked", "-p", "giant-kitten"], cwd=root, check=True)
        library = Path(os.environ.get("CARGO_TARGET_DIR", root / "target")) / "release" / name
        build_data["force_include"][str(library)] = f"giant_kitten/{name}"
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{platform(library)}"


def platform(library: Path) -> str:
    """The wheel's platform: on Linux the oldest manylinux whose glibc has what the library asks for."""
    own = sysconfig.get_platform().replace("-", "_").replace(".", "_")
    if not own.startswith("linux"):
        return own
    wanted = re.findall(rb"GLIBC_2\.(\d+)", library.read_bytes())
    return own.replace("linux", f"manylinux_2_{max(17, *map(int, wanted))}")
