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
    skipped = [line for line in printed.splitlines() if line.startswith("SKIPPED")]
    assert " passed" in printed and all("this PyTorch" in line for line in skipped), printed


TWO_CARDS = """
import giant_kitten, torch
from torch import nn

torch.set_grad_enabled(False)
MIB = 1 << 20


def known(seed):
    return torch.randint(0, 256, (2 * MIB,), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


class Reader(nn.Module):
    def __init__(self, number, device):
        super().__init__()
        self.weight = nn.Parameter(known(number).to(device), requires_grad=False)

    def forward(self, found):
        return [*found, self.weight.clone()]


def half(device):
    layers = nn.Sequential(*(Reader(number + 100 * device, device) for number in range(8)))
    giant_kitten.to_shared(layers)
    return layers


halves = [half(0), half(1)]
both = nn.Sequential(*halves)
for number, part in enumerate(halves):
    giant_kitten.follow(part, f"half {number}", device=number)
for turn in range(5):
    before = [giant_kitten.stats(device)["lends"] for device in (0, 1)]
    found = both([])
    for number, one in enumerate(found):
        assert one.device.index == number // 8 and torch.equal(one.cpu(), known(number % 8 + 100 * (number // 8)))
    del found, one
print([giant_kitten.stats(device)["lends"] - before[device] for device in (0, 1)])
"""


def test_two_cards_have_a_ring_each(tmp_path: Path) -> None:
    faults = tmp_path / "faults"
    printed = python(
        TWO_CARDS, GIANT_KITTEN=CARD, FAKE_CUDA_PROFILE="nominal-8g,nominal-8g", FAKE_CUDA_FAULTS=str(faults)
    )
    assert printed.splitlines()[-1] == "[8, 8]"
    assert not faults.exists() or faults.read_text() == ""


NOTHING = """
import giant_kitten, sys, torch

module = torch.nn.Linear(1024, 1024, device="cuda").requires_grad_(False)
net = torch.nn.Sequential(module)
giant_kitten.follow(net, "net")
for _ in range(3):
    net(torch.ones(2, 1024, device="cuda"))
stats = giant_kitten.stats()
print(len(module._forward_hooks), len(module._forward_pre_hooks), stats["staging"], stats["lends"])
"""


@pytest.mark.parametrize("options", ["1", "dedicated:64MiB,shared:1GiB,copy_ahead:off"])
def test_nothing_is_installed_where_nothing_is_lent(options: str) -> None:
    assert python(NOTHING, GIANT_KITTEN=options).splitlines()[-1] == "0 0 0 0"
