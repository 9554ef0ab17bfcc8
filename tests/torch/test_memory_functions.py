"""torch.cuda's functions about memory: one program on PyTorch's own allocator and on ours."""

from __future__ import annotations

import json
import pickle
import threading
from pathlib import Path
from typing import Any

import giant_kitten
import pytest
import torch
from conftest import python
from giant_kitten import _library
from torch.cuda import _memory_viz

# Each call prints the value that is compared, or the kind of its exception.
MATRIX = """
import json, warnings, torch
warnings.simplefilter("ignore")
cuda, answers = torch.cuda, {}

def ask(name, call):
    try:
        answers[name] = call()
    except BaseException as why:
        answers[name] = f"{type(why).__name__}: {why}"

kept = torch.empty(1 << 20, dtype=torch.uint8, device="cuda")
gone = torch.empty(5 << 20, dtype=torch.uint8, device="cuda")
del gone
ask("memory_allocated", cuda.memory_allocated)
ask("max_memory_allocated", cuda.max_memory_allocated)
ask("memory_reserved is enough", lambda: cuda.memory_reserved() >= cuda.memory_allocated())
ask("max_memory_reserved is enough", lambda: cuda.max_memory_reserved() >= cuda.max_memory_allocated())
stats = cuda.memory_stats()
for kind in ("allocation", "allocated_bytes", "requested_bytes", "active", "active_bytes"):
    for pool in ("all", "small_pool", "large_pool"):
        for field in ("current", "peak", "allocated", "freed"):
            ask(f"{kind}.{pool}.{field}", lambda: stats[f"{kind}.{pool}.{field}"])
ask("num_alloc_retries", lambda: stats["num_alloc_retries"])
ask("num_ooms", lambda: stats["num_ooms"])
ask("nested", lambda: sorted(set(cuda.memory_stats_as_nested_dict()) - {"giant_kitten"}))
ask("summary", lambda: "Allocated memory" in cuda.memory_summary())
ask("reset_peak", lambda: (cuda.reset_peak_memory_stats(), cuda.max_memory_allocated())[1])
ask("reset_max", lambda: (cuda.reset_max_memory_allocated(), cuda.max_memory_allocated())[1])
ask("reset_accumulated", lambda: (cuda.reset_accumulated_memory_stats(), cuda.memory_stats()["num_ooms"])[1])
ask("empty_cache", cuda.empty_cache)
ask("ipc_collect", cuda.ipc_collect)
ask("snapshot blocks", lambda: [
    (block["size"], block["requested_size"]) for segment in cuda.memory_snapshot() for block in segment["blocks"]
    if block["state"] == "active_allocated"])
ask("snapshot keys", lambda: sorted(cuda.memory._snapshot()))
ask("set fraction", lambda: cuda.set_per_process_memory_fraction(0.5))
ask("get fraction", lambda: cuda.get_per_process_memory_fraction())
ask("record history", lambda: cuda.memory._record_memory_history(max_entries=100))
ask("stop history", lambda: cuda.memory._record_memory_history(enabled=None))
ask("free is less than total", lambda: (lambda free, total: 0 < free < total)(*cuda.mem_get_info()))
ask("raw alloc", lambda: cuda.caching_allocator_delete(cuda.caching_allocator_alloc(4096)))
ask("host stats", lambda: len(cuda.host_memory_stats()) > 0)
ask("out of memory", lambda: torch.empty(60 << 30, dtype=torch.uint8, device="cuda"))
answers["out of memory"] = answers["out of memory"].split(".")[0]
ask("num_ooms after", lambda: cuda.memory_stats()["num_ooms"])
ask("backend", cuda.get_allocator_backend)
ask("ipc", lambda: bool(kept.untyped_storage()._share_cuda_()))
ask("observer", lambda: torch._C._cuda_attach_out_of_memory_observer(lambda *a: None))
print("ANSWERS" + json.dumps(answers))
"""

# The differences, and the answers of ours.
DOCUMENTED = {
    "backend": "pluggable",
    "ipc": "RuntimeError: CUDA tensors cannot be shared between processes",
    "observer": "RuntimeError: an out-of-memory observer cannot be attached",
}


def answers(native: bool) -> dict[str, Any]:
    printed = python(MATRIX, native=native)
    return dict(json.loads(printed.split("ANSWERS")[1].splitlines()[0]))


def test_every_function_answers_as_pytorchs_own() -> None:
    ours, native = answers(False), answers(True)
    assert ours.keys() == native.keys()
    # An older release has fewer keys. Ours has all of them, and also those of newer releases.
    for name in ("nested", "snapshot keys"):
        missing = set(native.pop(name)) - set(ours.pop(name))
        assert not missing, missing
    different = {name for name in ours if ours[name] != native[name]}
    assert different == set(DOCUMENTED), {name: (ours[name], native[name]) for name in different}
    for name, said in DOCUMENTED.items():
        assert str(ours[name]).startswith(said)


FLAT = ("memory_stats", "memory_allocated", "max_memory_allocated", "memory_reserved", "max_memory_reserved")


def test_flat_statistics_are_those_that_pytorch_itself_would_flatten() -> None:
    packages = [torch.cuda]
    if hasattr(torch._C, "_accelerator_isAllocatorInitialized"):
        packages.append(torch.accelerator)
    kept = torch.empty(3 << 20, dtype=torch.uint8, device="cuda")
    for package in packages:
        for name in FLAT:
            ours = getattr(package, name)
            for device in ((), (0,), ("cuda:0",), (torch.device("cuda"),)):
                told, flattened = ours(*device), ours.__wrapped__(*device)
                assert told == flattened and type(told) is type(flattened), name
            assert getattr(package.memory, name) is ours
        assert list(package.memory_stats()) == list(package.memory_stats.__wrapped__())
    assert torch.cuda.memory_allocated() >= kept.nbytes


def test_statistics_of_the_struct_are_the_numbers_of_the_text() -> None:
    kept = torch.empty(3 << 20, dtype=torch.uint8, device="cuda")
    text = _library.read_json("gk_stats_json", 0)
    assert _library.statistics(0) == {name: value for name, value in text.items() if isinstance(value, int)}
    del kept


def test_before_cuda_is_initialised_there_are_no_statistics() -> None:
    program = """
from torch import cuda
print(cuda.memory_allocated(), dict(cuda.memory_stats()), cuda.is_initialized())
"""
    assert python(program) == python(program, native=True) == "0 {} False\n"


def test_empty_cache_leaves_only_used_memory_and_inactive_splits() -> None:
    program = """
import torch
def sample():
    stats = torch.cuda.memory_stats()
    figures = {name: stats[f"{name}_bytes.all.current"] for name in ("reserved", "active", "inactive_split")}
    print(figures["reserved"] - figures["active"] - figures["inactive_split"], stats["inactive_split.all.current"],
        *(stats[f"inactive_split_bytes.{pool}.current"] for pool in ("all", "small_pool", "large_pool")))
small = torch.empty(1000, dtype=torch.uint8, device="cuda")
sample()
first, second, third = (torch.empty(1 << 19, dtype=torch.uint8, device="cuda") for _ in range(3))
del second
torch.cuda.empty_cache()
sample()
del small, first, third
torch.cuda.empty_cache()
sample()
"""
    small, full = 2 << 20, 1 << 19
    first, second = small - 1024, small - 1024 - 2 * full
    told = [f"0 1 {first} {first} 0", f"0 2 {second} {second} 0", "0 0 0 0 0"]
    for native in (False, True):
        assert python(program, native=native).splitlines() == told


def test_empty_cache_gives_everything_back_where_nothing_lives() -> None:
    # This also holds after an overflow, which determines a reserve.
    program = """
import torch
for _ in range(3):
    blocks = [torch.empty(2 << 30, dtype=torch.uint8, device="cuda") for _ in range(6)]
    del blocks
    torch.cuda.empty_cache()
print(torch.cuda.memory_reserved())
"""
    assert python(program) == "0\n"


def test_a_snapshot_is_a_file_that_names_every_block_and_its_tier(tmp_path: Path) -> None:
    kept = torch.empty(3 << 20, dtype=torch.uint8, device="cuda")
    file = tmp_path / "snapshot.pickle"
    torch.cuda.memory._dump_snapshot(str(file))
    with file.open("rb") as opened:
        snapshot = pickle.load(opened)
    found = [
        (segment, block)
        for segment in snapshot["segments"]
        for block in segment["blocks"]
        if block["address"] == kept.data_ptr()
    ]
    (segment, block) = found[0]
    assert block["state"] == "active_allocated" and block["size"] == 3 << 20
    assert block["dedicated_size"] + block["shared_size"] == 3 << 20
    assert sum(block["size"] for block in segment["blocks"]) == segment["total_size"]


def test_free_memory_counts_both_tiers_by_default() -> None:
    program = "import torch; print(torch.cuda.mem_get_info()[1], torch.cuda.get_device_properties(0).total_memory)"
    both, card = map(int, python(program).split())
    alone, same = map(int, python(program, GIANT_KITTEN_MEM_GET_INFO="dedicated").split())
    assert both > card == same == alone
    stats = giant_kitten.stats()
    assert both <= stats["dedicated_capacity"] + stats["shared_capacity"] + (1 << 30)


def test_programs_that_offload_by_free_memory_reach_us() -> None:
    # Like ComfyUI and Forge, it loads as long as there is free memory by its own account.
    layers: list[torch.Tensor] = []
    while torch.cuda.mem_get_info()[0] > (8 << 30) and len(layers) < 60:
        layers.append(torch.empty(256 << 20, dtype=torch.uint8, device="cuda"))
    assert {giant_kitten.tier(layer) for layer in layers} >= {"dedicated", "shared"}


def test_the_history_of_allocations_and_their_stacks(tmp_path: Path) -> None:
    torch.cuda.memory._record_memory_history(max_entries=1000)
    try:
        gone = torch.empty(3 << 20, dtype=torch.uint8, device="cuda")
        address = gone.data_ptr()
        del gone
        kept = torch.empty(5 << 20, dtype=torch.uint8, device="cuda")
        with pytest.raises(torch.cuda.OutOfMemoryError):
            torch.empty(1 << 40, dtype=torch.uint8, device="cuda")
        file = tmp_path / "snapshot.pickle"
        torch.cuda.memory._dump_snapshot(str(file))
    finally:
        torch.cuda.memory._record_memory_history(enabled=None)
    with file.open("rb") as opened:
        snapshot = pickle.load(opened)
    trace = snapshot["device_traces"][0]
    assert [event["action"] for event in trace if event.get("addr") == address and event["size"] == 3 << 20] == [
        "alloc", "free_requested", "free_completed",
    ]  # fmt: skip
    (refused,) = [event for event in trace if event["action"] == "oom"]
    assert refused["size"] == 1 << 40 and 0 < refused["device_free"] < 1 << 40
    times = [event["time_us"] for event in trace]
    assert times == sorted(times) and times[0] > 0
    (allocated,) = [event for event in trace if event["size"] == 5 << 20 and event["action"] == "alloc"]
    assert allocated["addr"] == kept.data_ptr()
    assert any(frame["filename"] == __file__ for frame in allocated["frames"])
    (block,) = [b for s in snapshot["segments"] for b in s["blocks"] if b["address"] == kept.data_ptr()]
    assert block["frames"] == allocated["frames"]
    # PyTorch's own tools can read it.
    assert "3.0MiB" in _memory_viz.trace(snapshot)
    for view in (_memory_viz.segsum, _memory_viz.trace_plot, _memory_viz.segment_plot):
        assert len(view(snapshot)) > 100
    assert torch.cuda.memory._snapshot()["device_traces"][0] == []


def test_a_history_keeps_the_last_events_and_no_stacks_where_none_are_wanted() -> None:
    torch.cuda.memory._record_memory_history(max_entries=4, context=None)
    try:
        for _ in range(20):
            torch.empty(100, device="cuda")
        trace = torch.cuda.memory._snapshot()["device_traces"][0]
    finally:
        torch.cuda.memory._record_memory_history(enabled=None)
    # Like PyTorch's own, because no stacks were wanted.
    assert len(trace) == 4 and all("frames" not in event for event in trace)


def test_a_history_goes_on_with_other_stacks_as_pytorchs_own() -> None:
    program = """
import torch
record, snapshot = torch.cuda.memory._record_memory_history, torch.cuda.memory._snapshot

def first(): return torch.empty(100, device="cuda")
def second(): return torch.empty(100, device="cuda")
def third(): return torch.empty(100, device="cuda")
def fourth(): return torch.empty(100, device="cuda")

record(context="all", stacks="python")
first()
record(context=None)
second()
record(context="all", stacks="python")
third()
print([name in str(snapshot()) for name in ("'first'", "'second'", "'third'")])
try:
    record(context="state", stacks="python", clear_history=True)
except TypeError:
    # PyTorch 2.1 cannot clear it.
    record(context="state", stacks="python")
first()
kept = fourth()
print([name in str(snapshot()) for name in ("'first'", "'fourth'")], "'fourth'" in str(snapshot()["device_traces"]))
"""
    told = python(program)
    assert told == python(program, native=True)
    # PyTorch 2.1 starts a new history each time.
    assert told.splitlines()[0] == f"[{torch.__version__ >= '2.2'}, False, True]"


def test_threads_that_allocate_while_a_history_is_kept() -> None:
    torch.cuda.memory._record_memory_history(max_entries=100_000)
    try:
        threads = [
            threading.Thread(target=lambda: [torch.zeros(100, device="cuda").add(1) for _ in range(200)])
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        trace = torch.cuda.memory._snapshot()["device_traces"][0]
    finally:
        torch.cuda.memory._record_memory_history(enabled=None)
    live: set[int] = set()
    for event in trace:
        if event["action"] == "alloc":
            assert event["addr"] not in live
            live.add(event["addr"])
        elif event["action"] == "free_completed":
            live.discard(event["addr"])


def test_a_pool_of_ours_under_pytorchs_own_allocator() -> None:
    program = """
import torch, giant_kitten
if not hasattr(torch.cuda, "MemPool"):
    print("shared"), quit()
memory = torch.cuda.memory
ours = memory.CUDAPluggableAllocator(str(giant_kitten.library_path()), "gk_torch_malloc", "gk_free")
known = torch.arange(1 << 20)
pool = torch.cuda.MemPool(ours.allocator())
with torch.cuda.use_mem_pool(pool):
    inside = known.cuda()
    try:
        torch.empty(1 << 40, dtype=torch.uint8, device="cuda")
        print("no error")
    except torch.cuda.OutOfMemoryError:
        pass
outside = known.cuda()
assert torch.cuda.get_allocator_backend() == "native"
giant_kitten.to_shared(inside)
assert torch.equal(inside.cpu(), known) and torch.equal(outside.cpu(), known)
print(giant_kitten.tier(inside))
"""
    assert python(program, native=True) == "shared\n"


def test_a_pool_with_an_allocator_of_its_own_is_refused_by_name() -> None:
    if not hasattr(torch.cuda, "MemPool"):
        pytest.skip(f"PyTorch {torch.__version__} has no MemPool")
    with pytest.raises(RuntimeError, match=r"MemPool .*cannot be used while giant-kitten is PyTorch's allocator"):
        torch.cuda.MemPool(object())


def test_graph_trees_are_refused_by_name() -> None:
    if torch.__version__ < "2.2":
        pytest.skip(f"PyTorch {torch.__version__} captures a graph without asking for trees, and that works")
    program = """
import torch
compiled = torch.compile(torch.nn.Linear(8, 8).cuda(), backend="cudagraphs")
with torch.no_grad():
    try:
        for _ in range(3):
            compiled(torch.zeros(4, 8, device="cuda"))
    except RuntimeError as why:
        print(why)
"""
    printed = python(program)
    assert "CUDA graph trees" in printed and "while giant-kitten is PyTorch's allocator" in printed
