"""What torch.cuda offers about memory: the same program on PyTorch's own allocator and on ours, side by side."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import giant_kitten
import torch
from conftest import python

# Every call answers with what it is to be compared by; a call that raises, with its kind.
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
ask("nested", lambda: sorted(set(cuda.memory_stats_as_nested_dict()) - {"giant_kitten", "num_oom_rejections"}))
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

# What differs, and how ours answers.
DOCUMENTED = {
    "backend": "pluggable",
    "ipc": "RuntimeError: CUDA tensors cannot be shared between processes",
    "observer": "RuntimeError: an observer of out of memory cannot be attached",
}


def answers(native: bool) -> dict[str, Any]:
    printed = python(MATRIX, native=native)
    return dict(json.loads(printed.split("ANSWERS")[1].splitlines()[0]))


def test_every_function_answers_as_pytorchs_own() -> None:
    ours, native = answers(False), answers(True)
    assert ours.keys() == native.keys()
    # An older release has fewer keys: ours has all of them, and those of the newer.
    for name in ("nested", "snapshot keys"):
        missing = set(native.pop(name)) - set(ours.pop(name))
        assert not missing, missing
    different = {name for name in ours if ours[name] != native[name]}
    assert different == set(DOCUMENTED), {name: (ours[name], native[name]) for name in different}
    for name, said in DOCUMENTED.items():
        assert str(ours[name]).startswith(said)


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


def test_free_memory_counts_both_tiers_unless_told_otherwise() -> None:
    program = "import torch; print(torch.cuda.mem_get_info()[1], torch.cuda.get_device_properties(0).total_memory)"
    both, card = map(int, python(program).split())
    alone, same = map(int, python(program, GIANT_KITTEN_MEM_GET_INFO="dedicated").split())
    assert both > card == same == alone
    stats = giant_kitten.stats()
    assert both <= stats["dedicated_capacity"] + stats["shared_capacity"] + (1 << 30)


def test_what_a_program_offloads_by_free_memory_reaches_us() -> None:
    # As ComfyUI and Forge do: load as long as there is free memory, by their own account.
    layers: list[torch.Tensor] = []
    while torch.cuda.mem_get_info()[0] > (8 << 30) and len(layers) < 60:
        layers.append(torch.empty(256 << 20, dtype=torch.uint8, device="cuda"))
    assert {giant_kitten.tier(layer) for layer in layers} >= {"dedicated", "shared"}
