"""Counts host memory once when the library accelerate divides a model among cards and host.

accelerate's `get_max_memory` adds what `torch.cuda.mem_get_info` reports for each card to the
available host memory. Shared memory is part of both, so the same memory would be counted once per
card and again for the host.
"""

from __future__ import annotations

import functools
import sys
from typing import TYPE_CHECKING, Any

from . import _imports, _library

if TYPE_CHECKING:
    from collections.abc import Callable

NAME = "accelerate.utils.modeling"


def complete() -> None:
    """Replaces `get_max_memory`, now or as soon as accelerate is imported."""
    module = sys.modules.get(NAME)
    if module is None:
        sys.meta_path.insert(0, _imports.Finder(NAME, after=_complete))
        return
    native = module.get_max_memory
    _complete(module)
    for other in list(sys.modules.values()):
        # Modules that have imported the function by its name.
        if getattr(other, "__dict__", {}).get("get_max_memory") is native:
            other.get_max_memory = module.get_max_memory  # type: ignore[attr-defined]


def _complete(module: Any) -> None:
    module.get_max_memory = _counting_once(module.get_max_memory)


def _counting_once(native: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(native)
    def get_max_memory(max_memory: Any = None) -> Any:
        found = native(max_memory)
        cards = [key for key in found if isinstance(key, int)]
        # Limits that a program sets itself are kept as they are.
        if max_memory is not None or not cards or "cpu" not in found:
            return found
        shared = _library.memory_info(cards[0], _library.SHARED)[0]
        for card in cards:
            found[card] = _library.memory_info(card, _library.DEDICATED)[0] + shared // len(cards)
        found["cpu"] = max(0, found["cpu"] - shared)
        return found

    return get_max_memory
