"""ComfyUI as the session sees it: its models, and its prompts."""

from __future__ import annotations

import functools
import threading
from typing import TYPE_CHECKING, Any

import comfy.model_management
import comfy.utils
import torch

from ..session import Host, Session
from . import dynamic

if TYPE_CHECKING:
    from collections.abc import Callable


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
        # ComfyUI tracks what is on the GPU, so it has to move the model itself.
        comfy.model_management.load_models_gpu([patcher])


# What the current sampling uses in addition to its model, mostly ControlNets.
_companions: list[Any] = []

session = Session(Host("ComfyUI", model=_unet, bring=_bring, companions=lambda: _companions, unload=dynamic.unload))
# Held while a prompt runs; actions of the panel wait for it.
_prompts = threading.RLock()


def in_turn(work: Callable[[], str]) -> str:
    """Calls a function between two prompts, in a thread in which ComfyUI can also unload."""
    with _prompts:
        if torch.cuda.is_initialized():
            # It makes CUDA's context current in this thread. comfy-aimdo calls the driver, which
            # needs one, unlike the runtime that PyTorch calls.
            torch.cuda.synchronize()
        return work()


def noting_companions(gather: Callable[..., Any]) -> Callable[..., Any]:
    """Wraps the function that finds the models that a sampling needs in addition to its own."""

    @functools.wraps(gather)
    def noted(*arguments: Any, **named: Any) -> Any:
        found = gather(*arguments, **named)
        _companions[:] = [getattr(patcher, "model", None) for patcher in found[0]]
        return found

    return noted


def between_prompts(execute: Callable[..., Any]) -> Callable[..., Any]:
    """Wraps the executor of prompts, so that the session knows when each begins and ends."""

    @functools.wraps(execute)
    def executed(executor: Any, prompt: Any, *arguments: Any, **named: Any) -> Any:
        with _prompts:
            session.begin(_kind(prompt))
            _count_steps()
            try:
                return execute(executor, prompt, *arguments, **named)
            finally:
                # Our references must not keep ComfyUI from unloading the models.
                _companions.clear()
                session.end()

    return executed


def _kind(prompt: Any) -> str:
    """The kind of work of a prompt: the sizes of its latent images, on which its memory depends."""
    sizes = set()
    for node in prompt.values() if isinstance(prompt, dict) else ():
        inputs = node.get("inputs", {}) if isinstance(node, dict) else {}
        size = [inputs.get(name) for name in ("width", "height", "batch_size")]
        if all(isinstance(value, int) for value in size):
            sizes.add("x".join(map(str, size)))
    return " ".join(sorted(sizes)) or "prompt"


def _count_steps() -> None:
    """Counts the steps of samplers through ComfyUI's progress hook, as soon as there is one."""
    hook = comfy.utils.PROGRESS_BAR_HOOK
    if hook is None or getattr(hook, "counts_for_giant_kitten", False):
        return

    def counting(value: Any, *arguments: Any, **named: Any) -> Any:
        session.iteration(int(value))
        return hook(value, *arguments, **named)

    counting.counts_for_giant_kitten = True  # type: ignore[attr-defined]
    comfy.utils.set_progress_bar_global_hook(counting)
