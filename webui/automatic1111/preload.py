"""The WebUI runs this before it builds anything.

AUTOMATIC1111 runs it early enough to install the allocator, Forge does not. If the environment
variable GIANT_KITTEN or `webui install` has already done that, this does nothing.
"""

import sys
from pathlib import Path


def preload(parser):
    """Installs giant-kitten unless it is installed; the panel shows a failure."""
    carried = Path(__file__).with_name("package")
    if carried.is_dir() and str(carried) not in sys.path:
        # Appended last, so that a giant-kitten in the WebUI's own environment takes precedence.
        sys.path.append(str(carried))
    try:
        import giant_kitten
        from giant_kitten import _variable

        if _variable.wanted(otherwise="1"):
            giant_kitten.install()
    except Exception as why:
        print(f"giant-kitten is not in use: {why}", file=sys.stderr)
