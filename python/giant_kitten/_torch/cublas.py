"""The workspaces that PyTorch keeps for cuBLAS."""

from __future__ import annotations


def clear_workspaces() -> None:
    """Frees the workspaces of cuBLAS; the next matrix product allocates new ones."""
    import torch

    torch._C._cuda_clearCublasWorkspaces()
