"""A script for a genuine WebUI that notes whether live previews and actions overlap.

`test_genuine.py` puts it into an extension of its own. The route `/watcher` answers with how many
previews were decoded, and with the actions during which one was being decoded.
"""

from __future__ import annotations

import functools
import threading
from typing import Any

from giant_kitten import _library
from modules import script_callbacks, sd_samplers_common

_seen: dict[str, Any] = {"previews": 0, "actions": 0, "overlaps": []}
_lock = threading.Lock()
_running = {"previews": 0, "actions": 0}


def _watched(kind: str, native: Any) -> Any:
    """The same function, which notes that it runs."""
    other = "actions" if kind == "previews" else "previews"

    @functools.wraps(native)
    def watched(*arguments: Any, **named: Any) -> Any:
        with _lock:
            _seen[kind] += 1
            _running[kind] += 1
            if _running[other]:
                _seen["overlaps"].append(f"{kind} began during {other}")
        try:
            return native(*arguments, **named)
        finally:
            with _lock:
                _running[kind] -= 1

    return watched


sd_samplers_common.single_sample_to_image = _watched("previews", sd_samplers_common.single_sample_to_image)
_library.act = _watched("actions", _library.act)
script_callbacks.on_app_started(lambda _, app: app.add_api_route("/watcher", lambda: _seen))
