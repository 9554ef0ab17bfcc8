"""The HTTP routes: the memory map for the page and, with --api, the actions."""

from __future__ import annotations

import re
import secrets
from pathlib import Path
from typing import Any

from fastapi import Depends, HTTPException, Request
from fastapi.responses import JSONResponse, Response
from fastapi.security import HTTPBasic
from modules import shared
from starlette.concurrency import run_in_threadpool

from ..asked import Unwanted, act_of, body_of
from .host import in_turn, session

_ACT = (
    "An action: {action: activate | disable | free VRAM | automatic, reserve (GiB), persist (GiB), sort_reversed, "
    "ignored_model}"
)


def add_routes(demo: Any, app: Any) -> None:
    """Adds the map under giant-kitten and, with --api, the actions under giant-kitten/v1."""

    def state(asked: Request) -> Any:
        _check_login(app, asked)
        return JSONResponse(session.state(), headers={"Cache-Control": "no-store"})

    app.add_api_route("/giant-kitten/map.js", _script, methods=["GET"], include_in_schema=False)
    app.add_api_route("/giant-kitten/state", state, methods=["GET"], include_in_schema=False)
    options = shared.cmd_opts
    if getattr(options, "api", False) or demo is None:
        _add_actions(app, getattr(options, "api_auth", None) or "")


def _add_actions(app: Any, logins: str) -> None:
    # Nobody can know the password of a user who has none. The actions are closed then, not open.
    users = dict(user.split(":", 1) for user in logins.split(",") if ":" in user)

    basic = Depends(HTTPBasic())

    def check(credentials: Any = basic) -> None:
        password = users.get(credentials.username, "")
        if not password or not secrets.compare_digest(credentials.password.encode(), password.encode()):
            raise HTTPException(401, "Incorrect username or password", {"WWW-Authenticate": "Basic"})

    described: Any = {"tags": ["giant-kitten"], "dependencies": [Depends(check)] if logins else []}
    app.add_api_route(
        "/giant-kitten/v1/state", session.state, methods=["GET"], summary="Statistics and map", **described
    )
    app.add_api_route("/giant-kitten/v1/act", _act, methods=["POST"], summary=_ACT, **described)


def _script() -> Response:
    text = Path(__file__).parents[2].joinpath("map.js").read_text(encoding="utf-8")
    return Response(text, media_type="text/javascript", headers={"Cache-Control": "no-cache"})


async def _act(asked: Request) -> Response:
    try:
        body = await body_of(asked.headers, asked.stream(), _trusted)
    except Unwanted as why:
        return JSONResponse({"detail": str(why)}, why.status)
    status, said = await run_in_threadpool(act_of, session, body, in_turn)
    return JSONResponse(said, status)


def _trusted(origin: str) -> bool:
    """Whether the user has allowed pages of an origin to ask: --cors-allow-origins and the like."""
    named = (getattr(shared.cmd_opts, "cors_allow_origins", None) or "").split(",")
    pattern = getattr(shared.cmd_opts, "cors_allow_origins_regex", None)
    return origin in named or "*" in named or bool(pattern and re.fullmatch(pattern, origin))


def _check_login(app: Any, asked: Request) -> None:
    """Requires a login for the map if the page requires one (--gradio-auth)."""
    if getattr(app, "auth", None) is None:
        return
    tokens = getattr(app, "tokens", {})
    suffix = getattr(app, "cookie_id", None)
    names = ["access-token", "access-token-unsecure"]
    if suffix:
        names = [f"{name}-{suffix}" for name in names]
    if not any(asked.cookies.get(name) in tokens for name in names):
        raise HTTPException(401, "Log in to the page first.")
