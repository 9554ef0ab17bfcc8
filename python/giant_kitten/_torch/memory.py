"""Replaces those of PyTorch's functions about memory that refuse any allocator but PyTorch's own.

They are replaced below `torch.cuda`, in `torch._C`, because everything derived from them looks them
up there.
"""

from __future__ import annotations

from typing import Any

from .. import _library
from . import cudnn, mem_get_info, mem_pool, snapshot, stats
from .history import history

_fractions: dict[int, float] = {}


def complete(torch: Any) -> None:
    """Replaces every function that would raise or give wrong numbers."""
    c = torch._C
    c._cuda_memoryStats = stats.memory_stats
    c._cuda_resetPeakMemoryStats = lambda device: _library.call("gk_reset_peaks", device)
    c._cuda_resetAccumulatedMemoryStats = stats.reset_totals
    c._cuda_memorySnapshot = snapshot.memory_snapshot
    c._cuda_getMemoryFraction = lambda device: _fractions.get(device, 1.0)
    c._cuda_setMemoryFraction = _remembering(c._cuda_setMemoryFraction)
    c._cuda_record_memory_history = history.record
    c._cuda_record_memory_history_legacy = history.record_legacy
    c._cuda_isHistoryEnabled = lambda: history.enabled
    c._cuda_attach_out_of_memory_observer = _refuse("an out-of-memory observer cannot be attached")
    # PyTorch would refuse these to every other allocator without saying what they are for.
    c._cuda_getCheckpointState = c._cuda_checkPoolLiveAllocations = _refuse(
        'CUDA graph trees (torch.compile with mode="reduce-overhead" or backend="cudagraphs") cannot be used'
    )
    # No other process can open memory that may change tiers. Old releases of PyTorch would try it.
    torch.UntypedStorage._share_cuda_ = _refuse("CUDA tensors cannot be shared between processes (IPC)")
    torch.cuda.memory.change_current_allocator = torch.cuda.change_current_allocator = _another_allocator
    stats.complete(torch, torch.cuda)
    mem_pool.complete(torch)
    mem_get_info.complete(torch)
    _complete_accelerator(torch)
    cudnn.keep_benchmark_off(torch)


def _refuse(what: str) -> Any:
    def refused(*_: Any, **__: Any) -> None:
        raise RuntimeError(f"{what} while giant-kitten is PyTorch's allocator; start without GIANT_KITTEN to use it")

    return refused


def _another_allocator(allocator: Any) -> None:
    """Replaces `change_current_allocator`, whose own error would not mention giant-kitten."""
    raise _library.Error(
        "this program brings a CUDA allocator of its own (change_current_allocator), but giant-kitten is already "
        "PyTorch's, and a process has one. Start with GIANT_KITTEN=0, or without install(), to use the program's"
    )


def _remembering(set_fraction: Any) -> Any:
    def remembering(fraction: float, device: int) -> None:
        set_fraction(fraction, device)
        _fractions[device] = fraction

    return remembering


def _complete_accelerator(torch: Any) -> None:
    """Replaces what `torch.accelerator` calls, if it has functions about memory in this release.

    It looks for an initialised allocator of PyTorch's own. It finds none, and would therefore
    report no memory and empty no cache.
    """
    c = torch._C
    if not hasattr(c, "_accelerator_isAllocatorInitialized"):
        return
    c._accelerator_isAllocatorInitialized = torch.cuda.is_initialized
    c._accelerator_emptyCache = torch.cuda.empty_cache
    c._accelerator_getDeviceStats = stats.memory_stats
    c._accelerator_resetPeakStats = c._cuda_resetPeakMemoryStats
    c._accelerator_resetAccumulatedStats = c._cuda_resetAccumulatedMemoryStats
    c._accelerator_getMemoryInfo = torch.cuda.mem_get_info
    stats.complete(torch, torch.accelerator)
