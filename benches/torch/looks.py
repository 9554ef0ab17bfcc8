"""The cost of looking at the allocator, in genuine PyTorch on a fake CUDA runtime: ours to native.

    scripts/torch-rig run python benches/torch/looks.py [--turns N] [--out FILE]

Method. Processes of PyTorch's own allocator and of giant-kitten take turns, several times over.
Each allocates more and more small blocks; every third of the first 3000 is large, and each tenth
is freed at once. At each number of live blocks it times each look many times. A process's figure is
the median of its calls, in microseconds of the processor, since other programs use the machine too.
The figure of an allocator is the median of its processes. The blocks lie in the memory of the
simulated GPU, which no look reads. The fake driver answers at once, so `mem_get_info` compares what
the allocators add to a call of the driver.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from run import CARD, about

ALLOCATORS = {"native": "0", "giant-kitten": "1"}
BLOCKS = (100, 3000, 30000)
SMALL, LARGE = 1000, 2 << 20
# How often a look is timed, and how many of its calls one clock reading takes in.
QUICK, SLOW = (40, 50), (15, 1)


def allocate(live: list[Any], count: int) -> None:
    """Allocates blocks until so many are live."""
    import torch

    number = 0
    while len(live) < count:
        bytes_of_it = LARGE if number % 3 == 2 and number < 3000 else SMALL + number % 7 * 512
        block = torch.empty(bytes_of_it, dtype=torch.uint8, device="cuda")
        number += 1
        if number % 10:
            live.append(block)


def time_of(look: Callable[[], Any], times: int, calls: int) -> float:
    """Microseconds of a look: the median."""
    found = []
    look()
    for _ in range(times):
        begin = time.process_time_ns()
        for _ in range(calls):
            seen = look()
        found.append((time.process_time_ns() - begin) / calls / 1000)
        # To free a long answer is the program's own work.
        del seen
    return statistics.median(found)


def measure() -> dict[str, dict[str, float]]:
    """Times every look at each number of blocks, in a process of its own."""
    import torch

    cuda = torch.cuda
    looks = {
        "memory_allocated": (cuda.memory_allocated, *QUICK),
        "max_memory_reserved": (cuda.max_memory_reserved, *QUICK),
        "memory_stats": (cuda.memory_stats, *QUICK),
        "memory_stats_as_nested_dict": (cuda.memory_stats_as_nested_dict, *QUICK),
        "mem_get_info": (cuda.mem_get_info, *QUICK),
        "memory_snapshot": (cuda.memory_snapshot, *SLOW),
    }
    live: list[Any] = []
    found: dict[str, dict[str, float]] = {name: {} for name in looks}
    for count in BLOCKS:
        allocate(live, count)
        gc.collect()
        for name, (look, times, calls) in looks.items():
            found[name][str(count)] = time_of(look, times, calls)
    return found


def worker(allocator: str, card: Path) -> dict[str, dict[str, float]]:
    """Runs a process of one allocator."""
    environment = {**os.environ, "GIANT_KITTEN": ALLOCATORS[allocator], "FAKE_CUDA_PROFILE": str(card)}
    done = subprocess.run([sys.executable, __file__, "--worker"], env=environment, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{allocator}: {done.returncode}\n{done.stdout}{done.stderr}")
    return dict(json.loads(done.stdout.partition("FOUND")[2]))


def compare(turns: int) -> dict[str, Any]:
    """Lets the allocators take turns; the medians by look, number of blocks and allocator."""
    runs: dict[str, list[dict[str, dict[str, float]]]] = {name: [] for name in ALLOCATORS}
    with tempfile.TemporaryDirectory() as temporary:
        card = Path(temporary) / "card.toml"
        card.write_text(CARD)
        for _ in range(turns):
            for name in ALLOCATORS:
                runs[name].append(worker(name, card))
    first = runs["native"][0]
    return {
        look: {
            count: {
                name: round(statistics.median(each[look][count] for each in found), 2) for name, found in runs.items()
            }
            for count in by_count
        }
        for look, by_count in first.items()
    }


def show(looks: dict[str, Any]) -> None:
    """Prints the figures."""
    print(f"{'microseconds':30}{'blocks':>8}{'native':>12}{'giant-kitten':>14}{'to native':>11}")
    for look, by_count in looks.items():
        for count, row in by_count.items():
            native, ours = row["native"], row["giant-kitten"]
            print(f"{look:30}{count:>8}{native:12.1f}{ours:14.1f}{ours / native:11.2f}")


def main() -> None:
    """The command line."""
    if sys.argv[1:] == ["--worker"]:
        print("FOUND" + json.dumps(measure()))
        return
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--turns", type=int, default=5, help="how many processes of each allocator")
    parser.add_argument("--out", type=Path, help="where to write the figures, as JSON")
    options = parser.parse_args()
    what = "looks in genuine PyTorch on a fake CUDA runtime; see benches/torch/looks.py for the method"
    found = {
        **about(what, options.turns),
        "microseconds": compare(options.turns),
    }
    show(found["microseconds"])
    if options.out:
        options.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
