"""The state of programs in Prometheus's text format, version 0.0.4."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

CONTENT_TYPE = "text/plain; version=0.0.4"

_TIERS = ("dedicated", "shared")
# The metrics of a tier by their fields in the statistics.
_OF_A_TIER = {
    "capacity": "The most that the tier may hold.",
    "allocated": "Live blocks.",
    "mapped": "Backing mapped at addresses.",
    "reserved": "Backing held from the driver, mapped or in stock.",
}
_GAUGES = {
    "reserve": ("reserve_bytes", "The reserve in force."),
    "reserve_used": ("reserve_used_bytes", "Dedicated bytes of live scratch."),
    "reserve_high_water": ("reserve_high_water_bytes", "The peak of reserve_used_bytes since the last action."),
    "scratch_peak": ("scratch_peak_bytes", "The most scratch at once since the last safe point."),
    "automatic": ("automatic", "1 if the reserve is found automatically."),
}
_COUNTERS = {
    "migrated_bytes": ("migrated_bytes_total", "Bytes that changed tier."),
    "fell_to_shared": ("fell_to_shared_blocks_total", "Blocks that lay in shared memory from the start."),
    "fell_to_shared_bytes": ("fell_to_shared_bytes_total", "Bytes of those blocks."),
    "out_of_memory": ("out_of_memory_total", "Requests that neither tier could satisfy."),
    "retries": ("retries_total", "Requests satisfied only after idle backing was unmapped."),
    "safe_points": ("safe_points_total", "Safe points at which the automatic mode looked."),
    "rebalances": ("rebalances_total", "Safe points at which it moved something."),
    "abstained": ("abstained_total", "Safe points that moved nothing because a thread was at work."),
}
_MOVED = {"shared": "rebalanced_demoted", "dedicated": "rebalanced_promoted"}


@dataclass
class _Family:
    """A metric, with a sample for each set of labels."""

    kind: str
    help: str
    samples: list[str] = field(default_factory=list)


class _Exposition:
    """Metrics under construction: Prometheus wants all samples of a metric together."""

    def __init__(self) -> None:
        self._families: dict[str, _Family] = {}

    def add(self, name: str, kind: str, about: str, value: int, labels: dict[str, str]) -> None:
        """Adds a sample of a metric."""
        family = self._families.setdefault(f"giant_kitten_{name}", _Family(kind, about))
        inside = ",".join(f'{label}="{_escaped(text)}"' for label, text in labels.items())
        family.samples.append(f"giant_kitten_{name}{{{inside}}} {value}")

    def text(self) -> str:
        """All metrics in the text format."""
        lines = []
        for name, family in self._families.items():
            lines += [f"# HELP {name} {family.help}", f"# TYPE {name} {family.kind}", *family.samples]
        return "".join(f"{line}\n" for line in lines)


def text(programs: Iterable[tuple[str, dict[str, Any]]]) -> str:
    """The metrics of programs, each with its title and its state."""
    found = _Exposition()
    for title, state in programs:
        labels = {"program": title}
        answers = int(not state.get("problem"))
        found.add("up", "gauge", "1 if the program reports its memory.", answers, labels)
        for device in state["devices"]:
            _add_device(found, device, {**labels, "device": str(device["index"])})
    return found.text()


def _add_device(found: _Exposition, device: dict[str, Any], labels: dict[str, str]) -> None:
    stats, kinds = device["stats"], device["map"]["bytes"]
    about = {**labels, "name": stats["device"], "rung": stats["rung"], "phase": stats["phase_name"]}
    found.add("device_info", "gauge", "1, with the device's name, rung and phase as labels.", 1, about)
    for tier in _TIERS:
        of_tier = {**labels, "tier": tier}
        for name, help_text in _OF_A_TIER.items():
            found.add(f"tier_{name}_bytes", "gauge", help_text, stats[f"{tier}_{name}"], of_tier)
        for kind, count in kinds[tier].items():
            about_kind = "Mapped bytes by the kind of block that fills them."
            found.add("kind_bytes", "gauge", about_kind, count, {**of_tier, "kind": kind})
        for module in device.get("modules", ()):
            about_module = "Bytes of the weights of a module that is followed."
            found.add("module_bytes", "gauge", about_module, module[tier], {**of_tier, "module": module["name"]})
        moved = "Bytes that the automatic mode moved to a tier."
        found.add("rebalanced_bytes_total", "counter", moved, stats[_MOVED[tier]], of_tier)
    for kind, table in (("gauge", _GAUGES), ("counter", _COUNTERS)):
        for name, (metric, help_text) in table.items():
            found.add(metric, kind, help_text, stats[name], labels)


def _escaped(label: str) -> str:
    return label.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
