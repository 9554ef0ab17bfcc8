"""The fake libraries that a wheel of PyTorch links, with the functions that it needs."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from rig.process import SOURCES, run

NVIDIA = re.compile(
    r"lib(cuda|cudart|cublas|cublasLt|cudnn|cusparse|cusparseLt|cufft|curand|cusolver|cufile|nccl|nvrtc|cupti"
    r"|nvshmem_host|nvToolsExt|nvjitlink)\.so"
)
# The library that a function without a version belongs to, by its name; the first that matches.
PREFIXES = (
    ("cudart", r"(__)?cuda[A-Z]"),
    ("cublasLt", "cublasLt"),
    ("cublas", "cublas"),
    ("cudnn", "cudnn"),
    ("cusparseLt", "cusparseLt"),
    ("cusparse", "cusparse"),
    ("cufft", "cufft"),
    ("curand", "curand"),
    ("cusolver", "cusolver"),
    ("cufile", "cuFile"),
    ("nccl", "nccl|pncl"),
    ("nvrtc", "nvrtc"),
    ("cupti", "cupti"),
    ("nvshmem_host", "nvshmem"),
    ("nvToolsExt", "nvtx"),
    ("cuda", "cu[A-Z]"),
)
RETURNS_TEXT = re.compile(r"(ErrorString|ErrorName|StatusString|StatusName|LastErrorString|GetLastError)$")
MAKES_HANDLE = re.compile(r"(cublas|cudnn|cusparse|cusolver|curand)\w*Create|InfoCreate|cusparseLt\w+Init")
# Functions in our C sources: those marked FAKE, those that one macro defines, those of macros with
# a name.
IN_C = re.compile(r"^(?:FAKE [\w\s*]*?|\w+\()(\w+)[(),]", re.MULTILINE)
BY_MACRO = re.compile(r"^[A-Z_]+\((\w+)\)", re.MULTILINE)


class Libraries:
    """The libraries that one wheel of PyTorch links."""

    def __init__(self, torch: Path, include: list[Path], out: Path) -> None:
        self.torch, self.include, self.out = torch, include, out
        self.needed: set[str] = set()
        # By library: its functions, with the version of each.
        self.wanted: dict[str, dict[str, str]] = {}

    def build(self) -> None:
        """Builds them all."""
        self._read()
        driver = self.out / "libcuda.so.1"
        in_driver = _defined(driver)
        for library in sorted(self.needed):
            if library != driver.name:
                self._library(library, in_driver)
        if "libcudnn.so.8" in self.needed:
            # cuDNN 8 is in parts, and PyTorch opens one of them by its name.
            part = self.out / "libcudnn_cnn_infer.so.8"
            part.unlink(missing_ok=True)
            part.symlink_to("libcudnn.so.8")
        self._compile("nvml", self.out / "libnvidia-ml.so.1", [SOURCES / "nvml.c"], "")

    def _read(self) -> None:
        """Finds the libraries that the wheel links, and the functions that it asks of them."""
        wanted: set[str] = set()
        defined: set[str] = set()
        for path in self.torch.glob("*.so*"):
            if not path.is_file():
                continue
            self.needed |= set(re.findall(r"NEEDED.*\[(.+)\]", run("readelf", "-dW", path)))
            for line in run("readelf", "--dyn-syms", "-W", path).splitlines():
                fields = line.split()
                if len(fields) >= 8 and fields[4] in ("GLOBAL", "WEAK"):
                    (wanted if fields[6] == "UND" else defined).add(fields[7])
        self.needed = {name for name in self.needed if NVIDIA.match(name)}
        plain = {name.split("@")[0] for name in defined}
        for symbol in wanted:
            name, _, version = symbol.partition("@")
            library = self._library_of(name, version.lstrip("@"))
            if library and name not in plain:
                self.wanted.setdefault(library, {})[name] = version.lstrip("@")

    def _library_of(self, name: str, version: str) -> str | None:
        if version in self.needed:
            return version
        base = next((base for base, pattern in PREFIXES if re.match(pattern, name)), None)
        return next((library for library in self.needed if _base_of(library) == base), None)

    def _library(self, library: str, in_driver: set[str]) -> None:
        """Builds one library: our C source if there is one, and stubs for its other functions."""
        base = _base_of(library)
        functions = self.wanted.get(library, {})
        source = SOURCES / f"{base}.c"
        sources = [source] if source.exists() else []
        written = {name for path in sources for name in _written(path.read_text())}
        stubs = self.out / f"{base}.stubs.c"
        missing = sorted(set(functions) - written - in_driver)
        stubs.write_text("\n".join(["#include <stdlib.h>", *map(_stub, missing), ""]))
        version = next((version for version in functions.values() if version), "")
        self._compile(base, self.out / library, [*sources, stubs], version)

    def _compile(self, base: str, to: Path, sources: Iterable[Path], version: str) -> None:
        options = []
        if version:
            script = self.out / f"{base}.map"
            script.write_text(f"{version} {{ global: *; }};\n")
            options.append(f"-Wl,--version-script={script}")
        flags = ["-O2", "-fPIC", "-shared", "-std=gnu11", f"-I{SOURCES}", *(f"-isystem{i}" for i in self.include)]
        flags.append(f"-DMAJOR={to.name.partition('.so.')[2].partition('.')[0] or 0}")
        run(
            "cc", *flags, *sources, "-o", to, f"-Wl,-soname,{to.name}", *options,
            f"-L{self.out}", "-l:libcuda.so.1", "-Wl,-rpath,$ORIGIN",
        )  # fmt: skip


def _base_of(library: str) -> str:
    """`cudart` of `libcudart.so.13`."""
    match = NVIDIA.match(library)
    return match[1] if match else ""


def _defined(library: Path) -> set[str]:
    """The functions that a library defines."""
    lines = run("nm", "-D", "--defined-only", library).splitlines()
    return {line.split()[-1].split("@")[0] for line in lines}


def _written(source: str) -> set[str]:
    """The functions that one of our C sources defines."""
    return set(IN_C.findall(source)) | set(BY_MACRO.findall(source))


def _stub(name: str) -> str:
    """A function that succeeds, whatever its arguments."""
    if RETURNS_TEXT.search(name):
        return f'const char *{name}(void) {{ return "fake"; }}'
    if name.startswith("cufft") and "Create" in name:
        return f"long {name}(int *made) {{ return *made = 1, 0; }}"
    if MAKES_HANDLE.match(name) and "Destroy" not in name and not name.startswith(("nccl", "cusparseLt")):
        return f"long {name}(void **made) {{ return *made = calloc(1, 4096), 0; }}"
    return f"long {name}(void) {{ return 0; }}"
