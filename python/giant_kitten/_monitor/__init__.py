"""The monitor: a page with the memory maps of PyTorch programs while they run.

A program serves its own state, under a token that nobody can guess, from a thread of its own
(`own.py` over `server.py`): on 127.0.0.1, unless its user names another address. It notes the
address in a folder that only its user can read (`notes.py`). `watch.py` finds it there and shows
all programs on one page. `metrics.py` writes the same figures for Prometheus.
"""
