"""Where the project lies, and commands that must succeed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# The C parts of the fake libraries.
SOURCES = ROOT / "crates" / "fake-cuda" / "c"


def run(*command: str | Path) -> str:
    """Runs a command and returns its output. A command that fails ends the program."""
    words = [str(part) for part in command]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"torch-rig: {' '.join(words)}\n{done.stdout}{done.stderr}")
    return done.stdout
