"""Writes a checkpoint with the names and shapes of Stable Diffusion 1.5 and weights of zeros.

It runs in a checkout of ComfyUI and uses its classes. The file is 2.1 GB long and takes next to no
room on a disk, because its zeros are a hole.
"""

from __future__ import annotations

import json
import os
import struct
import sys
from pathlib import Path

import torch

sys.argv, out = sys.argv[:1], Path(sys.argv[1])
sys.path.insert(0, os.getcwd())

import comfy.clip_model  # noqa: E402
import comfy.ops  # noqa: E402
from comfy.ldm.models.autoencoder import AutoencoderKL  # noqa: E402
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel  # noqa: E402

META, HALF, OPERATIONS = torch.device("meta"), torch.float16, comfy.ops.disable_weight_init

unet = UNetModel(
    image_size=32, in_channels=4, out_channels=4, model_channels=320, num_res_blocks=[2] * 4, channel_mult=[1, 2, 4, 4],
    num_heads=8, num_head_channels=-1, use_spatial_transformer=True, context_dim=768, use_linear_in_transformer=False,
    adm_in_channels=None, use_temporal_attention=False, legacy=False, transformer_depth=[1] * 6 + [0] * 2,
    transformer_depth_output=[1] * 9 + [0] * 3, transformer_depth_middle=1, dtype=HALF, device=META,
    operations=OPERATIONS,
)  # fmt: skip
clip = comfy.clip_model.CLIPTextModel(
    json.loads(Path("comfy/sd1_clip_config.json").read_text()), HALF, META, OPERATIONS
)
with META:
    vae = AutoencoderKL(
        embed_dim=4,
        ddconfig={
            "double_z": True, "z_channels": 4, "resolution": 256, "in_channels": 3, "out_ch": 3, "ch": 128,
            "ch_mult": [1, 2, 4, 4], "num_res_blocks": 2, "attn_resolutions": [], "dropout": 0.0,
        },
    )  # fmt: skip

PREFIXES = {"model.diffusion_model.": unet, "cond_stage_model.transformer.": clip, "first_stage_model.": vae}
header: dict[str, object] = {"__metadata__": {"format": "pt"}}
end = 0
for prefix, model in PREFIXES.items():
    for name, tensor in model.state_dict().items():
        if not name.startswith("text_projection"):
            start, end = end, end + 2 * tensor.numel()
            header[prefix + name] = {"dtype": "F16", "shape": list(tensor.shape), "data_offsets": [start, end]}
text = json.dumps(header).encode()
text += b" " * (-len(text) % 8)
with out.open("wb") as file:
    file.write(struct.pack("<Q", len(text)) + text)
    file.truncate(8 + len(text) + end)
