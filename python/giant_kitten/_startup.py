"""What the environment variable GIANT_KITTEN does: installs, as soon as somebody imports torch.

The package's .pth file puts a finder of one line before the others at the start of Python. It imports this module when
torch is imported while the variable asks for it, so a program may set the variable itself until then. WebUIs import
this module at their start. It imports nothing of weight, and torch never.
"""

from __future__ import annotations

import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


class _Torch(Loader):
    """Loads torch as it would have been, then installs."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        from . import _install

        # Some programs choose another allocator right before they import torch.
        _install.strip_backend()
        # Modules and tools look at the loader, and it shall be torch's own.
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        module.__loader__ = self._loader
        self._loader.exec_module(module)
        _install_now()

    def __getattr__(self, name: str) -> object:
        return getattr(self._loader, name)


class _Finder(MetaPathFinder):
    """Finds torch as the others do, and has it loaded by `_Torch`.

    It stays: asking for torch's spec is not importing it.
    """

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != "torch":
            return None
        for other in sys.meta_path:
            if other is self or not hasattr(other, "find_spec"):
                continue
            spec = other.find_spec(fullname, path, target)
            if spec is not None:
                if isinstance(spec.loader, Loader) and not isinstance(spec.loader, _Torch):
                    spec.loader = _Torch(spec.loader)
                return spec
        return None


finder = _Finder()


def watch() -> None:
    """Waits for torch to be imported; installs at once where it was."""
    if "torch" in sys.modules:
        _install_now()
    elif finder not in sys.meta_path:
        sys.meta_path.insert(0, finder)


def _install_now() -> None:
    from . import _install

    try:
        _install.install()
    except Exception as why:
        print(f"giant-kitten is not in use: {why}", file=sys.stderr)


watch()
