"""What was seen, in order, until the end of the recording says what it was for."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections import deque
from typing import TYPE_CHECKING, Any

from .._library import Error

if TYPE_CHECKING:
    from collections.abc import Iterator

# The lines that kitten-bench reads, less those that come at the beginning and the end.
_MOST = (1 << 24) - (1 << 20)


class Tape:
    """Events in a file without a name, so that a long recording takes no memory."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile("w+", encoding="utf-8")
        # A storage may die at any moment, even while an event is written.
        self._dead: deque[int] = deque()
        self.length = 0
        # The number of the last operation.
        self.last_operation = 0

    def put(self, event: dict[str, Any]) -> None:
        """Appends an event, and before it those that have died."""
        self._bury()
        self._write(event)
        if event["ev"] == "op":
            self.last_operation = self.length
        if self.length > _MOST:
            raise Error(f"the recording has more than {_MOST} events: record fewer steps")

    def died(self, number: int) -> None:
        """A block has died."""
        self._dead.append(number)

    def events(self) -> Iterator[dict[str, Any]]:
        """All events from the first."""
        self._bury()
        self._file.seek(0)
        for line in self._file:
            yield json.loads(line)

    def until_closed(self) -> contextlib.AbstractContextManager[Any]:
        """Forgets everything at its end."""
        return contextlib.closing(self._file)

    def _bury(self) -> None:
        while self._dead:
            self._write({"ev": "free", "id": self._dead.popleft()})

    def _write(self, event: dict[str, Any]) -> None:
        self._file.write(json.dumps(event, separators=(",", ":")) + "\n")
        self.length += 1
