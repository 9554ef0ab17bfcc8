"""The cost of looking at the memory map, in genuine PyTorch on a fake CUDA runtime.

    scripts/torch-rig run python benches/torch/map.py [--turns N] [--out FILE]

Method. After each warm step of Stable Diffusion 1.5's UNet comes in turn a look, or PyTorch's own
report of its allocator's memory (`torch.cuda.memory_snapshot()`). Figures are medians. A look is
the state as the pages request it: statistics, map and the text of JSON. It is made in the
generating thread, so that all of it counts. The page looks once a second, so the share of a
generation is a look's seconds, however long a step takes on a GPU.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import statistics
import time
from pathlib import Path
from typing import Any

import giant_kitten
import torch
from giant_kitten._state import state
from models import MODELS


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--turns", type=int, default=40)
    parser.add_argument("--model", default="sd15_unet", choices=MODELS)
    parser.add_argument("--out", type=Path, help="where to write the figures, as JSON")
    options = parser.parse_args()
    ways: dict[str, Any] = {"look": state, "memory_snapshot": torch.cuda.memory_snapshot}
    seconds: dict[str, list[float]] = {"step": [], **{name: [] for name in ways}}
    length = 0
    with torch.no_grad():
        _kept, step = MODELS[options.model]()
        giant_kitten.activate(reserve="1GiB")
        step()
        for _ in range(options.turns):
            for name, look in ways.items():
                started = time.perf_counter()
                step()
                torch.cuda.synchronize()
                done = time.perf_counter()
                text = json.dumps(look())
                seconds["step"].append(done - started)
                seconds[name].append(time.perf_counter() - done)
                length = len(text) if name == "look" else length
    medians = {name: statistics.median(each) for name, each in seconds.items()}
    found = {
        "date": datetime.date.today().isoformat(),
        "machine": platform.processor() or platform.machine(),
        "torch": torch.__version__,
        "model": options.model,
        "turns": options.turns,
        "bytes": length,
        "step_seconds": medians["step"],
        "look_seconds": medians["look"],
        "memory_snapshot_seconds": medians["memory_snapshot"],
        "to_memory_snapshot": medians["look"] / medians["memory_snapshot"],
        "share_at_one_look_a_second": medians["look"],
    }
    text = json.dumps(found, indent=1)
    print(text)
    if options.out:
        options.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
