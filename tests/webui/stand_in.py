"""What the host pages stand in for a WebUI by: modules of its names, and files run as it runs them."""

from __future__ import annotations

import importlib.util
import sys
import types
from pathlib import Path
from typing import Any


def module(name: str, **contents: Any) -> types.ModuleType:
    """A module of a WebUI's, by the name that its extensions import."""
    made = types.ModuleType(name)
    made.__dict__.update(contents)
    sys.modules[name] = made
    parent, _, own = name.rpartition(".")
    if parent:
        setattr(sys.modules[parent], own, made)
    return made


def load(path: Path, name: str) -> types.ModuleType:
    """Runs a file as the WebUIs do: as a module that nobody can import."""
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec and spec.loader
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found
