"""The WebUI as the session sees it: its models, and its queue of generations."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from modules import sd_models
from modules.call_queue import queue_lock

from ..actions import Action, Refused, parse_action
from ..session import Host, Session

if TYPE_CHECKING:
    from collections.abc import Callable

try:
    # Forge does all work on the GPU in one thread.
    from modules_forge import main_thread
except ImportError:
    main_thread = None

GIB = 1 << 30

# The scripts of the generation that runs, among them the ControlNets of AUTOMATIC1111.
_scripts: Any = None


def use_scripts(scripts: Any) -> None:
    """Notes the scripts of the generation that begins."""
    global _scripts
    _scripts = scripts


def _loaded() -> Any:
    """The current checkpoint; this does not load one."""
    return sd_models.model_data.sd_model


def unet() -> Any:
    """The UNet of the current checkpoint, or None."""
    model = _loaded()
    forge = getattr(model, "forge_objects", None)
    if forge is not None:
        return getattr(getattr(forge.unet, "model", None), "diffusion_model", None)
    return getattr(getattr(model, "model", None), "diffusion_model", None)


def _bring(unet: Any) -> None:
    forge = getattr(_loaded(), "forge_objects", None)
    if forge is not None:
        # Forge tracks what is on the GPU, so it has to move the model itself.
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
    """The ControlNets of the current generation: Forge's own, or those of sd-webui-controlnet."""
    forge = getattr(_loaded(), "forge_objects", None)
    if forge is not None:
        controls = forge.unet.list_controlnets() if hasattr(forge.unet, "list_controlnets") else []
    else:
        hooks = [getattr(script, "latest_network", None) for script in getattr(_scripts, "alwayson_scripts", ())]
        controls = [part for hook in hooks for part in getattr(hook, "control_params", None) or ()]
    return [getattr(control, "control_model", None) for control in controls]


session = Session(Host("AUTOMATIC1111", model=unet, bring=_bring, decoder=_decoder, companions=_companions))


def in_turn(work: Callable[[], str]) -> str:
    """Calls a function between two generations; returns its result, or why it was refused."""

    def said() -> str:
        try:
            return work()
        except Refused as why:
            return str(why)

    with queue_lock:
        return str(main_thread.run_and_wait_result(said)) if main_thread else said()


def by_hand(gib: Any) -> Action:
    """The action that sets a reserve in GiB. Raises `Refused`."""
    return parse_action("activate", gib, most=session.capacity())


def slider_most() -> float:
    """The upper end of the sliders in GiB: the card's memory, or 24 if that is not known."""
    capacity = session.capacity()
    return 24.0 if capacity is None else max(0.1, -(-capacity * 10 // GIB) / 10)
