"""Traces of the extension in files that the WebUI writes: its settings and its last picture."""

from __future__ import annotations

import json
import re
from pathlib import Path

from . import files


def remove(webui: Path) -> list[str]:
    """Removes the traces from a WebUI's folder, and says so."""
    return _forget_settings(webui / "config.json") + _forget_note(webui / "params.txt")


def _forget_settings(file: Path) -> list[str]:
    """Removes our settings, in the format of the WebUI; does nothing to other files."""
    try:
        written = file.read_bytes()
        settings = json.loads(written.decode())
        kept = {key: value for key, value in settings.items() if not key.startswith("giant_kitten_")}
        if kept == settings:
            return []
        text = json.dumps(kept, indent=4, ensure_ascii=False).encode()
    except (OSError, ValueError, AttributeError, RecursionError):
        return []
    if b"\r\n" in written:
        text = text.replace(b"\n", b"\r\n")
    return [_replace(file, text, "its settings")]


def _forget_note(file: Path) -> list[str]:
    """Removes our note from the description of the last picture.

    The WebUI keeps that to fill its controls again.
    """
    try:
        described = file.read_bytes()
    except OSError:
        return []
    kept = re.sub(rb", Giant kitten: [^,\r\n]*", b"", described)
    return [_replace(file, kept, "its note")] if kept != described else []


def _replace(file: Path, content: bytes, what: str) -> str:
    try:
        # A link stays a link: its target is replaced.
        files.write(file.resolve(), content)
    except OSError as why:
        return f"left {what} in {file.name}, where they do nothing: it cannot be written ({files.reason(why)})"
    return f"removed {what} from {file.name}"
