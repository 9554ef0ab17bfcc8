"""giant-kitten in AUTOMATIC1111's WebUI and in Forge.

The extension (`webui/automatic1111`) builds the controls and calls `extension.py`. The other files
use the WebUI's `modules`, so they can be imported inside the WebUI only.
"""
