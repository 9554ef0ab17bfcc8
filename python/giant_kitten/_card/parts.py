"""The parts of the page, each a function that returns questions with their answers."""

from __future__ import annotations

import platform
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

from .. import _driver, _library
from .._placement import tier
from .._report import size
from .._torch import install
from . import handles

if TYPE_CHECKING:
    from collections.abc import Callable

Rows = list[list[str]]

_MIB = 1 << 20
_TOO_MUCH = 1 << 50
_TIMES = 100


def machine() -> Rows:
    """The system, the driver, and what giant-kitten finds of the card."""
    import torch

    found = _library.read_json("gk_device_json", 0)
    rows = [
        ["system", platform.platform()],
        ["Python, PyTorch, CUDA", f"{platform.python_version()}, {torch.__version__}, {torch.version.cuda}"],
        ["driver", _driver.version() or "unknown"],
        ["card", f"{found['device']}, {size(found['dedicated_total'])}, {size(found['dedicated_free'])} free"],
        ["shared memory by", found["rung"]],
    ]
    rows += [["refused", why] for why in found["rungs_refused"]]
    for kind in ("dedicated", "shared"):
        granted = found[f"{kind}_granted"]
        budget = f"{size(granted)}, {size(found[f'{kind}_usage'])} in use" if granted else "no account"
        rows.append([f"{kind} memory that the system grants", budget])
        rows.append([f"{kind} memory that giant-kitten would use", size(found[f"{kind}_capacity"])])
    if found["granted_unknown"]:
        rows.append(["why the system does not tell", found["granted_unknown"]])
    return rows


def exceptions() -> Rows:
    """Whether what giant-kitten throws arrives as PyTorch's own exceptions."""
    import torch

    install.install()

    def too_much() -> None:
        torch.empty(_TOO_MUCH, dtype=torch.uint8, device="cuda")

    class Backward(torch.autograd.Function):  # type: ignore[misc]
        @staticmethod
        def forward(_context: Any, given: Any) -> Any:
            return given * 2

        @staticmethod
        def backward(_context: Any, _gradient: Any) -> None:
            too_much()

    ones = torch.ones(3, device="cuda", requires_grad=True)

    def backward() -> None:
        Backward.apply(ones).sum().backward()

    in_thread: list[str] = []
    thread = threading.Thread(target=lambda: in_thread.append(_thrown(too_much)))
    thread.start()
    thread.join()
    return [
        ["in the main thread", _thrown(too_much)],
        ["in another thread", in_thread[0]],
        ["in a backward pass", _thrown(backward)],
    ]


def _thrown(run: Callable[[], None]) -> str:
    import torch

    right = 0
    for _ in range(_TIMES):
        try:
            run()
        except torch.cuda.OutOfMemoryError as why:
            right += "dedicated:" in str(why)
    return f"{right} of {_TIMES} were torch.OutOfMemoryError with giant-kitten's text"


def tiers() -> Rows:
    """Whether blocks overflow to the shared tier with their contents, and how fast each is."""
    import torch

    install.install()
    hosts = [torch.full((128 * _MIB,), number, dtype=torch.uint8) for number in range(6)]
    blocks = [host.to("cuda") for host in hosts]
    lie = [tier(block) for block in blocks]
    wrong = [block for block, host in zip(blocks, hosts) if not torch.equal(block.cpu(), host)]
    rows = [
        ["where six blocks of 128 MiB lie, with 512 MiB of dedicated memory", ", ".join(map(str, lie))],
        ["blocks with wrong contents", str(len(wrong))],
    ]
    for kind in ("dedicated", "shared"):
        block = next((block for block, found in zip(blocks, lie) if str(found) == kind), None)
        if block is not None:
            rows.append([f"a {kind} block read and written by a kernel", _rate(2 * block.numel(), block.add_, 0)])
    return rows


def copies() -> Rows:
    """How fast pinned memory is copied, by PyTorch's own allocator."""
    import torch

    host = torch.empty(256 * _MIB, dtype=torch.uint8, pin_memory=True)
    card = torch.empty(256 * _MIB, dtype=torch.uint8, device="cuda")
    return [
        ["to the card", _rate(host.numel(), card.copy_, host)],
        ["to the host", _rate(host.numel(), host.copy_, card)],
    ]


def full() -> Rows:
    """What becomes of a handle that is created when the card is full."""
    import torch

    torch.empty(1, device="cuda")
    return handles.on_a_full_card(_library.read_json("gk_device_json", 0))


def _rate(count: int, run: Callable[..., object], *arguments: object) -> str:
    """The best of five, in bytes per second."""
    import torch

    best = 0.0
    for _ in range(5):
        torch.cuda.synchronize()
        begun = time.perf_counter()
        run(*arguments)
        torch.cuda.synchronize()
        best = max(best, count / max(time.perf_counter() - begun, sys.float_info.epsilon))
    return f"{best / 1e9:.1f} GB/s"
