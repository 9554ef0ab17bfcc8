"""The guidance that users would otherwise work out by hand: which reserve is sensible.

Pure functions of what was observed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .._report import size

# Reserves are suggested in tenths of a GiB, as the sliders have them.
STEP = (1 << 30) // 10


@dataclass(frozen=True)
class Observation:
    """What one generation did to a device. Bytes."""

    free: int
    """Dedicated memory that was free before it began."""
    overflow: int
    """What it had in shared memory at most, beyond what lay there before."""


@dataclass(frozen=True)
class Guide:
    """The sensible reserves, and what to say of them."""

    smallest: int
    largest: int
    suggested: int
    text: str


def observe(before: dict[str, Any], after: dict[str, Any]) -> Observation:
    """The observation between the statistics before a generation, when the peaks were reset, and after it."""
    free = before["dedicated_capacity"] - before["persist"] - before["dedicated_allocated"]
    overflow = after["shared_allocated_peak"] - before["shared_allocated"]
    return Observation(free=max(0, free), overflow=max(0, overflow))


def guide(stats: dict[str, Any], observation: Observation | None) -> Guide | None:
    """Which reserves are sensible, as far as the last generation told; None before there was one.

    The smallest sensible reserve is what was free before the generation: it moves nothing. The largest is that and what
    overflowed: with it, all of the generation's own memory is dedicated.
    """
    if observation is None:
        return None
    smallest = observation.free
    largest = min(smallest + observation.overflow, stats["dedicated_capacity"])
    if observation.overflow == 0:
        return Guide(0, smallest, 0, "The last generation fitted into dedicated memory: it needs no reserve at all.")
    suggested = min(-(-largest // STEP) * STEP, stats["dedicated_capacity"])
    return Guide(
        smallest,
        largest,
        suggested,
        f"Sensible reserves for work like the last are from {size(smallest)} (dedicated memory that was free before "
        f"it) to {size(largest)} (that, and the {size(observation.overflow)} that overflowed during it, "
        "as far as the card goes).",
    )


def chosen(stats: dict[str, Any]) -> str:
    """Which reserve is in force, and why."""
    return f"Reserve {size(stats['reserve'])} ({stats['reserve_reason']})."
