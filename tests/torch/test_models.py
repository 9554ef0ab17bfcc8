"""Real model architectures with zero weights request the same bytes on both allocators."""

from __future__ import annotations

import json

import pytest
from conftest import python

# Each program builds a model and a step that is done three times; the end is the same for all.
PREAMBLE = """
import json, sys, torch
half = torch.float16
torch.set_default_device("cuda")
torch.set_default_dtype(half)
"""

MODELS = {
    "sd15_unet": """
from diffusers import UNet2DConditionModel
with torch.device("meta"):
    model = UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8)
model = model.to_empty(device="cuda").eval()
latent, time, text = torch.zeros(2, 4, 64, 64), torch.tensor(5), torch.zeros(2, 77, 768)
step = lambda: model(latent, time, text).sample
""",
    "vae_decoder": """
from diffusers import AutoencoderKL
with torch.device("meta"):
    model = AutoencoderKL(block_out_channels=(128, 256, 512, 512), layers_per_block=2, latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4)
model = model.to_empty(device="cuda").eval()
latent = torch.zeros(1, 4, 64, 64)
step = lambda: model.decode(latent).sample
""",
    "text_encoder": """
from transformers import CLIPTextConfig, CLIPTextModel
with torch.device("meta"):
    model = CLIPTextModel(CLIPTextConfig(
        hidden_size=768, intermediate_size=3072, num_attention_heads=12, num_hidden_layers=12))
model = model.to_empty(device="cuda").eval()
tokens = torch.zeros(2, 77, dtype=torch.long)
step = lambda: model(tokens).last_hidden_state
""",
    "llama_with_a_growing_cache": """
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM
with torch.device("meta"):
    model = LlamaForCausalLM(LlamaConfig(
        hidden_size=1024, intermediate_size=2816, num_hidden_layers=8, num_attention_heads=16, vocab_size=8000))
model = model.to_empty(device="cuda").eval()
cache = DynamicCache()
token = torch.zeros(1, 1, dtype=torch.long)
def step():
    for _ in range(20):
        out = model(token, past_key_values=cache, use_cache=True).logits
    return out
""",
}

TAIL = """
curve = []
with torch.no_grad():
    for turn in range(3):
        if turn == 1 and "activate" in sys.argv:
            import giant_kitten
            giant_kitten.activate(reserve="1GiB", model=model)
        out = step()
        stats = torch.cuda.memory_stats()
        curve.append([stats[f"requested_bytes.all.{field}"] for field in ("current", "peak", "allocated")])
        curve.append(stats["allocation.all.allocated"])
torch.cuda.synchronize()
print("CURVE" + json.dumps(curve))
"""


def curve(model: str, *arguments: str, native: bool = False) -> list[object]:
    printed = python(PREAMBLE + MODELS[model] + TAIL, *arguments, native=native, FAKE_CUDA_FAULTS="/dev/stderr")
    assert "before" not in printed, printed
    return list(json.loads(printed.split("CURVE")[1].splitlines()[0]))


@pytest.mark.parametrize("model", MODELS)
def test_the_same_bytes_are_asked_for(model: str) -> None:
    native = curve(model, native=True)
    assert curve(model) == native
    assert curve(model, "activate") == native
