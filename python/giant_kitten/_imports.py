"""Calls before and after a module is imported; the import itself is as usual."""

from __future__ import annotations

import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class _Around(Loader):
    """Loads a module with its own loader, between the two calls of a finder."""

    def __init__(self, loader: Loader, finder: Finder) -> None:
        self._loader, self._finder = loader, finder

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._finder.before()
        # Modules and tools look at the loader and must find the module's own.
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        module.__loader__ = self._loader
        self._loader.exec_module(module)
        self._finder.after(module)

    def __getattr__(self, name: str) -> object:
        return getattr(self._loader, name)


class Finder(MetaPathFinder):
    """Finds a module through the other finders, and calls `before` and `after` around its loading.

    It stays on `sys.meta_path` after a lookup: asking for a module's spec does not import the
    module.
    """

    def __init__(
        self, name: str, after: Callable[[ModuleType], None], before: Callable[[], None] = lambda: None
    ) -> None:
        self._name, self.after, self.before = name, after, before

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != self._name:
            return None
        for other in sys.meta_path:
            if other is self or not hasattr(other, "find_spec"):
                continue
            spec = other.find_spec(fullname, path, target)
            if spec is not None:
                if isinstance(spec.loader, Loader) and not isinstance(spec.loader, _Around):
                    spec.loader = _Around(spec.loader, self)
                return spec
        return None
