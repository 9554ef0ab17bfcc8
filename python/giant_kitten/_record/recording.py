"""A recording: it begins, ends, and says what went wrong."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from .._library import Error
from .._torch.attention import attention_of_cards
from .._torch.operations import Watch
from .blocks import Birth, Blocks
from .files import check, written_whole
from .modules import Modules
from .tape import Tape
from .trace import LOADING, Trace
from .work import Work

if TYPE_CHECKING:
    from collections.abc import Mapping

_NO_VALUES = (
    " If it asks for the value of a tensor without one (on meta, or of FakeTensorMode), by .item(), .tolist(), "
    "bool(tensor), nonzero() or an index by a mask: record on a card or on the CPU, or give the program what it would "
    "read from the tensor."
)


def record(
    path: str | os.PathLike[str], *, device: str | None = None, about: Mapping[str, object] | None = None
) -> Recording:
    """Writes what runs inside a `with` statement to a trace, for `kitten-bench plan` and others.

    A name that ends in .zst or .gz is compressed. The work may run on a card, on the CPU, or on
    tensors without values (`meta`, FakeTensorMode). What lives before the work, is never freed and
    only read is a weight, as are the parameters and buffers of modules that are called. Each call
    of a module outside all others begins a phase, unless `phase` names them. The file is written at
    the end, and only if nothing was raised.

    Of several devices, the trace is of the card that is used most, or else of the device that is
    used most; `device` names another one, such as "cuda:1" or "cpu". `about` has more fields for
    its header.
    """
    return Recording(Path(path), device, about or {})


class Recording:
    """What `record` returns: a context manager around the work."""

    def __init__(self, path: Path, device: str | None, about: Mapping[str, object]) -> None:
        self._path, self._device, self._about = path, device, about
        self._passes: Counter[str] = Counter()
        # Whether the work has begun, and whether the program names its phases.
        self._has_phases = self._is_named = self._is_open = False

    def phase(self, name: str) -> None:
        """Begins a phase, such as "step 3"; the number tells the steps of one kind of work apart.

        "load" and "inputs" come before the work. Once any other phase is named, the calls of
        modules name none.
        """
        if not isinstance(name, str) or not name:
            raise TypeError(f'the name of a phase must be a text such as "step 0", not {name!r}')
        if not self._is_open:
            raise Error(f"phase({name!r}) belongs inside the recording: with giant_kitten.record(...) as recording:")
        self._is_named = self._is_named or name not in LOADING
        self._begin(name)

    def __enter__(self) -> Recording:
        check(self._path)
        _check_device(self._device)
        self._tape = Tape()
        self._blocks = Blocks(self._tape)
        self._blocks.find_existing()
        with contextlib.ExitStack() as watching:
            watching.callback(self._blocks.forget)
            modules = Modules(self._blocks, self._begin_pass)
            watching.callback(modules.remove)
            watching.enter_context(attention_of_cards())
            watching.enter_context(Watch(Work(self._tape, self._blocks, modules.running).see))
            self._watching = watching.pop_all()
        self._is_open = True
        return self

    def __exit__(self, _kind: object, why: BaseException | None, _traceback: object) -> None:
        with self._tape.until_closed():
            self._is_open = False
            self._watching.close()
            if why is None:
                self._write()
            else:
                _note(why, f"giant_kitten.record has not written {self._path}, because the work raised this.")

    def _write(self) -> None:
        trace = Trace(self._tape, self._blocks, self._device, self._has_phases)
        if not self._blocks.touched[trace.device]:
            where = f"on {self._device} " if self._device else ""
            raise Error(
                f"{self._path} is not written: no operation {where}ran in this thread inside the recording. Put the "
                "work itself inside; what other threads and other processes do is not seen"
            )
        name = self._path.name
        for suffix in (".zst", ".gz", ".json", ".jsonl"):
            name = name.removesuffix(suffix)
        header = {
            "trace": name,
            **self._about,
            "device": trace.device,
            "torch": torch.__version__,
            "bytes": "of storages, not rounded as an allocator does",
        }
        with written_whole(self._path) as file:
            for line in trace.lines(header):
                file.write(json.dumps(line, separators=(",", ":")).encode() + b"\n")

    def _begin(self, name: str) -> None:
        is_work = name not in LOADING
        self._has_phases = self._has_phases or is_work
        self._blocks.enter(Birth.WORK if self._has_phases else Birth.INPUT if name == "inputs" else Birth.LOAD)
        self._tape.put({"ev": "phase", "name": name})

    def _begin_pass(self, name: str, has_parts: bool) -> None:
        """A module is called outside all others. One without parts is a step only at first."""
        if not self._is_named and (has_parts or not self._has_phases):
            self._begin(f"{name} {self._passes[name]}")
            self._passes[name] += 1


def _note(why: BaseException, text: str) -> None:
    """Adds to an exception what it means for the recording."""
    said = f"{type(why).__name__} {why}".lower()
    if any(word in said for word in ("meta", "datadependent", "dynamicoutput", "fake")):
        text += _NO_VALUES
    if sys.version_info >= (3, 11):
        why.add_note(text)
    else:
        print(text, file=sys.stderr)


def _check_device(name: str | None) -> None:
    """Raises where `name` can be no device, before the work runs in vain."""
    try:
        if name is not None:
            torch.device(name)
    except (RuntimeError, TypeError) as why:
        raise Error(f'device={name!r} names no device: write "cuda:1", "cpu" or "meta"') from why
