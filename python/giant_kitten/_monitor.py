"""The monitor: a page on this machine alone that shows the memory map of PyTorch programs while they run.

A program serves its own state, on 127.0.0.1 and under a token that nobody can guess, from a thread of its own. It notes
where in a folder that only its user can read; `watch` finds it there and shows all programs on one page.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import http.client
import io
import json
import os
import secrets
import socket
import socketserver
import sys
import threading
import time
from html import escape
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from . import _library, _notes, _variable

if TYPE_CHECKING:
    from collections.abc import Callable

VARIABLE = "GIANT_KITTEN_MONITOR"

# How many connections are served at once: what is beyond is closed. Each has a thread and a descriptor of the program.
MOST = 16
# Seconds in which a request has to have arrived, and an answer to have gone.
PATIENCE = 5.0
# Seconds in which a program has to have answered the page of all programs, and bytes that its answer has at most.
ANSWER, LARGEST = 5.0, 16 << 20
# Bytes of a request at most: one that the server of Python's library would refuse for its length is read whole.
_LONGEST = 1 << 17

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


def _said(sentence: str) -> str:
    return PAGE.format(maps=f"<h1>{escape(sentence)}</h1>")


def _receive(connection: socket.socket, most: int, seconds: float, end: bytes | None) -> bytes:
    """What arrives until an end (or the connection's), at most so much and in so much time altogether."""
    until, received = time.monotonic() + seconds, bytearray()
    while len(received) < most and not (end and end in received):
        left = until - time.monotonic()
        if left <= 0:
            raise TimeoutError(f"nothing whole has come in {seconds:g} s")
        connection.settimeout(left)
        part = connection.recv(min(65536, most - len(received)))
        if not part:
            break
        received += part
    connection.settimeout(seconds)
    return bytes(received)


class _Handler(BaseHTTPRequestHandler):
    """Answers under the token, and nobody who asks by another name than this machine's own; once a connection."""

    server: _Server
    protocol_version = "HTTP/1.1"

    def setup(self) -> None:
        super().setup()
        # Here rather than line by line, where each byte would have its own time.
        self.rfile = io.BytesIO(_receive(self.connection, _LONGEST, PATIENCE, b"\r\n\r\n"))

    def do_GET(self) -> None:
        port = self.server.server_address[1]
        own = self.headers.get_all("Host") in ([f"127.0.0.1:{port}"], [f"localhost:{port}"])
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
            if path == "":
                found = ("text/html", _said(str(why)))
        if found is None:
            self._answer(HTTPStatus.NOT_FOUND, "text/plain", b"not here\n")
        else:
            self._answer(HTTPStatus.OK, found[0], found[1].encode("utf-8", "replace"))

    do_HEAD = do_GET

    def _answer(self, status: HTTPStatus, kind: str, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Connection", "close")
        self.send_header("Cache-Control", "no-store")
        self.send_header("Referrer-Policy", "no-referrer")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header(
            "Content-Security-Policy",
            "default-src 'none'; script-src 'self'; style-src 'unsafe-inline'; connect-src 'self'; img-src data:",
        )
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Says nothing: a page that asks every second would fill the program's output."""


class _Server(socketserver.ThreadingMixIn, socketserver.TCPServer):
    """Serves as many connections as it may at once, each for as long as one request takes."""

    daemon_threads = True
    # On Windows it would let another program listen on the same port.
    allow_reuse_address = os.name == "posix"
    # What waits here costs the program nothing, and is closed as soon as it is accepted.
    request_queue_size = 128

    def __init__(self, port: int, find: Callable[[str], tuple[str, str] | None]) -> None:
        self.token = secrets.token_urlsafe(24)
        self.find = find
        self._room = threading.BoundedSemaphore(MOST)
        try:
            super().__init__(("127.0.0.1", port), _Handler)
        except (OSError, OverflowError) as why:
            raise _library.Error(
                f"the monitor cannot listen on port {port} of 127.0.0.1 ({why}): leave the port out, and a free one is "
                "taken"
            ) from why

    def get_request(self) -> tuple[socket.socket, Any]:
        try:
            return super().get_request()
        except OSError as why:
            if why.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                # The program's descriptors are all in use: the connection goes on to wait, and so does this thread.
                time.sleep(0.5)
            raise

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._room.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:
            # There can be no more threads.
            self._room.release()
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._room.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        # A page that is closed in the middle of an answer, or says nothing, is nobody's fault, and no traceback in
        # somebody's program.
        if not isinstance(sys.exc_info()[1], OSError):
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
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=_forked)
        _note(_served.url)
    return _served.url


def _forked() -> None:
    """In a forked child there is no thread that serves. One that outlived the program would keep the port."""
    global _served
    if _served is not None:
        _served.socket.close()
        _served = None


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
    wanted = _variable.plain(os.environ.get(VARIABLE, ""))
    if wanted in _variable.OFF:
        return
    try:
        port = 0 if wanted in _variable.ON else int(wanted)
        print(f"giant-kitten: the memory map is at {monitor(port)}", file=sys.stderr)
    except ValueError:
        print(f"giant-kitten: {VARIABLE}={wanted} is no port: 1 takes a free one", file=sys.stderr)
    except _library.Error as why:
        print(f"giant-kitten: {why}", file=sys.stderr)


# ---- Finding programs ----------------------------------------------------------------------------------------------


def _note(url: str) -> None:
    note = _notes.own(_title(), url)
    try:
        with _notes.Folder() as folder:
            folder.write(note)
    except (OSError, _library.Error):
        # The page works without; only `watch` does not find it.
        return

    def forget() -> None:
        if os.getpid() == note.process:
            with contextlib.suppress(OSError, _library.Error), _notes.Folder() as folder:
                folder.remove(note)

    atexit.register(forget)


def watch(port: int = 0) -> _Server:
    """A server of one page for all programs of this user that serve their state."""

    def find(path: str) -> tuple[str, str] | None:
        with _notes.Folder() as folder:
            known = {str(note.process): note for note in folder.notes()}
        if path == "":
            maps = "".join(_map(note.title, f"{process}/state") for process, note in known.items())
            return "text/html", PAGE.format(maps=maps or NOTHING)
        process, _, rest = path.partition("/")
        if rest != "state" or not process.isdigit():
            return None
        return "application/json", _state_of(known.get(process))

    return _Server(port, find)


def _state_of(note: _notes.Note | None) -> str:
    """What a program answers, or why it does not."""
    if note is None:
        return json.dumps({"problem": "This program has ended.", "devices": []})
    try:
        text = _ask(note)
        if isinstance(json.loads(text)["devices"], list):
            return text
        why: Exception = ValueError("that is no state")
    except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError, RecursionError) as problem:
        why = problem
    if note.is_gone():
        return _state_of(None)
    return json.dumps({"problem": f"This program does not answer ({why}): it may be busy.", "devices": []})


class _Received:
    """An answer that has arrived whole, for http.client."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def makefile(self, *_: Any) -> io.BytesIO:
        return io.BytesIO(self._content)


def _ask(note: _notes.Note) -> str:
    """The state of a program, asked of it alone: no proxy, no redirect, and an end to waiting."""
    with socket.create_connection(("127.0.0.1", note.port), timeout=ANSWER) as connection:
        head = f"GET {urlsplit(note.url).path}state HTTP/1.1\r\nHost: 127.0.0.1:{note.port}\r\n\r\n"
        connection.sendall(head.encode())
        received = _receive(connection, LARGEST, ANSWER, None)
    answer = http.client.HTTPResponse(_Received(received))  # type: ignore[arg-type]
    answer.begin()
    if answer.status != HTTPStatus.OK:
        raise ValueError(f"status {answer.status}")
    return answer.read().decode()
