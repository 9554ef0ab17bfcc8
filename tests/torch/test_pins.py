"""Tensors that were placed by hand stay where they are until the user says otherwise.

test_pinned.py runs this file again, on a driver that can only pin host memory.
"""

from __future__ import annotations

from collections.abc import Iterator

import giant_kitten
import pytest
import torch

MIB = 1 << 20


def block(mebibytes: int) -> torch.Tensor:
    return torch.full((mebibytes * MIB,), mebibytes, dtype=torch.uint8).cuda()


@pytest.fixture(autouse=True)
def thawed() -> Iterator[None]:
    giant_kitten.disable()
    yield


def test_placements_respect_pins() -> None:
    away, here, other = block(8), block(6), block(10)
    assert giant_kitten.to_shared(away) is away
    giant_kitten.to_dedicated(here)
    capacity = giant_kitten.stats()["dedicated_capacity"]
    for model in (away, other):
        # The card has room for it, and it is part of the model.
        giant_kitten.activate(reserve=0, model=model)
        assert [giant_kitten.tier(one) for one in (away, here, other)] == ["shared", "dedicated", "dedicated"]
    # There is room for one of the two others. The pinned one gets it, although it is not marked.
    giant_kitten.activate(reserve=capacity - 12 * MIB, model=other)
    assert giant_kitten.tier(away) == "shared" and giant_kitten.tier(here) == "dedicated"
    assert giant_kitten.tier(other) != "dedicated"
    giant_kitten.disable()
    assert giant_kitten.tier(away) == "shared" and giant_kitten.tier(other) == "dedicated"
    assert [int(one.cpu()[-1]) for one in (away, here, other)] == [8, 6, 10]


def test_free_vram_goes_before_a_pin_for_as_long_as_it_lasts() -> None:
    here = giant_kitten.to_dedicated(block(8))
    giant_kitten.free_vram()
    assert giant_kitten.tier(here) == "shared" and giant_kitten.residency(here)["pinned"] == 8 * MIB
    giant_kitten.disable()
    assert giant_kitten.tier(here) == "dedicated"


def test_tensors_without_a_pin_are_placed() -> None:
    tensor = block(8)
    assert giant_kitten.residency(tensor) == {"dedicated": 8 * MIB, "shared": 0, "pinned": 0}
    giant_kitten.to_shared(tensor)
    assert giant_kitten.residency(tensor) == {"dedicated": 0, "shared": 8 * MIB, "pinned": 8 * MIB}
    assert giant_kitten.unpin(tensor) is tensor
    assert giant_kitten.residency(tensor) == {"dedicated": 0, "shared": 8 * MIB, "pinned": 0}
    giant_kitten.disable()
    assert giant_kitten.tier(tensor) == "dedicated"
    giant_kitten.to_dedicated(tensor)
    # It is moved elsewhere, so the old pin is gone.
    giant_kitten.to_shared(tensor, pin=False)
    assert giant_kitten.residency(tensor)["pinned"] == 0
    giant_kitten.disable()
    assert giant_kitten.tier(tensor) == "dedicated"


def test_a_module_is_pinned_whole_and_a_block_that_goes_takes_its_pin_with_it() -> None:
    layer = torch.nn.Linear(1024, 1024, device="cuda")
    giant_kitten.to_shared(layer)
    found = giant_kitten.residency(layer)
    assert found["pinned"] == found["shared"] > 0 == found["dedicated"]
    giant_kitten.activate(reserve=0, model=layer)
    assert giant_kitten.tier(layer) == "shared"
    giant_kitten.unpin(layer)
    giant_kitten.disable()
    assert giant_kitten.tier(layer) == "dedicated"
    giant_kitten.to_dedicated(layer)
    del layer
    again = torch.nn.Linear(1024, 1024, device="cuda")
    assert giant_kitten.residency(again)["pinned"] == 0


def test_the_automatic_mode_respects_pins_in_shared_memory() -> None:
    giant_kitten.activate(reserve="auto")
    away, model = block(8), torch.nn.Linear(1024, 1024, device="cuda")
    giant_kitten.to_shared([away, model])
    with giant_kitten.follow(model, "work"):
        for _ in range(40):
            model(torch.ones(8, 1024, device="cuda"))
            torch.cuda.empty_cache()
    assert giant_kitten.tier(away) == giant_kitten.tier(model) == "shared"
    giant_kitten.unpin([away, model])
