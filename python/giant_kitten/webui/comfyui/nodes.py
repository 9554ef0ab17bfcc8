"""ComfyUI's nodes: an action between two nodes, and the status as text."""

from __future__ import annotations

from typing import Any

import comfy.model_management

from ... import _report
from ..actions import ACTIONS, RETURNS, Refused, parse_action
from .host import session

GIB = 1 << 30


class GiantKittenAction:
    """Does an action between two nodes, and passes the model on."""

    CATEGORY = "giant-kitten"
    FUNCTION = "act"
    RETURN_TYPES = ("MODEL", "STRING")
    RETURN_NAMES = ("model", "said")
    DESCRIPTION = "Places the model anew in VRAM and shared memory. Put it between the loader and the sampler."

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """The inputs."""
        # More than the card has is not refused: workflows that are shared come from larger cards.
        most = max(24.0, round((session.capacity() or 0) / GIB, 1))
        size = {"default": 0.0, "min": 0.0, "max": most, "step": 0.1}
        reserve = "GiB of VRAM left to everything that a generation needs in addition to the model"
        persist = "GiB of VRAM withheld, as if the card were smaller"
        return {
            "required": {
                "model": ("MODEL",),
                "action": ([*ACTIONS[::-1], *RETURNS],),
                "reserve": ("FLOAT", {**size, "tooltip": reserve}),
                "persist": ("FLOAT", {**size, "tooltip": persist}),
                "sort_reversed": ("BOOLEAN", {"default": False}),
                "ignored_model": ("BOOLEAN", {"default": False}),
            }
        }

    def act(
        self, model: Any, action: str, reserve: float, persist: float, sort_reversed: bool, ignored_model: bool
    ) -> tuple[Any, str]:
        """Does the action.

        After a failure, which the second output and the panel show, the prompt continues.
        """
        try:
            # The sampler would load the model next, and only a loaded model can be placed.
            comfy.model_management.load_models_gpu([model])
            if action in RETURNS:
                said = session.go_back(action)
            else:
                said = session.act(
                    parse_action(action, reserve, persist, False, sort_reversed, ignored_model, most=session.capacity())
                )
        except Refused as why:
            said = str(why)
            session.report(said)
        return model, said


class GiantKittenStatus:
    """Reports which memory holds what, as text."""

    CATEGORY = "giant-kitten"
    FUNCTION = "tell"
    RETURN_TYPES = ("STRING",)
    RETURN_NAMES = ("status",)
    OUTPUT_NODE = True
    DESCRIPTION = "The contents of VRAM and shared memory, as text."

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """The input: any node's output, so that this node runs after it."""
        return {"required": {}, "optional": {"after": ("*",)}}

    @classmethod
    def VALIDATE_INPUTS(cls, input_types: Any) -> bool:
        """Accepts every type."""
        return True

    @classmethod
    def IS_CHANGED(cls, **inputs: Any) -> float:
        """A value that never equals the last one, so that the node always runs."""
        return float("nan")

    def tell(self, after: Any = None) -> dict[str, Any]:
        """The text, shown on the node and passed to the next one."""
        text = session.problem() or _report.summary(session.device)
        return {"ui": {"text": [text]}, "result": (text,)}


NODE_CLASS_MAPPINGS = {"GiantKittenAction": GiantKittenAction, "GiantKittenStatus": GiantKittenStatus}
NODE_DISPLAY_NAME_MAPPINGS = {
    "GiantKittenAction": "Giant kitten: action",
    "GiantKittenStatus": "Giant kitten: status",
}
