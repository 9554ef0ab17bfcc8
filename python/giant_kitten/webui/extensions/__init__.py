"""Our extensions in the folders of WebUIs: installing and removing them.

A WebUI gets:

* the folder of the extension, a copy of ours, to which nothing else is written;
* inside that folder the package itself, if the WebUI's own Python has no giant-kitten;
* one file `giant-kitten-webui-….pth` in the WebUI's own Python, which installs the allocator before
  CUDA starts. It does so only for programs of this WebUI's folder, and is named by its path,
  because WebUIs can share a Python. ComfyUI needs no such file: it runs custom nodes early enough.

The Python is the one with which the WebUI really starts, or one that the user names: if that is not
certain, nothing is installed. An install imports the package there to verify it.

An install that fails is undone. Only files that this command has written are removed.
"""
