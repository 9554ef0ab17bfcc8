"""The life of a model as in a diffusers pipeline, and the tiers of its weights."""

import giant_kitten

# Any card acts as one of 640 MiB, which the weights, 768 MiB, overflow. Leave that option out.
giant_kitten.install("reserve:256MiB,dedicated:640MiB")

import torch  # noqa: E402


class Denoiser(torch.nn.Module):
    """Stands for a UNet: many layers, and activations much larger than each layer."""

    def __init__(self, layers: int = 24, width: int = 4096) -> None:
        super().__init__()
        self.layers = torch.nn.ModuleList(torch.nn.Linear(width, width) for _ in range(layers))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """One step."""
        for layer in self.layers:
            x = torch.nn.functional.silu(layer(x))
        return x


def report(when: str, model: torch.nn.Module) -> None:
    """Prints in which tier the model's weights lie."""
    found = giant_kitten.residency(model)
    print(f"{when:10} weights: {found['dedicated'] >> 20:5} MiB dedicated, {found['shared'] >> 20:5} MiB shared")


torch.set_default_device("cuda")
torch.set_default_dtype(torch.float16)
with torch.device("meta"):
    model = Denoiser()
model = model.to_empty(device="cuda")
report("loaded", model)

giant_kitten.activate(model=model)
report("activated", model)
with torch.no_grad():
    latent = torch.zeros(8192, 4096)
    for _ in range(4):
        latent = model(latent)
print(giant_kitten.summary())

giant_kitten.free_vram()
report("freed", model)
