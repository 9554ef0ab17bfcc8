"""Requests over HTTP for an action: who may ask, what a body says, and what the answer is.

A page of anybody, open in the user's browser, can send a server on the user's machine everything
that a form can send. It cannot send the content type of JSON unless the server allows it by CORS,
as WebUIs do if their user has told them to.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from .actions import RETURNS, Refused, action_name, parse_action, shown

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    from .session import Session

# The maximum bytes of a body, and the maximum digits of a whole number in it.
LARGEST, _DIGITS = 1 << 16, 300

_EXAMPLE = 'Expected a JSON object, for example {"action": "activate", "reserve": 1.6}.'
_FIELDS = ("action", "reserve", "persist", "sort_reversed", "ignored_model")


class Unwanted(Exception):
    """A request that the routes do not accept: the status and the sentence to answer."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


def act_of(
    session: Session, body: Any, in_turn: Callable[[Callable[[], str]], str], *, without_model: bool = False
) -> tuple[int, dict[str, Any]]:
    """Does the action of a JSON body; returns the status and the content of the answer.

    `in_turn` calls a function between two generations. `without_model` is as in `Session.act`.
    """
    if not isinstance(body, dict) or "action" not in body:
        return 422, {"detail": _EXAMPLE}
    unknown = sorted(set(body) - set(_FIELDS))
    if unknown:
        return 422, {"detail": f"There is no field {shown(unknown[0])}: choose from {', '.join(_FIELDS)}."}
    refused: list[str] = []

    def work() -> str:
        try:
            name = action_name(body["action"], RETURNS)
            if name in RETURNS:
                # The other fields have no effect here, but must be valid all the same.
                parse_action(**{**body, "action": "activate"})
                return session.go_back(name)
            return session.act(parse_action(**body, most=session.capacity()), without_model=without_model)
        except Refused as why:
            refused.append(str(why))
            return ""

    said = in_turn(work)
    if refused:
        return 422, {"detail": refused[0]}
    return 200, {"detail": said, "state": session.state()}


async def body_of(
    headers: Mapping[str, str], chunks: AsyncIterator[bytes], trusted: Callable[[str], bool] = lambda origin: False
) -> Any:
    """The JSON body of a request. Raises `Unwanted`.

    `headers` finds names in any case; `trusted` says whether pages of an origin may ask.
    """
    _check(headers, trusted)
    received = b""
    async for chunk in chunks:
        received += chunk
        if len(received) > LARGEST:
            raise Unwanted(413, f"The body is too large: an action takes at most {LARGEST} bytes of JSON.")
    return _parse(received)


def _check(headers: Mapping[str, str], trusted: Callable[[str], bool]) -> None:
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if not (kind == "application/json" or (kind.startswith("application/") and kind.endswith("+json"))):
        named = f"not {shown(kind)}" if kind else "but the request names none"
        raise Unwanted(415, f"The body must be JSON, with “Content-Type: application/json”, {named}.")
    origin, site = headers.get("origin"), headers.get("sec-fetch-site")
    if site is not None:
        # The browser says it itself, so this also holds behind a proxy that changes the host's
        # name.
        own = site.strip().lower() in ("same-origin", "none")
    else:
        own = origin is None or _host(origin) == headers.get("host", "").strip().lower()
    if not own and not (origin and trusted(origin)):
        raise Unwanted(403, f"A page of {shown(origin or site)} may not ask this: use the WebUI's own page.")


def _host(origin: str) -> str:
    """The Host header that a browser sends to the server from which a page of this origin came."""
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
        raise Unwanted(422, _EXAMPLE) from None


def _whole(text: str) -> int:
    if len(text) > _DIGITS:
        raise Unwanted(422, f"The number {text[:20]}… is invalid: it has {len(text)} digits.")
    return int(text)


def _constant(text: str) -> Any:
    raise Unwanted(422, f"{text} is not a number: write one such as 1.6.")


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise Unwanted(422, f"The field {shown(twice)} is given more than once.")
    return found
