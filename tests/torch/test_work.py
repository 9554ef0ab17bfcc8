"""Ordinary work on our allocator: training, streams, graphs, threads, out of memory."""

from __future__ import annotations

import threading
from pathlib import Path

import giant_kitten
import pytest
import torch
import torch.nn.functional as F
from conftest import Machine, python

DEVICE = "cuda"


def test_operations() -> None:
    half = torch.float16
    image = torch.randn(2, 4, 64, 64, device=DEVICE, dtype=half)
    query = torch.randn(2, 8, 64, 40, device=DEVICE, dtype=half)
    assert torch.nn.Conv2d(4, 32, 3, padding=1, device=DEVICE, dtype=half)(image).shape == (2, 32, 64, 64)
    assert F.scaled_dot_product_attention(query, query, query).shape == query.shape
    assert F.interpolate(F.silu(image), scale_factor=2).shape == (2, 4, 128, 128)
    assert torch.einsum("bij,bjk->bik", query[0], query[0].transpose(1, 2)).shape == (8, 64, 64)
    assert torch.rand(1000, device=DEVICE).sort().values.shape == (1000,)
    assert torch.nn.Embedding(1000, 64, device=DEVICE)(torch.zeros(2, 7, dtype=torch.long, device=DEVICE)).shape == (
        2,
        7,
        64,
    )


def test_bytes_go_there_and_back() -> None:
    for dtype in (torch.uint8, torch.float16, torch.float64):
        known = torch.arange(100_003).to(dtype)
        assert torch.equal(known.cuda().clone().cpu(), known)
    pinned = torch.arange(1000).pin_memory()
    assert torch.equal(pinned.to(DEVICE, non_blocking=True).cpu(), pinned)


def test_training_with_autocast_and_adamw() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(64, 256), torch.nn.GELU(), torch.nn.Linear(256, 10)).cuda()
    optimizer = torch.optim.AdamW(model.parameters())
    for _ in range(3):
        with torch.autocast("cuda", dtype=torch.float16):
            loss = F.mse_loss(model(torch.randn(16, 64, device=DEVICE)), torch.randn(16, 10, device=DEVICE))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    giant_kitten.activate(reserve="1GiB", model=model)
    giant_kitten.disable()


def test_a_block_used_on_a_side_stream_is_not_given_out_before_that_is_done(machine: Machine) -> None:
    machine.complete_late(True)
    side = torch.cuda.Stream()
    block = torch.zeros(3 << 20, dtype=torch.uint8, device=DEVICE)
    address = block.data_ptr()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        block.zero_()
        target = torch.empty_like(block)
        target.copy_(block)
    block.record_stream(side)
    del block
    other = torch.empty(3 << 20, dtype=torch.uint8, device=DEVICE)
    assert other.data_ptr() != address
    other.copy_(torch.ones(3 << 20, dtype=torch.uint8))
    side.synchronize()
    torch.cuda.synchronize()


@pytest.mark.parametrize("end", ["", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"])
def test_early_use_of_memory_is_reported_even_for_a_killed_program(end: str, tmp_path: Path) -> None:
    """The fake runtime detects faults, so their absence in the other tests is meaningful."""
    program = f"""
import torch
given, taken = torch.ones(1 << 20).pin_memory(), torch.ones(1 << 20).pin_memory()
block = given.to("cuda", non_blocking=True)
with torch.cuda.stream(torch.cuda.Stream()):
    taken.copy_(block, non_blocking=True)
{end}
"""
    faults = tmp_path / "faults"
    python(program, code_expected=-9 if end else 0, FAKE_CUDA_FAULTS=str(faults))
    assert "is sure to be done" in faults.read_text()


def test_many_streams_and_threads() -> None:
    failures: list[BaseException] = []

    def work(seed: int) -> None:
        try:
            generator = torch.Generator().manual_seed(seed)
            stream = torch.cuda.Stream()
            with torch.cuda.stream(stream):
                for _ in range(50):
                    known = torch.randint(0, 256, (1 + seed * 7919 % 300_000,), dtype=torch.uint8, generator=generator)
                    there = known.cuda()
                    assert torch.equal(there.clone().cpu(), known)
        except BaseException as why:
            failures.append(why)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(1, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_a_graph_keeps_its_memory_until_it_is_gone() -> None:
    model = torch.nn.Linear(512, 512, device=DEVICE)
    given = torch.zeros(64, 512, device=DEVICE)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        model(given)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = F.relu(model(F.relu(model(given))))
    graph.replay()
    inside = out.data_ptr()
    del out
    eager = [torch.empty(64, 512, device=DEVICE) for _ in range(50)]
    assert inside not in [tensor.data_ptr() for tensor in eager], "a graph's memory is its own"
    giant_kitten.activate(reserve="1GiB")
    graph.replay()
    giant_kitten.disable()
    graph.replay()
    torch.cuda.synchronize()
    del graph


def test_out_of_memory_is_pytorchs_own_error_again_and_again() -> None:
    stats = giant_kitten.stats()
    room = stats["dedicated_capacity"] + stats["shared_capacity"]
    for attempt in range(1, 4):
        with pytest.raises(torch.cuda.OutOfMemoryError) as raised:
            torch.empty(room + (1 << 30), dtype=torch.uint8, device=DEVICE)
        text = str(raised.value)
        for part in ("CUDA out of memory. Tried to allocate", "GPU 0", "dedicated", "shared"):
            assert part in text, text
        assert giant_kitten.stats()["out_of_memory"] == stats["out_of_memory"] + attempt
        kept = torch.arange(1000).cuda()
        assert torch.equal(kept.cpu(), torch.arange(1000)), "and everything goes on"


def test_memory_beyond_the_card_is_shared() -> None:
    capacity = giant_kitten.stats()["dedicated_capacity"]
    blocks = [torch.empty(capacity // 4, dtype=torch.uint8, device=DEVICE) for _ in range(5)]
    assert giant_kitten.tier(blocks[0]) == "dedicated"
    assert giant_kitten.tier(blocks[-1]) == "shared"


def test_convolutions_with_benchmark_wanted() -> None:
    torch.backends.cudnn.benchmark = True
    assert torch.backends.cudnn.benchmark is False
    with torch.backends.cudnn.flags(enabled=True, benchmark=True):
        out = F.conv2d(torch.randn(1, 4, 32, 32, device=DEVICE), torch.randn(8, 4, 3, 3, device=DEVICE))
    assert out.shape == (1, 8, 30, 30)
