"""Run by the WebUI before it builds anything: in AUTOMATIC1111 early enough for the allocator, in Forge not.

Where the environment variable GIANT_KITTEN has done it already, or `webui install` has, this does nothing.
"""

import sys
from pathlib import Path


def preload(parser):
    """Makes giant-kitten PyTorch's allocator, if it is not. What is wrong is told in the panel."""
    carried = Path(__file__).with_name("package")
    if carried.is_dir() and str(carried) not in sys.path:
        # Last, so that a giant-kitten of the WebUI's own environment goes before the one that came with the extension.
        sys.path.append(str(carried))
    try:
        from giant_kitten import _install, _variable

        if _variable.wanted(otherwise="1"):
            _install.install()
    except Exception as why:
        print(f"giant-kitten is not in use: {why}", file=sys.stderr)
