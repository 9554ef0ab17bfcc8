"""Measures what copying weights ahead of their use would cost and gain on this card.

Usage: gpu_check_copies.py OUT.json. Three questions: how fast each way of copying shared memory to
dedicated memory is, and how much it and a product of matrices delay each other; how long a small
upload of the program's own waits behind such copies; and what a stack of layers takes whose weights
are dedicated, are read in place, or are copied ahead into a ring.
"""

from __future__ import annotations

import ctypes
import json
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import giant_kitten

giant_kitten.install()

import torch  # noqa: E402
from gpu_timing import times  # noqa: E402

# A way of copying to a tensor, in a stream.
Way = Callable[["torch.cuda.Stream", "torch.Tensor"], None]

MIB = 1 << 20
# Copies of one measurement.
COPIES = 8
REAL = "simulated" not in torch.cuda.get_device_name()
# A simulated card proves only that the script works.
SCALE = 1 if REAL else 64
ROUNDS = 5 if REAL else 1

cuda = ctypes.CDLL("libcuda.so.1")


def call(name: str, *arguments: Any) -> None:
    """Calls a function of the driver, and raises an error if the call fails."""
    code = getattr(cuda, name)(*arguments)
    if code:
        raise RuntimeError(f"{name} failed with error {code}")


def size_of(tensor: torch.Tensor) -> int:
    """A tensor's bytes."""
    return int(tensor.numel() * tensor.element_size())


def shared(*shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    """A random tensor in shared memory."""
    tensor = torch.empty(shape, dtype=dtype, device="cuda")
    tensor.copy_(torch.randn(shape, dtype=torch.float32, device="cuda") * 0.01)
    giant_kitten.to_shared(tensor)
    return tensor


def timed(work: Callable[[], object]) -> float:
    """The least seconds of work on the GPU."""
    return min(times(work, ROUNDS + 1))


class Host:
    """Host memory that a handle backs, mapped for the card and for the processor at one address."""

    def __init__(self, size: int) -> None:
        properties = (ctypes.c_ulonglong * 4)()
        raw = ctypes.cast(properties, ctypes.POINTER(ctypes.c_int))
        raw[0], raw[2], raw[3] = 1, 3, 0  # pinned memory of the host's node 0
        handle, address = ctypes.c_ulonglong(), ctypes.c_ulonglong()
        call("cuMemCreate", ctypes.byref(handle), ctypes.c_size_t(size), properties, ctypes.c_ulonglong(0))
        none = ctypes.c_ulonglong(0)
        call("cuMemAddressReserve", ctypes.byref(address), ctypes.c_size_t(size), ctypes.c_size_t(0), none, none)
        call("cuMemMap", address, ctypes.c_size_t(size), ctypes.c_size_t(0), handle, none)
        # The card and the host's node 0 may read and write.
        access = (ctypes.c_int * 6)(1, 0, 3, 3, 0, 3)
        call("cuMemSetAccess", address, ctypes.c_size_t(size), access, ctypes.c_size_t(2))
        self.address = address.value


def ways(size: int) -> dict[str, Way]:
    """Each way of copying bytes from the host to a tensor in a stream that works on this driver."""
    source = shared(size // 2)
    pinned = torch.empty(size, dtype=torch.uint8).pin_memory()
    found: dict[str, Way] = {}

    def plain(stream: torch.cuda.Stream, to: torch.Tensor) -> None:
        arguments = ctypes.c_ulonglong(to.data_ptr()), ctypes.c_ulonglong(source.data_ptr())
        call("cuMemcpyAsync", *arguments, ctypes.c_size_t(size), ctypes.c_void_p(stream.cuda_stream))

    def from_pinned(stream: torch.cuda.Stream, to: torch.Tensor) -> None:
        with torch.cuda.stream(stream):
            to.copy_(pinned, non_blocking=True)

    found["cuMemcpyAsync from shared memory"] = plain
    found["from memory pinned by PyTorch"] = from_pinned

    def batch(stream: torch.cuda.Stream, to: torch.Tensor) -> None:
        tos, froms = (ctypes.c_ulonglong * 1)(to.data_ptr()), (ctypes.c_ulonglong * 1)(source.data_ptr())
        sizes, first = (ctypes.c_size_t * 1)(size), (ctypes.c_size_t * 1)(0)
        attributes = (ctypes.c_int * 6)()
        attributes[0], attributes[5] = 1, 1  # in stream order; prefer to overlap with computation
        failed = ctypes.c_size_t(0)
        one, where = ctypes.c_size_t(1), ctypes.c_void_p(stream.cuda_stream)
        if batch_takes_an_index:
            call("cuMemcpyBatchAsync", tos, froms, sizes, one, attributes, first, one, ctypes.byref(failed), where)
        else:
            call("cuMemcpyBatchAsync_v2", tos, froms, sizes, one, attributes, first, one, where)

    # The older of the two also reports which copy of the batch has failed.
    batch_takes_an_index = not hasattr(cuda, "cuMemcpyBatchAsync_v2")
    if not batch_takes_an_index or hasattr(cuda, "cuMemcpyBatchAsync"):
        found["cuMemcpyBatchAsync, overlapping, from shared memory"] = batch
    try:
        host = Host(size)
    except (RuntimeError, AttributeError) as why:
        print(f"host memory cannot be mapped for both sides: {why}")
    else:

        def upload(stream: torch.cuda.Stream, to: torch.Tensor) -> None:
            arguments = ctypes.c_ulonglong(to.data_ptr()), ctypes.c_void_p(host.address)
            call("cuMemcpyHtoDAsync_v2", *arguments, ctypes.c_size_t(size), ctypes.c_void_p(stream.cuda_stream))

        found["cuMemcpyHtoDAsync from a mapping for both sides"] = upload
    works = {}
    for name, way in found.items():
        try:
            way(torch.cuda.Stream(), torch.empty(size, dtype=torch.uint8, device="cuda"))
            torch.cuda.synchronize()
            works[name] = way
        except (RuntimeError, AttributeError) as why:
            print(f"{name}: {why}")
    return works


def beside(way: Way, target: torch.Tensor, work: Callable[[], object], count: int) -> tuple[float, float]:
    """Seconds until copies are done, and until the work is done that begins with them."""
    side, main = torch.cuda.Stream(), torch.cuda.current_stream()
    best = (float("inf"), float("inf"))
    for _ in range(ROUNDS + 1):
        torch.cuda.synchronize()
        start, copied, worked = (torch.cuda.Event(enable_timing=True) for _ in range(3))
        start.record()
        side.wait_stream(main)
        for _ in range(COPIES):
            way(side, target)
        for _ in range(count):
            work()
        copied.record(side)
        worked.record(main)
        torch.cuda.synchronize()
        seconds = start.elapsed_time(copied) / 1e3, start.elapsed_time(worked) / 1e3
        best = min(best, seconds, key=max)
    return best


def repeated(work: Callable[[], object], count: int) -> None:
    """Does work so many times."""
    for _ in range(count):
        work()


def overlap() -> list[dict[str, Any]]:
    """Each way alone and beside products of matrices, with the delay of both."""
    size = 64 * MIB // SCALE
    target = torch.empty(size, dtype=torch.uint8, device="cuda")
    length = 8192 // SCALE
    left, right = (torch.randn(length, length, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    product = torch.empty_like(left)
    flat = torch.empty(256 * MIB // SCALE, dtype=torch.bfloat16, device="cuda")
    kinds: dict[str, Callable[[], object]] = {
        "product": lambda: torch.mm(left, right, out=product),
        "addition in memory": lambda: flat.add_(1),
    }
    rows = []
    for name, way in ways(size).items():
        alone = beside(way, target, lambda: None, 0)[0]
        for kind, work in kinds.items():
            count = max(1, round(alone / timed(work)))
            works = timed(partial(repeated, work, count))
            copied, worked = beside(way, target, work, count)
            rows.append({
                "way": name, "work": kind, "bytes": COPIES * size, "copies_alone": alone, "work_alone": works,
                "both": max(copied, worked), "copies_beside": copied, "work_beside": worked,
            })  # fmt: skip
            print(
                f"{name}, beside {kind}: {COPIES * size / alone / 1e9:.1f} GB/s alone, {alone * 1e3:.2f} ms; "
                f"work {works * 1e3:.2f} ms; together {max(copied, worked) * 1e3:.2f} ms "
                f"(copies {copied * 1e3:.2f}, work {worked * 1e3:.2f})"
            )
    return rows


def small_uploads() -> list[dict[str, Any]]:
    """How long the host waits for 4 KiB from pinned memory, behind copies of each length."""
    side = torch.cuda.Stream()
    source = shared(256 * MIB // SCALE // 2)
    target = torch.empty_like(source)
    small, place = (
        torch.empty(4096, dtype=torch.uint8).pin_memory(),
        torch.empty(4096, dtype=torch.uint8, device="cuda"),
    )
    rows = []
    for piece in (0, 256, 32, 8):
        pieces = 0 if piece == 0 else 256 // piece
        waits = []
        for _ in range(4 * ROUNDS):
            torch.cuda.synchronize()
            with torch.cuda.stream(side):
                for part in range(pieces):
                    count = source.numel() // pieces
                    span = slice(part * count, (part + 1) * count)
                    target[span].copy_(source[span], non_blocking=True)
                    # The wait between two pieces gives another stream's copy its turn.
                    event = torch.cuda.Event()
                    event.record(side)
                    side.wait_event(event)
            start = time.perf_counter()
            place.copy_(small, non_blocking=True)
            torch.cuda.current_stream().synchronize()
            waits.append(time.perf_counter() - start)
        median = statistics.median(waits)
        rows.append({"pieces_of_mib": piece, "pieces": pieces, "median": median, "worst": max(waits)})
        behind = f"4 KiB uploaded behind {pieces} copies of {piece} MiB"
        print(f"{behind}: {median * 1e6:.0f} us, at worst {max(waits) * 1e6:.0f}")
    return rows


def event_calls() -> dict[str, float]:
    """Seconds of the host for each call that lending a weight needs."""
    event, side = torch.cuda.Event(), torch.cuda.Stream()
    source, target = (torch.empty(MIB, dtype=torch.uint8, device="cuda") for _ in range(2))
    raw = ctypes.c_void_p()
    call("cuEventCreate", ctypes.byref(raw), ctypes.c_uint(2))
    stream = ctypes.c_void_p(side.cuda_stream)
    to, of = ctypes.c_ulonglong(target.data_ptr()), ctypes.c_ulonglong(source.data_ptr())
    calls: dict[str, Callable[[], object]] = {
        "record an event": lambda: cuda.cuEventRecord(raw, stream),
        "wait for an event in a stream": lambda: cuda.cuStreamWaitEvent(stream, raw, 0),
        "query an event": lambda: cuda.cuEventQuery(raw),
        "copy in a stream": lambda: cuda.cuMemcpyAsync(to, of, ctypes.c_size_t(4096), stream),
    }
    found = {}
    for name, one in calls.items():
        try:
            one()
        except AttributeError as why:
            print(f"{name}: {why}")
            continue
        best = float("inf")
        for _ in range(5):
            torch.cuda.synchronize()
            start = time.perf_counter()
            for _ in range(200):
                one()
            best = min(best, (time.perf_counter() - start) / 200)
        found[name] = best
        print(f"{name}: {best * 1e6:.2f} us")
    del event
    return found


def stack() -> list[dict[str, Any]]:
    """A stack of layers with its weights dedicated, read in place, and copied ahead into a ring."""
    layers, inner, outer = 24, 4096, 8192 // SCALE
    weights = [shared(outer, inner) for _ in range(layers)]
    slots = [torch.empty_like(weights[0]) for _ in range(3)]
    side = torch.cuda.Stream()
    rows = []
    for count in (1, 64, 512, 4096, 16384) if REAL else (1,):
        given = torch.randn(count, inner, device="cuda", dtype=torch.bfloat16)
        out = torch.empty(count, outer, device="cuda", dtype=torch.bfloat16)
        results: dict[str, torch.Tensor] = {}

        def in_place(given: torch.Tensor = given, out: torch.Tensor = out) -> None:
            for weight in weights:
                torch.mm(given, weight.t(), out=out)

        def ahead(given: torch.Tensor = given, out: torch.Tensor = out) -> None:
            main = torch.cuda.current_stream()
            side.wait_stream(main)
            copied = [torch.cuda.Event() for _ in weights]
            returned = [torch.cuda.Event() for _ in weights]

            def fetch(which: int) -> None:
                if which >= len(slots):
                    side.wait_event(returned[which - len(slots)])
                with torch.cuda.stream(side):
                    slots[which % len(slots)].copy_(weights[which], non_blocking=True)
                copied[which].record(side)

            for which in range(len(slots)):
                fetch(which)
            for which in range(len(weights)):
                main.wait_event(copied[which])
                torch.mm(given, slots[which % len(slots)].t(), out=out)
                returned[which].record(main)
                if which + len(slots) < len(weights):
                    fetch(which + len(slots))

        row: dict[str, Any] = {"rows": count, "layers": layers, "weight_bytes": size_of(weights[0])}
        for name, tier, work in (
            ("in place", giant_kitten.to_shared, in_place),
            ("copied ahead", giant_kitten.to_shared, ahead),
            ("dedicated", giant_kitten.to_dedicated, in_place),
        ):
            for weight in weights:
                tier(weight)
            row[name] = timed(work)
            results[name] = out.clone()
        row["same"] = all(torch.equal(result, results["dedicated"]) for result in results.values())
        rows.append(row)
        times = ", ".join(f"{name} {row[name] * 1e3:.2f} ms" for name in ("dedicated", "in place", "copied ahead"))
        print(f"{layers} layers of {size_of(weights[0]) // MIB} MiB, {count} rows: {times}, same: {row['same']}")
    return rows


def main() -> None:
    """Measures, prints and writes the figures."""
    found: dict[str, Any] = {"device": torch.cuda.get_device_name(), "torch": torch.__version__}
    for name, part in (
        ("overlap", overlap),
        ("small_uploads", small_uploads),
        ("calls", event_calls),
        ("stack", stack),
    ):
        found[name] = part()
        Path(sys.argv[1]).write_text(json.dumps(found, indent=1))
    if REAL and not all(row["same"] for row in found["stack"]):
        sys.exit("a layer computed something else with its weight elsewhere")


if __name__ == "__main__":
    main()
