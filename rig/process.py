"""Where the project lies, and commands that must succeed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# The C parts of the fake libraries.
SOURCES = ROOT / "crates" / "fake-cuda" / "c"


def pytest(tests: Path, arguments: list[str]) -> list[str]:
    """The arguments of Python that run a folder of tests, with a user's arguments for pytest.

    Unless these name a test, all tests of the folder run, on all cores.
    """
    command = ["-m", "pytest", "-p", "no:cacheprovider", "--rootdir", str(tests)]
    if any(Path(argument.split("::")[0]).exists() for argument in arguments):
        return [*command, *arguments]
    # A process has half a gigabyte.
    processes = min(len(os.sched_getaffinity(0)), 8)
    return [*command, "-n", str(processes), "--dist", "worksteal", *arguments, str(tests)]


def run(*command: str | Path) -> str:
    """Runs a command and returns its output. A command that fails ends the program."""
    words = [str(part) for part in command]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"torch-rig: {' '.join(words)}\n{done.stdout}{done.stderr}")
    return done.stdout
