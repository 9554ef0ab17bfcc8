"""Tensors out and back, on a card of 64 MiB and 256 MiB that can only be pinned.

test_pinned.py runs this file.
"""

from __future__ import annotations

import _thread
import ctypes
import gc
import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import giant_kitten
import pytest
import torch
from conftest import Machine
from giant_kitten import _out_and_back

MIB = 1 << 20


@pytest.fixture(autouse=True)
def thawed() -> Iterator[None]:
    gc.collect()
    giant_kitten.disable()
    assert giant_kitten.stats()["rung"] == "pinned"
    yield
    gc.collect()


def known(mebibytes: float, seed: int) -> torch.Tensor:
    """Bytes in host memory that are determined by a seed."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (int(mebibytes * MIB),), dtype=torch.uint8, generator=generator)


class Model(torch.nn.Module):  # type: ignore[misc]
    """Layers of some sizes with known bytes."""

    def __init__(self, sizes: list[float]) -> None:
        super().__init__()
        self.known = [known(size, number) for number, size in enumerate(sizes)]
        weights = [torch.nn.Parameter(part.cuda(), requires_grad=False) for part in self.known]
        self.weights = torch.nn.ParameterList(weights)

    def tiers(self) -> list[str]:
        return [giant_kitten.tier(weight) for weight in self.weights]

    def check(self) -> None:
        for weight, part in zip(self.weights, self.known):
            assert torch.equal(weight.cpu(), part)


def test_the_layout_is_the_originals_and_the_reserve_is_handed_out_first() -> None:
    other = known(8, 100)
    first = other.cuda()
    model = Model([20, 4, 16, 0.5, 12, 8, 30])
    assert model.tiers()[-1] == "shared"
    giant_kitten.activate(reserve="16MiB", model=model)
    # 48 MiB are left. The model's smallest layers take 40.5 MiB of them; the others come next, and
    # not even 8 MiB more fit.
    assert model.tiers() == ["shared", "dedicated", "dedicated", "dedicated", "dedicated", "dedicated", "shared"]
    assert giant_kitten.tier(first) == "shared"
    # The reserve, and 7.5 MiB into which nothing fitted.
    scratch = [torch.empty(5 * MIB, dtype=torch.uint8, device="cuda") for _ in range(5)]
    assert [giant_kitten.tier(one) for one in scratch] == ["dedicated"] * 4 + ["shared"]
    stats = giant_kitten.stats()
    assert (stats["phase_name"], stats["reserve"], stats["stayed"]) == ("active", 16 * MIB, 0)
    model.check()
    assert torch.equal(first.cpu(), other)
    del scratch
    giant_kitten.activate(reserve="44MiB", model=model, sort_reversed=True)
    assert model.tiers() == ["dedicated"] + ["shared"] * 6
    giant_kitten.activate(reserve="52MiB", model=model, ignore_model=True)
    assert [*model.tiers(), giant_kitten.tier(first)].count("dedicated") == 2
    model.check()


def test_tensors_in_the_right_place_stay_there() -> None:
    model = Model([4, 8, 12])
    addresses = [weight.data_ptr() for weight in model.weights]
    giant_kitten.activate(reserve="16MiB", model=model)
    giant_kitten.activate(reserve="24MiB", model=model)
    giant_kitten.disable()
    assert [weight.data_ptr() for weight in model.weights] == addresses


def test_free_vram_and_back() -> None:
    model = Model([20, 4, 16, 12])
    giant_kitten.free_vram()
    assert set(model.tiers()) == {"shared"}
    stats = giant_kitten.stats()
    assert (stats["phase_name"], stats["dedicated_reserved"]) == ("freed", 0)
    model.check()
    giant_kitten.disable()
    assert set(model.tiers()) == {"dedicated"}
    model.check()


def test_views_parameters_gradients_and_optimizers_stay_what_they_are() -> None:
    layer = torch.nn.Linear(1024, 1024, device="cuda")
    optimizer = torch.optim.AdamW(layer.parameters())
    layer(torch.ones(2, 1024, device="cuda")).sum().backward()
    optimizer.step()
    assert layer.weight.grad is not None
    for number, tensor in enumerate([layer.weight.data, layer.weight.grad, *optimizer.state[layer.weight].values()]):
        if tensor.numel() > 1:
            tensor.copy_(known(4, number).view(torch.float32).view(1024, 1024))
    weight, gradient, state = layer.weight, layer.weight.grad, dict(optimizer.state[layer.weight])
    row = weight.detach()[7]
    before = [tensor.detach().cpu().view(torch.uint8) for tensor in (weight, gradient, state["exp_avg"], row)]
    filling = torch.zeros(40 * MIB, dtype=torch.uint8, device="cuda")
    giant_kitten.activate(reserve="58MiB", model=layer)
    assert layer.weight is weight and weight.grad is gradient and optimizer.state[weight]["exp_avg"] is state["exp_avg"]
    assert row.data_ptr() == weight.data_ptr() + 7 * 4096
    for tensor, known_bytes in zip((weight, gradient, state["exp_avg"], row), before):
        assert torch.equal(tensor.detach().cpu().view(torch.uint8), known_bytes)
    assert giant_kitten.tier(weight) == "dedicated" and giant_kitten.tier(filling) == "shared"
    optimizer.step()
    with torch.no_grad():
        weight.zero_()
    assert not row.any().cpu()


def test_a_module_moves_whole_and_alone() -> None:
    model, others = Model([3, 0.25, 6]), Model([2, 5])
    assert giant_kitten.to_shared(model) is model
    assert (set(model.tiers()), set(others.tiers())) == ({"shared"}, {"dedicated"})
    model.check()
    giant_kitten.to_dedicated(model)
    assert set(model.tiers()) == {"dedicated"}
    model.check()
    large = Model([50])
    assert large.tiers() == ["shared"]
    with pytest.raises(giant_kitten.Error, match="no room in the dedicated tier"):
        giant_kitten.to_dedicated(large)
    large.check()


def test_memory_that_runs_out_in_the_middle_leaves_everything_usable() -> None:
    model = Model([20, 20, 20])
    filling = torch.zeros(230 * MIB, dtype=torch.uint8, device="cuda")
    assert (giant_kitten.tier(filling), set(model.tiers())) == ("shared", {"dedicated"})
    with pytest.raises(giant_kitten.Error, match=r"out of memory.*Every tensor is usable"):
        giant_kitten.activate(reserve="40MiB", model=model)
    model.check()
    assert (giant_kitten.stats()["reserve"], set(model.tiers())) == (0, {"dedicated"})
    del filling
    giant_kitten.activate(reserve="40MiB", model=model)
    assert model.tiers().count("dedicated") == 1
    model.check()


def test_a_host_without_memory_for_the_copies_leaves_everything_usable(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Model([10, 20, 30])
    copy, copies = torch.UntypedStorage.cpu, 0

    def cpu(storage: torch.UntypedStorage) -> torch.UntypedStorage:
        nonlocal copies
        copies += 1
        if copies == 3:
            raise RuntimeError("not enough memory")
        return copy(storage)

    monkeypatch.setattr(torch.UntypedStorage, "cpu", cpu)
    with pytest.raises(giant_kitten.Error, match=r"not enough memory.*Every tensor is usable"):
        giant_kitten.activate(reserve="40MiB", model=model)
    monkeypatch.undo()
    model.check()


def test_storages_that_get_no_memory_again_are_not_lost(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    model = Model([20, 20, 20])
    filling = torch.zeros(230 * MIB, dtype=torch.uint8, device="cuda")
    copy, copies = torch.UntypedStorage.cpu, 0

    def cpu(storage: torch.UntypedStorage) -> torch.UntypedStorage:
        nonlocal copies
        copies += 1
        if copies == 3:
            # Another program takes the card while all tensors are out.
            machine.library.fake_cuda_take(0, 64 << 30)
        return copy(storage)

    monkeypatch.setattr(torch.UntypedStorage, "cpu", cpu)
    with pytest.raises(giant_kitten.Error, match="brings one back") as raised:
        giant_kitten.activate(reserve="50MiB", model=model)
    monkeypatch.undo()
    machine.library.fake_cuda_take(0, 0)
    left = len(raised.value.parked)
    assert left >= 1
    for storage, bytes_of in raised.value.parked:
        storage.resize_(bytes_of.nbytes())
        storage.copy_(bytes_of)
    model.check()
    del filling


def test_a_graph_that_is_alive_or_captured_is_in_the_way() -> None:
    model = Model([40, 30])
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        inside = model.weights[0] + 1
        with pytest.raises(giant_kitten.Error, match="captured"):
            giant_kitten.disable()
    addresses = [weight.data_ptr() for weight in model.weights]
    for action in (lambda: giant_kitten.activate(reserve="30MiB", model=model), lambda: giant_kitten.to_shared(model)):
        with pytest.raises(giant_kitten.Error, match="a CUDA graph exists"):
            action()
    assert [weight.data_ptr() for weight in model.weights] == addresses
    graph.replay()
    torch.cuda.synchronize()
    del graph, inside
    giant_kitten.activate(reserve="30MiB", model=model)
    assert model.tiers() == ["shared", "dedicated"]
    model.check()


def test_blocks_keep_their_streams(machine: Machine) -> None:
    side, other = torch.cuda.Stream(), torch.cuda.Stream()
    part = known(30, 1)
    with torch.cuda.stream(side):
        tensor = part.cuda()
    tensor.record_stream(other)
    filling = torch.zeros(25 * MIB, dtype=torch.uint8, device="cuda")
    for tier in ("shared", "dedicated"):
        (giant_kitten.to_shared if tier == "shared" else giant_kitten.to_dedicated)(tensor)
        assert giant_kitten.tier(tensor) == tier and torch.equal(tensor.cpu(), part)
    machine.complete_late(True)
    with torch.cuda.stream(other):
        tensor.zero_()
    address, retired = tensor.data_ptr(), giant_kitten.stats()["retired_blocks"]
    del tensor
    assert giant_kitten.stats()["retired_blocks"] == retired + 1, "the other stream is not done"
    with torch.cuda.stream(side):
        again = torch.zeros(30 * MIB, dtype=torch.uint8, device="cuda")
    assert again.data_ptr() != address
    machine.complete_late(False)
    torch.cuda.synchronize()
    del filling


def test_the_automatic_mode_learns_the_reserve_of_the_next_activation() -> None:
    model = Model([10, 10, 10, 10, 10])
    giant_kitten.activate(reserve="auto", model=model)

    def work() -> list[str]:
        found = []
        for _ in range(6):
            scratch = [torch.empty(10 * MIB, dtype=torch.uint8, device="cuda") for _ in range(2)]
            found += [giant_kitten.tier(one) for one in scratch]
        return found

    addresses = [weight.data_ptr() for weight in model.weights]
    for _ in range(3):
        giant_kitten.safe_point()
        assert "shared" in work()
    giant_kitten.safe_point()
    assert [weight.data_ptr() for weight in model.weights] == addresses, "a safe point moves nothing"
    assert "pinned" in giant_kitten.stats()["reserve_reason"]
    giant_kitten.activate(reserve="auto", model=model)
    assert giant_kitten.stats()["reserve"] >= 20 * MIB
    assert set(work()) == {"dedicated"}
    model.check()


def test_tensors_without_memory_of_ours_are_left_alone() -> None:
    model = Model([40, 30])
    strange = [
        torch.empty(0, device="cuda"),
        torch.sparse_coo_tensor(torch.tensor([[0]]), torch.tensor([1.0]), (2,), check_invariants=False).cuda(),
        torch.empty(5, device="meta"),
        torch.zeros(3),
    ]
    giant_kitten.activate(reserve="30MiB", model=model)
    assert model.tiers() == ["shared", "dedicated"] and len(strange) == 4
    model.check()


class Stop(BaseException):
    """An interruption."""


def interrupting(frames: set[str], at: int) -> tuple[Any, Callable[[], bool]]:
    """A trace function that interrupts at a line of some functions, and whether it has.

    Python removes it then.
    """
    lines = 0

    def trace(frame: Any, event: str, _: Any) -> Any:
        nonlocal lines
        if frame.f_code.co_filename != _out_and_back.__file__ or frame.f_code.co_name not in frames:
            return None
        if event == "line":
            lines += 1
            if lines == at:
                raise Stop
        return trace

    return trace, lambda: lines >= at


ACTIONS: list[Callable[[Model], Any]] = [
    lambda model: giant_kitten.activate(reserve="48MiB", model=model),
    lambda model: giant_kitten.free_vram(),
    lambda model: giant_kitten.to_shared(model),
]


def test_interruptions_of_the_caller_at_any_line_lose_nothing() -> None:
    model = Model([8, 4, 2])
    interrupted = 0
    # The last lines are those of waiting, which repeat.
    for at in range(1, 50):
        giant_kitten.disable()
        trace, _ = interrupting({"_uninterrupted", "_call_off", "_wait"}, at)
        sys.settrace(trace)
        try:
            ACTIONS[at % len(ACTIONS)](model)
        except Stop:
            interrupted += 1
        finally:
            sys.settrace(None)
        # It ends at once: the work that it waited for, or cancelled, is not running.
        model.check()
        for thread in threading.enumerate():
            if thread.name == "giant-kitten-out-and-back":
                thread.join(30)
                assert not thread.is_alive()
    assert interrupted >= 20


def test_interruptions_of_the_work_itself_lose_nothing() -> None:
    model = Model([8, 4, 2])
    for at in range(1, 200):
        giant_kitten.disable()
        trace, reached = interrupting({"go_out", "come_back", "_bring_back"}, at)
        threading.settrace(trace)
        try:
            giant_kitten.activate(reserve="60MiB", model=model)
        except Stop:
            pass
        finally:
            threading.settrace(None)  # type: ignore[arg-type]
        model.check()
        if not reached():
            break
    assert 20 < at < 199


def by_signals(stop: threading.Event) -> None:
    while not stop.is_set():
        _thread.interrupt_main()
        time.sleep(random.random() * 0.004)


def by_another_thread(stop: threading.Event) -> None:
    main = ctypes.c_ulong(threading.main_thread().ident or 0)
    while not stop.is_set():
        ctypes.pythonapi.PyThreadState_SetAsyncExc(main, ctypes.py_object(KeyboardInterrupt))
        time.sleep(random.random() * 0.004)


@pytest.mark.parametrize("interrupt", [by_signals, by_another_thread])
def test_any_number_of_interruptions_at_any_time_loses_nothing(interrupt: Callable[[threading.Event], None]) -> None:
    random.seed(1)
    model = Model([4] * 12)
    interrupted = 0
    for turn in range(12):
        giant_kitten.disable()
        stop = threading.Event()
        thread = threading.Thread(target=interrupt, args=(stop,))
        try:
            try:
                thread.start()
                ACTIONS[turn % len(ACTIONS)](model)
            finally:
                stop.set()
        except KeyboardInterrupt:
            interrupted += 1
        while True:
            # The last one may come late.
            try:
                stop.set()
                time.sleep(0.02)
                break
            except KeyboardInterrupt:
                continue
        model.check()
    assert interrupted >= 6


def test_other_handlers_of_signals_interrupt_no_more_than_that() -> None:
    armed = False

    def handler(*_: Any) -> None:
        if armed:
            raise TimeoutError("too slow")

    model, before, interrupted = Model([4] * 12), signal.signal(signal.SIGALRM, handler), 0
    signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
    try:
        for action in ACTIONS * 4:
            giant_kitten.disable()
            try:
                armed = True
                action(model)
                armed = False
            except TimeoutError:
                armed = False
                interrupted += 1
            model.check()
    finally:
        armed = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert interrupted >= 6
