"""Run by ComfyUI before it imports anything of weight: giant-kitten waits for torch, and is there before CUDA starts.

torch itself is not imported here. ComfyUI's choice of another allocator (cudaMallocAsync) is taken back when torch
comes.
"""

import sys
from pathlib import Path

carried = Path(__file__).with_name("package")
if carried.is_dir() and str(carried) not in sys.path:
    sys.path.append(str(carried))

try:
    from giant_kitten import _variable

    if _variable.wanted(otherwise="1"):
        import giant_kitten._startup  # noqa: F401
except Exception as why:
    print(f"giant-kitten is not in use: {why}", file=sys.stderr)
