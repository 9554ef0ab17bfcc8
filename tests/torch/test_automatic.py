"""The automatic mode: a module is followed, and the reserve finds itself."""

from __future__ import annotations

import giant_kitten
import pytest
import torch
from conftest import python

MIB = 1 << 20

PROGRAM = """
import giant_kitten, torch

MIB = 1 << 20


class Layer(torch.nn.Module):
    def __init__(self, megabytes, scratch):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(megabytes * MIB, dtype=torch.uint8), requires_grad=False)
        self.scratch = scratch

    def forward(self, x):
        for _ in range(6):
            x = torch.empty(self.scratch * MIB, dtype=torch.uint8, device="cuda")
            self.where = giant_kitten.tier(x)
        return x


def model(layers, megabytes, scratch, seed):
    made = torch.nn.Sequential(*(Layer(megabytes, scratch) for _ in range(layers)))
    for number, layer in enumerate(made):
        layer.weight.random_(0, 256, generator=torch.Generator().manual_seed(seed + number))
    known = [layer.weight.clone() for layer in made]
    made.cuda()
    return made, known, [layer.weight.data_ptr() for layer in made]


def unchanged(made, known, addresses):
    for layer, bytes_before, address in zip(made, known, addresses):
        assert torch.equal(layer.weight.cpu(), bytes_before) and layer.weight.data_ptr() == address
    return "unchanged"
"""


def run(code: str) -> str:
    return python(PROGRAM + code, GIANT_KITTEN="dedicated:512MiB,shared:2GiB")


def test_scratch_finds_its_reserve_after_one_pass() -> None:
    printed = run(
        """
unet, *before = model(12, 40, 60, 1)
with giant_kitten.follow(unet, "unet"):
    for _ in range(3):
        unet(None)
        print(unet[5].where, giant_kitten.stats()["reserve"] > 60 * MIB)
print(unchanged(unet, *before), giant_kitten.stats()["reserve_reason"].split(" (")[0])
"""
    )
    assert printed.splitlines() == ["shared False", "dedicated True", "dedicated True", "unchanged found: before unet"]


def test_an_idle_model_makes_room_and_comes_back() -> None:
    printed = run(
        """
unet, *unet_before = model(10, 40, 20, 1)
vae, *vae_before = model(2, 10, 130, 50)
giant_kitten.follow(unet, "unet"), giant_kitten.follow(vae, "vae")
for generation in range(4):
    for _ in range(12):
        unet(None)
    before = giant_kitten.residency(unet)["shared"]
    vae(None)
    print(before, vae[1].where, giant_kitten.residency(unet)["shared"] > 100 * MIB)
print(unchanged(unet, *unet_before), unchanged(vae, *vae_before))
"""
    )
    lines = printed.splitlines()
    assert lines[0] == "0 shared False"
    assert lines[2:] == ["0 dedicated True", "0 dedicated True", "unchanged unchanged"]


EMPTYING = """
unet, *before = model(12, 40, 60, 1)
for _ in range(3):
    torch.cuda.empty_cache()
    unet(None)
    print(unet[5].where, giant_kitten.stats()["migrated_bytes"] > 0)
print(unchanged(unet, *before))
"""


def test_empty_cache_moves_nothing() -> None:
    assert run(EMPTYING).splitlines() == ["shared False", "shared False", "shared False", "unchanged"]


def test_empty_cache_is_a_safe_point_for_who_asks_for_it() -> None:
    printed = python(PROGRAM + EMPTYING, GIANT_KITTEN="dedicated:512MiB,shared:2GiB,safe_points:empty_cache")
    assert printed.splitlines() == ["shared False", "dedicated True", "dedicated True", "unchanged"]


def test_a_second_thread_ends_that_empty_cache_is_a_safe_point() -> None:
    code = """
import threading
thread = threading.Thread(target=lambda: torch.empty(1, device="cuda"))
thread.start(), thread.join()
""" + EMPTYING + "print('more than one thread' in giant_kitten.summary())"
    printed = python(PROGRAM + code, GIANT_KITTEN="dedicated:512MiB,shared:2GiB,safe_points:empty_cache")
    assert printed.splitlines() == ["shared False", "shared False", "shared False", "unchanged", "True"]


def test_a_followed_module_is_let_go() -> None:
    module = torch.nn.Linear(8, 8).cuda()
    following = giant_kitten.follow(module)
    giant_kitten.activate(reserve="auto")
    before = giant_kitten.stats()["safe_points"]
    module(torch.zeros(1, 8, device="cuda"))
    assert giant_kitten.stats()["safe_points"] == before + 1
    following.remove()
    module(torch.zeros(1, 8, device="cuda"))
    giant_kitten.safe_point("something else")
    assert giant_kitten.stats()["safe_points"] == before + 2
    giant_kitten.disable()
    with pytest.raises(TypeError, match="Tensor"):
        giant_kitten.follow(torch.zeros(3))
    with pytest.raises(giant_kitten.Error, match="no device 9"):
        giant_kitten.safe_point(device=9)


def test_a_graph_capture_goes_through_a_followed_module() -> None:
    module = torch.nn.Linear(64, 64).cuda()
    given = torch.zeros(4, 64, device="cuda")
    giant_kitten.activate(reserve="auto")
    with giant_kitten.follow(module):
        module(given)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            module(given)
        graph.replay()
        module(given)
    torch.cuda.synchronize()
    giant_kitten.disable()
