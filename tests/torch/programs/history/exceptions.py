"""Exceptions that unwind over tensors, with each kind of history, arrive unchanged."""

import contextlib
import inspect
import sys

import torch

memory = torch.cuda.memory
OUT_OF_MEMORY = torch.cuda.OutOfMemoryError


def tensor(count=10):
    return torch.empty(count, device="cuda")


def together(*_):
    raise AssertionError("nothing is called with what could not be made")


class Leaving:
    """Allocates while an exception propagates, and lets it continue."""

    def __enter__(self):
        return tensor()

    def __exit__(self, *_):
        self.held = tensor()
        return False


class Dying:
    """Allocates, raises exceptions and catches them."""

    def __init__(self):
        self.held = tensor()

    def __del__(self):
        with contextlib.suppress(KeyError):
            together({}["missing"], tensor())
        self.held = tensor()


def argument():
    together(tensor(), int("x"))


def element():
    [tensor(), {}["missing"]]


def shapes():
    tensor(10).add_(tensor(3))


def local():
    held = tensor()
    raise OSError(held.shape)


def iterator():
    for _ in iter([tensor()]):
        raise OSError


def generator():
    def yielding():
        with Leaving():
            yield tensor()

    for held in yielding():
        together(held, dying := Dying(), int("x"), dying)


def context():
    with Leaving() as held, Leaving():
        raise OSError(held.shape)


def recursion():
    def deeper(held):
        return deeper(tensor())

    deeper(None)


def out_of_memory():
    torch.cat([tensor(1 << 20), tensor(1 << 40)])


KINDS = {
    argument: ValueError, element: KeyError, shapes: RuntimeError, local: OSError, iterator: OSError,
    generator: ValueError, context: OSError, recursion: RecursionError, out_of_memory: OUT_OF_MEMORY,
}  # fmt: skip

sys.setrecursionlimit(len(inspect.stack()) + 120)
for wanted in ("all", "alloc", "state", None):
    memory._record_memory_history(context=wanted, stacks="python", max_entries=1000)
    for kind, expected in KINDS.items():
        arrived = 0
        for _ in range(100):
            try:
                kind()
            except expected as why:
                arrived += type(why) is expected
        print(wanted, kind.__name__, f"{arrived} of 100")
    memory._record_memory_history(enabled=None)
