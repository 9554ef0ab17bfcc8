"""giant-kitten in ComfyUI: nodes, routes, and a panel with the memory map."""

import sys
from pathlib import Path

carried = Path(__file__).with_name("package")
if carried.is_dir() and str(carried) not in sys.path:
    sys.path.append(str(carried))

WEB_DIRECTORY = "./web"

try:
    from giant_kitten.webui.comfyui.extension import NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS, start
except ImportError as why:
    print(
        f"giant-kitten is not in use ({why}): run “python -m giant_kitten webui install FOLDER” with ComfyUI's folder, "
        "from a Python that has it.",
        file=sys.stderr,
    )
    NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS = {}, {}
else:
    start()

__all__ = ["NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS", "WEB_DIRECTORY"]
