"""The gate between concurrent work and actions."""

from __future__ import annotations

import threading
import time
from typing import Any

import giant_kitten
import torch
from giant_kitten.webui.actions import Action
from giant_kitten.webui.gate import Gate
from giant_kitten.webui.session import Host, Session

MIB = 1 << 20


def started(work: Any) -> threading.Thread:
    thread = threading.Thread(target=work)
    thread.start()
    return thread


def test_quiet_waits_for_concurrent_work_and_delays_more() -> None:
    gate, order = Gate(0), []
    inside, go_on = threading.Event(), threading.Event()

    def preview() -> None:
        with gate.concurrent():
            inside.set()
            go_on.wait()
            order.append("preview")

    def quiet() -> None:
        with gate.quiet() as is_quiet:
            order.append(f"quiet {is_quiet}")

    first = started(preview)
    inside.wait()
    second = started(quiet)
    time.sleep(0.05)
    third = started(preview)
    time.sleep(0.05)
    assert order == []
    go_on.set()
    for thread in (first, second, third):
        thread.join()
    assert order == ["preview", "quiet True", "preview"]


def test_quiet_gives_up_after_its_time_and_a_thread_may_have_it_twice() -> None:
    gate = Gate(0)
    with gate.concurrent(), gate.quiet(0.05) as is_quiet:
        assert not is_quiet
    with gate.quiet() as outer, gate.quiet() as inner, gate.concurrent():
        assert outer and inner
    had = []

    def other() -> None:
        with gate.quiet(0.05) as is_quiet:
            had.append(is_quiet)

    with gate.quiet():
        started(other).join()
    started(other).join()
    assert had == [False, True]


def test_an_error_inside_leaves_the_gate_open() -> None:
    gate = Gate(0)
    for passing in (gate.concurrent, gate.quiet):
        try:
            with passing():
                raise ValueError
        except ValueError:
            pass
    with gate.quiet(0.05) as is_quiet:
        assert is_quiet


def test_previews_asked_for_at_every_step_lose_nothing_while_memory_moves(card: None) -> None:
    """Previews in three tabs, which copy the decoder's weights on streams of their own.

    They allocate nothing.
    """
    unet = torch.nn.Sequential(*(torch.nn.Linear(1024, 1024) for _ in range(16))).cuda()
    decoder = torch.nn.Parameter(torch.arange(32 * MIB, dtype=torch.uint8).pin_memory().cuda(), requires_grad=False)
    known = decoder.cpu()
    session = Session(Host("host", model=lambda: unet))
    done, wrong = threading.Event(), []

    def tab() -> None:
        stream = torch.cuda.Stream()
        out = torch.empty(32 * MIB, dtype=torch.uint8).pin_memory()
        while not done.is_set():
            with session.gate.concurrent(), torch.cuda.stream(stream):
                out.copy_(decoder, non_blocking=True)
                stream.synchronize()
                if not torch.equal(out, known):
                    wrong.append(1)

    tabs = [started(tab) for _ in range(3)]
    for turn in range(12):
        session.act(Action("free VRAM"))
        session.begin("64x64x1")
        with torch.no_grad():
            for _ in range(4):
                unet(torch.zeros(8, 1024, device="cuda"))
                session.iteration()
        session.end()
        session.act(Action("activate", reserve=turn * MIB))
    done.set()
    for thread in tabs:
        thread.join()
    session.restore()
    giant_kitten.activate(reserve="auto")
    assert wrong == []
    assert torch.equal(decoder.cpu(), known)
