"""What is asked of the routes over HTTP, before it is an action: who may ask, and what a body says.

A page of anybody's, open in the user's browser, can send a server on the user's machine what a form can send. It cannot
send JSON by its content type, unless the server allows it to by CORS, as WebUIs do where their user has told them to.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from .session import shown

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

# Bytes of a body, and digits of a whole number in it, at most.
LARGEST, _DIGITS = 1 << 16, 300


class Unwanted(Exception):
    """What was asked is none of what the routes take: the status and the sentence to answer."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


async def body_of(
    headers: Mapping[str, str], chunks: AsyncIterator[bytes], trusted: Callable[[str], bool] = lambda origin: False
) -> Any:
    """The JSON that is asked with. `headers` finds names in any case; `trusted` says of which origins pages may ask.

    Raises `Unwanted`.
    """
    _check(headers, trusted)
    received = b""
    async for chunk in chunks:
        received += chunk
        if len(received) > LARGEST:
            raise Unwanted(413, f"That is too much: an action takes {LARGEST} bytes of JSON at most.")
    return _parse(received)


def _check(headers: Mapping[str, str], trusted: Callable[[str], bool]) -> None:
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if not (kind == "application/json" or (kind.startswith("application/") and kind.endswith("+json"))):
        named = f"not {shown(kind)}" if kind else "and none is named"
        raise Unwanted(415, f"JSON is wanted, with “Content-Type: application/json”, {named}.")
    origin, site = headers.get("origin"), headers.get("sec-fetch-site")
    if site is not None:
        # The browser's own word, also where a proxy has changed the host's name.
        own = site.strip().lower() in ("same-origin", "none")
    else:
        own = origin is None or _host(origin) == headers.get("host", "").strip().lower()
    if not own and not (origin and trusted(origin)):
        raise Unwanted(403, f"A page of {shown(origin or site)} may not ask this: use the WebUI's own.")


def _host(origin: str) -> str:
    """What a browser sends as Host to the server that a page of this origin came from."""
    try:
        parts = urlsplit(origin.strip().lower())
        port = {"http": 80, "https": 443}.get(parts.scheme)
        return parts.netloc.removesuffix(f":{port}") if parts.port == port else parts.netloc
    except ValueError:
        return ""


def _parse(received: bytes) -> Any:
    try:
        return json.loads(
            received.decode(), parse_int=_whole, parse_constant=_constant, object_pairs_hook=_without_doubles
        )
    except (ValueError, RecursionError):
        raise Unwanted(422, 'A JSON object is wanted, as in {"action": "activate", "reserve": 1.6}.') from None


def _whole(text: str) -> int:
    if len(text) > _DIGITS:
        raise Unwanted(422, f"{text[:20]}… is no number of anything here: it has {len(text)} digits.")
    return int(text)


def _constant(text: str) -> Any:
    raise Unwanted(422, f"{text} is no number: write one as in 1.6.")


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise Unwanted(422, f"The field {shown(twice)} is given more than once.")
    return found
