"""The gate between work that runs concurrently with a generation and actions that move memory.

A WebUI may decode previews in threads of its own while a generation runs, outside the lock that
separates generations. Such work passes the gate: no memory moves during it, and actions wait until
it is over.
"""

from __future__ import annotations

import contextlib
import threading
import time
from typing import TYPE_CHECKING

from .. import _follow, _status

if TYPE_CHECKING:
    from collections.abc import Iterator


class Gate:
    """The gate of one WebUI, on one device."""

    def __init__(self, device: int) -> None:
        self._device = device
        self._changed = threading.Condition()
        self._concurrent = 0
        # The thread that keeps the gate closed, and how often it has closed it.
        self._quiet: int | None = None
        self._depth = 0

    @contextlib.contextmanager
    def concurrent(self) -> Iterator[None]:
        """Concurrent work: waits until the gate is open; no memory moves before the work ends."""
        with self._changed:
            self._changed.wait_for(lambda: self._quiet in (None, threading.get_ident()))
            self._concurrent += 1
        try:
            with _follow.working(self._device) if _status.is_installed() else contextlib.nullcontext():
                yield
        finally:
            with self._changed:
                self._concurrent -= 1
                self._changed.notify_all()

    @contextlib.contextmanager
    def quiet(self, seconds: float | None = None) -> Iterator[bool]:
        """Closes the gate, and waits until all concurrent work has ended, at most so many seconds.

        Yields whether it has ended. A thread that has already closed the gate passes at once.
        """
        own, until = threading.get_ident(), None if seconds is None else time.monotonic() + seconds

        def left() -> float | None:
            return None if until is None else max(0.0, until - time.monotonic())

        with self._changed:
            mine = self._changed.wait_for(lambda: self._quiet in (None, own), left())
            if mine:
                self._quiet = own
                self._depth += 1
        try:
            with self._changed:
                is_quiet = mine and self._changed.wait_for(lambda: self._concurrent == 0, left())
            yield is_quiet
        finally:
            if mine:
                with self._changed:
                    self._depth -= 1
                    if self._depth == 0:
                        self._quiet = None
                        self._changed.notify_all()
