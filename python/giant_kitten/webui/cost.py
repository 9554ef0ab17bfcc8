"""What a generation has cost: its seconds, and what lay in host memory or went over the link."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .._report import size

# The statistics that count from the start of the process.
COUNTED = ("fell_to_shared_bytes", "migrated_bytes", "copied_ahead_bytes")


@dataclass(frozen=True)
class Cost:
    """What one generation has cost. Sizes are in bytes."""

    seconds: float | None
    """Seconds per iteration; None before the second one."""
    shared: int
    """The most that lay in shared memory at once."""
    fell: int
    """What was allocated there because VRAM was full."""
    moved: int
    """What moved between the tiers, before it began and during it."""
    copied: int
    """Weights that were copied over the link before they were used."""
    lacking: int
    """The VRAM that was lacking for everything to lie there at once."""

    def short(self) -> str:
        """The words for a picture's description, without commas, which separate entries there."""
        parts = [f"{self.seconds:.2f} s a step"] if self.seconds is not None else []
        parts.append(f"{size(self.shared)} in shared memory" if self.shared else "all in VRAM")
        parts += [f"{size(self.moved)} moved"] if self.moved else []
        parts += [f"{size(self.copied)} copied ahead"] if self.copied else []
        return "; ".join(parts)

    def text(self) -> str:
        """The sentences for a page."""
        took = "" if self.seconds is None else f"A step took {self.seconds:.2f} s. "
        if not self.shared:
            return f"{took}Everything lay in VRAM{self._moved()}."
        fell = f"; {size(self.fell)} were allocated there because VRAM was full" if self.fell else ""
        copied = f"; {size(self.copied)} of weights were copied ahead of their use" if self.copied else ""
        fits = f" It would fit into {size(self.lacking)} more VRAM." if self.lacking else ""
        return f"{took}At most {size(self.shared)} lay in host memory{fell}{copied}{self._moved()}.{fits}"

    def _moved(self) -> str:
        return f"; {size(self.moved)} moved between VRAM and host memory" if self.moved else ""


def cost(before: dict[str, Any], after: dict[str, Any], seconds: float | None) -> Cost:
    """The cost between two statistics; the peaks were reset at the first."""
    fell, moved, copied = (max(0, after[name] - before[name]) for name in COUNTED)
    room = after["dedicated_capacity"] - after["persist"]
    return Cost(
        seconds=seconds,
        shared=after["shared_allocated_peak"],
        fell=fell,
        moved=moved,
        copied=copied,
        lacking=max(0, after["allocated_peak"] - room),
    )
