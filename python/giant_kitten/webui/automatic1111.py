"""giant-kitten in AUTOMATIC1111's WebUI and in Forge, as far as that is more than building controls.

Imported by the extension (`webui/automatic1111`) inside the WebUI, whose `modules` it uses.
"""

from __future__ import annotations

import functools
import os
import re
import secrets
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr
from fastapi import Depends, HTTPException, Request
from fastapi.responses import JSONResponse, Response
from fastapi.security import HTTPBasic
from modules import sd_models, shared
from modules.call_queue import queue_lock
from starlette.concurrency import run_in_threadpool

from .asked import Unwanted, body_of
from .attention import fit
from .session import Action, Host, Refused, Session, act_of, parse_action

if TYPE_CHECKING:
    from collections.abc import Callable

try:
    # Forge does all work on the GPU in one thread.
    from modules_forge import main_thread
except ImportError:
    main_thread = None

GIB = 1 << 30
MODES = ("automatic", "by hand")

HELP = {
    "activate": "places everything anew, the model first and small tensors before large ones, and leaves “reserve” GiB "
    "of VRAM to what a generation needs besides; nothing moves afterwards",
    "disable": "does the same with all of the VRAM, and lets memory move again (choose this to undo everything)",
    "free VRAM": "moves everything to shared memory, so that another program has the card; generating still works, "
    "slower",
    "no abort": "goes on with the generation; without it, the action alone is done",
    "sort reversed": "gives large tensors the VRAM before small ones",
    "ignored model": "treats all tensors equally, instead of the UNet's first",
    "persist": "withholds so much VRAM while active, as if the card were smaller (0 unless you test that)",
}
WHICH_RESERVE = (
    "Which reserve? The panel “Giant kitten: memory” tells after one generation; its automatic mode needs none of this."
)


# ---- The WebUI -----------------------------------------------------------------------------------------------------


def _loaded() -> Any:
    """The checkpoint in use, without loading one."""
    return sd_models.model_data.sd_model


def _unet() -> Any:
    model = _loaded()
    forge = getattr(model, "forge_objects", None)
    if forge is not None:
        return getattr(getattr(forge.unet, "model", None), "diffusion_model", None)
    return getattr(getattr(model, "model", None), "diffusion_model", None)


def _bring(unet: Any) -> None:
    forge = getattr(_loaded(), "forge_objects", None)
    if forge is not None:
        # Forge keeps account of what is on the GPU: it has to bring it itself.
        from backend import memory_management

        memory_management.load_model_gpu(forge.unet)
        return
    from modules import devices

    unet.to(device=devices.device)


def _decoder() -> Any:
    model = _loaded()
    forge = getattr(model, "forge_objects", None)
    vae = getattr(forge.vae if forge is not None else model, "first_stage_model", None)
    return getattr(vae, "decoder", None)


def _companions() -> list[Any]:
    """The ControlNets of the generation that runs: Forge's own, or those of the extension sd-webui-controlnet."""
    forge = getattr(_loaded(), "forge_objects", None)
    if forge is not None:
        controls = forge.unet.list_controlnets() if hasattr(forge.unet, "list_controlnets") else []
    else:
        hooks = [getattr(script, "latest_network", None) for script in getattr(_scripts, "alwayson_scripts", ())]
        controls = [part for hook in hooks for part in getattr(hook, "control_params", None) or ()]
    return [getattr(control, "control_model", None) for control in controls]


_scripts: Any = None
session = Session(Host("AUTOMATIC1111", model=_unet, bring=_bring, decoder=_decoder, companions=_companions))


def _in_turn(work: Callable[[], str]) -> str:
    """Does something between two generations, and returns what it says, or why it was refused."""

    def said() -> str:
        try:
            return work()
        except Refused as why:
            return str(why)

    with queue_lock:
        return str(main_thread.run_and_wait_result(said)) if main_thread else said()


# ---- The custom script ---------------------------------------------------------------------------------------------


def run_script(*values: Any) -> tuple[str, bool]:
    """The custom script with the values of its controls: what it says, and whether the generation goes on."""
    if len(values) > 6 or not values:
        names = "action, reserve, persist, no abort, sort reversed, ignored model"
        return f"Giant kitten has six values ({names}), not {len(values)}.", False
    try:
        wanted = parse_action(*values, most=session.capacity())
        said = session.act(wanted)
    except Refused as why:
        return str(why), False
    if wanted.no_abort:
        return said, True
    return f"{said} Done! (To keep generating images without deselecting this script, check “GK: no abort”)", False


# ---- The panel -----------------------------------------------------------------------------------------------------


def slider_most() -> float:
    """The upper end of the sliders in GiB: the card, or 24 where it is not known."""
    capacity = session.capacity()
    return 24.0 if capacity is None else max(0.1, -(-capacity * 10 // GIB) / 10)


def mode() -> str:
    """Whether the reserve is found automatically or set by hand, now."""
    return MODES[session.by_hand is not None]


def reserve_gib() -> float:
    """The reserve set by hand, in GiB."""
    if session.by_hand is not None and session.by_hand.reserve:
        return round(session.by_hand.reserve / GIB, 2)
    return float(_option("giant_kitten_reserve", 0.0))


def greeting() -> str:
    """What the panel says before anything was pressed."""
    options = shared.cmd_opts
    given = [name for name in ("lowvram", "medvram", "medvram_sdxl") if getattr(options, name, False)]
    if given:
        return f"--{given[0].replace('_', '-')} moves the model to and fro by itself: leave it out beside giant-kitten."
    return ""


def interval() -> int:
    """Milliseconds between two looks at the memory map."""
    return int(1000 * min(60.0, max(0.5, float(_option("giant_kitten_interval", 1.0)))))


def apply(chosen: Any, gib: Any) -> str:
    """Applies the mode and the reserve of the panel, and remembers them in the settings."""
    if chosen not in MODES:
        return f"The reserve is automatic or by hand, not {chosen!r}."
    if chosen == "automatic":
        said = _in_turn(session.automatic)
    else:
        said = _in_turn(lambda: session.act(_by_hand(gib)))
    if mode() == chosen:
        _remember(chosen, None if chosen == "automatic" else reserve_gib())
    return said


def _by_hand(gib: Any) -> Action:
    return parse_action("activate", gib, ignored_model=_unet() is None, most=session.capacity())


def apply_suggestion() -> str:
    """Applies the reserve that the last generation suggests."""
    found = session.guide()
    if found is None:
        return session.problem() or "giant-kitten has nothing to suggest."
    if not found.suggested:
        return found.text
    return apply("by hand", found.suggested / GIB)


def free_vram() -> str:
    """Lends the card to others."""
    return _in_turn(lambda: session.act(Action("free VRAM")))


def disable() -> str:
    """Undoes what was done by hand, and keeps nothing back."""
    return _in_turn(lambda: session.act(Action("disable", ignored_model=_unet() is None)))


# ---- Attention -----------------------------------------------------------------------------------------------------


def fit_attention() -> Callable[[], None]:
    """Cuts AUTOMATIC1111's own attention to the card, if the allocator is ours; returns what undoes it."""
    try:
        from modules import sd_hijack_optimizations
    except ImportError:
        return lambda: None
    # Who says what is to be told of free memory has decided.
    if session.problem() or os.environ.get("GIANT_KITTEN_MEM_GET_INFO"):
        return lambda: None
    return fit(sd_hijack_optimizations, session.idle_dedicated)


# ---- Previews ------------------------------------------------------------------------------------------------------


def gate_previews() -> Callable[[], None]:
    """Has live previews pass the session's gate; returns what undoes it.

    The WebUI decodes them in the thread of whoever asks for the progress, outside its queue's lock, while the
    generation goes on in another.
    """
    state = type(getattr(shared, "state", None))
    # Older versions have the second alone.
    name = next((name for name in ("do_set_current_image", "set_current_image") if hasattr(state, name)), None)
    if name is None:
        return lambda: None
    native = getattr(state, name)
    if hasattr(native, "giant_kittens"):
        # The scripts were loaded anew, and this one is still in its place.
        return lambda: None

    @functools.wraps(native)
    def gated(*arguments: Any, **named: Any) -> Any:
        with session.gate.beside():
            return native(*arguments, **named)

    gated.giant_kittens = True  # type: ignore[attr-defined]
    setattr(state, name, gated)

    def undo() -> None:
        if getattr(state, name) is gated:
            setattr(state, name, native)

    return undo


# ---- Generations ---------------------------------------------------------------------------------------------------


def begin(p: Any) -> None:
    """A generation begins: with the settings as they are, and a note for the picture's description."""
    global _scripts
    if session.problem():
        return
    _scripts = getattr(p, "scripts", None)
    _settings_into_force()
    kind = f"{p.width}x{p.height}x{getattr(p, 'batch_size', 1)}"
    if getattr(p, "enable_hr", False):
        kind += f" hires {getattr(p, 'hr_scale', '')}"
    noted = session.begin(kind)
    if noted and _option("giant_kitten_infotext", True) and hasattr(p, "extra_generation_params"):
        p.extra_generation_params["Giant kitten"] = noted


_in_force: tuple[Any, Any] | None = None


def _settings_into_force() -> None:
    """Takes what the settings page says, where that has changed since it was last looked at."""
    global _in_force
    wanted = (_option("giant_kitten_mode", MODES[0]), _option("giant_kitten_reserve", 0.0))
    before, _in_force = _in_force, wanted
    if wanted == before or (before is None and wanted[0] == MODES[0]):
        return
    try:
        if wanted[0] == "by hand":
            session.act(_by_hand(wanted[1]))
        elif session.by_hand is not None:
            session.automatic()
    except Refused as why:
        print(f"giant-kitten: {why}")


# ---- Settings ------------------------------------------------------------------------------------------------------


def _option(name: str, otherwise: Any) -> Any:
    return getattr(shared.opts, name, otherwise)


def _remember(chosen: str, gib: float | None) -> None:
    global _in_force
    shared.opts.set("giant_kitten_mode", chosen)
    if gib is not None:
        shared.opts.set("giant_kitten_reserve", gib)
    _in_force = (_option("giant_kitten_mode", MODES[0]), _option("giant_kitten_reserve", 0.0))
    if not getattr(shared.cmd_opts, "freeze_settings", False):
        shared.opts.save(shared.config_filename)


def add_settings() -> None:
    """The extension's section of the settings page."""
    add = partial(_add_setting, shared, ("giant_kitten", "Giant kitten"))
    add("mode", MODES[0], "Reserve: found automatically, or by hand", gr.Radio, {"choices": list(MODES)})
    sliding = {"minimum": 0.0, "maximum": slider_most(), "step": 0.1}
    add("reserve", 0.0, "Reserve by hand, in GiB (taken at the next generation)", gr.Slider, sliding)
    add("infotext", True, "Note the placement in the picture's description, so that its speed can be explained")
    add("interval", 1.0, "Seconds between two looks at the memory map (after a reload of the UI)", gr.Slider,
        {"minimum": 0.5, "maximum": 10.0, "step": 0.5})  # fmt: skip


def _add_setting(shared: Any, section: Any, name: str, default: Any, label: str, *component: Any) -> None:
    shared.opts.add_option(f"giant_kitten_{name}", shared.OptionInfo(default, label, *component, section=section))


# ---- Routes --------------------------------------------------------------------------------------------------------


def add_routes(demo: Any, app: Any) -> None:
    """The routes of the map for the page and, with --api, the actions under giant-kitten/v1."""

    def state(asked: Request) -> Any:
        _check_login(app, asked)
        return JSONResponse(session.state(), headers={"Cache-Control": "no-store"})

    app.add_api_route("/giant-kitten/map.js", _script, methods=["GET"], include_in_schema=False)
    app.add_api_route("/giant-kitten/state", state, methods=["GET"], include_in_schema=False)
    options = shared.cmd_opts
    if not (getattr(options, "api", False) or demo is None):
        return
    given = getattr(options, "api_auth", None) or ""
    # Of a user without a password nobody knows it: the actions are closed, not open.
    users = dict(user.split(":", 1) for user in given.split(",") if ":" in user)

    basic = Depends(HTTPBasic())

    def check(credentials: Any = basic) -> None:
        password = users.get(credentials.username, "")
        if not password or not secrets.compare_digest(credentials.password.encode(), password.encode()):
            raise HTTPException(401, "Incorrect username or password", {"WWW-Authenticate": "Basic"})

    described: Any = {"tags": ["giant-kitten"], "dependencies": [Depends(check)] if given else []}
    app.add_api_route(
        "/giant-kitten/v1/state", session.state, methods=["GET"], summary="Statistics and map", **described
    )
    app.add_api_route("/giant-kitten/v1/act", _act, methods=["POST"], summary=ACT, **described)


ACT = (
    "An action: {action: activate | disable | free VRAM | automatic, reserve (GiB), persist (GiB), sort_reversed, "
    "ignored_model}"
)


def _script() -> Response:
    text = Path(__file__).parent.with_name("map.js").read_text(encoding="utf-8")
    return Response(text, media_type="text/javascript", headers={"Cache-Control": "no-cache"})


async def _act(asked: Request) -> Response:
    try:
        body = await body_of(asked.headers, asked.stream(), _trusted)
    except Unwanted as why:
        return JSONResponse({"detail": str(why)}, why.status)
    status, said = await run_in_threadpool(act_of, session, body, _in_turn)
    return JSONResponse(said, status)


def _trusted(origin: str) -> bool:
    """Whether the WebUI was started to let the pages of an origin ask: --cors-allow-origins and its like."""
    named = (getattr(shared.cmd_opts, "cors_allow_origins", None) or "").split(",")
    pattern = getattr(shared.cmd_opts, "cors_allow_origins_regex", None)
    return origin in named or "*" in named or bool(pattern and re.fullmatch(pattern, origin))


def _check_login(app: Any, asked: Request) -> None:
    """Where the page wants a login (--gradio-auth), so does what it shows."""
    if getattr(app, "auth", None) is None:
        return
    tokens = getattr(app, "tokens", {})
    suffix = getattr(app, "cookie_id", None)
    names = ["access-token", "access-token-unsecure"]
    if suffix:
        names = [f"{name}-{suffix}" for name in names]
    if not any(asked.cookies.get(name) in tokens for name in names):
        raise HTTPException(401, "Log in to the page first.")
