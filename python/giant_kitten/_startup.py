"""Installs the allocator when torch is imported and GIANT_KITTEN asks for it.

At the start of Python, the package's .pth file puts a one-line finder before all others. That
finder imports this module when torch is imported while the variable asks for the allocator, so a
program may set the variable itself until then. WebUIs import this module when they start. It
imports nothing heavy, and never torch.
"""

from __future__ import annotations

import sys

from . import _imports


def _before() -> None:
    from ._torch import alloc_conf

    # Some programs choose another allocator right before they import torch.
    alloc_conf.strip_backend()


finder = _imports.Finder("torch", after=lambda _: _install_now(), before=_before)


def watch() -> None:
    """Waits for torch to be imported; installs at once if it has been imported already."""
    if "torch" in sys.modules:
        _install_now()
    elif finder not in sys.meta_path:
        sys.meta_path.insert(0, finder)


def _install_now() -> None:
    from ._torch import install

    try:
        install.install()
    except Exception as why:
        print(f"giant-kitten is not in use: {why}", file=sys.stderr)


watch()
