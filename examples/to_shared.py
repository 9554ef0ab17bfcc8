"""Moves a rarely read part of a model to shared memory, so that the rest has the card."""

import giant_kitten

giant_kitten.install()

import torch  # noqa: E402

encoder = torch.nn.Sequential(torch.nn.Embedding(49_152, 512), torch.nn.Linear(512, 512)).to("cuda")
decoder = torch.nn.Linear(512, 49_152).to("cuda")
giant_kitten.to_shared(encoder)
print("encoder:", giant_kitten.tier(encoder), "decoder:", giant_kitten.tier(decoder.weight))
with giant_kitten.shared():
    cache = torch.empty(64 << 20, dtype=torch.uint8, device="cuda")
print("cache:", giant_kitten.tier(cache))
print(decoder(encoder(torch.zeros(1, 7, dtype=torch.long, device="cuda"))).shape)
