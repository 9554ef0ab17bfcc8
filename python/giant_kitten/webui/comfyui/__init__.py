"""giant-kitten in ComfyUI.

The custom node package (`webui/comfyui`) calls `extension.py`. All files use ComfyUI's modules, so
they can be imported inside ComfyUI only.
"""
