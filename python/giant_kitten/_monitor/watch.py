"""One page for all programs of this user that serve their state."""

from __future__ import annotations

import http.client
import io
import json
import socket
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit

from . import metrics, notes, page
from .server import LOCAL, Server, receive

# Seconds that a program has to answer, and maximum bytes of its answer.
ANSWER, LARGEST = 5.0, 16 << 20


def watch(port: int = 0, host: str = LOCAL) -> Server:
    """The server of the page; `serve_forever` runs it."""

    def find(path: str) -> tuple[str, str] | None:
        with notes.Folder() as folder:
            known = {str(note.process): note for note in folder.notes()}
        if path == "":
            return "text/html", page.maps({f"{process}/": note.title for process, note in known.items()})
        if path == "metrics":
            states = [(note.title, json.loads(_told_by(note))) for note in known.values()]
            return metrics.CONTENT_TYPE, metrics.text(states)
        process, _, rest = path.partition("/")
        if rest not in ("state", "history") or not process.isdigit():
            return None
        return "application/json", _told_by(known.get(process), rest)

    return Server(port, find, host)


def _told_by(note: notes.Note | None, what: str = "state") -> str:
    """The state or the history that a program reports, or the reason why it does not."""
    if note is None:
        return json.dumps({"problem": "This program has ended.", "devices": []})
    try:
        text = _ask(note, what)
        if isinstance(json.loads(text)["devices"], list):
            return text
        why: Exception = ValueError(f"its answer is not a {what}")
    except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError, RecursionError) as problem:
        why = problem
    if note.is_gone():
        return _told_by(None)
    return json.dumps({"problem": f"This program does not answer ({why}): it may be busy.", "devices": []})


class _Received:
    """A complete answer in the form of a socket, for http.client."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def makefile(self, *_: Any) -> io.BytesIO:
        return io.BytesIO(self._content)


def _ask(note: notes.Note, what: str) -> str:
    """Asks a program for its state or history: no proxies, no redirects, and a limit of time."""
    with socket.create_connection(("127.0.0.1", note.port), timeout=ANSWER) as connection:
        head = f"GET {urlsplit(note.url).path}{what} HTTP/1.1\r\nHost: 127.0.0.1:{note.port}\r\n\r\n"
        connection.sendall(head.encode())
        received = receive(connection, LARGEST, ANSWER, None)
    answer = http.client.HTTPResponse(_Received(received))  # type: ignore[arg-type]
    answer.begin()
    if answer.status != HTTPStatus.OK:
        raise ValueError(f"status {answer.status}")
    return answer.read().decode()
