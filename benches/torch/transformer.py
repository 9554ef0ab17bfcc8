"""A transformer that overflows, timed pass by pass, on a real GPU.

    python benches/torch/transformer.py                                          # PyTorch's own
    GIANT_KITTEN=dedicated:4.5GiB,shared:16GiB python benches/torch/transformer.py
    GIANT_KITTEN=dedicated:4.5GiB,shared:16GiB,copy_ahead:off python benches/torch/transformer.py

Method. A Llama of Hugging Face's transformers with random bf16 weights from a seed runs passes of
some sequences of 1024 tokens, and then passes of one more token each; each pass is timed by the
host's clock between two waits for the device. On giant-kitten the model is followed. The sum of the
logits and the sum of their bits are printed too, so that two runs can be compared. It also times a
tensor that is allocated and freed at once (the best of five rounds), and one that replaces a random
one of 20,000 live tensors (the best of three rounds). One JSON object is printed.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import time
from typing import TYPE_CHECKING, Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

if TYPE_CHECKING:
    from collections.abc import Callable

TOKENS = 1024
LIVE, LEAST, MOST = 20_000, 512, 1 << 16


def tensor(size: int) -> torch.Tensor:
    """A tensor of some bytes."""
    return torch.empty(size, dtype=torch.uint8, device="cuda")


def nanoseconds(rounds: int, count: int, work: Callable[[], None]) -> int:
    """The least time of one of `count` steps of work that does them all, over some rounds."""
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return round(min(times) / count * 1e9)


def pair(size: int, count: int = 20_000) -> int:
    """Nanoseconds to allocate and free a tensor of some bytes."""

    def work() -> None:
        for _ in range(count):
            tensor(size)

    return nanoseconds(5, count, work)


def random_pair() -> int:
    """Nanoseconds to replace a random one of many live tensors of random sizes."""
    chance = random.Random(1)
    live: list[torch.Tensor | None] = [tensor(chance.randint(LEAST, MOST)) for _ in range(LIVE)]
    steps = [(chance.randrange(LIVE), chance.randint(LEAST, MOST)) for _ in range(LIVE)]

    def work() -> None:
        for which, size in steps:
            live[which] = None
            live[which] = tensor(size)

    return nanoseconds(3, LIVE, work)


def made(layers: int, hidden: int, generator: torch.Generator) -> Any:
    """The model on the GPU, with random weights."""
    config = LlamaConfig(
        hidden_size=hidden, intermediate_size=hidden * 7 // 2, num_hidden_layers=layers, num_attention_heads=32,
        num_key_value_heads=8, vocab_size=32_000,
    )  # fmt: skip
    with torch.device("meta"):
        model = LlamaForCausalLM(config).to(torch.bfloat16)
    model = model.to_empty(device="cuda")
    size = hidden // 32
    frequencies = 1 / 10_000 ** (torch.arange(0, size, 2, dtype=torch.float32, device="cuda") / size)
    for name, parameter in model.named_parameters():
        parameter.data.fill_(1) if "norm" in name else parameter.data.normal_(0, 0.02, generator=generator)
    for module in model.modules():
        if hasattr(module, "inv_freq"):
            module.inv_freq = frequencies
    return model.eval().requires_grad_(False)


def passes(count: int, work: Callable[[], Any]) -> tuple[list[float], Any]:
    """Seconds of each of some passes, and what the last one returns."""
    seconds, last = [], None
    for _ in range(count):
        torch.cuda.synchronize()
        start = time.perf_counter()
        last = work()
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return seconds, last


def main() -> None:
    """Measures, and prints one JSON object."""
    parser = argparse.ArgumentParser(description="A transformer that overflows, timed pass by pass.")
    parser.add_argument("--layers", type=int, default=14, help="of the model; 14 are 6.3 GiB, and 10 are 4.6 GiB")
    parser.add_argument("--hidden", type=int, default=4096, help="the model's width")
    parser.add_argument("--batch", type=int, default=8, help="sequences in a pass")
    given = parser.parse_args()
    backend = torch.cuda.memory.get_allocator_backend()
    found: dict[str, Any] = {
        "device": torch.cuda.get_device_name(), "torch": torch.__version__, "backend": backend,
        "GIANT_KITTEN": os.environ.get("GIANT_KITTEN"), "layers": given.layers,
        "pair_ns": {size: pair(size) for size in (512, 1 << 20, 1 << 24)}, "random_live_pair_ns": random_pair(),
    }  # fmt: skip
    torch.cuda.empty_cache()
    generator = torch.Generator(device="cuda").manual_seed(1)
    model = made(given.layers, given.hidden, generator)
    if backend != "native":
        import giant_kitten

        giant_kitten.follow(model)
    tokens = torch.randint(0, 32_000, (given.batch, TOKENS), device="cuda", generator=generator)
    found["prefill_s"], result = passes(8, lambda: model(tokens, use_cache=True))
    found["sum"] = float(result.logits.float().sum())
    found["hash"] = int(result.logits.view(torch.int16).long().sum())
    cache = result.past_key_values
    found["decode_s"], _ = passes(8, lambda: model(tokens[:, -1:], past_key_values=cache, use_cache=True))
    found["peak"] = torch.cuda.max_memory_allocated()
    if backend != "native":
        stats = giant_kitten.stats()
        names = ("rebalances", "rebalanced_demoted", "rebalanced_promoted", "abstained", "staging", "lends")
        names += ("lent_bytes", "copied_ahead_bytes", "missed_lends", "dropped_copies")
        found["stats"] = {name: stats[name] for name in names}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
