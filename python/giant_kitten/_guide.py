"""Guidance about the reserve: which sizes are sensible.

These are pure functions of what was observed during a generation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ._report import size

# Suggested reserves are rounded to tenths of a GiB, the step of the sliders.
STEP = (1 << 30) // 10
# A reserve that leaves more than this part of what lives out of VRAM is not suggested. Weights are
# read in each step, so they may cost more than the scratch that takes their place.
LEFT_OUT = 0.5


@dataclass(frozen=True)
class Observation:
    """The memory use of one generation on a device, in bytes."""

    free: int
    """Dedicated memory that was free before it began."""
    overflow: int
    """Peak of its shared memory, without the shared memory that was in use before."""
    outside: int = 0
    """Shared memory that was in use before it began."""


@dataclass(frozen=True)
class Guide:
    """The range of sensible reserves, in bytes, and a text about it."""

    smallest: int
    largest: int
    suggested: int
    """0: none is suggested."""
    text: str
    prefers_automatic: bool = False
    """Whether the automatic mode is suggested instead of a reserve."""


def observe(before: dict[str, Any], after: dict[str, Any]) -> Observation:
    """Compares the statistics before a generation, when the peaks were reset, and after it."""
    free = before["dedicated_capacity"] - before["persist"] - before["dedicated_allocated"]
    overflow = after["shared_allocated_peak"] - before["shared_allocated"]
    return Observation(free=max(0, free), overflow=max(0, overflow), outside=before["shared_allocated"])


def guide(stats: dict[str, Any], observation: Observation | None) -> Guide | None:
    """Which reserves are sensible, judged by the last generation; None if there was none.

    The smallest sensible reserve is the memory that was free before the generation: it moves
    nothing. The largest also covers the overflow: with it, all scratch of the generation is
    dedicated.
    """
    if observation is None:
        return None
    smallest = observation.free
    largest = min(smallest + observation.overflow, stats["dedicated_capacity"])
    if observation.overflow == 0:
        return Guide(0, smallest, 0, "Nothing overflowed in the last generation: a larger reserve would gain nothing.")
    suggested = -(-largest // STEP) * STEP
    resident = stats["dedicated_capacity"] - stats["persist"] - observation.free
    if observation.outside + observation.overflow > LEFT_OUT * (observation.outside + resident):
        return Guide(
            smallest,
            largest,
            0,
            f"The last generation overflowed by {size(observation.overflow)}. A reserve for all of that would keep "
            "more than half of the model out of VRAM, so none is suggested: the automatic mode weighs the two.",
            prefers_automatic=True,
        )
    if largest - smallest < STEP:
        overflowed = f"The last generation overflowed by {size(observation.overflow)}"
        reason = f"{overflowed}: a reserve of {size(suggested)} is sensible for work like it."
        return Guide(smallest, largest, suggested, reason)
    return Guide(
        smallest,
        largest,
        suggested,
        f"Sensible reserves for work like the last are from {size(smallest)} (dedicated memory that was free before "
        f"it) to {size(largest)} (that plus the {size(observation.overflow)} that overflowed during it, "
        "limited by the card).",
    )


def chosen(stats: dict[str, Any]) -> str:
    """The reserve in force, and the reason for it."""
    return f"Reserve {size(stats['reserve'])} ({stats['reserve_reason']})."
