"""Whether giant-kitten is PyTorch's allocator in this process and, if it is not, the reason.

`_torch/install.py` writes this, and every other module may read it. Nothing here imports PyTorch.
"""

from __future__ import annotations

import os
import sys

from . import _variable

_installed = False
_failure: str | None = None

TOO_LATE = (
    "giant-kitten came too late, CUDA had started with PyTorch's own allocator: set the environment variable "
    "GIANT_KITTEN=1, or run `python -m giant_kitten webui install FOLDER` with the WebUI's folder, and start it again."
)


def is_installed() -> bool:
    """Whether giant-kitten is PyTorch's CUDA allocator in this process."""
    return _installed


def set_installed() -> None:
    """Notes that PyTorch has our allocator now, for the rest of the process."""
    global _installed
    _installed = True


def failure() -> str | None:
    """The error of the last `install`, or None if it succeeded or was never called."""
    return _failure


def set_failure(error: str | None) -> None:
    """Notes how the last `install` ended."""
    global _failure
    _failure = error


def variable_ignored() -> str | None:
    """Why the allocator is not in use although the environment variable asks for it.

    None if it is in use, if the variable does not ask for it, or as long as torch is not imported.
    """
    if _installed or not _variable.wanted() or "torch" not in sys.modules:
        return None
    return _failure or (
        f"{_variable.NAME}={os.environ[_variable.NAME]} is set, but torch was imported without it: set the variable "
        "before torch is imported, or call giant_kitten.install() before anything uses CUDA"
    )


def problem() -> str | None:
    """Why the allocator is not in use, in one sentence with the remedy; None if it is."""
    if _installed:
        return None
    if _variable.NAME in os.environ and not _variable.wanted():
        return "giant-kitten is switched off by the environment variable GIANT_KITTEN."
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        return TOO_LATE
    if torch is not None and not torch.cuda.is_available():
        return "PyTorch finds no GPU here, so there is nothing to allocate: `python -m giant_kitten doctor` says more."
    return (
        _failure
        or variable_ignored()
        or "giant-kitten is not in use: set the environment variable GIANT_KITTEN=1 and start again."
    )
