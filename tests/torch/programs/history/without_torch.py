"""Python stacks without PyTorch: the library alone, with and without Python's lock."""

import atexit
import ctypes
import gc
import sys
import threading
import time
import weakref

from giant_kitten import _library


def typed(library):
    library.gk_malloc.restype = ctypes.c_void_p
    library.gk_malloc.argtypes = (ctypes.c_size_t, ctypes.c_int, ctypes.c_void_p)
    library.gk_free.restype = None
    library.gk_free.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_void_p)
    return library


WITH_LOCK = typed(_library.library())
WITHOUT = typed(ctypes.CDLL(str(_library.library_path())))


def cycle(library):
    address = library.gk_malloc(1000, 0, None)
    library.gk_free(address, 1000, 0, None)


def history():
    told = _library.read_json("gk_history_json", 0)
    events = [event for event in told["events"] if not event["action"].startswith("segment")]
    return [(event["action"], told["stacks"][event["stack"]]) for event in events]


assert "torch" not in sys.modules
_library.call("gk_record", 1000, 3, 0)
atexit.register(_library.call, "gk_record", 0, 0, 0)
for library in (WITH_LOCK, WITHOUT):
    cycle(library)
    for _, stack in history()[-3:]:
        assert [frame["name"] for frame in stack] == ["cycle", "<module>"], stack
        assert {frame["filename"] for frame in stack} == {__file__} and min(f["line"] for f in stack) > 1


class Freeing:
    """Finalizers run where the garbage collector starts, which must not be inside the library."""

    def __init__(self):
        self.me = self

    def __del__(self):
        assert sys.exc_info()[0] is None
        cycle(WITH_LOCK)


gc.set_threshold(5)
for _ in range(5000):
    Freeing()
    cycle(WITHOUT)
gc.set_threshold(700)

# A thread that Python does not know: it starts in the C library and ends in ours.
libc = ctypes.CDLL(None)
thread, returned = ctypes.c_ulong(), ctypes.c_void_p()
libc.pthread_create.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)
libc.pthread_join.argtypes = (ctypes.c_ulong, ctypes.c_void_p)
address = WITH_LOCK.gk_malloc(1000, 0, None)
_library.call("gk_record", 0, 0, 0)
_library.call("gk_record", 1000, 3, 0)
assert libc.pthread_create(ctypes.byref(thread), None, ctypes.cast(WITH_LOCK.gk_free, ctypes.c_void_p), address) == 0
libc.pthread_join(thread, ctypes.byref(returned))
assert [stack for action, stack in history() if action == "free_requested"] == [[]]

# A code object that is gone, and another one with the same text.
for name in ("one.py", "other.py"):
    code = compile("cycle(library)", name, "exec")
    exec(code, {"cycle": cycle, "library": WITHOUT})
    gone = weakref.ref(code)
    del code
    assert gone() is None and history()[-1][1][1]["filename"] == name


def forever():
    while True:
        cycle(WITHOUT)


for _ in range(4):
    threading.Thread(target=forever, daemon=True).start()
time.sleep(0.1)
print("the end", flush=True)
