"""The library accelerate shares a model out over the cards and the host: the host's memory is told once.

Its `get_max_memory` adds up what `torch.cuda.mem_get_info` tells of each card, in which host memory is contained, and
what the host has available. The same memory would be counted for each card, and for the host again.
"""

from __future__ import annotations

import functools
import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING, Any

from . import _library

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

NAME = "accelerate.utils.modeling"


def complete() -> None:
    """Completes accelerate where it is imported, or as soon as it is."""
    module = sys.modules.get(NAME)
    if module is None:
        sys.meta_path.insert(0, _Finder())
        return
    native = module.get_max_memory
    _complete(module)
    for other in list(sys.modules.values()):
        # Those that have imported the function by its name.
        if getattr(other, "__dict__", {}).get("get_max_memory") is native:
            other.get_max_memory = module.get_max_memory  # type: ignore[attr-defined]


def _complete(module: Any) -> None:
    module.get_max_memory = _counting_once(module.get_max_memory)


def _counting_once(native: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(native)
    def get_max_memory(max_memory: Any = None) -> Any:
        found = native(max_memory)
        cards = [key for key in found if isinstance(key, int)]
        # What a program gives itself is its own affair.
        if max_memory is not None or not cards or "cpu" not in found:
            return found
        shared = _library.memory_info(cards[0], _library.SHARED)[0]
        for card in cards:
            found[card] = _library.memory_info(card, _library.DEDICATED)[0] + shared // len(cards)
        found["cpu"] = max(0, found["cpu"] - shared)
        return found

    return get_max_memory


class _Completing(Loader):
    """Loads the module as it would have been, then completes it."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        module.__loader__ = self._loader
        self._loader.exec_module(module)
        _complete(module)

    def __getattr__(self, name: str) -> object:
        return getattr(self._loader, name)


class _Finder(MetaPathFinder):
    """Finds the module as the others do, and has it completed; once."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != NAME:
            return None
        sys.meta_path.remove(self)
        for other in sys.meta_path:
            spec = other.find_spec(fullname, path, target) if hasattr(other, "find_spec") else None
            if spec is not None and isinstance(spec.loader, Loader):
                spec.loader = _Completing(spec.loader)
            if spec is not None:
                return spec
        return None
