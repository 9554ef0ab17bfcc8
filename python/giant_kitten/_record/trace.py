"""From what was seen to the lines of a trace, in the format that kitten-bench reads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .blocks import Birth

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Iterator

    from .blocks import Block, Blocks
    from .tape import Tape

FORMAT = "gpu-op-trace/1"
# The phases that kitten-bench counts as loading, before the work.
LOADING = ("load", "inputs")


class Trace:
    """A recording that has ended, as the lines of one device."""

    def __init__(self, tape: Tape, blocks: Blocks, device: str | None, has_phases: bool) -> None:
        self._tape, self._lasting, self._has_phases = tape, blocks.lasting, has_phases
        self.device = _busiest(blocks.touched, device)
        # The blocks that live on the device at this point of the trace.
        self._here: set[int] = set()

    def lines(self, header: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """The lines of the trace."""
        yield {"ev": "header", "format": FORMAT, **header}
        yield {"ev": "phase", "name": "load"}
        for block in self._lasting.values():
            if self._is_loaded(block):
                yield self._alloc(block.id, block.bytes, block.name)
        if not self._has_phases:
            yield {"ev": "phase", "name": "work"}
        # Weights that are freed when all is over are not freed by the last step.
        late: list[int] = []
        for at, event in enumerate(self._tape.events(), 1):
            is_over = at > self._tape.last_operation
            if event["ev"] == "free" and is_over and event["id"] in self._lasting:
                late.append(event["id"])
            else:
                yield from self._line(event)
        yield {"ev": "phase", "name": "end"}
        for number in late:
            yield from self._line({"ev": "free", "id": number})
        yield {"ev": "end"}

    def _line(self, event: dict[str, Any]) -> Iterator[dict[str, Any]]:
        if event["ev"] == "alloc":
            if event["on"] == self.device and event["id"] not in self._here:
                yield self._alloc(event["id"], event["bytes"], event["name"])
        elif event["ev"] == "free":
            if event["id"] in self._here:
                self._here.remove(event["id"])
                yield event
        elif event["ev"] == "op":
            yield from self._operation(event)
        elif self._has_phases:
            yield event

    def _alloc(self, block: int, size: int, name: str) -> dict[str, Any]:
        self._here.add(block)
        lasting = self._lasting.get(block)
        kind = self._kind(lasting) if lasting else "act"
        line = {"ev": "alloc", "id": block, "bytes": size, "stream": 0, "kind": kind}
        return {**line, "name": name} if name else line

    def _operation(self, event: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """An operation, as far as it touches the device. What only leaves it takes no kernel."""
        touched = {}
        for blocks, sizes in (("reads", "read_bytes"), ("writes", "write_bytes")):
            here = [(block, size) for block, size in zip(event[blocks], event[sizes]) if block in self._here]
            touched[blocks], touched[sizes] = [block for block, _ in here], [size for _, size in here]
        if touched["writes"]:
            yield {**event, **touched}

    def _is_loaded(self, block: Block) -> bool:
        """Whether a block is on the device when the work begins, and the tape does not say so."""
        is_late = block.birth is Birth.WORK and block.is_kept and block.is_alive
        # What lies on a card takes its memory, whether it is used or not.
        is_there = block.is_used or self.device.startswith("cuda")
        return block.device == self.device and is_there and (block.birth is Birth.EARLIER or is_late)

    def _kind(self, block: Block) -> str:
        """The purpose of a block that lasts. What is never freed, and only read, is a weight."""
        if block.is_weight:
            return "param"
        if not self._has_phases and block.birth is Birth.LOAD:
            return "act"
        is_input = block.birth is Birth.INPUT or block.is_kept or block.is_written or not block.is_alive
        return "input" if is_input else "param"


def _busiest(touched: Counter[str], wanted: str | None) -> str:
    """The device of the work: the busiest card, or the busiest of the kind that is wanted."""
    found = [device for device in touched if wanted is None or device == wanted or device.split(":")[0] == wanted]
    return max(found, key=lambda device: (device.startswith("cuda"), touched[device]), default=wanted or "cpu")
