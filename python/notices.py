"""Writes NOTICES: the licences of the packages that are linked into the library.

python3 python/notices.py           # after a dependency has changed
python3 python/notices.py --check   # fails if NOTICES is out of date
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
FILE = ROOT / "NOTICES"
HEAD = """giant-kitten's library contains parts of the projects below, some of them only on some systems. A project
that offers several licences is used under the MIT licence. So is Rust's standard library
(https://github.com/rust-lang/rust), which the library contains too.
"""


def cargo(*arguments: str) -> str:
    """The output of a cargo command."""
    done = subprocess.run(["cargo", *arguments, "--locked"], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout


def linked() -> list[dict[str, Any]]:
    """The packages of others that are linked into the library, on any system."""
    tree = cargo(
        "tree", "-p", "giant-kitten", "-e", "normal,no-proc-macro", "--target", "all", "--prefix", "none", "-f", "{p}"
    )
    wanted = {tuple(line.split()[:2]) for line in tree.splitlines() if line}
    packages = json.loads(cargo("metadata", "--format-version", "1"))["packages"]
    found = [package for package in packages if (package["name"], f"v{package['version']}") in wanted]
    return sorted((package for package in found if package["source"]), key=lambda package: str(package["name"]))


def licences(package: dict[str, Any]) -> list[str]:
    """The texts of a package's licence: that of the MIT licence, if there is a choice."""
    folder = Path(package["manifest_path"]).parent
    files = sorted(
        file
        for file in folder.iterdir()
        if file.is_file() and re.match("licen[cs]e|copying|unlicense", file.name, re.I)
    )
    files = [file for file in files if "mit" in file.name.lower()] or files
    return ["\n".join(line.rstrip() for line in file.read_text("utf-8").strip().splitlines()) for file in files]


def notices() -> str:
    """The text of NOTICES."""
    of: dict[str, list[str]] = {}
    for package in linked():
        name = f"{package['name']} {package['version']}, {package['license']} ({package['repository']})"
        texts = licences(package) or ["Its package has no text of a licence."]
        for text in texts:
            of.setdefault(text, []).append(name)
    parts = ["\n".join([*names, "", text]) for text, names in of.items()]
    return f"\n{'-' * 80}\n\n".join([HEAD, *(f"{part}\n" for part in parts)])


def main() -> None:
    """The command line."""
    if sys.argv[1:] == ["--check"]:
        if not FILE.exists() or FILE.read_text("utf-8") != notices():
            sys.exit("NOTICES does not match Cargo.lock: run python3 python/notices.py, and commit the result")
        return
    FILE.write_text(notices(), "utf-8")


if __name__ == "__main__":
    main()
