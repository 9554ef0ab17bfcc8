"""Decoding: a growing cache, one written in place, sampling, beams, and a step as a graph."""

import torch
import torch.nn.functional as F
from sampled import sample
from torch import nn

WIDTH, HEADS, LAYERS, WORDS, LONGEST = 256, 8, 3, 1000, 128


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.into = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 3 * WIDTH, bias=False)
        self.out, self.mlp = nn.Linear(WIDTH, WIDTH, bias=False), nn.Linear(WIDTH, WIDTH)

    def forward(self, x, cache, positions):
        batch, length, _ = x.shape
        parts = self.into(self.norm(x)).chunk(3, -1)
        query, key, value = (part.view(batch, length, HEADS, -1).transpose(1, 2) for part in parts)
        key, value = cache.update(key, value, positions)
        y = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).reshape(batch, length, WIDTH)
        x = x + self.out(y)
        return x + F.silu(self.mlp(x))


class Growing:
    key = value = None

    def update(self, key, value, _):
        self.key = key if self.key is None else torch.cat((self.key, key), dim=2)
        self.value = value if self.value is None else torch.cat((self.value, value), dim=2)
        return self.key, self.value


class Static:
    def __init__(self, batch):
        shape = batch, HEADS, LONGEST, WIDTH // HEADS
        self.key, self.value = (torch.zeros(shape, dtype=torch.half, device="cuda") for _ in range(2))

    def update(self, key, value, positions):
        self.key.index_copy_(2, positions, key)
        self.value.index_copy_(2, positions, value)
        return self.key, self.value


class Decoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.words, self.head = nn.Embedding(WORDS, WIDTH), nn.Linear(WIDTH, WORDS, bias=False)
        self.layers = nn.ModuleList(Layer() for _ in range(LAYERS))

    def forward(self, tokens, caches, positions):
        x = self.words(tokens)
        for layer, cache in zip(self.layers, caches):
            x = layer(x, cache, positions)
        return self.head(x)


@torch.inference_mode()
def main():
    model = Decoder().half().cuda().eval()
    prompt = torch.randint(0, WORDS, (3, 20)).cuda()
    for name, kind in (("growing", Growing), ("static", lambda: Static(3))):
        caches = [kind() for _ in range(LAYERS)]
        tokens, positions = prompt, torch.arange(20, device="cuda")
        for turn in range(25):
            logits = model(tokens[:, -len(positions) :], caches, positions)[:, -1].float()
            kept = logits / 0.7
            top = torch.topk(kept, 50).values[:, -1:]
            kept = kept.masked_fill(kept < top, float("-inf"))
            ordered, places = torch.sort(kept, descending=True)
            beyond = ordered.softmax(-1).cumsum(-1) > 0.9
            kept = kept.masked_fill(beyond.scatter(1, places, beyond), float("-inf"))
            chosen = kept.softmax(-1).argmax(-1, keepdim=True)
            tokens = torch.cat((tokens, chosen), dim=1)
            positions = positions[-1:] + 1
            if turn % 8 == 0:
                sample(f"{name} {turn}")
        if kind is Growing:
            # As for beams, the host knows which rows continue.
            order = torch.tensor([0, 0, 2], device="cuda")
            for cache in caches:
                cache.key, cache.value = cache.key.index_select(0, order), cache.value.index_select(0, order)
            sample("re-ordered")
        del caches
        sample("cache gone")

    caches = [Static(3) for _ in range(LAYERS)]
    token, position = prompt[:, :1].contiguous(), torch.zeros(1, dtype=torch.long, device="cuda")
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(2):
            model(token, caches, position)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        logits = model(token, caches, position)
    for turn in range(10):
        position.fill_(turn)
        graph.replay()
        token.copy_(logits[:, -1:].argmax(-1))
    sample("graph")
    del graph, logits, caches
    torch.cuda.empty_cache()
    sample("end")


main()
