"""Allocators compared in genuine PyTorch on a fake CUDA runtime: time per pair, and peaks.

    scripts/torch-rig bench [--out FILE]

Method. For each model, PyTorch's own allocator records the allocations and frees of one warm step,
in order. Then each allocator, in a process of its own, builds the model and runs three steps of it.
The peaks of allocated and reserved memory are PyTorch's figures for that. With the model still
loaded, the recorded step is replayed and timed as a whole. Each allocation is requested as a
tensor's storage requests it (`c10::cuda::CUDACachingAllocator::get()->allocate`). Processes of all
allocators take turns, several times over, and a figure is the median of their best replays.

The bare shim returns ever higher numbers through PyTorch's pluggable allocator and frees nothing,
so no pluggable allocator can be faster. Kernels do nothing, and a driver call takes no time of a
GPU. So the figures compare the bookkeeping, which is most of a warm step's cost, and no driver
calls.
"""

from __future__ import annotations

import argparse
import ctypes
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
# A card on which all of the models fit.
CARD = """
name = "24g"
dedicated = "24 GiB"
shared = "64 GiB"
vram_bandwidth = 900e9
link_to_device = 13e9
link_to_host = 13e9
fp16_rate = 60e12
in_place_reread = 1.0
"""
ALLOCATORS = {
    "native": {"GIANT_KITTEN": "0"},
    "native, expandable segments": {"GIANT_KITTEN": "0", "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"},
    "giant-kitten": {"GIANT_KITTEN": "1"},
    "giant-kitten, active": {"GIANT_KITTEN": "1"},
    "bare shim": {"GIANT_KITTEN": "0"},
}
REPLAYS = 30


def record(model: str, out: Path) -> None:
    """Writes the operations of a warm step, in a process of its own."""
    import torch
    from models import MODELS

    with torch.no_grad():
        kept, step = MODELS[model]()
        step()
        torch.cuda.memory._record_memory_history(max_entries=1 << 22, context=None)
        step()
        trace = torch.cuda.memory._snapshot()["device_traces"][0]
    slots: dict[int, int] = {}
    operations, count = [], 0
    for event in trace:
        if event["action"] == "alloc":
            slots[event["addr"]] = count
            operations.append((count, event["size"]))
            count += 1
        elif event["action"] == "free_requested" and event["addr"] in slots:
            operations.append((slots.pop(event["addr"]), -1))
    operations += [(slot, -1) for slot in slots.values()]
    out.write_text(json.dumps({"count": count, "operations": operations}))
    del kept


def measure(model: str, allocator: str, sequence: Path, library: Path) -> None:
    """Runs the model, replays the sequence and prints the figures, in a process of its own."""
    import torch
    from models import MODELS

    found: dict[str, Any] = {}
    cuda = torch.cuda
    if allocator == "bare shim":
        bare = cuda.memory.CUDAPluggableAllocator(str(library), "bare_malloc", "bare_free")
        cuda.memory.change_current_allocator(bare)
        cuda.init()
    else:
        with torch.no_grad():
            kept, step = MODELS[model]()
            for turn in range(3):
                if allocator == "giant-kitten, active" and turn == 2:
                    import giant_kitten

                    scratch = cuda.max_memory_allocated() - cuda.memory_allocated()
                    giant_kitten.activate(reserve=scratch, model=kept)
                step()
        found["allocated_peak"] = cuda.max_memory_allocated()
        found["reserved_peak"] = cuda.max_memory_reserved()
    recorded = json.loads(sequence.read_text())
    flat = [number for operation in recorded["operations"] for number in operation]
    operations = (ctypes.c_int64 * len(flat))(*flat)
    times = (ctypes.c_double * REPLAYS)()
    size = ctypes.c_size_t
    ctypes.CDLL(str(library)).replay(operations, size(len(flat) // 2), size(recorded["count"]), size(REPLAYS), times)
    found["ns_per_pair"] = min(times) / recorded["count"]
    print("FOUND" + json.dumps(found))


def worker(variables: dict[str, str], *arguments: str) -> dict[str, Any]:
    """Runs one of the above in a process, and returns its figures."""
    command = [sys.executable, __file__, "--worker", *arguments]
    done = subprocess.run(command, env={**os.environ, **variables}, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{arguments}: {done.returncode}\n{done.stdout}{done.stderr}")
    return dict(json.loads(done.stdout.partition("FOUND")[2] or "{}"))


def compile_library(out: Path) -> None:
    """Compiles the C++ part against the headers of this PyTorch and of the rig's CUDA runtime."""
    import torch

    home = Path(torch.__file__).parent
    include = [home / "include", home / "include/torch/csrc/api/include"]
    include += [Path(part) for part in os.environ["GIANT_KITTEN_CUDA_INCLUDE"].split(":")]
    command = ["c++", "-std=c++20", "-O2", "-w", "-shared", "-fPIC", str(HERE / "replay.cpp"), "-o", str(out)]
    command += [f"-I{folder}" for folder in include] + [f"-L{home / 'lib'}", "-lc10", "-lc10_cuda"]
    subprocess.run([*command, f"-Wl,-rpath,{home / 'lib'}", "-Wl,--unresolved-symbols=ignore-all"], check=True)


def compare(models: list[str], turns: int) -> dict[str, Any]:
    """Measures everything."""
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        library, card = folder / "replay.so", folder / "card.toml"
        compile_library(library)
        card.write_text(CARD)
        for model in models:
            sequence = folder / f"{model}.json"
            profile = {"FAKE_CUDA_PROFILE": str(card)}
            worker({**profile, **ALLOCATORS["native"]}, model, "record", str(sequence))
            found: dict[str, list[dict[str, Any]]] = {name: [] for name in ALLOCATORS}
            for _ in range(turns):
                for name, variables in ALLOCATORS.items():
                    found[name].append(worker({**profile, **variables}, model, name, str(sequence), str(library)))
            results[model] = {
                name: {key: statistics.median(each[key] for each in runs) for key in runs[0]}
                for name, runs in found.items()
            }
            results[model]["pairs"] = json.loads(sequence.read_text())["count"]
            show(model, results[model])
    return results


def show(model: str, found: dict[str, Any]) -> None:
    """Prints a model's figures."""
    native = found["native"]["ns_per_pair"]
    print(f"\n{model}: {found['pairs']} pairs a step")
    print(f"{'':30}{'ns/pair':>9}{'to native':>11}{'allocated peak':>17}{'reserved peak':>16}{'reserved over':>15}")
    for name in ALLOCATORS:
        row = found[name]
        line = f"{name:30}{row['ns_per_pair']:9.0f}{row['ns_per_pair'] / native:11.2f}"
        if "reserved_peak" in row:
            allocated, reserved = row["allocated_peak"], row["reserved_peak"]
            line += f"{allocated / 2**20:13.1f} MiB{reserved / 2**20:12.1f} MiB{reserved / allocated:15.4f}"
        print(line, flush=True)


def main() -> None:
    """The command line."""
    if sys.argv[1:2] == ["--worker"]:
        model, what, sequence, *library = sys.argv[2:]
        if what == "record":
            return record(model, Path(sequence))
        return measure(model, what, Path(sequence), Path(library[0]))
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--turns", type=int, default=5, help="how many processes of each allocator")
    parser.add_argument("--out", type=Path, help="where to write the figures, as JSON")
    parser.add_argument("models", nargs="*", help="which models; by default all")
    arguments = parser.parse_args()
    from models import MODELS

    results = {
        **about("genuine PyTorch on a fake CUDA runtime; see benches/torch/run.py for the method", arguments.turns),
        "models": compare(arguments.models or list(MODELS), arguments.turns),
    }
    if arguments.out:
        arguments.out.write_text(json.dumps(results, indent=1) + "\n")


def about(what: str, turns: int) -> dict[str, Any]:
    """What figures are of, and where and when they were found."""
    import torch

    return {
        "what": what,
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "machine": f"{processor()}, {os.cpu_count()} cores, {platform.system()} {platform.release()}",
        "torch": torch.__version__,
        "turns": turns,
    }


def processor() -> str:
    """The name of this machine's processor."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


if __name__ == "__main__":
    main()
