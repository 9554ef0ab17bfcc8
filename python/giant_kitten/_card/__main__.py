"""Writes the page: each part runs in a process of its own, so that a crash is one answer."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from . import parts

# Options under which a part runs, where they are not the user's.
_SMALL = "dedicated:512MiB,shared:1GiB"
_TITLES = {
    "machine": ("The machine", ""),
    "exceptions": ("Exceptions in this PyTorch", "1"),
    "tiers": ("Blocks in both tiers", _SMALL),
    "copies": ("Copies of pinned memory", "0"),
    "full": ("Handles on a full card", "0"),
}
# Seconds that a part may take.
_PATIENCE = 300


def _ask(part: str, options: str) -> parts.Rows:
    environment = {**os.environ, **({"GIANT_KITTEN": options} if options else {})}
    command = [sys.executable, "-m", "giant_kitten._card", "--part", part]
    try:
        done = subprocess.run(command, env=environment, capture_output=True, timeout=_PATIENCE, check=False)
    except subprocess.TimeoutExpired:
        return [["the part", f"did not end within {_PATIENCE} seconds"]]
    printed = done.stdout.decode("utf-8", "replace").splitlines()
    try:
        return list(json.loads(printed[-1]))
    except (IndexError, ValueError):
        said = done.stderr.decode("utf-8", "replace").strip().splitlines()
        return [["the part", f"ended with status {done.returncode}: {said[-1] if said else 'it said nothing'}"]]


def page() -> str:
    """The whole page, as Markdown."""
    lines = ["# A card, asked by giant-kitten", ""]
    for part, (title, options) in _TITLES.items():
        print(f"{title} ...", file=sys.stderr, flush=True)
        lines += [f"## {title}", "", "| question | answer |", "|---|---|"]
        lines += [f"| {_cell(question)} | {_cell(answer)} |" for question, answer in _ask(part, options)]
        lines.append("")
    return "\n".join(lines)


def _cell(text: str) -> str:
    return str(text).replace("|", "\\|").replace("\n", " ")


def main(arguments: list[str]) -> int:
    """The command line. Returns the exit status."""
    if len(arguments) == 2 and arguments[0] == "--part" and arguments[1] in _TITLES:
        print(json.dumps(getattr(parts, arguments[1])()))
        return 0
    if len(arguments) != 1 or arguments[0].startswith("-"):
        print("usage: python -m giant_kitten._card PAGE.md", file=sys.stderr)
        return 2
    Path(arguments[0]).write_text(page(), encoding="utf-8")
    print(f"written to {arguments[0]}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
