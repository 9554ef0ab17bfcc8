"""Everything about one release, in one folder, prepared once."""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import zipfile
from collections.abc import Iterable
from pathlib import Path

from rig.libraries import Libraries
from rig.process import ROOT, SOURCES, run
from rig.releases import COMFYUI, NEEDED, PYTORCH_TESTS, TESTS, TESTS_NEED, Release

# The suffixes of the files that the package carries.
PACKAGE = (".py", ".pth", ".typed", ".js", ".ini")


class Rig:
    """The folder of one release: a virtual environment, headers, fake libraries and our package.

    Each step leaves a stamp with the content that it was done for, and is done again if that
    changes.
    """

    def __init__(self, release: Release) -> None:
        cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
        self.release = release
        self.folder = Path(os.environ.get("GIANT_KITTEN_RIG", cache / "giant-kitten-rig")) / release.version
        self.venv = self.folder / "venv"
        self.python = self.venv / "bin" / "python"
        self.fake = self.folder / "fake"

    def prepare(self) -> None:
        """Brings everything up to date that programs need."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._venv()
        self._headers()
        self._libraries()
        self._package()

    def prepare_tests(self) -> None:
        """Installs the packages that the tests need in addition."""
        wanted = (*TESTS, *self.release.models)
        content = " ".join(wanted)
        if self._is_stale("tests", content):
            print("torch-rig: installing the packages that the tests need (once)", file=sys.stderr)
            self._pip("--no-deps", *wanted)
            self._pip(*TESTS_NEED, self.release.numpy)
            self._stamp("tests", content)

    def prepare_comfyui(self) -> None:
        """Installs the packages that a checkout of ComfyUI needs in addition."""
        content = " ".join(part for parts in COMFYUI for part in parts)
        if self._is_stale("comfyui", content):
            print("torch-rig: installing the packages that ComfyUI needs (once)", file=sys.stderr)
            self._pip("--no-deps", *COMFYUI[0])
            self._pip(*COMFYUI[1])
            self._stamp("comfyui", content)

    def prepare_pytorch_tests(self) -> None:
        """Installs the packages that PyTorch's own tests need in addition."""
        content = " ".join(PYTORCH_TESTS)
        if self._is_stale("pytorch-tests", content):
            self._pip(*PYTORCH_TESTS)
            self._stamp("pytorch-tests", content)

    def include(self) -> list[Path]:
        """The folders with the headers of the CUDA runtime."""
        return sorted(self.folder.glob("headers/nvidia/*/include"))

    def environment(self, native: bool) -> dict[str, str]:
        """The environment of a program: the fake libraries, and our allocator unless `native`."""
        variables = dict(os.environ)
        variables["VIRTUAL_ENV"] = str(self.venv)
        variables["PATH"] = f"{self.venv / 'bin'}:{variables.get('PATH', '')}"
        before = variables.get("LD_LIBRARY_PATH")
        variables["LD_LIBRARY_PATH"] = f"{self.fake}:{before}" if before else str(self.fake)
        if native:
            variables.pop("GIANT_KITTEN", None)
        else:
            variables.setdefault("GIANT_KITTEN", "1")
        return variables

    def _is_stale(self, name: str, content: str) -> bool:
        """Whether a step must be done: its stamp does not have `content`."""
        stamp = self.folder / f"{name}.done"
        return not (stamp.exists() and stamp.read_text() == content)

    def _stamp(self, name: str, content: str) -> None:
        (self.folder / f"{name}.done").write_text(content)

    def _pip(self, *arguments: str) -> None:
        run(self.python, "-m", "pip", "install", "-q", "--disable-pip-version-check", *arguments)

    def _venv(self) -> None:
        needed = (*NEEDED, self.release.numpy)
        content = " ".join(("torch", self.release.version, *needed))
        if not self._is_stale("venv", content):
            return
        print(
            f"torch-rig: creating a virtual environment with PyTorch {self.release.version} "
            "(over half a gigabyte, once)",
            file=sys.stderr,
        )
        shutil.rmtree(self.venv, ignore_errors=True)
        run(sys.executable, "-m", "venv", self.venv)
        self._pip("--no-deps", f"torch=={self.release.version}")
        self._pip(*needed)
        self._stamp("venv", content)

    def _headers(self) -> None:
        content = " ".join(self.release.headers)
        if not self._is_stale("headers", content):
            return
        wheels = self.folder / "wheels"
        run(self.python, "-m", "pip", "download", "-q", "--no-deps", "-d", wheels, *self.release.headers)
        for wheel in wheels.glob("*.whl"):
            with zipfile.ZipFile(wheel) as archive:
                names = [name for name in archive.namelist() if "/include/" in name]
                archive.extractall(self.folder / "headers", names)
        self._stamp("headers", content)

    def _libraries(self) -> None:
        """Builds the fake libraries: Rust, C, and stubs that succeed for the rest."""
        run("cargo", "build", "--release", "-q", "-p", "fake-cuda", "--manifest-path", ROOT / "Cargo.toml")
        target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
        self.fake.mkdir(exist_ok=True)
        driver = self.fake / "libcuda.so.1"
        driver.unlink(missing_ok=True)
        shutil.copy(target / "release" / "libfake_cuda.so", driver)
        recipe = ROOT / "rig" / "libraries.py"
        content = _digest((recipe, *sorted(SOURCES.iterdir()), driver))
        if self._is_stale("libraries", content):
            torch = next(self.venv.glob("lib/python*/site-packages/torch/lib"))
            Libraries(torch, self.include(), self.fake).build()
            self._stamp("libraries", content)

    def _package(self) -> None:
        """Builds and installs our package as a user would."""
        files = [ROOT / "pyproject.toml", ROOT / "Cargo.lock", ROOT / "NOTICES", ROOT / "include" / "giant_kitten.h"]
        for folder, kinds in (("src", (".rs",)), ("python", PACKAGE), ("webui", PACKAGE)):
            files += sorted(path for path in (ROOT / folder).rglob("*") if path.suffix in kinds)
        content = _digest(files)
        if self._is_stale("package", content):
            self._pip("--force-reinstall", "--no-deps", str(ROOT))
            self._stamp("package", content)


def _digest(files: Iterable[Path]) -> str:
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()
