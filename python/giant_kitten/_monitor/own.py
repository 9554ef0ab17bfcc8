"""The page of one program: its own memory map while it runs."""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import sys
import threading

from .. import _library, _state, _variable
from . import metrics, notes, page
from .recent import Recent
from .server import LOCAL, Server

VARIABLE = "GIANT_KITTEN_MONITOR"

_served: Server | None = None
_recent = Recent()


def monitor(port: int = 0, host: str = LOCAL) -> str:
    """Serves this program's memory map on a page; returns the page's address with its token.

    `port` is the port to listen on, or 0 for a free one. `host` is the address of this machine to
    listen on: by default only this machine can see the page, and with "0.0.0.0" every machine can
    that reaches this one and has the token. A second call returns the same address.
    """
    global _served
    if _served is None:
        _served = Server(port, _find, host)
        threading.Thread(target=_served.serve_forever, name="giant-kitten-monitor", daemon=True).start()
        threading.Thread(target=_recent.run, name="giant-kitten-recent", daemon=True).start()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=_forked)
        if _served.local_url is not None:
            _note(_served.local_url)
    return _served.url


def _forked() -> None:
    """Closes the socket in a forked child.

    The child has no thread that serves, but would keep the port if it outlived the program.
    """
    global _served
    if _served is not None:
        _served.socket.close()
        _served = None


def _find(path: str) -> tuple[str, str] | None:
    if path == "":
        return "text/html", page.maps({"": _title()})
    if path == "state":
        return "application/json", json.dumps(_state.state())
    if path == "history":
        return "application/json", json.dumps(_recent.state())
    if path == "metrics":
        return metrics.CONTENT_TYPE, metrics.text([(_title(), _state.state())])
    return None


def _title() -> str:
    program = os.path.basename(sys.argv[0]) if sys.argv and sys.argv[0] else "python"
    return f"{program} (process {os.getpid()})"


def from_environment() -> None:
    """Starts the monitor if GIANT_KITTEN_MONITOR asks for it, and prints its address to stderr."""
    wanted = _variable.plain(os.environ.get(VARIABLE, ""))
    if _variable.is_off(wanted):
        return
    host, _, port = ("", "", "0") if wanted in _variable.ON else wanted.rpartition(":")
    try:
        address = monitor(int(port), host.strip("[]") or LOCAL)
        print(f"giant-kitten: the memory map is at {address}", file=sys.stderr)
    except ValueError:
        print(f"giant-kitten: {VARIABLE}={wanted} is no port and no ADDRESS:PORT: 1 takes a free port", file=sys.stderr)
    except _library.Error as why:
        print(f"giant-kitten: {why}", file=sys.stderr)


def _note(url: str) -> None:
    """Notes the address for `watch`, and removes the note at the end of the program."""
    note = notes.own(_title(), url)
    try:
        with notes.Folder() as folder:
            folder.write(note)
    except (OSError, _library.Error):
        # The page works without a note; only `watch` does not find it.
        return

    def forget() -> None:
        if os.getpid() == note.process:
            with contextlib.suppress(OSError, _library.Error), notes.Folder() as folder:
                folder.remove(note)

    atexit.register(forget)
