"""The models whose allocations are compared: real sizes, weights of zeros, one step each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

HALF = torch.float16
Step = Callable[[], Any]


def _made(model: Any) -> Any:
    return model.to_empty(device="cuda").eval()


def _unet(**config: Any) -> Any:
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        return UNet2DConditionModel(**config).to(HALF)


def sd15_unet() -> tuple[Any, Step]:
    """Stable Diffusion 1.5 at 512 x 512, guided: a batch of two."""
    unet = _made(_unet(sample_size=64, cross_attention_dim=768, attention_head_dim=8))
    latent, time, text = _zeros(2, 4, 64, 64), torch.tensor(5, device="cuda"), _zeros(2, 77, 768)
    return unet, lambda: unet(latent, time, text).sample


def sdxl_unet() -> tuple[Any, Step]:
    """SDXL at 1024 x 1024, guided."""
    unet = _made(
        _unet(
            sample_size=128, block_out_channels=(320, 640, 1280), layers_per_block=2, cross_attention_dim=2048,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"), attention_head_dim=(5, 10, 20),
            transformer_layers_per_block=(1, 2, 10), use_linear_projection=True, addition_embed_type="text_time",
            addition_time_embed_dim=256, projection_class_embeddings_input_dim=2816,
        )
    )  # fmt: skip
    latent, time, text = _zeros(2, 4, 128, 128), torch.tensor(5, device="cuda"), _zeros(2, 77, 2048)
    added = {"text_embeds": _zeros(2, 1280), "time_ids": _zeros(2, 6)}
    return unet, lambda: unet(latent, time, text, added_cond_kwargs=added).sample


def vae_decoder() -> tuple[Any, Step]:
    """The decoder of Stable Diffusion's autoencoder, to 1024 x 1024."""
    from diffusers import AutoencoderKL

    with torch.device("meta"):
        vae = AutoencoderKL(
            block_out_channels=(128, 256, 512, 512), layers_per_block=2, latent_channels=4,
            down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        ).to(HALF)  # fmt: skip
    vae, latent = _made(vae), _zeros(1, 4, 128, 128)
    return vae, lambda: vae.decode(latent).sample


def llama() -> tuple[Any, Step]:
    """A decoder with the shape of Llama 3.2 1B: 512 tokens, then 32 single ones, with a cache."""
    from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        hidden_size=2048, intermediate_size=8192, num_hidden_layers=16, num_attention_heads=32, num_key_value_heads=8,
        vocab_size=128256, tie_word_embeddings=True,
    )  # fmt: skip
    with torch.device("meta"):
        model = LlamaForCausalLM(config).to(HALF)
    model = _made(model)
    prompt = torch.zeros(1, 512, dtype=torch.long, device="cuda")

    def step() -> Any:
        cache = DynamicCache()
        out = model(prompt, past_key_values=cache, use_cache=True, logits_to_keep=1)
        for _ in range(32):
            out = model(prompt[:, :1], past_key_values=cache, use_cache=True)
        return out.logits

    return model, step


def _zeros(*shape: int) -> torch.Tensor:
    return torch.zeros(shape, dtype=HALF, device="cuda")


MODELS: dict[str, Callable[[], tuple[Any, Step]]] = {
    "sd15_unet": sd15_unet,
    "sdxl_unet": sdxl_unet,
    "vae_decoder": vae_decoder,
    "llama": llama,
}
