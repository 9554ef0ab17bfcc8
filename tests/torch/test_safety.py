"""The promises of docs/safety.md: about hooks, questions, and the memory of others."""

from __future__ import annotations

import re

import pytest
import torch
from conftest import has_mem_pool, python

# Threads that never allocate: they copy tensors to host memory on streams of their own, with calls
# of the CUDA runtime only.
BESIDE = """
import ctypes, threading
import torch

cuda, MIB = torch.cuda, 1 << 20
# That of PyTorch is in the process already.
runtime = ctypes.CDLL(f"libcudart.so.{torch.version.cuda.split('.')[0]}")
driver = ctypes.CDLL("libcuda.so.1")
driver.fake_cuda_faults.restype = ctypes.c_size_t
driver.fake_cuda_faults.argtypes = (ctypes.c_char_p, ctypes.c_size_t)
for name in ("cudaMemcpyAsync", "cudaStreamSynchronize", "cudaStreamCreate"):
    getattr(runtime, name).restype = ctypes.c_int
runtime.cudaMemcpyAsync.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_void_p)
runtime.cudaStreamSynchronize.argtypes = (ctypes.c_void_p,)

kept = [torch.full((2 * MIB,), number, dtype=torch.uint8).pin_memory().cuda() for number in range(200)]
failed, wrong, done = [], [], threading.Event()

def copies():
    stream, out = ctypes.c_void_p(), torch.empty(2 * MIB, dtype=torch.uint8)
    assert runtime.cudaStreamCreate(ctypes.byref(stream)) == 0
    while not done.is_set():
        for number, tensor in enumerate(kept[::7]):
            code = runtime.cudaMemcpyAsync(out.data_ptr(), tensor.data_ptr(), 2 * MIB, 2, stream)
            failed.extend([code] if code or runtime.cudaStreamSynchronize(stream) else [])
            if out[0].item() != 7 * number or out[-1].item() != 7 * number:
                wrong.append(number)

def ends(threads):
    done.set()
    [thread.join() for thread in threads]
    text = ctypes.create_string_buffer(driver.fake_cuda_faults(None, 0) + 1)
    driver.fake_cuda_faults(text, len(text))
    intact = all(bool((tensor.cpu() == number).all()) for number, tensor in enumerate(kept))
    print(len(failed), len(wrong), text.value.decode()[:200] or "no faults", intact)
"""


def run(code: str) -> list[str]:
    printed = python(BESIDE + code, GIANT_KITTEN="dedicated:512MiB,shared:2GiB", GIANT_KITTEN_LOG="error")
    return printed.splitlines()


def test_empty_cache_beside_threads_that_never_allocate() -> None:
    code = """
threads = [threading.Thread(target=copies) for _ in range(2)]
[thread.start() for thread in threads]
for turn in range(60):
    scratch = [torch.empty((20 + turn % 7 * 10) * MIB, dtype=torch.uint8, device="cuda") for _ in range(3)]
    del scratch
    (cuda.empty_cache, cuda.ipc_collect, cuda.memory_snapshot, cuda.reset_peak_memory_stats)[turn % 4]()
    cuda.empty_cache()
ends(threads)
"""
    assert run(code) == ["0 0 no faults True"]


def test_empty_cache_beside_graphs_that_are_replayed() -> None:
    code = """
given, out = kept[3], torch.empty_like(kept[3])
graph = cuda.CUDAGraph()
with cuda.graph(graph):
    out.copy_(given)
def replays():
    stream = cuda.Stream()
    with cuda.stream(stream):
        while not done.is_set():
            graph.replay()
            stream.synchronize()
threads = [threading.Thread(target=replays), threading.Thread(target=copies)]
[thread.start() for thread in threads]
for turn in range(60):
    scratch = torch.empty((60 + turn % 7 * 20) * MIB, dtype=torch.uint8, device="cuda")
    del scratch
    cuda.empty_cache()
ends(threads)
"""
    assert run(code) == ["0 0 no faults True"]


def test_safe_points_beside_threads_that_say_when_they_work() -> None:
    code = """
import giant_kitten
def works():
    with giant_kitten.working():
        copies()
thread = threading.Thread(target=works)
thread.start()
for turn in range(30):
    giant_kitten.safe_point("step", certain=True)
    scratch = [torch.empty(60 * MIB, dtype=torch.uint8, device="cuda") for _ in range(3)]
    del scratch
stats = giant_kitten.stats()
ends([thread])
print(stats["migrated_bytes"], stats["abstained"] > 0)
for turn in range(3):
    giant_kitten.safe_point("step", certain=True)
    scratch = [torch.empty(60 * MIB, dtype=torch.uint8, device="cuda") for _ in range(3)]
    del scratch
print(giant_kitten.stats()["migrated_bytes"] > 0, all(bool((t.cpu() == n).all()) for n, t in enumerate(kept)))
"""
    assert run(code) == ["0 0 no faults True", "0 True", "True True"]


QUESTIONS = (
    "torch.cuda.memory_snapshot()", "torch.cuda.memory._snapshot()", "torch.cuda.memory._record_memory_history()",
    "torch.cuda.memory_stats()", "torch.cuda.memory_allocated(0)", "giant_kitten.summary()", "giant_kitten.stats()",
    "giant_kitten.memory_map()", "torch.cuda.empty_cache()",
)  # fmt: skip


@pytest.mark.parametrize("question", QUESTIONS)
def test_a_question_leaves_a_program_able_to_fork(question: str) -> None:
    code = f"""
import os, torch, giant_kitten
{question}
print(torch.cuda.is_initialized())
child = os.fork()
if child == 0:
    os._exit(0 if torch.ones(3, device="cuda").cpu().sum() is not None else 1)
print(os.waitpid(child, 0)[1])
"""
    assert python(code).splitlines() == ["False", "0"]


def test_no_question_begins_another_device() -> None:
    pool = "pool = torch.cuda.MemPool()" if has_mem_pool() else ""
    code = f"""
import torch, giant_kitten
from giant_kitten._state import state
torch.cuda.set_device(1)
kept = torch.ones(1000, device="cuda")
torch.cuda.memory._record_memory_history()
{pool}
for device in (0, 2):
    torch.cuda.memory_stats(device), torch.cuda.memory_summary(device), torch.cuda.reset_peak_memory_stats(device)
    giant_kitten.stats(device), giant_kitten.memory_map(device), print(giant_kitten.summary(device))
torch.cuda.memory._snapshot(), torch.cuda.empty_cache(), state()
giant_kitten.safe_point()
print(*(giant_kitten.stats(device)["in_use"] for device in range(3)))
"""
    printed = python(code, FAKE_CUDA_PROFILE="nominal-6g,nominal-6g,nominal-6g", GIANT_KITTEN="reserve:1GiB")
    assert printed.splitlines() == [
        "giant-kitten: cuda:0 is not in use yet", "giant-kitten: cuda:2 is not in use yet", "0 1 0",
    ]  # fmt: skip


def test_memory_of_others_is_not_reported_as_free() -> None:
    code = (
        BESIDE
        + """
GIB = 1 << 30
before, total = cuda.mem_get_info()
foreign = ctypes.c_void_p()
assert runtime.cudaMalloc(ctypes.byref(foreign), ctypes.c_size_t(2 * GIB)) == 0
after, total_after = cuda.mem_get_info()
print(before - after >= 2 * GIB - 4 * MIB, total == total_after)
cache = torch.empty(int(after * 0.9), dtype=torch.uint8, device="cuda")
del cache
cuda.empty_cache()
runtime.cudaFree(foreign)
print(cuda.mem_get_info()[0] >= before - 8 * MIB)
"""
    )
    assert python(code, GIANT_KITTEN="shared:1GiB").splitlines() == ["True True", "True"]


def test_an_out_of_memory_names_what_other_processes_hold() -> None:
    code = """
import subprocess, sys, torch, giant_kitten
GIB = 1 << 30
holds = "import torch; x = torch.empty(int(sys.argv[1]), dtype=torch.uint8, device='cuda'); print(flush=True); input()"
kept = torch.empty(1, device="cuda")
held = giant_kitten.stats()["dedicated_capacity"] + 5 * GIB
started = [sys.executable, "-c", "import sys; " + holds, str(held)]
other = subprocess.Popen(started, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
other.stdout.readline()
try:
    blocks = [torch.empty(GIB, dtype=torch.uint8, device="cuda") for _ in range(100)]
except torch.OutOfMemoryError as why:
    print(why)
other.communicate(b"\\n")
"""
    printed = python(code)
    assert re.search(r"Other processes of this user hold [4-6]\.\d+ GiB of shared memory\.", printed), printed
    found = re.search(r"of which (\S+) (\S+) is free", printed)
    assert found and (found[2] != "GiB" or float(found[1]) < 1.5), printed


@pytest.mark.skipif(not hasattr(torch.cuda, "MemPool"), reason=f"PyTorch {torch.__version__} has no MemPool")
def test_a_pool_of_ours_under_pytorchs_own_allocator_gives_back() -> None:
    code = """
import gc, torch, giant_kitten
ours = torch.cuda.memory.CUDAPluggableAllocator(str(giant_kitten.library_path()), "gk_torch_malloc", "gk_free")
held = lambda: giant_kitten.stats()["reserved"]
pool = torch.cuda.MemPool(ours.allocator())
with torch.cuda.use_mem_pool(pool):
    tensors = [torch.empty(64 << 20, dtype=torch.uint8, device="cuda") for _ in range(8)]
print(held() >> 20)
del tensors, pool
gc.collect()
torch.cuda.empty_cache()
print(held() >> 20)
"""
    assert python(code, native=True).splitlines() == ["512", "0"]


def test_idle_memory_goes_back_to_the_driver() -> None:
    code = """
import time, torch
kept = torch.zeros(1000, device="cuda")
scratch = torch.empty(1 << 30, dtype=torch.uint8, device="cuda")
del scratch
before = torch.cuda.memory_reserved() >> 20
time.sleep(2)
print(before > 1000, torch.cuda.memory_reserved() >> 20, kept.cpu().sum().item())
"""
    assert python(code, GIANT_KITTEN="idle:0.4").splitlines() == ["True 2 0.0"]
    assert python(code, GIANT_KITTEN="idle:off").splitlines()[0] != "True 2 0.0"


@pytest.mark.parametrize("imports", ["import torch, accelerate", "import accelerate, torch"])
def test_accelerate_counts_the_hosts_memory_once(imports: str) -> None:
    code = f"""
{imports}
import psutil
from accelerate.utils import get_max_memory
from accelerate.utils.modeling import get_max_memory as same
found, available = get_max_memory(), psutil.virtual_memory().available
cards = 2 * torch.cuda.get_device_properties(0).total_memory
print(get_max_memory is same, sum(found.values()) <= available + cards, found[0] > 6 << 30, found["cpu"] > 0)
print(get_max_memory({{0: "1GiB", "cpu": "2GiB"}}))
"""
    printed = python(code, FAKE_CUDA_PROFILE="nominal-8g,nominal-8g").splitlines()
    assert printed == ["True True True True", str({0: 1 << 30, "cpu": 2 << 30})]
