"""PyTorch's `MemPool` over ours: PyTorch makes its own by a call that it refuses for every allocator but its own."""

from __future__ import annotations

from typing import Any

from . import _library


class MemPool:
    """A pool of memory, as `torch.cuda.MemPool`: what is allocated inside `use_mem_pool` comes of it alone.

    It serves on every device. At its end what is idle in it goes back to the driver.

    `use_on_oom` and `no_split` are accepted and change nothing: what is free in a pool stays its own, and is divided.

    Raises `RuntimeError` with an allocator: memory of others cannot be moved between tiers.
    """

    def __init__(self, allocator: Any = None, use_on_oom: bool = False, no_split: bool = False) -> None:
        import torch

        if allocator is not None:
            raise RuntimeError(
                "a MemPool with an allocator of its own cannot be used while giant-kitten is PyTorch's allocator; "
                "start without GIANT_KITTEN to use it"
            )
        torch.cuda.init()
        self._id: tuple[int, int] = torch.cuda.graph_pool_handle()
        _library.call("gk_keep_pool", *self._id)
        # Modules may be gone when the interpreter ends before the object does.
        self._drop = _library.library().gk_drop_pool

    def __del__(self) -> None:
        if hasattr(self, "_drop"):
            self._drop(*self._id)

    @property
    def id(self) -> tuple[int, int]:
        """By which PyTorch knows the pool."""
        return self._id

    @property
    def allocator(self) -> None:
        """None: a pool of ours has no allocator of its own."""
        return None

    def use_count(self) -> int:
        """How many hold the pool: this object, those that are inside `use_mem_pool`, captured graphs."""
        return int(_library.library().gk_pool_holds(0, *self._id))

    def snapshot(self, include_traces: bool = True) -> Any:
        """The pool's segments, as in `torch.cuda.memory_snapshot`."""
        import torch

        return torch._C._cuda_memorySnapshot(self._id, include_traces)["segments"]


def complete(torch: Any) -> None:
    """Puts ours in the place of PyTorch's, where PyTorch can use it."""
    cuda = torch.cuda
    if not hasattr(cuda, "MemPool"):
        return
    if not hasattr(torch._C, "_cuda_beginAllocateCurrentThreadToPool"):
        cuda.MemPool.__init__ = _refused
        return
    MemPool.__module__ = cuda.MemPool.__module__
    cuda.MemPool = cuda.memory.MemPool = MemPool
    if hasattr(cuda.CUDAGraph, "_retain_pool"):
        # A graph holds the pools that its capture used; PyTorch's way to say so is one of the calls that it refuses.
        cuda.CUDAGraph._retain_pool = lambda graph, pool: graph.retain_object(pool)


def _refused(*_: Any, **__: Any) -> None:
    raise RuntimeError(
        "MemPool cannot be used while giant-kitten is PyTorch's allocator, with this PyTorch; "
        "start without GIANT_KITTEN to use it"
    )
