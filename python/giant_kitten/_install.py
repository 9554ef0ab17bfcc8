"""Swaps PyTorch's CUDA allocator for ours, with every hook that PyTorch offers, and completes what it does not."""

from __future__ import annotations

import atexit
import ctypes
import os
import re
import warnings
from typing import Any

from . import _library, _variable

# The oldest PyTorch with an allocator that can be swapped and hooked as needed.
OLDEST = (2, 1)

_VARIABLES = ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF")

_installed = False
_failure: str | None = None


def is_installed() -> bool:
    """Whether giant-kitten is PyTorch's CUDA allocator in this process."""
    return _installed


def failure() -> str | None:
    """Why the last `install` failed, or None."""
    return _failure


def install(options: str | None = None) -> None:
    """Makes giant-kitten PyTorch's CUDA allocator. Once for a process, before anything uses CUDA.

    `options` is as in the environment variable GIANT_KITTEN, and goes before it: "reserve:1.6GiB,sort:reversed".
    A second call does nothing, unless it brings options: then they come too late.

    Raises `giant_kitten.Error` where it cannot be, with what to do about it.
    """
    global _failure
    try:
        _install(options)
        _failure = None
    except _library.Error as why:
        _failure = str(why)
        raise


def _install(options: str | None) -> None:
    global _installed
    if _installed:
        if options:
            raise _library.Error(
                f'giant-kitten is installed already, without the options "{options}": give them to the first '
                "install(), or in the environment variable GIANT_KITTEN"
            )
        return
    strip_backend()
    if options:
        _library.call("gk_configure", options.encode())
    elif _variable.wanted():
        # Read now, so that what is wrong with it is said here and not at the first allocation.
        _library.call("gk_configure", b"")
    torch = _torch()
    if _installed:
        # By the environment variable, when torch was imported just now.
        return
    if torch.cuda.is_initialized():
        raise _library.Error(
            "CUDA has been initialised already, and PyTorch cannot swap its allocator then: call install() "
            "before the first tensor on the GPU, or start Python with the environment variable GIANT_KITTEN=1"
        )
    _swap(torch)
    from . import _torch_memory

    _torch_memory.complete(torch)
    _installed = True
    # What this run would have wanted is remembered, or said, as the last thing that it does.
    atexit.register(_library.library().gk_farewell)
    if os.environ.get("GIANT_KITTEN_MONITOR"):
        from . import _monitor

        _monitor.from_environment()


def strip_backend() -> None:
    """Takes the choice of another allocator out of PyTorch's variables, and says so: it would contradict ours."""
    for variable in _VARIABLES:
        text = os.environ.get(variable, "")
        kept = [part for part in text.split(",") if not re.match(r"\s*backend\s*:", part)]
        if ",".join(kept) == text:
            continue
        if any("backend" in part and "native" not in part for part in text.split(",")):
            import logging

            logging.getLogger("giant_kitten").info(
                "%s=%s names another allocator: giant-kitten is used", variable, text
            )
        if kept:
            os.environ[variable] = ",".join(kept)
        else:
            del os.environ[variable]


def _torch() -> Any:
    """PyTorch, if it is one that can be served."""
    try:
        import torch
    except ImportError as why:
        raise _library.Error(f"giant-kitten is an allocator for PyTorch, and there is none here ({why})") from why
    version = tuple(int(part) for part in re.findall(r"\d+", torch.__version__)[:2])
    if version < OLDEST:
        raise _library.Error(
            f"PyTorch {torch.__version__} is too old for giant-kitten: it needs {OLDEST[0]}.{OLDEST[1]} or later"
        )
    if torch.version.cuda is None:
        raise _library.Error(
            f"this PyTorch ({torch.__version__}) was built without CUDA: there is no GPU memory to allocate. Install a "
            "CUDA build of PyTorch, or start without GIANT_KITTEN"
        )
    return torch


# PyTorch's names of its hooks, and ours: of newer releases, then of older ones.
_HOOKS = (
    {"set_init_fn": "gk_init"},
    {"set_reset_fn": "gk_reset"},
    {"set_memory_fraction_fn": "gk_memory_fraction"},
    {"set_base_alloc_fn": "gk_base_alloc"},
    {"set_record_stream_fn": "gk_record_stream"},
    {
        "set_begin_allocate_to_pool": "gk_begin_allocate_to_pool",
        "set_begin_allocate_stream_to_pool": "gk_begin_allocate_stream_to_pool",
    },
    {
        "set_end_allocate_to_pool_fn": "gk_end_allocate_to_pool",
        "set_end_allocate_stream_to_pool_fn": "gk_end_allocate_stream_to_pool",
    },
    {"set_release_pool": "gk_release_pool"},
)


def _swap(torch: Any) -> None:
    library = _library.library()
    allocator = torch.cuda.memory.CUDAPluggableAllocator(str(_library.library_path()), "gk_torch_malloc", "gk_free")
    inner = allocator.allocator()
    for names in _HOOKS:
        setter, ours = next(((name, ours) for name, ours in names.items() if hasattr(inner, name)), ("", ""))
        if not setter:
            warnings.warn(f"this PyTorch has no hook {next(iter(names))}: giant-kitten does without", stacklevel=3)
            continue
        getattr(inner, setter)(ctypes.cast(getattr(library, ours), ctypes.c_void_p).value)
    torch.cuda.memory.change_current_allocator(allocator)
    # PyTorch keeps a plain pointer to it.
    global _allocator
    _allocator = allocator


_allocator: Any = None
