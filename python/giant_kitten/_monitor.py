"""The monitor: a page on this machine alone that shows the memory map of PyTorch programs while they run.

A program serves its own state, on 127.0.0.1 and under a token that nobody can guess, from a thread of its own. It notes
where in a folder that only its user can read; `watch` finds it there and shows all programs on one page.
"""

from __future__ import annotations

import atexit
import json
import os
import secrets
import sys
import tempfile
import threading
import urllib.error
import urllib.request
from html import escape
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import _library

if TYPE_CHECKING:
    from collections.abc import Callable

VARIABLE = "GIANT_KITTEN_MONITOR"

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<meta name="color-scheme" content="light dark"><link rel="icon" href="data:,"><title>giant-kitten</title>
<style>
  body {{ margin: 0 auto; padding: 12px; max-width: 760px; font: 14px/1.45 system-ui, sans-serif }}
  body {{ background: #f6f7f9; color: #1b1f24 }}
  h1 {{ font-size: 15px; margin: 6px 0 8px; overflow-wrap: anywhere }}
  @media (prefers-color-scheme: dark) {{ body {{ background: #0f1114; color: #e8eaed }} }}
</style></head><body>
<main>{maps}</main>
<script src="map.js"></script>
</body></html>
"""

NOTHING = (
    "<h1>No program to show</h1><p>Start one with the environment variable GIANT_KITTEN_MONITOR=1 besides "
    "GIANT_KITTEN=1, or as <code>python -m giant_kitten monitor PROGRAM</code>, and load this page again.</p>"
)


def _map(title: str, source: str) -> str:
    return f'<h1>{escape(title)}</h1><giant-kitten-map src="{escape(source)}"></giant-kitten-map>'


class _Handler(BaseHTTPRequestHandler):
    """Answers under the token, and nobody who asks by another name than this machine's own."""

    server: _Server
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        port = self.server.server_address[1]
        own = self.headers.get("Host") in (f"127.0.0.1:{port}", f"localhost:{port}")
        token, _, path = self.path.partition("?")[0].lstrip("/").partition("/")
        if not own or not secrets.compare_digest(token.encode(), self.server.token.encode()):
            self._answer(HTTPStatus.NOT_FOUND, "text/plain", b"not here\n")
            return
        if path == "map.js":
            self._answer(HTTPStatus.OK, "text/javascript", Path(__file__).with_name("map.js").read_bytes())
            return
        try:
            found = self.server.find(path)
        except Exception as why:
            # Whatever it is, the page says it: a thread that serves has nobody else to tell.
            found = ("application/json", json.dumps({"problem": str(why), "devices": []}))
        if found is None:
            self._answer(HTTPStatus.NOT_FOUND, "text/plain", b"not here\n")
        else:
            self._answer(HTTPStatus.OK, found[0], found[1].encode())

    def _answer(self, status: HTTPStatus, kind: str, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("Referrer-Policy", "no-referrer")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header(
            "Content-Security-Policy",
            "default-src 'none'; script-src 'self'; style-src 'unsafe-inline'; connect-src 'self'; img-src data:",
        )
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Says nothing: a page that asks every second would fill the program's output."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, port: int, find: Callable[[str], tuple[str, str] | None]) -> None:
        self.token = secrets.token_urlsafe(24)
        self.find = find
        try:
            super().__init__(("127.0.0.1", port), _Handler)
        except (OSError, OverflowError) as why:
            raise _library.Error(
                f"the monitor cannot listen on port {port} of 127.0.0.1 ({why}): leave the port out, and a free one is "
                "taken"
            ) from why

    def handle_error(self, request: Any, client_address: Any) -> None:
        # A page that is closed in the middle of an answer is nobody's fault, and no traceback in somebody's program.
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/{self.token}/"


_served: _Server | None = None


def monitor(port: int = 0) -> str:
    """Serves this program's memory map, on 127.0.0.1 alone, and returns the page's address with its token.

    `port` is the port to listen on, or 0 for one that is free. A second call returns the same address.
    """
    global _served
    if _served is None:
        _served = _Server(port, _own)
        threading.Thread(target=_served.serve_forever, name="giant-kitten-monitor", daemon=True).start()
        _note(_served.url)
    return _served.url


def _own(path: str) -> tuple[str, str] | None:
    if path == "":
        return "text/html", PAGE.format(maps=_map(_title(), "state"))
    if path == "state":
        from .webui.session import state

        return "application/json", json.dumps(state())
    return None


def _title() -> str:
    program = os.path.basename(sys.argv[0]) if sys.argv and sys.argv[0] else "python"
    return f"{program} (process {os.getpid()})"


def from_environment() -> None:
    """Serves where the environment variable GIANT_KITTEN_MONITOR asks for it, and says where on stderr."""
    wanted = os.environ.get(VARIABLE, "")
    if wanted in ("", "0", "off", "false"):
        return
    try:
        port = 0 if wanted in ("1", "on", "true") else int(wanted)
        print(f"giant-kitten: the memory map is at {monitor(port)}", file=sys.stderr)
    except ValueError:
        print(f"giant-kitten: {VARIABLE}={wanted} is no port: 1 takes a free one", file=sys.stderr)
    except _library.Error as why:
        print(f"giant-kitten: {why}", file=sys.stderr)


# ---- Finding programs ----------------------------------------------------------------------------------------------


def _folder() -> Path:
    """Where this user's programs note their addresses; nobody else may look, for the tokens are in there."""
    base = os.environ.get("XDG_RUNTIME_DIR")
    if base and os.path.isdir(base):
        folder = Path(base) / "giant-kitten"
    else:
        user = os.getuid() if hasattr(os, "getuid") else os.environ.get("USERNAME", "user")
        folder = Path(tempfile.gettempdir()) / f"giant-kitten-{user}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if hasattr(os, "getuid"):
        found = folder.stat()
        if found.st_uid != os.getuid() or found.st_mode & 0o077:
            raise _library.Error(f"{folder} is open to others: remove it")
    return folder


def _note(url: str) -> None:
    try:
        file = _folder() / f"{os.getpid()}.json"
        text = json.dumps({"url": url, "title": _title()})
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as opened:
            opened.write(text)
    except (OSError, _library.Error):
        # The page works without; only `watch` does not find it.
        return
    owner = os.getpid()
    atexit.register(lambda: file.unlink(missing_ok=True) if os.getpid() == owner else None)


def programs() -> dict[str, dict[str, str]]:
    """The programs that serve their state now, by process."""
    found = {}
    for file in sorted(_folder().glob("*.json")):
        try:
            noted = json.loads(file.read_text())
            with urllib.request.urlopen(noted["url"] + "state", timeout=10):
                found[file.stem] = noted
        except (OSError, ValueError, KeyError):
            # It ended without a word, or another process listens there now.
            file.unlink(missing_ok=True)
    return found


def watch(port: int = 0) -> _Server:
    """A server of one page for all programs of this user that serve their state."""
    known: dict[str, dict[str, str]] = {}

    def find(path: str) -> tuple[str, str] | None:
        if path == "":
            known.clear()
            known.update(programs())
            maps = "".join(_map(noted["title"], f"{process}/state") for process, noted in known.items())
            return "text/html", PAGE.format(maps=maps or NOTHING)
        process, _, rest = path.partition("/")
        if rest == "state" and process in known:
            try:
                with urllib.request.urlopen(known[process]["url"] + "state", timeout=10) as answer:
                    return "application/json", answer.read().decode()
            except OSError:
                return "application/json", json.dumps({"problem": "This program has ended.", "devices": []})
        return None

    return _Server(port, find)
