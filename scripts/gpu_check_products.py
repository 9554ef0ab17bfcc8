"""Measures how often matrix products and convolutions read their weights over the link.

Usage: gpu_check_products.py OUT.json PROFILE.toml. The median of all shapes becomes the profile's
in_place_reread.
"""

from __future__ import annotations

import json
import re
import statistics
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import giant_kitten

giant_kitten.install()

import torch  # noqa: E402
from gpu_timing import times  # noqa: E402

ROUNDS = 20


def seconds(work: Callable[[], object]) -> float:
    """The median time of work on the GPU, after three rounds that are thrown away."""
    return float(statistics.median(times(work, ROUNDS + 3)[3:]))


Work = Callable[[torch.Tensor], object]


def linear(given: torch.Tensor) -> Work:
    """A matrix product of some rows."""
    return lambda weight: torch.nn.functional.linear(given, weight)


def convolution(image: torch.Tensor) -> Work:
    """A convolution of an image."""
    return lambda weight: torch.nn.functional.conv2d(image, weight, padding=1)


def products() -> dict[str, tuple[torch.Tensor, Work]]:
    """Products and convolutions of SD1.5's and SDXL's UNets at 1024, each with its weight."""
    zeros = partial(torch.zeros, dtype=torch.float16, device="cuda")
    found = {}
    shapes = ((8192, 640, 5120), (2048, 1280, 10240), (2048, 5120, 1280), (154, 2048, 1280), (1, 4096, 4096))
    for rows, inner, outer in shapes:
        found[f"linear {rows}x{inner}x{outer}"] = (zeros(outer, inner), linear(zeros(rows, inner)))
    for channels, size in ((320, 128), (640, 64), (1280, 32)):
        weight, image = zeros(channels, channels, 3, 3), zeros(2, channels, size, size)
        found[f"conv3x3 {channels} at {size}"] = (weight, convolution(image))
    return found


def main() -> None:
    """Measures, prints and writes the figures."""
    out, profile = Path(sys.argv[1]), Path(sys.argv[2])
    text = profile.read_text()
    match = re.search(r"^link_to_device = ([\d.e+]+)$", text, re.M)
    if not match:
        sys.exit(f"{profile} has no link_to_device: run kitten-bench probe first")
    link = float(match[1])
    rows = []
    for name, (weight, work) in products().items():
        giant_kitten.to_dedicated(weight)
        near = seconds(partial(work, weight))
        giant_kitten.to_shared(weight)
        far = seconds(partial(work, weight))
        size = weight.numel() * weight.element_size()
        factor = max(0.0, far - near) * link / size
        rows.append({"name": name, "weight_bytes": size, "dedicated": near, "shared": far, "reread": factor})
        print(
            f"{name:28} {near * 1e6:9.1f} us dedicated {far * 1e6:9.1f} us shared: read {factor:5.2f} x over the link"
        )
    typical = statistics.median(row["reread"] for row in rows)
    out.write_text(
        json.dumps({"device": torch.cuda.get_device_name(), "torch": torch.__version__, "rows": rows}, indent=1)
    )
    if "simulated" not in torch.cuda.get_device_name():
        note = "in_place_reread is the median of scripts/gpu_check_products.py"
        text = re.sub(r"^in_place_reread = .*$", f"in_place_reread = {max(typical, 0.01):.3f}", text, flags=re.M)
        profile.write_text(text.replace("in_place_reread is not measured", note))


if __name__ == "__main__":
    main()
