"""What the environment variable GIANT_KITTEN does: installs, as soon as somebody imports torch.

The package's .pth file puts a finder of one line before the others at the start of Python. It imports this module when
torch is imported while the variable asks for it, so a program may set the variable itself until then. WebUIs import
this module at their start. It imports nothing of weight, and torch never.
"""

from __future__ import annotations

import sys

from . import _imports


def _before() -> None:
    from . import _install

    # Some programs choose another allocator right before they import torch.
    _install.strip_backend()


finder = _imports.Finder("torch", after=lambda _: _install_now(), before=_before)


def watch() -> None:
    """Waits for torch to be imported; installs at once where it was."""
    if "torch" in sys.modules:
        _install_now()
    elif finder not in sys.meta_path:
        sys.meta_path.insert(0, finder)


def _install_now() -> None:
    from . import _install

    try:
        _install.install()
    except Exception as why:
        print(f"giant-kitten is not in use: {why}", file=sys.stderr)


watch()
