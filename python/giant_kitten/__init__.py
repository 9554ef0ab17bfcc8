"""giant-kitten: a PyTorch CUDA allocator with two tiers of GPU memory.

Dedicated memory is the card's own; shared memory is host memory that is mapped for the GPU. A
program only needs to call `install()` before CUDA starts, or to be started with the environment
variable `GIANT_KITTEN=1`. All other functions are for programs that want to influence where their
tensors live.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ._follow import Following as Following
    from ._follow import follow as follow
    from ._follow import safe_point as safe_point
    from ._follow import working as working
    from ._follow import written as written
    from ._library import Error as Error
    from ._library import library_path as library_path
    from ._monitor.own import monitor as monitor
    from ._placement import activate as activate
    from ._placement import dedicated as dedicated
    from ._placement import disable as disable
    from ._placement import free_vram as free_vram
    from ._placement import mark as mark
    from ._placement import residency as residency
    from ._placement import shared as shared
    from ._placement import tier as tier
    from ._placement import to_dedicated as to_dedicated
    from ._placement import to_shared as to_shared
    from ._placement import unpin as unpin
    from ._record.recording import Recording as Recording
    from ._record.recording import record as record
    from ._report import memory_map as memory_map
    from ._report import stats as stats
    from ._report import summary as summary
    from ._status import is_installed as is_installed
    from ._torch.install import install as install

_HOMES = {
    "Following": "_follow",
    "follow": "_follow",
    "safe_point": "_follow",
    "working": "_follow",
    "written": "_follow",
    "install": "_torch.install",
    "is_installed": "_status",
    "Error": "_library",
    "library_path": "_library",
    "monitor": "_monitor.own",
    "activate": "_placement",
    "dedicated": "_placement",
    "disable": "_placement",
    "free_vram": "_placement",
    "mark": "_placement",
    "residency": "_placement",
    "shared": "_placement",
    "tier": "_placement",
    "to_dedicated": "_placement",
    "to_shared": "_placement",
    "unpin": "_placement",
    "Recording": "_record.recording",
    "record": "_record.recording",
    "memory_map": "_report",
    "stats": "_report",
    "summary": "_report",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    """Imports a function when it is first used, so that importing the package costs nothing."""
    if name == "__version__":
        from ._library import version

        return version()
    if name not in _HOMES:
        raise AttributeError(f"module 'giant_kitten' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return __all__


if "torch" in sys.modules:
    from . import _status

    if _status.variable_ignored():
        print(f"giant-kitten is not in use: {_status.variable_ignored()}", file=sys.stderr)
