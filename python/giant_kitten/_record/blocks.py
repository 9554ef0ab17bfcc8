"""The storages of a recording: when each is born and dies, and what it is for."""

from __future__ import annotations

import contextlib
import enum
import weakref
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Any

from .._tensors import known_tensors
from .._torch.operations import key_of

if TYPE_CHECKING:
    from .tape import Tape


class Birth(enum.Enum):
    """When a block is born."""

    EARLIER = "before the recording"
    LOAD = "before the work"
    INPUT = "in the phase of inputs"
    WORK = "by the work"


class Block:
    """A storage, or memory that an operation uses unseen."""

    __slots__ = (
        "birth", "bytes", "device", "id", "is_alive", "is_kept", "is_used", "is_weight", "is_written", "name",
    )  # fmt: skip

    def __init__(self, number: int, size: int, device: str, name: str, birth: Birth) -> None:
        self.id, self.bytes, self.device, self.name, self.birth = number, size, device, name, birth
        self.is_alive = True
        # Whether an operation touches it, or a module that is called has it.
        self.is_used = False
        # Whether an operation of the work writes it.
        self.is_written = False
        # Whether it is a parameter or a buffer of a module that is called.
        self.is_weight = False
        # Whether it stays from one step to the next, as weights and the state of optimizers do.
        self.is_kept = False


class Blocks:
    """The storages that live, and all that is remembered of those that live longer than a step."""

    def __init__(self, tape: Tape) -> None:
        self._tape = tape
        # By the key of the storage. The reference calls back when it dies.
        self._living: dict[int, tuple[Block, Any]] = {}
        self._next = 0
        # Those that lived before the recording, that were born before the work, or that are kept.
        self.lasting: dict[int, Block] = {}
        # The birth of what is born now.
        self._now = Birth.LOAD
        # The bytes that operations touch on each device.
        self.touched: Counter[str] = Counter()

    def find_existing(self) -> None:
        """Takes in the storages that Python knows already."""
        for tensor in known_tensors():
            # Tensors of some kinds have no storage.
            with contextlib.suppress(Exception):
                self._find(tensor, "", Birth.EARLIER)

    def enter(self, now: Birth) -> None:
        """What is born from now on has this birth."""
        if now is Birth.WORK and self._now is not Birth.WORK:
            for block in self.lasting.values():
                block.is_written = False
        self._now = now

    def of(self, tensor: Any, name: str = "") -> Block | None:
        """The block of a tensor, which is born now unless it is known; None if it is empty."""
        block = self._find(tensor, name, self._now)
        if block:
            block.is_used = True
        return block

    def knows(self, tensor: Any) -> bool:
        """Whether a tensor's storage is known, or empty."""
        storage = tensor.untyped_storage()
        return key_of(storage) in self._living or storage.nbytes() == 0

    def keep(self, tensor: Any, name: str, is_weight: bool) -> None:
        """A tensor stays from one step to the next."""
        with contextlib.suppress(RuntimeError, NotImplementedError):
            block = self.of(tensor, name)
            if block:
                if not block.is_kept:
                    # In the order of the module.
                    self.lasting.pop(block.id, None)
                    self.lasting[block.id] = block
                    block.is_kept, block.name = True, name
                block.is_weight = block.is_weight or is_weight

    def unseen(self, size: int, device: str, name: str) -> Block:
        """Memory that an operation uses and that no tensor stands for."""
        return self._bear(size, device, name, self._now)

    def free(self, block: Block) -> None:
        """An unseen block, or one that died, is gone."""
        block.is_alive = False
        if block.birth is self._now and self._now is not Birth.WORK:
            self.lasting.pop(block.id, None)
        self._tape.died(block.id)

    def forget(self) -> None:
        """Ends the watch over the storages that live."""
        self._living.clear()

    def _find(self, tensor: Any, name: str, birth: Birth) -> Block | None:
        storage = tensor.untyped_storage()
        size, key = storage.nbytes(), key_of(storage)
        known = self._living.get(key)
        if known and known[0].bytes == size:
            return known[0]
        if known:
            # It was resized, so it has other memory now.
            self._died(key, known[0])
        if size == 0:
            return None
        block = self._bear(size, str(tensor.device), name, birth)
        self._living[key] = block, weakref.ref(storage, partial(self._died, key, block))
        return block

    def _bear(self, size: int, device: str, name: str, birth: Birth) -> Block:
        self._next += 1
        block = Block(self._next, size, device, name, birth)
        if birth is not Birth.WORK:
            self.lasting[block.id] = block
        if birth is not Birth.EARLIER:
            self._tape.put({"ev": "alloc", "id": block.id, "bytes": size, "on": device, "name": name})
        return block

    def _died(self, key: int, block: Block, _reference: object = None) -> None:
        if self._living.get(key, (None,))[0] is block:
            del self._living[key]
            self.free(block)
