"""One pipeline that overflows a card, five ways, as a page to compare.

    python benches/torch/five_ways.py --dedicated 4GiB --out page.md           # on a real GPU
    scripts/torch-rig run --native python benches/torch/five_ways.py --small --dedicated 64MiB

Method. The pipeline has the shape of diffusers' for SDXL: a UNet that is called for some steps, and
a VAE that decodes. Both have random fp16 weights from a seed. Each way runs in a process of its
own, in which the card has only so much memory: a fraction of it for PyTorch's own allocator, the
option `dedicated` for giant-kitten. The ways are

    native       everything on the card, with PyTorch's own allocator
    group        diffusers' group offloading of each layer, with a stream
    sequential   accelerate's `cpu_offload`: the weights of each layer come when it is called
    in place     giant-kitten, with `copy_ahead:off`: what overflows is read where it lies
    ahead        giant-kitten as it is

Every step is timed by the host's clock between two waits for the device. The page has the first
step, the median of the last half of the steps, the decoding, the peak of the card's memory as
PyTorch counts it, and whether the picture's bits are those of the first way that ran. With PyTorch
on a fake CUDA runtime all this runs, and the seconds mean nothing: kernels do nothing there.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

UNITS = {"MiB": 1 << 20, "GiB": 1 << 30}
OURS = {"in place": "copy_ahead:off", "ahead": "copy_ahead:auto"}
WAYS = ("native", "group", "sequential", *OURS)


def size(text: str) -> int:
    """The bytes of a size such as 4GiB."""
    unit = text[-3:]
    if unit not in UNITS:
        raise argparse.ArgumentTypeError(f"{text} is no size: write 4GiB or 512MiB")
    return int(float(text[:-3]) * UNITS[unit])


def models(small: bool) -> tuple[Any, Any]:
    """The UNet and the VAE, on the processor."""
    import torch
    from diffusers import AutoencoderKL, UNet2DConditionModel

    torch.manual_seed(1)
    width = (64, 128, 256) if small else (320, 640, 1280)
    unet = UNet2DConditionModel(
        block_out_channels=width, down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"), cross_attention_dim=width[-1],
        transformer_layers_per_block=(1, 2, 2 if small else 10), attention_head_dim=(5, 10, 20), layers_per_block=2,
        use_linear_projection=True,
    )  # fmt: skip
    channels = (32, 64) if small else (128, 256, 512, 512)
    vae = AutoencoderKL(
        block_out_channels=channels, down_block_types=("DownEncoderBlock2D",) * len(channels),
        up_block_types=("UpDecoderBlock2D",) * len(channels), latent_channels=4, layers_per_block=2,
    )  # fmt: skip
    return unet.half().eval().requires_grad_(False), vae.half().eval().requires_grad_(False)


def prepare(way: str, module: Any, kind: str) -> Any:
    """Places a model the way that is asked for."""
    if way == "group":
        import torch
        from diffusers.hooks import apply_group_offloading

        places = {"onload_device": torch.device("cuda"), "offload_device": torch.device("cpu")}
        apply_group_offloading(module, **places, offload_type="leaf_level", use_stream=True)
        return module
    if way == "sequential":
        from accelerate import cpu_offload

        return cpu_offload(module, "cuda")
    module = module.cuda()
    if way in OURS:
        import giant_kitten

        giant_kitten.follow(module, kind)
    return module


def timed(work: Any, *given: Any, **named: Any) -> tuple[float, Any]:
    """The seconds that a call takes, and what it returns."""
    import torch

    torch.cuda.synchronize()
    start = time.perf_counter()
    result = work(*given, **named)
    torch.cuda.synchronize()
    return time.perf_counter() - start, result


def one_way(way: str, given: argparse.Namespace) -> dict[str, Any]:
    """Runs the pipeline one way."""
    import torch

    torch.set_grad_enabled(False)
    found: dict[str, Any] = {"device": torch.cuda.get_device_name(), "torch": torch.__version__}
    if way not in OURS:
        torch.cuda.set_per_process_memory_fraction(given.dedicated / torch.cuda.mem_get_info()[1])
    unet, vae = models(given.small)
    found["weights"] = sum(p.numel() * p.element_size() for model in (unet, vae) for p in model.parameters())
    try:
        unet, vae = prepare(way, unet, "unet"), prepare(way, vae, "vae")
        side = given.pixels // 8
        generator = torch.Generator("cpu").manual_seed(2)
        latents = torch.randn(2, 4, side, side, generator=generator).half().cuda()
        text = torch.randn(2, 77, unet.config.cross_attention_dim, generator=generator).half().cuda()
        steps = []
        for step in range(given.steps):
            seconds, predicted = timed(unet, latents, 1000 - step, encoder_hidden_states=text)
            latents = latents - predicted.sample / given.steps
            steps.append(seconds)
        decoded, picture = timed(vae.decode, latents[:1])
    except torch.cuda.OutOfMemoryError as why:
        return {**found, "out of memory": str(why).split(". ")[0]}
    found |= {"first_s": steps[0], "step_s": statistics.median(steps[len(steps) // 2 :]), "decode_s": decoded}
    found |= {"peak": torch.cuda.max_memory_allocated(), "bits": int(picture.sample.view(torch.int16).long().sum())}
    if way in OURS:
        import giant_kitten

        stats = giant_kitten.stats()
        found |= {"peak": stats["dedicated_mapped_peak"], "copied_ahead": stats["copied_ahead_bytes"]}
    return found


def run(way: str, given: argparse.Namespace) -> dict[str, Any]:
    """Runs one way in a process of its own."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIANT_KITTEN")}
    environment["GIANT_KITTEN"] = f"dedicated:{given.dedicated},{OURS[way]}" if way in OURS else "0"
    command = [sys.executable, __file__, *sys.argv[1:], "--way", way]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        return {"failed": (done.stderr.strip().splitlines() or ["without a word"])[-1]}
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def page(results: dict[str, dict[str, Any]], given: argparse.Namespace) -> str:
    """The results as a page."""
    said = next((found for found in results.values() if "device" in found), {})
    weights = next((found["weights"] for found in results.values() if "weights" in found), 0)
    first = next((found["bits"] for found in results.values() if "bits" in found), None)
    fake = "simulated" in said.get("device", "")
    lines = [
        "# One pipeline, five ways", "",
        f"{said.get('device')}, of which {given.dedicated / 2**20:.0f} MiB may be used; PyTorch {said.get('torch')}; "
        f"{weights / 2**20:.0f} MiB of weights; {given.steps} steps of {given.pixels} pixels.",
        "On a fake CUDA runtime, where kernels do nothing: the seconds mean nothing." if fake else "Measured here.", "",
        "| way | first step, s | later steps, s | decode, s | peak, MiB | same bits |", "|---|--:|--:|--:|--:|---|",
    ]  # fmt: skip
    for way, found in results.items():
        if "bits" not in found:
            lines.append(f"| {way} | {found.get('out of memory') or found.get('failed')} | | | | |")
            continue
        figures = " | ".join(f"{found[name]:.3f}" for name in ("first_s", "step_s", "decode_s"))
        same = "unknown" if fake else "yes" if found["bits"] == first else "no"
        lines.append(f"| {way} | {figures} | {found['peak'] / 2**20:.0f} | {same} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Runs all five ways and writes the page; or one of them."""
    parser = argparse.ArgumentParser(description="One pipeline that overflows a card, five ways.")
    parser.add_argument("--dedicated", type=size, required=True, help="the memory of the card that may be used")
    parser.add_argument("--steps", type=int, default=12, help="calls of the UNet")
    parser.add_argument("--pixels", type=int, default=1024, help="the side of the picture")
    parser.add_argument("--small", action="store_true", help="models of some 60 MiB, for trying the script")
    parser.add_argument("--out", type=Path, help="where to write the page; by default it is printed")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.way:
        print(json.dumps(one_way(given.way, given)))
        return
    results = {}
    for way in WAYS:
        results[way] = run(way, given)
        print(way, json.dumps(results[way]), file=sys.stderr)
    text = page(results, given)
    given.out.write_text(text) if given.out else print(text)


if __name__ == "__main__":
    main()
