"""Everything that the custom node package (`webui/comfyui`) calls."""

from __future__ import annotations

import contextlib

import execution

from . import host
from .nodes import NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS
from .routes import add_routes

__all__ = ["NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS", "start"]


def start() -> None:
    """Adds the routes, and wraps the functions of ComfyUI that run prompts and gather models."""
    add_routes()
    # Versions without this function treat ControlNets like everything else.
    with contextlib.suppress(ImportError, AttributeError):
        from comfy import sampler_helpers

        sampler_helpers.get_additional_models = host.noting_companions(sampler_helpers.get_additional_models)
    execution.PromptExecutor.execute = host.between_prompts(execution.PromptExecutor.execute)
