"""The HTTP server of the monitor, on 127.0.0.1 and under a token.

It runs inside other people's programs, so it takes a limited number of connections, bytes and
seconds.
"""

from __future__ import annotations

import errno
import io
import json
import os
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
    """Answers one request per connection, if it has the token and a Host of this machine."""

    server: Server
    protocol_version = "HTTP/1.1"

    def setup(self) -> None:
        super().setup()
        # The request is read here as a whole. Read line by line, it would get the time limit anew
        # for each byte.
        self.rfile = io.BytesIO(receive(self.connection, _LONGEST, PATIENCE, b"\r\n\r\n"))

    def do_GET(self) -> None:
        port = self.server.server_address[1]
        own = self.headers.get_all("Host") in ([f"127.0.0.1:{port}"], [f"localhost:{port}"])
        token, _, path = self.path.partition("?")[0].lstrip("/").partition("/")
        if not own or not secrets.compare_digest(token.encode(), self.server.token.encode()):
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

    def __init__(self, port: int, find: Callable[[str], tuple[str, str] | None]) -> None:
        """`find` returns the content type and the text for a path, or None if there is none."""
        self.token = secrets.token_urlsafe(24)
        self.find = find
        self._room = threading.BoundedSemaphore(MOST)
        try:
            super().__init__(("127.0.0.1", port), _Handler)
        except (OSError, OverflowError) as why:
            raise _library.Error(
                f"the monitor cannot listen on port {port} of 127.0.0.1 ({why}): leave out the port to use a free one"
            ) from why

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
        return f"http://127.0.0.1:{self.server_address[1]}/{self.token}/"
