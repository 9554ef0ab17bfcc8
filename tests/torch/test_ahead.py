"""Weights are copied ahead of their use: the rules of lending, on a small card and on two."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from conftest import python

HERE = Path(__file__).parent
CARD = "dedicated:64MiB,shared:1GiB,copy_ahead:8MiB"


@pytest.mark.parametrize("rungs", ["", "pinned"])
def test_copying_ahead(rungs: str) -> None:
    file = str(HERE / "copying_ahead.py")
    variables: dict[str, Any] = {"FAKE_CUDA_RUNGS": rungs} if rungs else {}
    printed = python(
        "", "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", "--rootdir", str(HERE), file,
        GIANT_KITTEN=CARD, **variables,
    )  # fmt: skip
    assert " passed" in printed and "SKIPPED" not in printed, printed
