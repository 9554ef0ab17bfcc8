"""Disturbed work: interleaved tasks, an interrupt, a dying thread, the interpreter's end."""

import asyncio
import signal
import threading
import weakref

import torch
from sampled import sample

cuda = torch.cuda
torch.zeros(1, device="cuda")


async def task(number):
    stream = cuda.Stream()
    for turn in range(20):
        with cuda.stream(stream):
            made = torch.empty(1000 * (number + 1) + turn, device="cuda").zero_()
        await asyncio.sleep(0)
        del made
    stream.synchronize()


async def tasks():
    await asyncio.gather(*(task(number) for number in range(5)))


asyncio.run(tasks())
sample("tasks in turns")


def interrupt(*_):
    raise KeyboardInterrupt


signal.signal(signal.SIGALRM, interrupt)
try:
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    while True:
        kept = [torch.empty(1 << 16, device="cuda") for _ in range(50)]
except KeyboardInterrupt:
    kept = None
cuda.synchronize()
# The number of rounds does not matter.
cuda.reset_peak_memory_stats()
cuda.reset_accumulated_memory_stats()
sample("interrupted")


def die():
    held = torch.zeros(1 << 20, device="cuda")
    raise ValueError(held.shape)


threading.excepthook = lambda told: print(told.exc_type.__name__)
thread = threading.Thread(target=die)
thread.start()
thread.join()
sample("a thread that died")

nested = torch.nested.nested_tensor([torch.zeros(3, 8), torch.zeros(5, 8)], device="cuda")
sparse = torch.eye(100).to_sparse().cuda(), torch.eye(100).to_sparse_csr().cuda()
sample("tensors of parts")


class Late:
    def __init__(self):
        self.held = torch.zeros(100, device="cuda")

    def __del__(self):
        self.held = None


late = Late()
weakref.finalize(late, print, "gone")
