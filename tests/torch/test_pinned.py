"""A driver that can only pin host memory: the same tests, and those of taking tensors out and back."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import python

HERE = Path(__file__).parent


@pytest.mark.parametrize(
    ("tests", "options"), [("test_placement.py", "1"), ("on_the_pinned_rung.py", "dedicated:64MiB,shared:256MiB")]
)
def test_on_the_pinned_rung(tests: str, options: str) -> None:
    arguments = ("-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(HERE), str(HERE / tests))
    printed = python("", *arguments, GIANT_KITTEN=options, FAKE_CUDA_RUNGS="pinned")
    assert " passed" in printed and "skipped" not in printed, printed


def test_doctor_says_what_it_means() -> None:
    printed = python("", "-m", "giant_kitten", "doctor", FAKE_CUDA_RUNGS="pinned")
    assert "by pinned" in printed and "take tensors out and back" in printed and "host_numa: cuMem" in printed
    assert "nothing is wrong" in printed
