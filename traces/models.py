"""The models of the bundled traces, from their public configurations, and how each is run.

They have no values: a device without a card is enough.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import giant_kitten
import torch
import torch.nn.functional as F
from torch import nn

DEV = torch.device("cuda:0")


def new_input(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """Zeros on the device."""
    return torch.zeros(shape, dtype=dtype).to(DEV)


# The models
def euler_tail(latents: torch.Tensor, noise: torch.Tensor, sigmas: torch.Tensor, i: int) -> torch.Tensor:
    """EulerDiscreteScheduler.step (epsilon prediction), on the device as diffusers does."""
    sample = latents.to(torch.float32)
    sigma, nxt = sigmas[i], sigmas[i + 1]
    pred0 = sample - sigma * noise
    derivative = (sample - pred0) / sigma
    return (sample + derivative * (nxt - sigma)).to(noise.dtype)


def build_sd15() -> nn.Module:
    """The UNet of Stable Diffusion 1.5."""
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=64,
        in_channels=4,
        out_channels=4,
        center_input_sample=False,
        flip_sin_to_cos=True,
        freq_shift=0,
        down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
        block_out_channels=(320, 640, 1280, 1280),
        layers_per_block=2,
        downsample_padding=1,
        mid_block_scale_factor=1,
        act_fn="silu",
        norm_num_groups=32,
        norm_eps=1e-5,
        cross_attention_dim=768,
        attention_head_dim=8,
    )


def build_sdxl() -> nn.Module:
    """The UNet of SDXL base."""
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=128,
        in_channels=4,
        out_channels=4,
        center_input_sample=False,
        flip_sin_to_cos=True,
        freq_shift=0,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(320, 640, 1280),
        layers_per_block=2,
        downsample_padding=1,
        mid_block_scale_factor=1,
        act_fn="silu",
        norm_num_groups=32,
        norm_eps=1e-5,
        cross_attention_dim=2048,
        attention_head_dim=(5, 10, 20),
        transformer_layers_per_block=(1, 2, 10),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=2816,
    )


def run_unet(
    rec: giant_kitten.Recording, model: nn.Module, dtype: torch.dtype, res: int, xl: bool, steps: int = 3
) -> None:
    """Denoises several steps, with classifier-free guidance."""
    h = res // 8
    rec.phase("inputs")
    ctx = new_input((2, 77, 2048 if xl else 768), dtype)
    shapes = {"text_embeds": (2, 1280), "time_ids": (2, 6)}
    added = {name: new_input(shape, dtype) for name, shape in shapes.items()} if xl else None
    timesteps = new_input((steps,), torch.float32)
    sigmas = new_input((steps + 1,), torch.float32)
    latents = new_input((1, 4, h, h), dtype)
    for i in range(steps):
        rec.phase(f"step {i}")
        t = timesteps[i]
        x = torch.cat([latents] * 2)
        x = x / ((sigmas[i] ** 2 + 1) ** 0.5)
        noise = model(x.to(dtype), t, encoder_hidden_states=ctx, added_cond_kwargs=added, return_dict=False)[0]
        uncond, text = noise.chunk(2)
        noise = uncond + 5.0 * (text - uncond)
        latents = euler_tail(latents, noise, sigmas, i)
        del x, noise, uncond, text, t


def build_vae() -> nn.Module:
    """The autoencoder of SD and SDXL."""
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(128, 256, 512, 512),
        layers_per_block=2,
        act_fn="silu",
        latent_channels=4,
        norm_num_groups=32,
        sample_size=1024,
        scaling_factor=0.13025,
    )


def run_vae(rec: giant_kitten.Recording, model: nn.Module, dtype: torch.dtype, res: int, steps: int = 2) -> None:
    """Decodes several times."""
    rec.phase("inputs")
    z = new_input((1, 4, res // 8, res // 8), dtype)
    for i in range(steps):
        rec.phase(f"step {i}")
        img = model.decode(z / 0.13025, return_dict=False)[0]
        img = (img * 0.5 + 0.5).clamp(0, 1)  # VaeImageProcessor.denormalize
        img = img.cpu()
        del img


def build_flux() -> nn.Module:
    """The transformer of Flux.1-dev."""
    from diffusers import FluxTransformer2DModel

    return FluxTransformer2DModel(
        patch_size=1,
        in_channels=64,
        num_layers=19,
        num_single_layers=38,
        attention_head_dim=128,
        num_attention_heads=24,
        joint_attention_dim=4096,
        pooled_projection_dim=768,
        guidance_embeds=True,
        axes_dims_rope=(16, 56, 56),
    )


def run_flux(rec: giant_kitten.Recording, model: nn.Module, dtype: torch.dtype, res: int, steps: int = 2) -> None:
    """Denoises several steps."""
    n = (res // 16) ** 2
    rec.phase("inputs")
    ctx = new_input((1, 512, 4096), dtype)
    pooled = new_input((1, 768), dtype)
    txt_ids = new_input((512, 3), dtype)
    img_ids = new_input((n, 3), dtype)
    guidance = new_input((1,), torch.float32)
    timesteps = new_input((steps,), torch.float32)
    sigmas = new_input((steps + 1,), torch.float32)
    latents = new_input((1, n, 64), dtype)
    for i in range(steps):
        rec.phase(f"step {i}")
        t = timesteps[i].expand(1).to(dtype)
        noise = model(
            hidden_states=latents,
            timestep=t / 1000,
            guidance=guidance,
            pooled_projections=pooled,
            encoder_hidden_states=ctx,
            txt_ids=txt_ids,
            img_ids=img_ids,
            return_dict=False,
        )[0]
        # FlowMatchEulerDiscreteScheduler.step
        sample = latents.to(torch.float32)
        prev = sample + (sigmas[i + 1] - sigmas[i]) * noise
        latents = prev.to(noise.dtype)
        del t, noise, sample, prev


class InFloat8(nn.Linear):  # type: ignore[misc]
    """A linear layer whose weight has 8 bits, and is cast at each use.

    So ComfyUI runs a model whose weight_dtype is fp8_e4m3fn.
    """

    def __init__(self, like: nn.Linear) -> None:
        super().__init__(like.in_features, like.out_features, like.bias is not None, "meta")
        self.bias = like.bias
        weight = torch.empty(like.weight.shape, dtype=torch.float8_e4m3fn, device=DEV)
        self.weight = nn.Parameter(weight, requires_grad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Computes in the type of what comes in."""
        return F.linear(x, self.weight.to(x.dtype), self.bias)


class InNF4(nn.Module):  # type: ignore[misc]
    """A linear layer as bitsandbytes keeps it in 4 bits, with a scale for each 64 weights.

    One token is multiplied by the packed weight. Of more tokens, the weight is unpacked first.
    """

    def __init__(self, like: nn.Linear) -> None:
        super().__init__()
        import bitsandbytes  # noqa: F401  It brings the operations.

        size = like.weight.numel()
        self.shape, self.bias = list(like.weight.shape), like.bias
        self.weight = nn.Parameter(torch.empty(size // 2, 1, dtype=torch.uint8, device=DEV), requires_grad=False)
        self.register_buffer("absmax", torch.empty(size // 64, dtype=torch.float32, device=DEV))
        self.register_buffer("code", torch.empty(16, dtype=torch.float32, device=DEV))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Computes as bitsandbytes' matmul_4bit does."""
        operations = torch.ops.bitsandbytes
        if x.numel() == x.shape[-1]:
            y = operations.gemv_4bit(x, self.weight, self.shape, self.absmax, self.code, 64)
            return y if self.bias is None else y + self.bias
        weight = operations.dequantize_4bit(self.weight, self.absmax, 64, "nf4", self.shape, x.dtype)
        return F.linear(x, weight, self.bias)


class WithLora(nn.Module):  # type: ignore[misc]
    """A frozen linear layer with a trained product of rank 16 beside it, as peft adds it."""

    def __init__(self, base: nn.Linear, rank: int = 16) -> None:
        super().__init__()
        self.base = base
        self.down = nn.Linear(base.in_features, rank, bias=False, device=DEV, dtype=torch.float32)
        self.up = nn.Linear(rank, base.out_features, bias=False, device=DEV, dtype=torch.float32)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The layer, and what it learns."""
        return self.base(x) + self.up(self.down(x.to(self.down.weight.dtype)))


def replace(model: nn.Module, by: Callable[[nn.Linear], nn.Module], chosen: Callable[[str], bool]) -> nn.Module:
    """Replaces the linear layers whose names are chosen."""
    layers = [(name, part) for name, part in model.named_modules() if isinstance(part, nn.Linear) and chosen(name)]
    for name, part in layers:
        owner, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(owner), leaf, by(part))
    return model


def parameters(model: nn.Module) -> int:
    """How many parameters a model has, however it keeps them, without what is trained beside it."""
    beside = {
        id(part)
        for lora in model.modules()
        if isinstance(lora, WithLora)
        for part in (lora.down.weight, lora.up.weight)
    }
    all_of = [parameter for parameter in model.parameters() if id(parameter) not in beside]
    return sum(parameter.numel() * (2 if parameter.dtype == torch.uint8 else 1) for parameter in all_of)


def build_flux_8bit() -> nn.Module:
    """The transformer of Flux.1-dev, with the weights of all linear layers in 8 bits."""
    return replace(build_flux(), InFloat8, lambda name: True)


def build_sdxl_lora() -> nn.Module:
    """The UNet of SDXL base, frozen, with a trained LoRA in every attention."""
    unet = build_sdxl().requires_grad_(False)
    unet.enable_gradient_checkpointing()
    return replace(unet, WithLora, lambda name: name.endswith(("to_q", "to_k", "to_v", "to_out.0")))


def run_sdxl_lora(rec: giant_kitten.Recording, model: nn.Module, dtype: torch.dtype, res: int, steps: int = 2) -> None:
    """Trains several steps, as diffusers' train_text_to_image_lora_sdxl.py does."""
    h = res // 8
    model.train()
    rec.phase("inputs")
    context = new_input((1, 77, 2048), dtype)
    added = {"text_embeds": new_input((1, 1280), dtype), "time_ids": new_input((1, 6), dtype)}
    latents, noise = (new_input((1, 4, h, h), dtype) for _ in range(2))
    timestep = new_input((1,), torch.int64)
    optimizer = torch.optim.AdamW(
        (part for part in model.parameters() if part.requires_grad), foreach=True
    )  # as on a card
    for i in range(steps):
        rec.phase(f"step {i}")
        with torch.enable_grad():
            noisy = latents + noise
            with torch.autocast("cuda", dtype):
                found = model(noisy, timestep, context, added_cond_kwargs=added, return_dict=False)[0]
            loss = F.mse_loss(found.float(), noise.float())
            loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        del noisy, found, loss


def build_wan() -> nn.Module:
    """The transformer of Wan2.2-TI2V-5B."""
    from diffusers import WanTransformer3DModel

    return WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=24,
        attention_head_dim=128,
        in_channels=48,
        out_channels=48,
        text_dim=4096,
        freq_dim=256,
        ffn_dim=14336,
        num_layers=30,
        cross_attn_norm=True,
        qk_norm="rms_norm_across_heads",
    )


def run_wan(rec: giant_kitten.Recording, model: nn.Module, dtype: torch.dtype, res: int, steps: int = 2) -> None:
    """Denoises 121 frames of 1280 pixels by `res`, several steps, with and without the prompt."""
    frames, height, width = 31, res // 16, 80
    rec.phase("inputs")
    prompts = [new_input((1, 512, 4096), dtype) for _ in range(2)]
    timesteps = new_input((steps,), torch.float32)
    sigmas = new_input((steps + 1,), torch.float32)
    latents = new_input((1, 48, frames, height, width), torch.float32)
    for i in range(steps):
        rec.phase(f"step {i}")
        x = latents.to(dtype)
        # A time for each token, as of a video that begins with a picture.
        t = timesteps[i].expand(1, frames * (height // 2) * (width // 2))
        noise, uncond = (model(x, t, prompt, return_dict=False)[0] for prompt in prompts)
        noise = uncond + 5.0 * (noise - uncond)
        latents = latents + (sigmas[i + 1] - sigmas[i]) * noise.to(torch.float32)
        del x, t, noise, uncond


def build_qwen_4bit() -> nn.Module:
    """Qwen2.5-7B, with the linear layers of its blocks in NF4."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    cfg = Qwen2Config(
        vocab_size=152064,
        hidden_size=3584,
        intermediate_size=18944,
        num_hidden_layers=28,
        num_attention_heads=28,
        num_key_value_heads=4,
        max_position_embeddings=32768,
        rope_theta=1000000.0,
        rms_norm_eps=1e-6,
        hidden_act="silu",
        tie_word_embeddings=False,
        attn_implementation="sdpa",
    )
    return replace(Qwen2ForCausalLM(cfg), InNF4, lambda name: name != "lm_head")


def build_llama() -> nn.Module:
    """Llama-3-8B."""
    from transformers import LlamaConfig, LlamaForCausalLM

    cfg = LlamaConfig(
        vocab_size=128256,
        hidden_size=4096,
        intermediate_size=14336,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=8,
        max_position_embeddings=8192,
        rope_theta=500000.0,
        rms_norm_eps=1e-5,
        hidden_act="silu",
        tie_word_embeddings=False,
        attn_implementation="sdpa",
    )
    return LlamaForCausalLM(cfg)


def run_llama(rec: giant_kitten.Recording, model: nn.Module, dtype: torch.dtype, res: int, steps: int = 16) -> None:
    """Reads a prompt and decodes several tokens, greedily."""
    from transformers import DynamicCache

    rec.phase("inputs")
    ids = new_input((1, res), torch.int64)
    cache = DynamicCache()
    for i in range(steps + 1):
        rec.phase("prefill" if i == 0 else f"decode {i - 1}")
        past = cache.get_seq_length()
        pos = torch.arange(past, past + ids.shape[1], device=DEV)
        o = model(
            input_ids=ids,
            past_key_values=cache,
            use_cache=True,
            cache_position=pos,
            position_ids=pos.unsqueeze(0),
            logits_to_keep=1,
        )
        ids = o.logits[:, -1, :].float().argmax(-1, keepdim=True)  # as generate() does
        del o, pos


class Model(NamedTuple):
    """A model, and how it is run."""

    description: str
    build: Callable[[], nn.Module]
    run: Callable[[giant_kitten.Recording, nn.Module, torch.dtype, int], None]
    dtype: torch.dtype
    resolution: int  # pixels; of a language model, the tokens of the prompt
    batch: int
    params: int


run_sd15 = partial(run_unet, xl=False)
run_sdxl = partial(run_unet, xl=True)
MODELS = {
    "sd15_unet_512": Model("SD 1.5 UNet", build_sd15, run_sd15, torch.float16, 512, 2, 859520964),
    "sd15_unet_1024": Model("SD 1.5 UNet", build_sd15, run_sd15, torch.float16, 1024, 2, 859520964),
    "sdxl_unet_1024": Model("SDXL base UNet", build_sdxl, run_sdxl, torch.float16, 1024, 2, 2567463684),
    "sdxl_unet_1536": Model("SDXL base UNet", build_sdxl, run_sdxl, torch.float16, 1536, 2, 2567463684),
    "sdxl_unet_2048": Model("SDXL base UNet", build_sdxl, run_sdxl, torch.float16, 2048, 2, 2567463684),
    "sdvae_dec_1024": Model("SD/SDXL AutoencoderKL decode", build_vae, run_vae, torch.float16, 1024, 1, 83653863),
    "sdvae_dec_2048": Model("SD/SDXL AutoencoderKL decode", build_vae, run_vae, torch.float16, 2048, 1, 83653863),
    "sdvae_dec_1024_fp32": Model("SD/SDXL AutoencoderKL decode", build_vae, run_vae, torch.float32, 1024, 1, 83653863),
    "flux1dev_1024": Model("Flux.1-dev transformer", build_flux, run_flux, torch.bfloat16, 1024, 1, 11901408320),
    "flux1dev_1024_fp8": Model(
        "Flux.1-dev transformer, linear layers in 8 bit",
        build_flux_8bit,
        run_flux,
        torch.bfloat16,
        1024,
        1,
        11901408320,
    ),
    "wan22_5b_704": Model("Wan2.2-TI2V-5B transformer", build_wan, run_wan, torch.bfloat16, 704, 1, 4999787712),
    "sdxl_lora_1024": Model(
        "SDXL base UNet with LoRA", build_sdxl_lora, run_sdxl_lora, torch.bfloat16, 1024, 1, 2567463684
    ),
    "qwen25_7b_nf4_p2048_d16": Model(
        "Qwen2.5-7B decoder in NF4", build_qwen_4bit, run_llama, torch.bfloat16, 2048, 1, 7615616512
    ),
    "llama3_8b_p2048_d16": Model("Llama-3-8B decoder", build_llama, run_llama, torch.bfloat16, 2048, 1, 8030261248),
}
