"""Signals during allocations with a history: the program sees each of them once."""

import os
import signal
import sys
import threading
import time

import torch

memory = torch.cuda.memory
memory._record_memory_history(stacks="python", max_entries=1000)
torch.empty(1, device="cuda")


def deeper(left):
    return deeper(left - 1) if left else torch.empty(1000, device="cuda")


def seen(expected, send):
    """The number of 100 signals that raise the expected exception at an allocation."""
    arrived = 0
    for number in range(100):
        sent = threading.Event()

        def later(pause=0.0002 * (1 + number % 7), sent=sent):
            time.sleep(pause)
            send()
            sent.set()

        sender = threading.Thread(target=later)
        try:
            sender.start()
            while not sent.is_set():
                deeper(5)
            # It arrives during the next lines at the latest.
            for _ in range(1000):
                deeper(1)
        except expected:
            arrived += 1
        sender.join()
    return f"{arrived} of 100"


class Late(Exception):
    """An exception like those of timeout tools."""


def handler(*_):
    raise Late


# A background job of a shell begins with this signal ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
print(seen(KeyboardInterrupt, lambda: os.kill(os.getpid(), signal.SIGINT)), "Ctrl-C")
signal.signal(signal.SIGALRM, handler)
print(seen(Late, lambda: os.kill(os.getpid(), signal.SIGALRM)), "alarms")


def raise_in_main():
    """This is how debuggers and notebooks stop a thread."""
    import ctypes

    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(threading.main_thread().ident), ctypes.py_object(Late))


print(seen(Late, raise_in_main), "of a library")
sys.stdout.flush()
