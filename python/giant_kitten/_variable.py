"""The environment variable GIANT_KITTEN and the meaning of its values.

The library's parser of options has the same table. `giant_kitten.pth` has it too, as
`off_in_source` writes it, because that file runs before the package may be imported.
"""

from __future__ import annotations

import os

NAME = "GIANT_KITTEN"
# In any case, with spaces around them. Every other text is a list of options: docs/options.md.
ON = ("1", "true", "on", "yes", "auto")
OFF = ("", "0", "false", "off", "no")
# Around a value they are no part of it. Windows' `set` and files of variables leave quotation
# marks.
BLANKS = " \t\r\n\"'"


def plain(text: str) -> str:
    """A value in the form that the table has."""
    return text.strip(BLANKS).lower()


def is_off(text: str) -> bool:
    """Whether a value switches off what its variable is about."""
    return plain(text) in OFF


def wanted(otherwise: str = "") -> bool:
    """Whether the variable asks for the allocator now.

    `otherwise` is the value that counts if the variable is not set.
    """
    return not is_off(os.environ.get(NAME, otherwise))


def off_in_source(otherwise: str = "") -> str:
    """The opposite of `wanted` as a Python expression that needs `os` alone.

    It is for .pth files, which run before this module may be imported.
    """
    import json

    off = ", ".join(map(json.dumps, OFF))
    return f'os.environ.get("{NAME}", "{otherwise}").strip({json.dumps(BLANKS)}).lower() in ({off})'


def meaning() -> str:
    """A human-readable sentence about the variable's value."""
    text = os.environ.get(NAME)
    if text is None:
        return f"{NAME} is not set: programs must call install()"
    if not wanted():
        return f"{NAME}={text} leaves giant-kitten out: programs must call install()"
    return f"{NAME}={text}" + ("" if plain(text) in ON else ": options")
