"""Programs without giant-kitten in them print the same, byte for byte, on both allocators.

Each is a file in `programs/`, and prints PyTorch's statistics of memory after each step.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import HERE, has_mem_pool, python

PROGRAMS = sorted(path for path in (HERE / "programs").glob("*.py") if path.stem != "sampled")


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.stem)
def test_a_program_prints_the_same(program: Path, tmp_path: Path) -> None:
    if program.stem == "pools" and not has_mem_pool():
        pytest.skip(f"PyTorch {torch.__version__} has no MemPool that ours can stand in for")
    faults = tmp_path / "faults"
    variables: dict[str, Any] = {"FAKE_CUDA_FAULTS": str(faults), "PYTHONWARNINGS": "ignore"}
    if program.stem == "devices":
        variables["FAKE_CUDA_PROFILE"] = "nominal-8g,nominal-6g"
    native = python("", str(program), native=True, **variables)
    assert python("", str(program), **variables) == native
    assert not faults.exists() or faults.read_text() == ""
