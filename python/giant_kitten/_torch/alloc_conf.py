"""PyTorch's environment variables for its own allocator."""

from __future__ import annotations

import logging
import os
import re

# The name in all releases, and the one that newer releases prefer.
VARIABLES = ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF")


def strip_backend() -> None:
    """Removes the choice of another allocator, which would contradict ours, and logs that."""
    for variable in VARIABLES:
        text = os.environ.get(variable, "")
        kept = [part for part in text.split(",") if not re.match(r"\s*backend\s*:", part)]
        if ",".join(kept) == text:
            continue
        if any("backend" in part and "native" not in part for part in text.split(",")):
            logging.getLogger("giant_kitten").info(
                "%s=%s names another allocator: giant-kitten is used instead", variable, text
            )
        if kept:
            os.environ[variable] = ",".join(kept)
        else:
            del os.environ[variable]
