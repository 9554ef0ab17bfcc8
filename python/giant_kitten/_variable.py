"""The environment variable GIANT_KITTEN: what its values mean. The library's parser of options has the same table."""

from __future__ import annotations

import os
import sys

NAME = "GIANT_KITTEN"
# In any case, with spaces around them. Every other text is options: docs/options.md.
ON = ("1", "true", "on", "yes", "auto")
OFF = ("", "0", "false", "off", "no")


def plain(text: str) -> str:
    """A value as the table has it."""
    return text.strip().lower()


def wanted(otherwise: str = "") -> bool:
    """Whether the variable asks for the allocator now; `otherwise` is its value where it is not set."""
    return plain(os.environ.get(NAME, otherwise)) not in OFF


def meaning() -> str:
    """What the variable says, in words."""
    text = os.environ.get(NAME)
    if text is None:
        return f"{NAME} is not set: programs must call install()"
    if not wanted():
        return f"{NAME}={text} leaves giant-kitten out: programs must call install()"
    return f"{NAME}={text}" + ("" if plain(text) in ON else ": options")


def too_late() -> str | None:
    """Why the allocator is not in use though the variable asks for it, in a sentence; None where that is not so."""
    if not wanted() or "torch" not in sys.modules:
        return None
    install = sys.modules.get(f"{__package__}._install")
    if install is not None and install.is_installed():
        return None
    why = install.failure() if install is not None else None
    return why or (
        f"{NAME}={os.environ[NAME]} is set, and torch was imported without it: set the variable before torch is "
        "imported, or call giant_kitten.install() before anything uses CUDA"
    )
