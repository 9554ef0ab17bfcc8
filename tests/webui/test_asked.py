"""Requests to the routes: who may ask, and with which bodies."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from bad_bodies import BAD_BODIES
from giant_kitten.webui.actions import Refused, parse_action
from giant_kitten.webui.asked import LARGEST, Unwanted, act_of, body_of
from giant_kitten.webui.session import Host, Session

JSON = {"content-type": "application/json", "host": "localhost:7860"}


def awaited(work: Coroutine[Any, Any, Any]) -> Any:
    """The result of a coroutine, run in another thread.

    The tests in Chromium have an event loop in this one.
    """
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, work).result()


def body(headers: dict[str, str], *chunks: bytes, trusted: str = "") -> Any:
    async def arriving() -> AsyncIterator[bytes]:
        for chunk in chunks:
            yield chunk

    return awaited(body_of(headers, arriving(), lambda origin: origin == trusted))


def refused(headers: dict[str, str], *chunks: bytes, trusted: str = "") -> tuple[int, str]:
    with pytest.raises(Unwanted) as raised:
        body(headers, *chunks, trusted=trusted)
    return raised.value.status, str(raised.value)


@pytest.mark.parametrize("kind", ["application/json", "Application/JSON; charset=utf-8", "application/problem+json"])
def test_json_by_its_content_type_is_taken(kind: str) -> None:
    assert body({"content-type": kind}, b'{"action": ', b'"disable"}') == {"action": "disable"}


@pytest.mark.parametrize(
    "kind",
    ["", "text/plain", "text/plain; x=application/json", "application/x-www-form-urlencoded", "multipart/form-data",
     "application/jsonp", "text/json", "json", "application/octet-stream"],
)  # fmt: skip
def test_content_types_of_forms_are_refused(kind: str) -> None:
    status, said = refused({"content-type": kind} if kind else {}, b'{"action": "disable"}')
    assert status == 415 and "Content-Type: application/json" in said and said.endswith(".")


@pytest.mark.parametrize(
    ("more", "may"),
    [
        ({}, True),
        ({"origin": "http://localhost:7860"}, True),
        ({"origin": "https://LOCALHOST:7860"}, True),
        ({"origin": "http://evil.example"}, False),
        ({"origin": "http://localhost:7861"}, False),
        ({"origin": "http://localhost"}, False),
        ({"origin": "http://localhost:7860.evil.example"}, False),
        ({"origin": "null"}, False),
        ({"origin": ""}, False),
        ({"origin": "http://[::1"}, False),
        ({"sec-fetch-site": "same-origin"}, True),
        ({"sec-fetch-site": "none"}, True),
        ({"sec-fetch-site": "cross-site"}, False),
        ({"sec-fetch-site": "same-site"}, False),
        ({"sec-fetch-site": "same-origin", "origin": "https://behind.a.proxy"}, True),
        ({"sec-fetch-site": "cross-site", "origin": "http://localhost:7860"}, False),
    ],
)
def test_foreign_pages_may_not_ask(more: dict[str, str], may: bool) -> None:
    if may:
        assert body({**JSON, **more}, b"{}") == {}
    else:
        status, said = refused({**JSON, **more}, b"{}")
        assert status == 403 and "may not ask" in said


def test_hosts_without_a_port_are_those_of_the_schemes() -> None:
    for origin in ("http://a.example", "http://a.example:80", "https://a.example:443"):
        assert body({**JSON, "host": "a.example", "origin": origin}, b"{}") == {}
    assert refused({**JSON, "host": "a.example", "origin": "http://a.example:443"}, b"{}")[0] == 403


def test_origins_that_the_user_trusts_may_ask() -> None:
    headers = {**JSON, "origin": "http://trusted.example", "sec-fetch-site": "cross-site"}
    assert body(headers, b"{}", trusted="http://trusted.example") == {}
    assert refused({**headers, "content-type": "text/plain"}, b"{}", trusted="http://trusted.example")[0] == 415


def test_a_body_has_an_end() -> None:
    most = b'{"action": "' + b"x" * (LARGEST - 14) + b'"}'
    assert len(most) == LARGEST and body(JSON, most)["action"].startswith("x")
    assert refused(JSON, most, b" ")[0] == 413
    taken = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal taken
        while True:
            taken += 1000
            yield b" " * 1000

    with pytest.raises(Unwanted):
        awaited(body_of(JSON, endless()))
    assert taken <= LARGEST + 1000


@pytest.fixture
def session(monkeypatch: pytest.MonkeyPatch) -> Session:
    """A session that believes in an allocator and does nothing."""
    made = Session(Host("test"))
    monkeypatch.setattr(made, "problem", lambda: None)
    monkeypatch.setattr(made, "capacity", lambda: 8 << 30)
    monkeypatch.setattr(made, "_act", lambda wanted, without_model: "done")
    monkeypatch.setattr(made, "state", dict)
    return made


@pytest.mark.parametrize("sent", [b'{"action": "take back"}', b'{"action": "automatic"}', b'{"action": "free VRAM"}'])
def test_without_the_allocator_every_action_is_refused_with_why(
    session: Session, monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    monkeypatch.setattr(session, "problem", lambda: "giant-kitten came too late.")
    try:
        said = act_of(session, body(JSON, sent), lambda work: work())[1]["detail"]
    except (Refused, Unwanted) as why:
        said = str(why)
    assert said == "giant-kitten came too late."


@pytest.mark.parametrize("sent", BAD_BODIES, ids=lambda sent: repr(sent[:40]))
def test_every_invalid_body_is_answered_in_a_sentence(session: Session, sent: bytes) -> None:
    try:
        status, answer = act_of(session, body(JSON, sent), lambda work: work())
        said = answer["detail"]
    except Unwanted as why:
        status, said = why.status, str(why)
    assert 400 <= status < 500 and len(said) < 400 and said.endswith((".", "(or 0, 1, 2).", "}."))
    said.encode()


@pytest.mark.parametrize(
    "sent",
    [b'{"action": "automatic"}', b'{"action": 2, "reserve": 1}', b'{"action": "GK: disable", "persist": " 1.5 "}',
     b'{"action": "activate", "reserve": "", "sort_reversed": 0}', b'{"action":"automatic","reserve":0}',
     b'{"action": "Automatic"}', b'{"action": "free vram "}'],
)  # fmt: skip
def test_good_bodies_are_done(session: Session, sent: bytes) -> None:
    assert act_of(session, body(JSON, sent), lambda work: work()) == (200, {"detail": "done", "state": {}})


def test_an_unknown_action_is_answered_with_all_that_there_are(session: Session) -> None:
    status, answer = act_of(session, {"action": "dance"}, lambda work: work())
    assert status == 422 and "disable, free VRAM, activate, automatic, take back (or 0, 1, 2)." in answer["detail"]


def test_values_that_come_by_other_ways_are_refused_in_a_sentence_too() -> None:
    deep: Any = []
    for _ in range(100000):
        deep = [deep]
    for value in (10**400, -(10**400), deep, "9" * 5000, "\u0661", "1_000", "0x10", "1e3", {"a": deep}, object()):
        for arguments in ((value,), (2, value), (2, 0, value), (2, 0, 0, value)):
            with pytest.raises(Refused) as raised:
                parse_action(*arguments)
            assert len(str(raised.value)) < 400
    while deep:
        deep = deep.pop()
    assert json.dumps(str(raised.value))
