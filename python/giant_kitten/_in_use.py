"""Says once where giant-kitten is called and is not PyTorch's allocator: calls do nothing then."""

from __future__ import annotations

import logging
import os

from . import _library, _status, _variable

_said = False


def notice(device: int) -> None:
    """Logs why calls about a device do nothing, if they do: once in a process.

    Nothing is said where the environment variable leaves giant-kitten out, which is somebody's
    choice, nor where the allocator was installed by PyTorch's own functions.
    """
    global _said
    if _said or (_variable.NAME in os.environ and not _variable.wanted()):
        return
    found = problem(device)
    if found:
        _said = True
        logging.getLogger("giant_kitten").warning("this has no effect: %s", found)


def problem(device: int) -> str | None:
    """Why giant-kitten has allocated nothing on a device, with the remedy; None if it serves it."""
    found = _status.problem()
    try:
        return None if found is None or _library.statistics(device)["allocated_peak"] else found
    except _library.Error:
        return found
