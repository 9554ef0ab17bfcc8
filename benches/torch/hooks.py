"""What the hooks of lending cost the processor, next to others that swap a parameter's memory.

    scripts/torch-rig run python benches/torch/hooks.py

Each row is one way of running modules that own one weight of 1 MiB and do nothing with it; each
figure is the least of several runs, in microseconds a call of a module beyond the same call without
hooks. The library answers without asking a driver: it is called outside a pass, and a stand-in
names the slot. So this is Python and the way into the library and back; the events that the library
records and waits for in a pass come on top, and depend on the driver.
"""

from __future__ import annotations

import json
import time
from typing import Any

import torch
from giant_kitten._ahead import hooks, weight
from torch import nn

BYTES = 1 << 20
COUNTS = (64, 256, 1024)
RUNS = 15


class Layer(nn.Module):
    """Owns a weight, and does nothing."""

    def __init__(self, memory: torch.Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(memory, requires_grad=False)

    def forward(self, x: Any) -> Any:
        """Nothing."""
        return x


def swapping(layer: Layer, slot: torch.Tensor) -> None:
    """Plain hooks that do nothing but swap the memory, as a lower bound."""
    master = layer.weight.data

    def before(module: nn.Module, _: Any) -> None:
        module.weight.data = slot

    def after(module: nn.Module, *_: Any) -> None:
        module.weight.data = master

    layer.register_forward_pre_hook(before)
    layer.register_forward_hook(after, always_call=True)


def diffusers(layer: Layer, slot: torch.Tensor) -> None:
    """The hooks of diffusers, with a swap in them, as its group offloading has."""
    from diffusers.hooks import HookRegistry, ModelHook

    master = layer.weight.data

    class Swap(ModelHook):  # type: ignore[misc]
        def pre_forward(self, module: nn.Module, *arguments: Any, **named: Any) -> Any:
            module.weight.data = slot
            return arguments, named

        def post_forward(self, module: nn.Module, output: Any) -> Any:
            module.weight.data = master
            return output

    HookRegistry.check_if_exists_or_initialize(layer).register_hook(Swap(), "swap")


def ours(layer: Layer, slot: torch.Tensor) -> None:
    """The hooks of lending."""
    one = weight.Weight(layer.weight, 0)
    one.belongs_to([(layer, "weight")], [])
    one.renew()
    LENT[one.address] = slot.data_ptr()
    hooks.Installed(layer, hooks.Lending(0, [one]))


LENT: dict[int, int] = {}
library_lend = weight._lend


def lend(*arguments: Any) -> int:
    """Asks the library, and answers with the slot."""
    return LENT[library_lend(*arguments)]


def empty(layer: Layer, slot: torch.Tensor) -> None:
    """Hooks that do nothing."""
    layer.register_forward_pre_hook(lambda *_: None)
    layer.register_forward_hook(lambda *_: None, always_call=True)


def alone(layer: Layer) -> float:
    """Seconds of the hooks of lending themselves, without PyTorch's handling of hooks."""
    (before,), (after,) = layer._forward_pre_hooks.values(), layer._forward_hooks.values()
    best = float("inf")
    for _ in range(RUNS):
        begin = time.perf_counter()
        for _ in range(1000):
            before(layer, (), {})
            after(layer, (), None)
        best = min(best, time.perf_counter() - begin)
    return best / 1000


def seconds(layers: list[Layer]) -> float:
    """Seconds of a call of a module."""
    best = float("inf")
    for _ in range(RUNS):
        begin = time.perf_counter()
        for layer in layers:
            layer(None)
        best = min(best, time.perf_counter() - begin)
    return best / len(layers)


def main() -> None:
    """Prints a line of JSON for each way."""
    torch.set_grad_enabled(False)
    weight._lend = lend
    slot = torch.zeros(BYTES, dtype=torch.uint8, device="cuda")
    # A block for each, as models have.
    memory = [torch.zeros(BYTES, dtype=torch.uint8, device="cuda") for _ in range(max(COUNTS))]
    for way in (empty, swapping, diffusers, ours):
        row: dict[str, Any] = {"way": way.__name__}
        for count in COUNTS:
            plain = [Layer(memory[number]) for number in range(count)]
            hooked = [Layer(memory[number]) for number in range(count)]
            try:
                for layer in hooked:
                    way(layer, slot)
            except ImportError as why:
                row["missing"] = str(why)
                break
            seconds(hooked)
            row[str(count)] = round((seconds(hooked) - seconds(plain)) * 1e6, 2)
        if way is ours:
            row["alone"] = round(alone(hooked[0]) * 1e6, 2)
        print(json.dumps(row))


if __name__ == "__main__":
    main()
