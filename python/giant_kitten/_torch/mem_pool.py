"""A `torch.cuda.MemPool` over our pools.

PyTorch creates its own by a call that it refuses to every other allocator.
"""

from __future__ import annotations

from typing import Any

from .. import _library


class MemPool:
    """A pool of memory like `torch.cuda.MemPool`: allocations inside `use_mem_pool` come from it.

    A pool works on every device. When it is deleted, its free memory is returned to the driver.

    `use_on_oom` and `no_split` are accepted and have no effect: free memory of a pool is never lent
    to others, and may be split.

    Raises `RuntimeError` for an allocator of its own, whose memory could not move between tiers.
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
        # At the end of the interpreter, modules may be gone before this object is.
        self._drop = _library.library().gk_drop_pool

    def __del__(self) -> None:
        if hasattr(self, "_drop"):
            self._drop(*self._id)

    @property
    def id(self) -> tuple[int, int]:
        """The pair of numbers by which PyTorch identifies the pool."""
        return self._id

    @property
    def allocator(self) -> None:
        """None, because our pools have no allocator of their own."""
        return None

    def use_count(self) -> int:
        """The number of holders: this object, the `use_mem_pool` contexts, and captured graphs."""
        return int(_library.library().gk_pool_holds(0, *self._id))

    def snapshot(self, include_traces: bool = True) -> Any:
        """The pool's segments in the format of `torch.cuda.memory_snapshot`."""
        import torch

        return torch._C._cuda_memorySnapshot(self._id, include_traces)["segments"]


def complete(torch: Any) -> None:
    """Replaces PyTorch's class by ours, in the releases of PyTorch that can use it."""
    cuda = torch.cuda
    if not hasattr(cuda, "MemPool"):
        return
    if not hasattr(torch._C, "_cuda_beginAllocateCurrentThreadToPool"):
        cuda.MemPool.__init__ = _refused
        return
    MemPool.__module__ = cuda.MemPool.__module__
    cuda.MemPool = cuda.memory.MemPool = MemPool
    if hasattr(cuda.CUDAGraph, "_retain_pool"):
        # A graph holds the pools that its capture used. PyTorch's own call for that is one of
        # those that it refuses.
        cuda.CUDAGraph._retain_pool = lambda graph, pool: graph.retain_object(pool)


def _refused(*_: Any, **__: Any) -> None:
    raise RuntimeError(
        "MemPool cannot be used while giant-kitten is PyTorch's allocator, with this PyTorch; "
        "start without GIANT_KITTEN to use it"
    )
