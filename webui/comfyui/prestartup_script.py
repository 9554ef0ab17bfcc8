"""ComfyUI runs this before it imports anything heavy, and so before CUDA starts.

giant-kitten waits for the import of torch; torch itself is not imported here. ComfyUI may choose
another allocator (cudaMallocAsync); that choice is removed when torch is imported.
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
