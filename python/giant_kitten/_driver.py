"""The display driver, as NVIDIA's management library describes it."""

from __future__ import annotations

import ctypes
import sys

# LOAD_LIBRARY_SEARCH_SYSTEM32: by its bare name, a file in the program's folder could be loaded.
_OF_THE_SYSTEM = 0x800


def version() -> str | None:
    """The driver's version, as in "566.36"; None where it cannot be found out."""
    try:
        if sys.platform == "win32":
            nvml = ctypes.CDLL("nvml.dll", winmode=_OF_THE_SYSTEM)
        else:
            nvml = ctypes.CDLL("libnvidia-ml.so.1")
        text = ctypes.create_string_buffer(80)
        if nvml.nvmlInit_v2() != 0:
            return None
        found = nvml.nvmlSystemGetDriverVersion(text, len(text)) == 0
        nvml.nvmlShutdown()
    except (OSError, AttributeError):
        return None
    return text.value.decode("ascii", "replace") if found else None
