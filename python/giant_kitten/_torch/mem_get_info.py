"""`torch.cuda.mem_get_info` over both tiers."""

from __future__ import annotations

import os
import warnings
from typing import Any

from .. import _accelerate, _library, _variable
from .._device import index

VARIABLE = "GIANT_KITTEN_MEM_GET_INFO"


def complete(torch: Any) -> None:
    """Replaces `mem_get_info`, unless the environment variable asks for the card alone."""
    native = torch.cuda.mem_get_info
    wanted = _variable.plain(os.environ.get(VARIABLE, "")) or "both"
    if wanted not in ("both", "dedicated"):
        warnings.warn(f'{VARIABLE}={wanted} is invalid, "both" tiers are reported: it takes both|dedicated')
    dedicated_only = wanted == "dedicated"

    def mem_get_info(device: Any = None) -> tuple[int, int]:
        """Free and total memory in bytes: of the card and of shared memory, or of the card alone.

        Programs that offload by themselves rely on it, and would use no shared memory if it
        reported the card alone. The environment variable GIANT_KITTEN_MEM_GET_INFO chooses: "both"
        (the default) or "dedicated".
        """
        if dedicated_only:
            free, total = native(device)
            return int(free), int(total)
        return _library.memory_info(index(device), _library.NO_TIER)

    if not dedicated_only:
        _accelerate.complete()
    mem_get_info.__module__ = native.__module__
    torch.cuda.mem_get_info = mem_get_info
    torch.cuda.memory.mem_get_info = mem_get_info
