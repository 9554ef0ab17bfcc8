"""The HTTP server of the monitor, on 127.0.0.1 unless told otherwise, and under a token.

It runs inside other people's programs, so it takes a limited number of connections, bytes and
seconds.
"""

from __future__ import annotations

import errno
import io
import json
import os
import re
import secrets
import socket
import socketserver
import sys
import threading
import time
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import _library
from . import page

if TYPE_CHECKING:
    from collections.abc import Callable

# This machine alone.
LOCAL = "127.0.0.1"
# The variable with a token that stays the same from start to start, and what it may look like.
TOKEN_VARIABLE = "GIANT_KITTEN_MONITOR_TOKEN"
_TOKEN = re.compile(r"[A-Za-z0-9_-]{20,100}")
# What the Host of a request may name on this machine. The port is that of a tunnel, if there is
# one. A page elsewhere whose name leads here (DNS rebinding) sends its own name.
_OWN_NAMES = re.compile(r"(127\.0\.0\.1|localhost|\[::1\])(:\d{1,5})?")

# Connections served at once, each with a thread and a descriptor of the program. Others are closed.
MOST = 16
# Seconds for a whole request to arrive, and for an answer to be sent.
PATIENCE = 5.0
# Maximum bytes of a request. Requests that Python's own server refuses as too long are still read
# to their end.
_LONGEST = 1 << 17

_SCRIPTS = {
    "map.js": Path(__file__).parent.with_name("map.js"),
    "history.js": Path(__file__).with_name("history.js"),
}


def receive(connection: socket.socket, most: int, seconds: float, end: bytes | None) -> bytes:
    """Reads until `end` or until the connection ends, within limits of bytes and of total time."""
    until, received = time.monotonic() + seconds, bytearray()
    while len(received) < most and not (end and end in received):
        left = until - time.monotonic()
        if left <= 0:
            raise TimeoutError(f"nothing complete has arrived within {seconds:g} s")
        connection.settimeout(left)
        part = connection.recv(min(65536, most - len(received)))
        if not part:
            break
        received += part
    connection.settimeout(seconds)
    return bytes(received)


class _Handler(BaseHTTPRequestHandler):
    """Answers one request per connection, if it has the token and a Host that may ask."""

    server: Server
    protocol_version = "HTTP/1.1"

    def setup(self) -> None:
        super().setup()
        # The request is read here as a whole. Read line by line, it would get the time limit anew
        # for each byte.
        self.rfile = io.BytesIO(receive(self.connection, _LONGEST, PATIENCE, b"\r\n\r\n"))

    def do_GET(self) -> None:
        hosts = self.headers.get_all("Host") or []
        asked = len(hosts) == 1 and self.server.may_ask(hosts[0])
        token, _, path = self.path.partition("?")[0].lstrip("/").partition("/")
        if not asked or not secrets.compare_digest(token.encode(), self.server.token.encode()):
            self._answer(HTTPStatus.NOT_FOUND, "text/plain", b"not here\n")
            return
        if path in _SCRIPTS:
            self._answer(HTTPStatus.OK, "text/javascript", _SCRIPTS[path].read_bytes())
            return
        try:
            found = self.server.find(path)
        except Exception as why:
            if path == "metrics":
                # Prometheus takes every other status for figures.
                self._answer(HTTPStatus.INTERNAL_SERVER_ERROR, "text/plain", f"{why}\n".encode("utf-8", "replace"))
                return
            # The page shows the error: nobody else listens to a thread that serves.
            found = ("application/json", json.dumps({"problem": str(why), "devices": []}))
            if path == "":
                found = ("text/html", page.message(str(why)))
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
        """Logs nothing: a page that asks every second would fill the output of the program."""


class Server(socketserver.ThreadingMixIn, socketserver.TCPServer):
    """Serves a limited number of connections at once, each for one request."""

    daemon_threads = True
    # On Windows, reuse would let another program listen on the same port.
    allow_reuse_address = os.name == "posix"
    # Waiting connections cost the program nothing; each is closed as soon as it is accepted.
    request_queue_size = 128

    def __init__(self, port: int, find: Callable[[str], tuple[str, str] | None], host: str = LOCAL) -> None:
        """`find` returns the content type and the text for a path, or None if there is none."""
        self.host, self.token, self.find = host, _token(), find
        self._room = threading.BoundedSemaphore(MOST)
        if ":" in host:
            self.address_family = socket.AF_INET6
        try:
            super().__init__((host, port), _Handler)
        except (OSError, OverflowError, UnicodeError) as why:
            remedy = "leave out the port to use a free one" if host == LOCAL else "name an address of this machine"
            raise _library.Error(f"the monitor cannot listen on port {port} of {host} ({why}): {remedy}") from why

    def may_ask(self, host: str) -> bool:
        """Whether a request for `host` may be answered: one from this machine, unless told."""
        return self.host != LOCAL or _OWN_NAMES.fullmatch(host.strip().lower()) is not None

    def get_request(self) -> tuple[socket.socket, Any]:
        try:
            return super().get_request()
        except OSError as why:
            if why.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                # The program has no descriptor left. The connection waits on, and so does this
                # thread.
                time.sleep(0.5)
            raise

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._room.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:
            # No more threads can be started.
            self._room.release()
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._room.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        # A client that closes its connection early or sends nothing must not cause a traceback in
        # the output of the program.
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)

    @property
    def url(self) -> str:
        """The address of the page, for whoever may reach it."""
        name = socket.gethostname() if self._is_everywhere() else self.host
        return self._under(f"[{name}]" if ":" in name else name)

    @property
    def local_url(self) -> str | None:
        """The address of the page on 127.0.0.1; None if it listens elsewhere."""
        return self._under(LOCAL) if self.host == LOCAL or self._is_everywhere() else None

    def _is_everywhere(self) -> bool:
        return self.host in ("", "0.0.0.0")

    def _under(self, name: str) -> str:
        return f"http://{name}:{self.server_address[1]}/{self.token}/"


def _token() -> str:
    """The token that the variable gives, or one that nobody can guess."""
    given = os.environ.get(TOKEN_VARIABLE, "").strip()
    if given and not _TOKEN.fullmatch(given):
        raise _library.Error(
            f"{TOKEN_VARIABLE} must have 20 to 100 letters, digits, - and _, and nobody should guess it: "
            "`openssl rand -hex 16` makes one"
        )
    return given or secrets.token_urlsafe(24)
