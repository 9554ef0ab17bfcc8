"""The history of memory under exceptions, signals, threads, short-lived code, and Python's end."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import giant_kitten
import pytest
import torch
from conftest import HERE, has_mem_pool, python
from giant_kitten import _library

memory = torch.cuda.memory
CONTEXTS = ("all", "alloc", "state", None)


@pytest.fixture
def recording() -> Iterator[Any]:
    """Starts a history with the given arguments; it ends with the test."""
    yield lambda **wanted: memory._record_memory_history(stacks="python", **wanted)
    memory._record_memory_history(enabled=None)


def functions(told: dict[str, Any]) -> list[str]:
    return [frame["name"] for frame in told["frames"]]


def allocations(snapshot: dict[str, Any]) -> list[dict[str, Any]]:
    return [event for event in snapshot["device_traces"][0] if event["action"] == "alloc"]


def run_beside_native(program: str) -> list[str]:
    """The output of a program of `programs/history/` on both allocators."""
    path = HERE / "programs" / "history" / program
    ours = python("", str(path))
    assert ours == python("", str(path), native=True)
    return ours.splitlines()


def test_exceptions_over_temporaries_arrive_despite_frees_and_allocations() -> None:
    told = run_beside_native("exceptions.py")
    assert len(told) == 4 * 9 and all(line.endswith("100 of 100") for line in told), told


def test_no_signal_and_no_exception_of_a_handler_is_lost() -> None:
    assert run_beside_native("signals.py") == ["100 of 100 Ctrl-C", "100 of 100 alarms", "100 of 100 of a library"]


def test_events_and_blocks_are_reported_as_by_pytorchs_own() -> None:
    told = run_beside_native("told.py")
    assert any("'free_requested'" in line for line in told) and any("'blocks'" in line for line in told)


def test_threads_of_autograd_and_of_others_and_the_end_of_the_program() -> None:
    for _ in range(3):
        assert run_beside_native("threads.py") == ["backward", "hooks ['hook']", "workers ['work']", "the end"]


def test_stacks_without_pytorch() -> None:
    printed = python("", str(HERE / "programs" / "history" / "without_torch.py"), GIANT_KITTEN="")
    assert printed.splitlines()[-1] == "the end"


def test_two_files_with_the_same_text_are_told_apart(recording: Any) -> None:
    recording(max_entries=1000)
    files = ["encoder.py", "decoder.py", "/tmp/ipykernel_1/1.py", "/tmp/ipykernel_1/2.py"]
    kept: list[torch.Tensor] = []
    text = "def make():\n    return torch.empty(1000, device='cuda')\nkept.append(make())\n"
    for file in files:
        exec(compile(text, file, "exec"), {"torch": torch, "kept": kept})
    snapshot = memory._snapshot()
    assert [event["frames"][0]["filename"] for event in allocations(snapshot)] == files
    blocks = {block["address"]: block for segment in snapshot["segments"] for block in segment["blocks"]}
    assert [blocks[tensor.data_ptr()]["frames"][0]["filename"] for tensor in kept] == files
    assert [blocks[tensor.data_ptr()]["frames"][0]["line"] for tensor in kept] == [2] * len(files)


def test_a_file_name_that_is_not_unicode_is_reported(recording: Any) -> None:
    recording(max_entries=1000)
    exec(compile("torch.empty(1000, device='cuda')", 'a "\udcff"\n\u65e5.py', "exec"), {"torch": torch})
    (event,) = allocations(memory._snapshot())
    assert event["frames"][0]["filename"] == 'a "\\udcff"\n\u65e5.py'


def resident() -> int:
    """The bytes of this process's memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.mark.parametrize("alike", [True, False])
def test_a_history_stays_within_its_limit(alike: bool, recording: Any) -> None:
    def cells(first: int, count: int) -> None:
        for number in range(first, first + count):
            text = f"t = torch.empty(1000, device='cuda'); v = {0 if alike else number}"
            exec(compile(text, f"cell{number}", "exec"), {"torch": torch})

    recording(max_entries=100)
    cells(0, 4000)
    before = resident()
    # A stack of some 70 frames, as here, takes more than a kilobyte.
    cells(4000, 12_000)
    assert resident() - before < 4 << 20


def test_no_code_is_held_by_a_history(recording: Any) -> None:
    import weakref

    recording(max_entries=1000)
    code = compile("torch.empty(1000, device='cuda')", "cell", "exec")
    exec(code, {"torch": torch})
    gone = weakref.ref(code)
    del code
    assert gone() is None
    assert allocations(memory._snapshot())[-1]["frames"][0]["filename"] == "cell"


def test_the_stack_of_a_block_is_known_as_long_as_it_lives(recording: Any) -> None:
    def make() -> torch.Tensor:
        return torch.empty(1 << 20, dtype=torch.uint8, device="cuda")

    def frames_of(tensor: torch.Tensor) -> list[str]:
        blocks = (block for segment in torch.cuda.memory_snapshot() for block in segment["blocks"])
        return next(functions(block) for block in blocks if block["address"] == tensor.data_ptr())

    recording(max_entries=4)
    kept = make()
    for _ in range(10):
        make()
    assert frames_of(kept)[0] == "make"
    memory._record_memory_history(enabled=None)
    assert frames_of(kept)[0] == "make" and memory._snapshot()["device_traces"][0] == []
    address = kept.data_ptr()
    del kept
    again = torch.empty(1 << 20, dtype=torch.uint8, device="cuda")
    assert again.data_ptr() == address and frames_of(again) == []


def test_a_snapshot_without_traces_asks_for_none(recording: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    if "include_traces" not in (torch.cuda.memory_snapshot.__doc__ or ""):
        pytest.skip(f"PyTorch {torch.__version__} has no such snapshot")
    recording(max_entries=1000)
    kept = torch.empty(1000, device="cuda")
    asked: list[str] = []
    read = _library.read_json

    def reading(name: str, *arguments: Any) -> Any:
        asked.append(name)
        return read(name, *arguments)

    monkeypatch.setattr(_library, "read_json", reading)
    quick = torch.cuda.memory_snapshot(include_traces=False)
    assert asked == []
    assert quick == torch.cuda.memory_snapshot() and "gk_history_json" in asked and len(quick) > 0
    del kept


def test_events_say_in_which_pool_they_were(recording: Any) -> None:
    if not has_mem_pool():
        pytest.skip(f"PyTorch {torch.__version__} has no MemPool that ours can stand in for")
    recording(max_entries=1000)
    pool = torch.cuda.MemPool()
    with torch.cuda.use_mem_pool(pool):
        inside = torch.empty(1000, device="cuda")
    outside = torch.empty(1000, device="cuda")
    assert [event["pool_id"] for event in allocations(memory._snapshot())] == [tuple(pool.id), (0, 0)]
    del inside, outside


def test_an_invalid_kind_of_history_is_reported() -> None:
    for wrong in ({"enabled": "yes"}, {"context": "some"}):
        with pytest.raises((ValueError, RuntimeError)):
            memory._record_memory_history(**wrong)
    with pytest.raises(giant_kitten.Error, match="stacks is 0 to 3, not 7"):
        _library.call("gk_record", 10, 7, 0)


def test_deep_recursion_is_reported_completely(recording: Any) -> None:
    def deeper(left: int) -> torch.Tensor:
        return deeper(left - 1) if left else torch.empty(1000, device="cuda")

    recording(max_entries=1000)
    depth = sys.getrecursionlimit() // 2
    deeper(depth)
    assert functions(allocations(memory._snapshot())[-1]).count("deeper") == depth + 1
