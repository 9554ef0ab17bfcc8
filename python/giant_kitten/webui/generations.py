"""The generations of a WebUI: how far they are, how fast they are, and what memory they used."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import Any

from .. import _guide
from .cost import Cost, cost


@dataclass
class Generation:
    """A generation that is running or is over."""

    kind: str
    began: float
    iterations: int = 0
    counted_from: int = 0
    """The iterations that were done when the first one was reported."""
    first: float = 0.0
    last: float = 0.0
    running: bool = True

    def step(self, done: int | None) -> None:
        """Counts an iteration, or sets the number of those that are done."""
        now, before = time.monotonic(), self.iterations
        self.iterations = before + 1 if done is None else done
        self.last = now
        if before == 0 or self.iterations <= before:
            self.first, self.counted_from = now, self.iterations

    def seconds_per_iteration(self) -> float | None:
        """The mean from the first to the last reported iteration; None before the second."""
        counted = self.iterations - self.counted_from
        return (self.last - self.first) / counted if counted > 0 else None


class Generations:
    """The generation that runs, or the last one, and the memory it used; safe for threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last: Generation | None = None
        self._before: dict[str, Any] | None = None
        self._observation: _guide.Observation | None = None
        self._cost: Cost | None = None

    def begin(self, kind: str, before: dict[str, Any] | None) -> None:
        """Begins a generation. `before` has the statistics at this moment, if they are known."""
        with self._lock:
            self._last = Generation(kind, time.monotonic())
            self._before, self._cost = before, None

    def is_at_its_beginning(self) -> bool:
        """Whether no iteration of the current generation was reported yet."""
        with self._lock:
            return self._last is not None and self._last.iterations == 0

    def step(self, done: int | None) -> None:
        """Counts an iteration of the generation that runs."""
        with self._lock:
            if self._last is not None and self._last.running:
                self._last.step(done)

    def disturb(self) -> None:
        """Gives up observing the memory of this generation, because an action moved some."""
        with self._lock:
            self._before = None

    def end(self) -> dict[str, Any] | None:
        """Ends the generation. Returns the statistics from its beginning if it was observed."""
        with self._lock:
            before, self._before = self._before, None
            if self._last is not None:
                self._last.running = False
            return before

    def observe(self, before: dict[str, Any], after: dict[str, Any]) -> None:
        """Notes the memory that the last generation used, from the statistics around it."""
        with self._lock:
            self._observation = _guide.observe(before, after)
            self._cost = cost(before, after, self._seconds())

    def cost_so_far(self, now: dict[str, Any]) -> Cost | None:
        """What the current generation has cost so far; None if it is not observed."""
        with self._lock:
            return None if self._before is None else cost(self._before, now, self._seconds())

    def _seconds(self) -> float | None:
        return None if self._last is None else self._last.seconds_per_iteration()

    def observation(self) -> _guide.Observation | None:
        """The memory that the last observed generation used."""
        with self._lock:
            return self._observation

    def state(self) -> dict[str, Any] | None:
        """The state of the last generation for `map.js`; None before the first."""
        with self._lock:
            last = self._last
            if last is None:
                return None
            return {
                "kind": last.kind,
                "running": last.running,
                "iterations": last.iterations,
                "seconds_per_iteration": last.seconds_per_iteration(),
                "cost": None if self._cost is None else self._cost.text(),
            }
