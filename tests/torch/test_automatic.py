"""The automatic mode: a module is followed, and the reserve is determined."""

from __future__ import annotations

import gc
import sys
from pathlib import Path

import giant_kitten
import pytest
import torch
from conftest import python
from giant_kitten import _state

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
print(unchanged(unet, *before), giant_kitten.stats()["reserve_reason"].split(",")[0])
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
    # The last line is the one that a program prints at its end if it has overflowed.
    assert run(EMPTYING).splitlines()[:-1] == ["shared False", "shared False", "shared False", "unchanged"]


def test_empty_cache_is_a_safe_point_if_the_option_says_so() -> None:
    printed = python(PROGRAM + EMPTYING, GIANT_KITTEN="dedicated:512MiB,shared:2GiB,safe_points:empty_cache")
    assert printed.splitlines() == ["shared False", "dedicated True", "dedicated True", "unchanged"]


def test_a_second_thread_ends_that_empty_cache_is_a_safe_point() -> None:
    code = (
        """
import threading
thread = threading.Thread(target=lambda: torch.empty(1, device="cuda"))
thread.start(), thread.join()
"""
        + EMPTYING
        + "print('more than one thread' in giant_kitten.summary())"
    )
    printed = python(PROGRAM + code, GIANT_KITTEN="dedicated:512MiB,shared:2GiB,safe_points:empty_cache")
    lines = [line for line in printed.splitlines() if " warn: " not in line]
    assert lines == ["shared False", "shared False", "shared False", "unchanged", "True"]


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


def test_the_state_has_the_bytes_of_followed_modules() -> None:
    model, same = (torch.nn.Linear(1024, 1024, bias=False, device="cuda") for _ in range(2))
    image, size = torch.ones(4, 1024, device="cuda"), 1024 * 1024 * 4
    with giant_kitten.follow(model, "unet"), giant_kitten.follow(same, "unet"):
        assert _state.state()["devices"][0]["modules"] == []
        model(image)
        assert _state.state()["devices"][0]["modules"] == [{"name": "unet", "dedicated": size, "shared": 0}]
        same(image)
        giant_kitten.to_shared(model)
        assert _state.state()["devices"][0]["modules"] == [{"name": "unet", "dedicated": size, "shared": size}]
        del model
        gc.collect()
        assert _state.state()["devices"][0]["modules"] == [{"name": "unet", "dedicated": size, "shared": 0}]
    assert _state.state()["devices"][0]["modules"] == []


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


REMEMBERED = """
unet, *before = model(12, 40, 60, 1)
for _ in range(3):
    unet(None)
    print(unet[5].where)
stats = giant_kitten.stats()
print(stats["migrated_bytes"], stats["reserve"] > 60 * MIB, unchanged(unet, *before))
"""


def start(script: Path, cache: Path, options: str = "reserve:remembered") -> str:
    return python("", str(script), GIANT_KITTEN=f"dedicated:512MiB,shared:2GiB,{options}", XDG_CACHE_HOME=str(cache))


def test_the_second_start_is_right_from_its_first_step(tmp_path: Path) -> None:
    script = tmp_path / "generate.py"
    script.write_text(PROGRAM + REMEMBERED)
    assert start(script, tmp_path).splitlines() == ["shared", "shared", "shared", "0 False unchanged"]
    assert start(script, tmp_path).splitlines() == ["dedicated", "dedicated", "dedicated", "0 True unchanged"]
    [kept] = (tmp_path / "giant-kitten" / "remembered").iterdir()
    for text in ("", "rubbish", kept.read_text().replace("generate", "another"), kept.read_text()[:-40]):
        kept.write_text(text)
        said = start(script, tmp_path)
        assert "is ignored" in said and "0 False unchanged" in said
    told = python("", "-m", "giant_kitten", "forget", str(script), XDG_CACHE_HOME=str(tmp_path))
    assert told.strip() == "forgot the reserves of 1 program"
    told = python("", "-m", "giant_kitten", "forget", XDG_CACHE_HOME=str(tmp_path))
    assert told.strip() == "nothing was remembered"


def test_programs_that_our_command_starts_have_a_reserve_each(tmp_path: Path) -> None:
    options = "dedicated:512MiB,shared:2GiB,reserve:remembered"
    for name, command in (
        ("one", ["-m", "giant_kitten"]),
        ("two", [str(Path(sys.executable).with_name("giant-kitten"))]),
    ):
        script = tmp_path / f"{name}.py"
        script.write_text(PROGRAM + REMEMBERED)
        python("", *command, "run", "--options", options, str(script), native=True, XDG_CACHE_HOME=str(tmp_path))
    kept = "".join(note.read_text() for note in (tmp_path / "giant-kitten" / "remembered").iterdir())
    assert all(kept.count(f"{tmp_path / name}.py") == 1 for name in ("one", "two")), kept
    assert "giant-kitten run" not in kept and "-m giant_kitten" not in kept


def test_an_overflow_is_reported_once_at_the_end(tmp_path: Path) -> None:
    script = tmp_path / "generate.py"
    script.write_text(PROGRAM + REMEMBERED)
    last = start(script, tmp_path, "reserve:auto").splitlines()[-1]
    assert "lay in host memory" in last and "reserve:remembered" in last and "follow(model)" in last
    script.write_text(PROGRAM + REMEMBERED.replace("model(12,", "model(7,"))
    assert start(script, tmp_path, "reserve:auto").splitlines()[-1] == "0 False unchanged"


def test_followed_modules_in_two_threads_at_once() -> None:
    printed = run(
        """
import threading
unet, *before = model(12, 40, 60, 1)
other, *others = model(1, 4, 1, 50)
begun, go_on = threading.Event(), threading.Event()
class Waits(torch.nn.Module):
    def forward(self, x):
        begun.set()
        go_on.wait()
        return x
other.append(Waits())
giant_kitten.follow(unet, "unet"), giant_kitten.follow(other, "other")
thread = threading.Thread(target=other, args=(None,))
thread.start(), begun.wait()
for _ in range(4):
    unet(None)
stats = giant_kitten.stats()
print(stats["abstained"] > 0, stats["migrated_bytes"], "another thread has used the card" in giant_kitten.summary())
go_on.set(), thread.join()
unet(None), unet(None)
print(giant_kitten.stats()["migrated_bytes"] > 0, unchanged(unet, *before), unchanged(other[:1], *others))
"""
    )
    assert printed.splitlines() == ["True 0 True", "True unchanged unchanged"]


def test_autograds_threads_are_seen_and_may_be_vouched_for() -> None:
    printed = run(
        """
class Times(torch.autograd.Function):
    @staticmethod
    def forward(context, x):
        return x.clone()
    @staticmethod
    def backward(context, gradient):
        torch.empty(100 * MIB, dtype=torch.uint8, device="cuda")
        return gradient.clone()
kept, *before = model(12, 40, 60, 1)
x = torch.zeros(10, device="cuda", requires_grad=True)
moved = []
for certain in (False, False, False, True, True):
    giant_kitten.safe_point("step", certain=certain)
    moved.append(giant_kitten.stats()["migrated_bytes"] > 0)
    for _ in range(4):
        Times.apply(x).sum().backward()
print(*moved, unchanged(kept, *before))
"""
    )
    assert printed.split() == ["False", "False", "False", "True", "True", "unchanged"]


def test_a_pass_that_raises_leaves_nobody_at_work() -> None:
    printed = run(
        """
import threading
unet, *before = model(12, 40, 60, 1)
giant_kitten.follow(unet)
def fails():
    unet[3].forward = lambda x: 1 / 0
    try:
        unet(None)
    except ZeroDivisionError:
        pass
    del unet[3].forward
thread = threading.Thread(target=fails)
thread.start(), thread.join()
for _ in range(3):
    unet(None)
print(giant_kitten.stats()["migrated_bytes"] > 0, unchanged(unet, *before))
with giant_kitten.follow(unet) as following:
    class Ends(torch.nn.Module):
        def forward(self, x):
            following.remove()
            return x
    unet.append(Ends())
    unet(None)
before_last = giant_kitten.stats()["safe_points"]
unet(None)
print(giant_kitten.stats()["safe_points"] - before_last)
"""
    )
    assert printed.splitlines() == ["True unchanged", "1"]
