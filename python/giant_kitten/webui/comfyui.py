"""giant-kitten in ComfyUI: nodes, routes, and where one prompt ends and the next begins.

Imported by the custom node package (`webui/comfyui`) inside ComfyUI, whose modules it uses.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import comfy.model_management
import comfy.utils
import execution
from aiohttp import web
from server import PromptServer

from .. import _report
from .asked import Unwanted, body_of
from .session import ACTIONS, Host, Refused, Session, act_of, parse_action

if TYPE_CHECKING:
    from collections.abc import Callable

GIB = 1 << 30


# ---- ComfyUI -------------------------------------------------------------------------------------------------------


def _patcher() -> Any:
    """The diffusion model that was loaded last."""
    for loaded in comfy.model_management.current_loaded_models:
        patcher = loaded.model
        if getattr(getattr(patcher, "model", None), "diffusion_model", None) is not None:
            return patcher
    return None


def _unet() -> Any:
    patcher = _patcher()
    return None if patcher is None else patcher.model.diffusion_model


def _bring(unet: Any) -> None:
    patcher = _patcher()
    if patcher is not None:
        # ComfyUI keeps account of what is on the GPU: it has to bring it itself.
        comfy.model_management.load_models_gpu([patcher])


# What the sampling that runs has beside its model: ControlNets, mostly.
_beside: list[Any] = []


def _telling(gather: Callable[..., Any]) -> Callable[..., Any]:
    """Wraps what finds the models that a sampling needs beside its own."""

    @functools.wraps(gather)
    def told(*arguments: Any, **named: Any) -> Any:
        found = gather(*arguments, **named)
        _beside[:] = [getattr(patcher, "model", None) for patcher in found[0]]
        return found

    return told


session = Session(Host("ComfyUI", model=_unet, bring=_bring, companions=lambda: _beside))
# Held while a prompt runs: actions of the panel wait for it.
_prompts = threading.RLock()


def note() -> str | None:
    """What is to be said of ComfyUI's own ways with memory, or None."""
    # Versions that know no dynamic VRAM have no such module, or no such flag in it.
    if getattr(sys.modules.get("comfy.memory_management"), "aimdo_enabled", False):
        return (
            "ComfyUI's dynamic VRAM keeps the weights to itself, and giant-kitten has only what is needed besides: "
            "start with --disable-dynamic-vram to have models placed."
        )
    return None


# ---- Nodes ---------------------------------------------------------------------------------------------------------


class GiantKittenAction:
    """Does an action between two nodes: what comes in goes out."""

    CATEGORY = "giant-kitten"
    FUNCTION = "act"
    RETURN_TYPES = ("MODEL", "STRING")
    RETURN_NAMES = ("model", "said")
    DESCRIPTION = "Places the model anew between VRAM and shared memory. Put it between the loader and the sampler."

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """The inputs."""
        capacity = session.capacity()
        most = 24.0 if capacity is None else round(capacity / GIB, 1)
        size = {"default": 0.0, "min": 0.0, "max": most, "step": 0.1}
        return {
            "required": {
                "model": ("MODEL",),
                "action": ([*ACTIONS[::-1], "automatic"],),
                "reserve": (
                    "FLOAT",
                    {**size, "tooltip": "GiB of VRAM left to what a generation needs besides the model"},
                ),
                "persist": ("FLOAT", {**size, "tooltip": "GiB of VRAM withheld, as if the card were smaller"}),
                "sort_reversed": ("BOOLEAN", {"default": False}),
                "ignored_model": ("BOOLEAN", {"default": False}),
            }
        }

    def act(
        self, model: Any, action: str, reserve: float, persist: float, sort_reversed: bool, ignored_model: bool
    ) -> tuple[Any, str]:
        """Does it. What cannot be done is said at the second output and in the panel, and the prompt goes on."""
        try:
            # The sampler would load it next: what is not loaded cannot be placed.
            comfy.model_management.load_models_gpu([model])
            if action == "automatic":
                said = session.automatic()
            else:
                said = session.act(
                    parse_action(action, reserve, persist, False, sort_reversed, ignored_model, most=session.capacity())
                )
        except Refused as why:
            said = str(why)
            session.tell(said)
        return model, said


class GiantKittenStatus:
    """Tells what lies where."""

    CATEGORY = "giant-kitten"
    FUNCTION = "tell"
    RETURN_TYPES = ("STRING",)
    RETURN_NAMES = ("status",)
    OUTPUT_NODE = True
    DESCRIPTION = "What lies in which memory, as text."

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """The inputs: anything, so that it runs after it."""
        return {"required": {}, "optional": {"after": ("*",)}}

    @classmethod
    def VALIDATE_INPUTS(cls, input_types: Any) -> bool:
        """Takes every type."""
        return True

    @classmethod
    def IS_CHANGED(cls, **inputs: Any) -> float:
        """Never the same twice."""
        return float("nan")

    def tell(self, after: Any = None) -> dict[str, Any]:
        """The text, for the node and for whoever is behind it."""
        text = session.problem() or _report.summary(session.device)
        return {"ui": {"text": [text]}, "result": (text,)}


NODE_CLASS_MAPPINGS = {"GiantKittenAction": GiantKittenAction, "GiantKittenStatus": GiantKittenStatus}
NODE_DISPLAY_NAME_MAPPINGS = {
    "GiantKittenAction": "Giant kitten: action",
    "GiantKittenStatus": "Giant kitten: status",
}


# ---- Prompts -------------------------------------------------------------------------------------------------------


def _between_prompts(execute: Callable[..., Any]) -> Callable[..., Any]:
    """Wraps the executor of prompts, so that the beginning and the end of each are known."""

    @functools.wraps(execute)
    def executed(executor: Any, prompt: Any, *arguments: Any, **named: Any) -> Any:
        with _prompts:
            session.begin(_kind(prompt))
            _count_steps()
            try:
                return execute(executor, prompt, *arguments, **named)
            finally:
                # Nothing of ours keeps them from being unloaded.
                _beside.clear()
                session.end()

    return executed


def _kind(prompt: Any) -> str:
    """What kind of work a prompt is: its latent images tell how much memory it needs."""
    sizes = set()
    for node in prompt.values() if isinstance(prompt, dict) else ():
        inputs = node.get("inputs", {}) if isinstance(node, dict) else {}
        size = [inputs.get(name) for name in ("width", "height", "batch_size")]
        if all(isinstance(value, int) for value in size):
            sizes.add("x".join(map(str, size)))
    return " ".join(sorted(sizes)) or "prompt"


def _count_steps() -> None:
    """Counts the steps of samplers by ComfyUI's progress, which is hooked once it is there."""
    hook = comfy.utils.PROGRESS_BAR_HOOK
    if hook is None or getattr(hook, "counts_for_giant_kitten", False):
        return

    def counting(value: Any, *arguments: Any, **named: Any) -> Any:
        session.iteration(int(value))
        return hook(value, *arguments, **named)

    counting.counts_for_giant_kitten = True  # type: ignore[attr-defined]
    comfy.utils.set_progress_bar_global_hook(counting)


# ---- Routes --------------------------------------------------------------------------------------------------------


def _state() -> dict[str, Any]:
    found = session.state()
    found["problem"] = found["problem"] or note()
    return found


def _trusted(origin: str) -> bool:
    """Whether ComfyUI was started to let the pages of an origin ask: --enable-cors-header."""
    given = getattr(getattr(sys.modules.get("comfy.cli_args"), "args", None), "enable_cors_header", None)
    return given in ("*", origin)


def _in_turn(work: Callable[[], str]) -> str:
    with _prompts:
        return work()


def start() -> None:
    """Adds the routes, and watches prompts."""
    routes = PromptServer.instance.routes

    async def script(asked: Any) -> Any:
        return web.FileResponse(Path(__file__).parent.with_name("map.js"), headers={"Cache-Control": "no-cache"})

    async def state(asked: Any) -> Any:
        return web.json_response(_state(), headers={"Cache-Control": "no-store"})

    async def act(asked: Any) -> Any:
        try:
            body = await body_of(asked.headers, asked.content.iter_chunked(1 << 14), _trusted)
        except Unwanted as why:
            return web.json_response({"detail": str(why)}, status=why.status)
        work = functools.partial(act_of, session, body, _in_turn)
        status, said = await asyncio.get_running_loop().run_in_executor(None, work)
        # The panel shows the sentence, and a browser would put any other status into its console.
        return web.json_response(said, status=200 if asked.path.endswith("/panel") else status)

    routes.get("/giant-kitten/map.js")(script)
    routes.get("/giant-kitten/state")(state)
    routes.post("/giant-kitten/act")(act)
    routes.post("/giant-kitten/panel")(act)
    # Where a version has no such function, ControlNets are like everything else.
    with contextlib.suppress(ImportError, AttributeError):
        from comfy import sampler_helpers

        sampler_helpers.get_additional_models = _telling(sampler_helpers.get_additional_models)
    execution.PromptExecutor.execute = _between_prompts(execution.PromptExecutor.execute)
