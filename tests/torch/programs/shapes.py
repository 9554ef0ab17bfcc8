"""Uncommon tensors: ragged, nested, sparse, complex, padded, resized, and sizes around limits."""

import torch
import torch.nn.functional as F
from sampled import EXACT, sample
from torch import nn

dev = "cuda"
wide = torch.cat([torch.zeros(length, 300, device=dev) for length in range(1, 200)])
sample("many into one", EXACT)
parts = wide.split(777)
again = torch.cat([part.contiguous() for part in parts], dim=0)
padded = nn.utils.rnn.pad_sequence([torch.zeros(length, 40, device=dev) for length in range(1, 90)], batch_first=True)
sample("padded", EXACT)
image = torch.zeros(2, 3, 257, 259, device=dev, dtype=torch.half)
for way in ("constant", "reflect", "replicate", "circular"):
    image = F.pad(image, (3, 5, 7, 1), mode=way)
sample("borders", EXACT)
channels_last = image.to(memory_format=torch.channels_last)
for layer in (nn.Conv2d(3, 16, 3, stride=2), nn.ConvTranspose2d(16, 8, 4, stride=2), nn.Conv2d(8, 8, 3, groups=8)):
    channels_last = layer.to(dev, torch.half, memory_format=torch.channels_last)(channels_last)
pooled = F.adaptive_avg_pool2d(F.max_pool2d(channels_last, 3), 7)
unfolded = F.unfold(image.float(), 5, stride=5)
sample("convolutions", EXACT)
shifted = F.grid_sample(image.float(), torch.zeros(2, 64, 64, 2, device=dev), align_corners=False)
large = F.interpolate(image, size=(1024, 1024), mode="nearest")
sample("sampled", EXACT)
del wide, parts, again, padded, image, channels_last, pooled, unfolded, layer, shifted, large
sample("gone", EXACT)
nested = torch.nested.nested_tensor([torch.zeros(n, 64, device=dev) for n in (3, 100, 17)])
dense = torch.nested.to_padded_tensor(nested, 0.0)
sample("nested", EXACT)
places = torch.randint(0, 100, (2, 500)).to(dev)
sparse = torch.sparse_coo_tensor(places, torch.zeros(500, device=dev), (100, 100), check_invariants=False)
sample("sparse", EXACT)
spectrum = torch.fft.rfft2(torch.zeros(8, 200, 200, device=dev))
signal = torch.fft.irfft2(spectrum, s=(200, 200))
window = torch.hann_window(400, device=dev)
waves = torch.stft(torch.zeros(2, 16000, device=dev), 400, 160, window=window, return_complex=True)
sample("complex", EXACT)
grown = torch.empty(10, device=dev)
for length in (1 << 10, 1 << 20, 5, 3 << 20):
    grown.resize_(length)
    sample(f"resized {length}", EXACT)
storage = grown.untyped_storage()
storage.resize_(0)
sample("emptied", EXACT)
storage.resize_(4 << 20)
sample("filled", EXACT)
for _ in range(20):
    grown = grown.roll(1).flip(0).sort().values.cumsum(0)[: 1 << 19].repeat(2)
sample("chains", EXACT)
gate, value = torch.zeros(64, 1000, 256, device=dev).chunk(2, dim=-1)
F.gelu(gate).mul_(value).add_(1).clamp_(0, 1)
torch.einsum("bhld,bhmd->bhlm", torch.zeros(2, 4, 100, 32, device=dev), torch.zeros(2, 4, 90, 32, device=dev))
torch.baddbmm(
    torch.zeros(8, 50, 60, device=dev), torch.zeros(8, 50, 40, device=dev), torch.zeros(8, 40, 60, device=dev)
)
torch.cdist(torch.zeros(300, 16, device=dev), torch.zeros(200, 16, device=dev))
torch.histc(torch.zeros(1000, device=dev), 10, 0, 1)
sample("mixed", EXACT)
for size in (1, 511, 512, 513, (1 << 20) - 1, (1 << 20) + 1, (2 << 20) + 5, (10 << 20) + 3, (200 << 20) + 1):
    one = torch.empty(size, dtype=torch.uint8, device=dev)
    two = torch.empty(size, dtype=torch.uint8, device=dev)
    del one
    sample(f"of {size}", EXACT)
del two
sample("end", EXACT)
