"""Actions on live tensors keep their bytes, and their addresses if memory can move.

test_pinned.py runs this file again, on a driver that can only pin host memory.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable

import giant_kitten
import pytest
import torch

MIB = 1 << 20


def filled(count: int, bytes_each: int, seed: int) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Tensors on the GPU, with known contents."""
    generator = torch.Generator().manual_seed(seed)
    known = [
        torch.randint(0, 256, (bytes_each + 1000 * i,), dtype=torch.uint8, generator=generator) for i in range(count)
    ]
    return [tensor.cuda() for tensor in known], known


def same(found: list[torch.Tensor], known: list[torch.Tensor]) -> None:
    for number, (one, other) in enumerate(zip(found, known)):
        assert torch.equal(one.cpu(), other), f"tensor {number} has changed"


@pytest.fixture(autouse=True)
def thawed() -> None:
    giant_kitten.disable()


def test_every_action_keeps_addresses_and_bytes() -> None:
    tensors, known = filled(12, 9 * MIB, 1)
    addresses = [tensor.data_ptr() for tensor in tensors]
    actions: list[Callable[[], object]] = [
        lambda: giant_kitten.activate(reserve="6.9GiB", model=tensors[:4]),
        giant_kitten.free_vram,
        lambda: giant_kitten.activate(reserve=0, sort_reversed=True),
        giant_kitten.disable,
        lambda: giant_kitten.to_shared(tensors[3]),
        lambda: giant_kitten.activate(reserve=1 << 30, ignore_model=True, persist="5GiB"),
        lambda: giant_kitten.to_dedicated(tensors[5]),
    ]
    choice = random.Random(5)
    for _ in range(3):
        for action in choice.sample(actions, len(actions)):
            action()
            same(tensors, known)
            if giant_kitten.stats()["migrates"]:
                assert [tensor.data_ptr() for tensor in tensors] == addresses


def test_free_vram_leaves_nothing_dedicated_and_everything_usable() -> None:
    tensors, known = filled(4, 5 * MIB, 2)
    giant_kitten.free_vram()
    assert {giant_kitten.tier(tensor) for tensor in tensors} == {"shared"}
    assert giant_kitten.stats()["dedicated_mapped"] == 0
    same(tensors, known)
    more = torch.zeros(3 * MIB, dtype=torch.uint8, device="cuda")
    assert giant_kitten.tier(more) == "dedicated"


def test_the_model_is_placed_first() -> None:
    others, _ = filled(6, 4 * MIB, 3)
    model = torch.nn.Linear(1024, 4096, device="cuda")
    giant_kitten.free_vram()
    capacity = giant_kitten.stats()["dedicated_capacity"]
    giant_kitten.activate(reserve=capacity - 20 * MIB, model=model)
    assert giant_kitten.tier(model.weight) == "dedicated"
    assert "shared" in {giant_kitten.tier(other) for other in others}


def test_a_module_moves_whole() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(800, 2000), torch.nn.BatchNorm1d(2000)).cuda()
    assert giant_kitten.to_shared(model) is model
    found = giant_kitten.residency(model)
    assert found["dedicated"] == 0 and found["shared"] >= 800 * 2000 * 4
    giant_kitten.to_dedicated(model)
    assert giant_kitten.residency(model)["shared"] == 0


def test_inside_shared_and_dedicated() -> None:
    with giant_kitten.shared():
        inside = torch.empty(5 * MIB, dtype=torch.uint8, device="cuda")
        with giant_kitten.dedicated():
            nested = torch.empty(5 * MIB, dtype=torch.uint8, device="cuda")
        again = torch.empty(5 * MIB, dtype=torch.uint8, device="cuda")
        elsewhere: list[torch.Tensor] = []
        thread = threading.Thread(
            target=lambda: elsewhere.append(torch.empty(5 * MIB, dtype=torch.uint8, device="cuda"))
        )
        thread.start()
        thread.join()
    outside = torch.empty(5 * MIB, dtype=torch.uint8, device="cuda")
    tiers = [giant_kitten.tier(tensor) for tensor in (inside, nested, again, *elsewhere, outside)]
    assert tiers == ["shared", "dedicated", "shared", "dedicated", "dedicated"]


def test_a_view_and_an_empty_tensor() -> None:
    base = torch.empty(4 * MIB, dtype=torch.uint8, device="cuda")
    giant_kitten.to_shared(base[MIB : 2 * MIB])
    assert giant_kitten.tier(base) == "shared"
    giant_kitten.to_shared(torch.empty(0, device="cuda"))
    giant_kitten.mark([torch.zeros(3), {"a": base}])


def test_reset_is_inert_while_active() -> None:
    giant_kitten.activate(reserve="1GiB")
    block = torch.empty(64 * MIB, dtype=torch.uint8, device="cuda")
    del block
    before = giant_kitten.stats()["dedicated_reserved"]
    torch.cuda.empty_cache()
    torch.cuda.ipc_collect()
    assert giant_kitten.stats()["dedicated_reserved"] == before
    giant_kitten.disable()
    torch.cuda.empty_cache()
    assert giant_kitten.stats()["dedicated_reserved"] < before


def test_the_reserve_is_handed_out_first() -> None:
    giant_kitten.activate(reserve="1GiB")
    assert giant_kitten.stats()["reserve"] == 1 << 30
    scratch = torch.empty(512 * MIB, dtype=torch.uint8, device="cuda")
    assert giant_kitten.tier(scratch) == "dedicated"
    assert giant_kitten.stats()["reserve_used"] >= 512 * MIB
    assert "reserve 1.00 GiB" in giant_kitten.summary()


@pytest.mark.parametrize(
    ("wrong", "kind", "said"),
    [
        (lambda: giant_kitten.activate(reserve="1.6"), ValueError, "1.6GiB"),
        (lambda: giant_kitten.activate(reserve=1 << 70), ValueError, "no memory is that large"),
        (lambda: giant_kitten.activate(reserve=2**64 - 1), ValueError, "no memory is that large"),
        (lambda: giant_kitten.safe_point(3), TypeError, "kind of work"),  # type: ignore[arg-type]
        (lambda: giant_kitten.tier(torch.zeros(9)), giant_kitten.Error, "not managed by giant-kitten"),
        (lambda: giant_kitten.tier(torch.zeros(9, device="meta")), giant_kitten.Error, "not managed by giant-kitten"),
        (lambda: giant_kitten.activate(reserve=-1), ValueError, "-1"),
        (lambda: giant_kitten.activate(reserve=1.5), TypeError, "1.5"),  # type: ignore[arg-type]
        (lambda: giant_kitten.activate(device=9), giant_kitten.Error, "no device 9"),
        (lambda: giant_kitten.activate(device="cpu"), ValueError, "not a CUDA device"),
        (lambda: giant_kitten.activate(model=3), TypeError, "int"),
        (lambda: giant_kitten.to_shared("weights"), TypeError, "str"),
        (lambda: giant_kitten.stats(device=7), giant_kitten.Error, "no device 7"),
        (lambda: giant_kitten.install("reserve:1GiB"), giant_kitten.Error, "already installed"),
    ],
)
def test_invalid_arguments_are_reported(wrong: object, kind: type[Exception], said: str) -> None:
    with pytest.raises(kind, match=said):
        wrong()  # type: ignore[operator]


def test_installing_again_does_nothing() -> None:
    giant_kitten.install()
    assert giant_kitten.is_installed()


@pytest.mark.parametrize("layout", [torch.sparse_coo, torch.sparse_csr, torch.sparse_csc])
def test_a_sparse_tensor_moves_with_its_parts(layout: torch.layout) -> None:
    given = torch.arange(1 << 20, dtype=torch.float).view(1024, 1024)
    sparse = (given.to_sparse() if layout == torch.sparse_coo else given.to_sparse(layout=layout)).cuda()
    assert giant_kitten.tier(giant_kitten.to_shared(sparse)) == "shared"
    assert giant_kitten.tier(giant_kitten.to_dedicated(sparse)) == "dedicated"
    assert torch.equal(sparse.cpu().to_dense(), given)
