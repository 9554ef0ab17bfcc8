"""The genuine PyTorch on the fake CUDA runtime: run by `scripts/torch-rig test`."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent


class Machine:
    """The simulated machine under the fake runtime."""

    def __init__(self) -> None:
        self.library = ctypes.CDLL("libcuda.so.1")
        self.library.fake_cuda_faults.restype = ctypes.c_size_t
        self.library.fake_cuda_faults.argtypes = (ctypes.c_char_p, ctypes.c_size_t)
        self.library.fake_cuda_take.argtypes = (ctypes.c_int, ctypes.c_uint64)

    def faults(self) -> str:
        """All uses of memory that came too early."""
        text = ctypes.create_string_buffer(self.library.fake_cuda_faults(None, 0) + 1)
        self.library.fake_cuda_faults(text, len(text))
        return text.value.decode()

    def complete_late(self, late: bool) -> None:
        """Chooses whether work is done at once or as late as possible."""
        self.library.fake_cuda_complete_late(int(late))


@pytest.fixture(scope="session")
def machine() -> Machine:
    """The simulated machine of this process."""
    return Machine()


@pytest.fixture(autouse=True)
def no_faults(machine: Machine) -> Iterator[None]:
    """Fails tests that use memory too early."""
    yield
    machine.complete_late(False)
    assert machine.faults() == ""


def python(code: str, *arguments: str, native: bool = False, code_expected: int | None = 0, **variables: str) -> str:
    """Runs a program in a Python of its own, and returns its output."""
    environment = {**os.environ, **variables}
    if native:
        environment.pop("GIANT_KITTEN", None)
    done = subprocess.run(
        [sys.executable, *(("-c", code) if code else ()), *arguments],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert code_expected is None or done.returncode == code_expected, f"{done.returncode}: {done.stdout}"
    return done.stdout


def has_mem_pool() -> bool:
    """Whether this PyTorch has a `MemPool` that ours can stand in for."""
    return hasattr(torch._C, "_cuda_beginAllocateCurrentThreadToPool")
