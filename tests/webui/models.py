"""Model files for the genuine WebUIs, in the shapes of a given checkpoint.

These are another checkpoint, a LoRA and a ControlNet. Their weights are zeros and a hole in the
file, which takes almost no room on the disk.
"""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path

Shapes = dict[str, list[int]]

UNET = "model.diffusion_model."
# The output channels of the down blocks in Stable Diffusion 1.5.
CHANNELS = (320, 320, 320, 320, 640, 640, 640, 1280, 1280, 1280, 1280, 1280)
# The convolutions that reduce a hint's picture to the latent size: input and output channels.
HINT = {0: (3, 16), 2: (16, 16), 4: (16, 32), 6: (32, 32), 8: (32, 96), 10: (96, 96), 12: (96, 256), 14: (256, 320)}


def header(file: Path) -> Shapes:
    """The names and shapes of a safetensors file."""
    with file.open("rb") as opened:
        (length,) = struct.unpack("<Q", opened.read(8))
        found = json.loads(opened.read(length))
    return {name: each["shape"] for name, each in found.items() if name != "__metadata__"}


def size(shapes: Shapes) -> int:
    """The bytes of tensors of these shapes in half precision."""
    return sum(2 * math.prod(shape) for shape in shapes.values())


def write(file: Path, shapes: Shapes) -> Path:
    """Writes a safetensors file with half-precision zeros."""
    at, entries = 0, {}
    for name, shape in shapes.items():
        end = at + 2 * math.prod(shape)
        entries[name] = {"dtype": "F16", "shape": shape, "data_offsets": [at, end]}
        at = end
    text = json.dumps(entries).encode()
    with file.open("wb") as opened:
        opened.write(struct.pack("<Q", len(text)) + text)
        opened.truncate(8 + len(text) + at)
    return file


def lora(rank: int = 4) -> Shapes:
    """Writes a LoRA of the queries in the first attention layers of a UNet."""
    shapes: Shapes = {}
    for block, channels in ((0, 320), (1, 640), (2, 1280)):
        for one in (0, 1):
            name = f"lora_unet_down_blocks_{block}_attentions_{one}_transformer_blocks_0_attn1_to_q"
            shapes[f"{name}.lora_down.weight"] = [rank, channels]
            shapes[f"{name}.lora_up.weight"] = [channels, rank]
            shapes[f"{name}.alpha"] = []
    return shapes


def controlnet(checkpoint: Shapes) -> Shapes:
    """Writes a ControlNet for Stable Diffusion 1.5: the UNet's down blocks, and its connections."""
    parts = tuple(f"{UNET}{part}" for part in ("time_embed.", "input_blocks.", "middle_block."))
    shapes = {name.removeprefix(UNET): shape for name, shape in checkpoint.items() if name.startswith(parts)}
    for at, (into, out) in HINT.items():
        shapes[f"input_hint_block.{at}.weight"] = [out, into, 3, 3]
        shapes[f"input_hint_block.{at}.bias"] = [out]
    ends = {f"zero_convs.{at}.0": channels for at, channels in enumerate(CHANNELS)}
    for name, channels in {**ends, "middle_block_out.0": CHANNELS[-1]}.items():
        shapes[f"{name}.weight"] = [channels, channels, 1, 1]
        shapes[f"{name}.bias"] = [channels]
    return shapes


def taesd() -> Shapes:
    """The tensors of TAESD's decoder, the small one that live previews can use."""
    shapes: Shapes = {}

    def convolution(name: str, into: int, out: int, bias: bool = True) -> None:
        shapes[f"{name}.weight"] = [out, into, 3, 3]
        if bias:
            shapes[f"{name}.bias"] = [out]

    convolution("1", 4, 64)
    for at in (7, 12, 17):
        convolution(str(at), 64, 64, bias=False)
    for block in (3, 4, 5, 8, 9, 10, 13, 14, 15, 18):
        for at in (0, 2, 4):
            convolution(f"{block}.conv.{at}", 64, 64)
    convolution("19", 64, 3)
    return shapes
