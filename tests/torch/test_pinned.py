"""The same tests on a driver that can only pin host memory, and tests of out and back."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import python

HERE = Path(__file__).parent


@pytest.mark.parametrize(
    ("tests", "options"),
    [
        ("test_placement.py", "1"),
        ("test_pins.py", "1"),
        ("test_tensors_of_parts.py", "1"),
        ("on_the_pinned_rung.py", "dedicated:64MiB,shared:256MiB"),
    ],
)
def test_on_the_pinned_rung(tests: str, options: str) -> None:
    arguments = ("-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", "--rootdir", str(HERE), str(HERE / tests))
    printed = python("", *arguments, GIANT_KITTEN=options, FAKE_CUDA_RUNGS="pinned")
    skipped = [line for line in printed.splitlines() if line.startswith("SKIPPED")]
    # A release of PyTorch may lack what a test is about; the rung is no reason to skip one.
    assert " passed" in printed and all("PyTorch" in line for line in skipped), printed


def test_doctor_says_what_it_means() -> None:
    printed = python("", "-m", "giant_kitten", "doctor", FAKE_CUDA_RUNGS="pinned")
    assert "by pinned" in printed and "take tensors out and back" in printed and "host_numa: cuMem" in printed
    assert "no problems found" in printed


@pytest.mark.parametrize("end", ["", "torch.cuda.synchronize()", "del kept", "sys.exit(3)", "os._exit(0)"])
def test_the_end_of_a_program_with_pinned_memory_in_use(end: str, tmp_path: Path) -> None:
    program = f"""
import os, sys, torch, giant_kitten
kept = [torch.zeros(40 << 20, dtype=torch.uint8, device="cuda") for _ in range(4)]
assert giant_kitten.tier(kept[3]) == "shared"
giant_kitten.activate(reserve="30MiB", model=kept[2])
kept[3].record_stream(torch.cuda.Stream())
{end}
"""
    faults = tmp_path / "faults"
    printed = python(
        program, code_expected=3 if "3" in end else 0,
        GIANT_KITTEN="dedicated:64MiB,shared:256MiB", FAKE_CUDA_RUNGS="pinned", FAKE_CUDA_FAULTS=str(faults),
    )  # fmt: skip
    assert "kitten" not in printed and (not faults.exists() or faults.read_text() == "")
