"""Live previews, which the WebUI decodes concurrently with the generation."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from modules import shared

from .host import session

if TYPE_CHECKING:
    from collections.abc import Callable


def gate_previews() -> Callable[[], None]:
    """Makes live previews pass the session's gate; returns a function that undoes it.

    The WebUI decodes them in the thread that asks for the progress, without holding the lock of its
    queue, while the generation continues in another thread.
    """
    state = type(getattr(shared, "state", None))
    # Older versions have only the second function.
    name = next((name for name in ("do_set_current_image", "set_current_image") if hasattr(state, name)), None)
    if name is None:
        return lambda: None
    native = getattr(state, name)
    if hasattr(native, "giant_kittens"):
        # The scripts were reloaded, and our function is still in place.
        return lambda: None

    @functools.wraps(native)
    def gated(*arguments: Any, **named: Any) -> Any:
        with session.gate.concurrent():
            return native(*arguments, **named)

    gated.giant_kittens = True  # type: ignore[attr-defined]
    setattr(state, name, gated)

    def undo() -> None:
        if getattr(state, name) is gated:
            setattr(state, name, native)

    return undo
