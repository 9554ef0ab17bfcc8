"""Starts a program in this process as Python would, with giant-kitten as its allocator."""

from __future__ import annotations

import os
import runpy
import sys
from dataclasses import dataclass

from . import _library, _variable

# The endings of programs that start a Python, and are none.
_OF_SHELLS = (".bat", ".cmd", ".exe", ".ps1", ".sh")


def _is_there(module: str) -> bool:
    """Whether a module can be imported, by what `-m` looks for. Nothing is imported."""
    from importlib.machinery import PathFinder
    from importlib.util import find_spec

    return bool(PathFinder.find_spec(module, [os.getcwd()])) or find_spec(module) is not None


@dataclass(frozen=True)
class Program:
    """A script, or a module as `python -m` starts it, with its arguments."""

    name: str
    arguments: tuple[str, ...]
    is_module: bool

    def install(self, options: str | None) -> None:
        """Installs the allocator for it and, by the variable, for every Python that it starts.

        Raises `giant_kitten.Error` if that is impossible.
        """
        from ._torch.install import install

        if not self.is_module and self.name.lower().endswith(_OF_SHELLS):
            raise _library.Error(
                f"{self.name} is not a program in Python: set {_variable.NAME}=1 and start it as usual. For a WebUI, "
                "`python -m giant_kitten webui install FOLDER` is enough"
            )
        if not self.is_module and not os.path.exists(self.name):
            raise _library.Error(f"there is no script {self.name}: give its path, or a module's name after -m")
        if self.is_module and not _is_there(self.name.partition(".")[0]):
            raise _library.Error(f"there is no module {self.name}: is it installed in {sys.executable}?")
        sys.argv = [self.name, *self.arguments]
        install(options)
        if options or not _variable.wanted():
            os.environ[_variable.NAME] = options or _variable.ON[0]

    def run(self) -> None:
        """Runs it. Its exit, its exceptions and its signals are those of this process."""
        if self.is_module:
            sys.path[0] = os.getcwd()
            runpy.run_module(self.name, run_name="__main__", alter_sys=True)
        else:
            sys.path[0] = os.path.dirname(os.path.abspath(self.name))
            runpy.run_path(self.name, run_name="__main__")
