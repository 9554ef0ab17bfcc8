"""The pages name what the code has."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
VARIABLE = re.compile(r"\bGIANT_KITTEN(?:_[A-Z]+)*\b")
# Names that are no variables: constants of the C header's guard.
OTHER = {"GIANT_KITTEN_H"}


def test_one_table_has_every_environment_variable() -> None:
    files = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    used: set[str] = set()
    for name in files.rstrip("\0").split("\0"):
        if name.endswith((".rs", ".py", ".pth", ".js", ".h")) or name.startswith(("scripts/", "rig/", ".ci/")):
            used |= set(VARIABLE.findall((ROOT / name).read_text(encoding="utf-8", errors="replace")))
    page = (ROOT / "docs" / "environment.md").read_text(encoding="utf-8")
    rows = "".join(line for line in page.splitlines() if line.startswith("| `"))
    assert len(used) > 10 and set(VARIABLE.findall(rows)) == used - OTHER
