"""Replaces PyTorch's CUDA allocator by ours, with all the hooks that PyTorch offers."""

from __future__ import annotations

import atexit
import ctypes
import os
import re
import warnings
from typing import Any

from .. import _library, _status, _variable
from . import alloc_conf

# The oldest PyTorch whose allocator can be replaced and has all the hooks that we need.
OLDEST = (2, 1)


def install(options: str | None = None) -> None:
    """Makes giant-kitten PyTorch's CUDA allocator; once per process, before anything uses CUDA.

    `options` has the format of the environment variable GIANT_KITTEN, for example
    "reserve:1.6GiB,sort:reversed", and takes precedence over it. A second call does nothing; with
    options it is an error, because they come too late.

    Raises `giant_kitten.Error` if that is impossible; the text says why and what to do.
    """
    try:
        _install(options)
    except _library.Error as why:
        _status.set_failure(str(why))
        raise
    _status.set_failure(None)


def _install(options: str | None) -> None:
    if _status.is_installed():
        if options:
            raise _library.Error(
                f'giant-kitten is already installed, without the options "{options}": pass them to '
                "the first install(), or set them in the environment variable GIANT_KITTEN"
            )
        return
    alloc_conf.strip_backend()
    if options:
        _library.call("gk_configure", options.encode())
    elif _variable.wanted():
        # The variable is read now, so that an error in it is raised here and not at the first
        # allocation.
        _library.call("gk_configure", b"")
    torch = _torch()
    if _status.is_installed():
        # Importing torch has just done it, because the environment variable asks for it.
        return
    if torch.cuda.is_initialized():
        raise _library.Error(
            "CUDA has already been initialised, and PyTorch cannot replace its allocator after "
            "that: call install() before the first tensor on the GPU, or start Python with the "
            "environment variable GIANT_KITTEN=1"
        )
    _swap(torch)
    from . import memory

    memory.complete(torch)
    _status.set_installed()
    # The last call of all: it remembers or prints the reserve that this run would have needed.
    atexit.register(_library.library().gk_farewell)
    if os.environ.get("GIANT_KITTEN_MONITOR"):
        from .._monitor.own import from_environment

        from_environment()


def _torch() -> Any:
    """PyTorch, if it is a release that giant-kitten works with."""
    try:
        import torch
    except ImportError as why:
        raise _library.Error(
            f"giant-kitten is an allocator for PyTorch, and PyTorch cannot be imported ({why})"
        ) from why
    version = tuple(int(part) for part in re.findall(r"\d+", torch.__version__)[:2])
    if version < OLDEST:
        raise _library.Error(
            f"PyTorch {torch.__version__} is too old for giant-kitten, which needs {OLDEST[0]}.{OLDEST[1]} or later"
        )
    if torch.version.cuda is None:
        raise _library.Error(
            f"this PyTorch ({torch.__version__}) was built without CUDA: there is no GPU memory to "
            "allocate. Install a CUDA build of PyTorch, or start without GIANT_KITTEN"
        )
    return torch


# PyTorch's names of its hooks, and our functions. Newer releases come first, older ones second.
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
        known = ((name, ours) for name, ours in names.items() if hasattr(inner, name))
        setter, ours = next(known, ("", ""))
        if not setter:
            warnings.warn(
                f"this PyTorch has no hook {next(iter(names))}: giant-kitten works without it",
                stacklevel=3,
            )
            continue
        getattr(inner, setter)(ctypes.cast(getattr(library, ours), ctypes.c_void_p).value)
    torch.cuda.memory.change_current_allocator(allocator)
    # PyTorch keeps a plain pointer to it, so it must stay alive.
    global _allocator
    _allocator = allocator


_allocator: Any = None
