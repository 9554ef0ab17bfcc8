"""Calls that PyTorch's compiler neither traces nor compiles, whenever it is imported.

Importing it takes seconds, so nothing here does.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from .. import _imports

if TYPE_CHECKING:
    from collections.abc import Callable

_NAME = "torch._dynamo"


def _call(function: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    function(*arguments)


# Calls a function with arguments, outside any graph.
call = _call


def watch() -> None:
    """Keeps the compiler away from `call` from now on, or as soon as it is imported."""
    if _NAME in sys.modules:
        _keep_away()
    elif not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder(_NAME, after=_keep_away))


def _keep_away(_: object = None) -> None:
    import torch

    global call
    if call is _call:
        call = torch.compiler.disable(_call)


class _Finder(_imports.Finder):
    """Finds the compiler."""
