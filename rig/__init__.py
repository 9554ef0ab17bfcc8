"""The genuine PyTorch on a fake CUDA runtime over the simulated GPU. `scripts/torch-rig` runs it.

releases.py   the releases of PyTorch, and the packages that each needs
process.py    where the project lies, and commands that must succeed
libraries.py  the fake libraries that a wheel of PyTorch links
folder.py     everything about one release, in one folder, prepared once
__main__.py   the command line

docs/torch-rig.md describes what it proves and what it does not.
"""
