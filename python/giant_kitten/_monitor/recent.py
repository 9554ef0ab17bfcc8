"""The last ten minutes of this program's memory, sampled once a second, for the monitor's page."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any

from .. import _library, _report, _status

if TYPE_CHECKING:
    from collections.abc import Iterator

# Seconds that are kept, and between two samples.
KEPT, EVERY = 600, 1.0

# The figures of a sample. Those that end in `_total` count from the start of the program.
FIGURES = ("dedicated", "shared", "scratch", "ring", "link_total", "moves_total", "passes_total")


def _figures(stats: dict[str, Any]) -> tuple[int, ...]:
    return (
        stats["dedicated_allocated"],
        stats["shared_allocated"],
        stats["reserve_used"],
        stats["staging"],
        stats["migrated_bytes"] + stats["copied_ahead_bytes"],
        stats["migrations"],
        # A pass of a followed module begins with a safe point, and so does a generation.
        stats["safe_points"],
    )


def _in_use() -> Iterator[tuple[int, dict[str, Any]]]:
    """The devices that this program uses, with their statistics."""
    if not _status.is_installed():
        return
    import torch

    # Counting the devices would initialise CUDA, and the program could no longer fork.
    for device in range(torch.cuda.device_count() if torch.cuda.is_initialized() else 0):
        with contextlib.suppress(_library.Error):
            stats = _report.stats(device)
            if stats["in_use"]:
                yield device, stats


class Recent:
    """Samples of each device. The oldest make room for new ones; safe for threads."""

    def __init__(self, kept: int = KEPT, every: float = EVERY) -> None:
        self._kept, self._every = kept, every
        self._began = time.monotonic()
        self._lock = threading.Lock()
        self._names: dict[int, str] = {}
        self._samples: dict[int, deque[tuple[float, ...]]] = {}

    def sample(self) -> None:
        """Takes a sample of each device that is in use."""
        now = round(time.monotonic() - self._began, 1)
        for device, stats in _in_use():
            with self._lock:
                self._names[device] = stats["device"]
                known = self._samples.setdefault(device, deque(maxlen=self._kept))
                known.append((now, *_figures(stats)))

    def run(self) -> None:
        """Samples until the program ends."""
        while True:
            self.sample()
            time.sleep(self._every)

    def state(self) -> dict[str, Any]:
        """What `history.js` draws."""
        with self._lock:
            devices = [
                {"name": self._names[device], "samples": list(samples)} for device, samples in self._samples.items()
            ]
        return {"seconds": self._kept * self._every, "figures": ["time", *FIGURES], "devices": devices}
