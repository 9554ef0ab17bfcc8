"""The examples run, and print what they promise."""

from __future__ import annotations

from pathlib import Path

from conftest import python

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_change_current_allocator() -> None:
    printed = python("", str(EXAMPLES / "change_current_allocator.py"), native=True)
    assert printed == f"pluggable {list(range(10))}\n"


def test_generate() -> None:
    printed = python("", str(EXAMPLES / "generate.py"), native=True).splitlines()
    # 640 MiB, of which 256 are the reserve; the blocks of 32 MiB lie in one tier until activate().
    assert printed[0] == "loaded     weights:   352 MiB dedicated,   416 MiB shared"
    assert printed[1] == "activated  weights:   382 MiB dedicated,   386 MiB shared"
    assert "active, shared memory by host_numa" in printed[2]
    assert printed[-1] == "freed      weights:     0 MiB dedicated,   768 MiB shared"


def test_to_shared() -> None:
    printed = python("", str(EXAMPLES / "to_shared.py"), native=True)
    assert printed == "encoder: shared decoder: dedicated\ncache: shared\ntorch.Size([1, 7, 49152])\n"
