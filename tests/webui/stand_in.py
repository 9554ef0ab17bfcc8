"""Help for the stand-ins: modules with a WebUI's names, and files run like by a WebUI."""

from __future__ import annotations

import importlib.util
import sys
import types
from pathlib import Path
from typing import Any


def module(name: str, **contents: Any) -> types.ModuleType:
    """Creates a module under the name that extensions of a WebUI import."""
    made = types.ModuleType(name)
    made.__dict__.update(contents)
    sys.modules[name] = made
    parent, _, own = name.rpartition(".")
    if parent:
        setattr(sys.modules[parent], own, made)
    return made


def load(path: Path, name: str) -> types.ModuleType:
    """Runs a file like the WebUIs: as a module that cannot be imported."""
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec and spec.loader
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found
