"""The HTTP routes in ComfyUI's server: the memory map, and the actions."""

from __future__ import annotations

import asyncio
import functools
import sys
from pathlib import Path
from typing import Any

from aiohttp import web
from server import PromptServer

from ..asked import Unwanted, act_of, body_of
from . import dynamic
from .host import in_turn, session


def add_routes() -> None:
    """Adds the routes."""
    routes = PromptServer.instance.routes
    routes.get("/giant-kitten/map.js")(_script)
    routes.get("/giant-kitten/state")(_state)
    routes.post("/giant-kitten/act")(_act)
    routes.post("/giant-kitten/panel")(_act)


async def _script(asked: Any) -> Any:
    return web.FileResponse(Path(__file__).parents[2] / "map.js", headers={"Cache-Control": "no-cache"})


async def _state(asked: Any) -> Any:
    found = session.state()
    found["problem"] = found["problem"] or dynamic.note()
    for device in found["devices"]:
        dynamic.describe(device, session.overflow())
    return web.json_response(found, headers={"Cache-Control": "no-store"})


async def _act(asked: Any) -> Any:
    try:
        body = await body_of(asked.headers, asked.content.iter_chunked(1 << 14), _trusted)
    except Unwanted as why:
        return web.json_response({"detail": str(why)}, status=why.status)
    # The panel has no control for what to do without a model.
    from_panel = asked.path.endswith("/panel")
    work = functools.partial(act_of, session, body, in_turn, without_model=from_panel)
    status, said = await asyncio.get_running_loop().run_in_executor(None, work)
    # The panel shows the sentence itself. With another status the browser would log an error too.
    return web.json_response(said, status=200 if from_panel else status)


def _trusted(origin: str) -> bool:
    """Whether the user has allowed pages of an origin to ask: --enable-cors-header."""
    given = getattr(getattr(sys.modules.get("comfy.cli_args"), "args", None), "enable_cors_header", None)
    return given in ("*", origin)
