"""The original script's name, in parameters and calls that were written for it."""

from __future__ import annotations

import functools
import sys
from typing import Any

NAME = "Giant kitten"
OLDER = ("giant kitten (v1.0)",)


def _ours(name: Any) -> Any:
    """Our script's name for one of the original's; every other name as it is."""
    return NAME if isinstance(name, str) and name.strip().lower() in OLDER else name


def accept_older_names(*_: Any) -> None:
    """Makes the API find our script by the original's name. The API is loaded with --api only."""
    api: Any = sys.modules.get("modules.api.api")
    native = getattr(api, "script_name_to_index", None)
    if native is None or hasattr(native, "giant_kittens"):
        return

    @functools.wraps(native)
    def found(name: Any, scripts: Any) -> Any:
        return native(_ours(name), scripts)

    found.giant_kittens = native  # type: ignore[attr-defined]
    api.script_name_to_index = found


def forget_older_names() -> None:
    """Undoes that."""
    api: Any = sys.modules.get("modules.api.api")
    native = getattr(getattr(api, "script_name_to_index", None), "giant_kittens", None)
    if native is not None:
        api.script_name_to_index = native


def rename_pasted(text: str, parameters: dict[str, Any]) -> None:
    """Renames the script in the parameters of a picture that are read back into the page."""
    if "Script" in parameters:
        parameters["Script"] = _ours(parameters["Script"])
