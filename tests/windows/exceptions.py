"""PyTorch's own exceptions, thrown by giant_kitten.dll at a genuine PyTorch for Windows.

Runs in Windows' Python under wine, in a folder with giant_kitten.dll, nvcuda.dll (the fake driver)
and allocator.dll (tests/windows/allocator.c). That PyTorch is built without CUDA, so giant-kitten
is its allocator for the CPU here.
"""

import ctypes
import gc
import os
import threading

import torch

HERE = os.path.dirname(os.path.abspath(__file__))
MIB = 1 << 20
TOO_MUCH = 1 << 50
# PyTorch 2.4 and older have it in torch.cuda alone.
OUT_OF_MEMORY = getattr(torch, "OutOfMemoryError", torch.cuda.OutOfMemoryError)

kitten = ctypes.PyDLL(os.path.join(HERE, "giant_kitten.dll"))
helper = ctypes.PyDLL(os.path.join(HERE, "allocator.dll"))
c10 = ctypes.PyDLL("c10.dll")


def use_giant_kitten() -> None:
    """Makes it the allocator of PyTorch for the CPU."""
    address = [ctypes.cast(function, ctypes.c_void_p) for function in (kitten.gk_torch_malloc, kitten.gk_free)]
    helper.gk_test_allocator.restype = ctypes.c_void_p
    set_allocator = getattr(c10, "?SetCPUAllocator@c10@@YAXPEAUAllocator@1@E@Z")
    set_allocator.argtypes = (ctypes.c_void_p, ctypes.c_uint8)
    set_allocator(helper.gk_test_allocator(*address), 100)


def thrown(run, expected=OUT_OF_MEMORY) -> str:
    """The text of the exception that a function raises."""
    try:
        run()
    except expected as why:
        # Out of memory is a RuntimeError too.
        assert type(why) is expected, type(why)
        return str(why)
    raise AssertionError("nothing was raised")


class TooMuch(torch.autograd.Function):
    """Asks for too much when gradients are computed, in a thread of PyTorch's."""

    @staticmethod
    def forward(_context, given):
        return given * 2

    @staticmethod
    def backward(_context, _gradient):
        return torch.empty(TOO_MUCH)


@torch.jit.script
def ask(count: int):
    return torch.empty([count])


@torch.jit.script
def ask_in_a_task(count: int):
    return torch.jit.wait(torch.jit.fork(ask, count))


def main_thread() -> None:
    held = []

    def fill() -> None:
        while True:
            held.append(torch.full((256 * MIB,), len(held), dtype=torch.uint8))

    text = thrown(fill)
    assert len(held) > 3 and "dedicated:" in text, (len(held), text)
    assert all(int(tensor[-1]) == number for number, tensor in enumerate(held))
    held.clear()
    for _ in range(1000):
        thrown(lambda: torch.empty(TOO_MUCH, dtype=torch.uint8))


def other_errors() -> None:
    helper.gk_test_device(9)
    for _ in range(1000):
        text = thrown(lambda: torch.empty(5), RuntimeError)
        assert "there is no device 9" in text, text
    helper.gk_test_device(0)


def six_threads() -> None:
    wrong, raised = [], []

    def work(number: int) -> None:
        held = []
        for turn in range(200):
            try:
                held.append(torch.full((1 << (10 + 3 * (turn % 7)),), number, dtype=torch.uint8))
            except OUT_OF_MEMORY:
                raised.append(number)
                held = held[-2:]
            if len(held) > 12:
                tensor = held.pop(turn % 12)
                if int(tensor[0]) != number or int(tensor[-1]) != number:
                    wrong.append(number)
            if turn % 10 == 0:
                thrown(lambda: torch.empty(TOO_MUCH, dtype=torch.uint8))

    threads = [threading.Thread(target=work, args=(number + 1,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong, wrong


def main() -> None:
    use_giant_kitten()
    sum_of_all = (torch.arange(MIB, dtype=torch.float64) * 2).sum().item()
    assert sum_of_all == MIB * (MIB - 1), sum_of_all
    main_thread()
    gc.collect()
    ones = torch.ones(3, requires_grad=True)
    thrown(lambda: TooMuch.apply(ones).sum().backward())
    # The task's exception is copied to the thread that waits.
    text = thrown(lambda: ask_in_a_task(TOO_MUCH), RuntimeError)
    assert "out of memory" in text, text
    other_errors()
    six_threads()
    globals()["kept"] = torch.ones(MIB)  # lives until the process has ended
    print(f"PyTorch {torch.__version__}: every error was an exception of its own")


if __name__ == "__main__":
    main()
