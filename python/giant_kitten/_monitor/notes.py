"""The folder in which programs note the addresses of their monitors, for `watch.py` to find.

Only its user may read it, because the addresses contain the tokens. It is opened once, no symbolic
link is followed to it or inside it, and only files that are notes by name and content are read,
written or removed.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import stat
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass

from .. import _library

_POSIX = os.name == "posix"
# The longest note in bytes, and the longest title.
_LONGEST, _LONGEST_TITLE = 4096, 200
_URL = re.compile(r"http://127\.0\.0\.1:([0-9]{1,5})/([A-Za-z0-9_-]{20,100})/")


@dataclass(frozen=True)
class Note:
    """The note of a program about itself."""

    process: int
    born: str
    """When and where its process began.

    It tells the process from a later one that has the same number.
    """
    title: str
    url: str

    @property
    def port(self) -> int:
        """The port of 127.0.0.1 on which the program listens."""
        found = _URL.fullmatch(self.url)
        return int(found[1]) if found else 0

    def is_here(self) -> bool:
        """Whether it was written on this machine since its last start.

        On a shared disk there may be others, which are not ours.
        """
        return self.born.split(" ")[0] == _boot()

    def is_gone(self) -> bool:
        """Whether its process has certainly ended; a missing answer is not enough."""
        boot, _, rest = self.born.partition(" ")
        space, _, began = rest.partition(" ")
        if (boot, space) != (_boot(), _space()):
            # A process has another number within a container.
            return False
        found = _began(self.process)
        return found == "" or (found is not None and found.isdigit() and began.isdigit() and found != began)


def own(title: str, url: str) -> Note:
    """A note about this process."""
    return Note(os.getpid(), f"{_boot()} {_space()} {_began(os.getpid())}", title[:_LONGEST_TITLE], url)


def _boot() -> str:
    """An identifier of the machine's current start."""
    if _POSIX:
        with contextlib.suppress(OSError), open("/proc/sys/kernel/random/boot_id") as file:
            return file.read().strip()
    return sys.platform


def _space() -> str:
    """The namespace of process numbers: each container has its own."""
    with contextlib.suppress(OSError, AttributeError):
        return os.readlink("/proc/self/ns/pid")
    return "-"


def _began(process: int) -> str | None:
    """When a process began, or "alive" if the system does not say; "" if it has ended.

    None if nothing is known.
    """
    if not _POSIX:
        return _began_on_windows(process)
    if os.path.isdir("/proc/self"):
        try:
            with open(f"/proc/{process}/stat", "rb") as file:
                fields = file.read().rpartition(b")")[2].split()
        except FileNotFoundError:
            return ""
        except OSError:
            return None
        return "" if fields[0] in (b"Z", b"X", b"x") else fields[19].decode()
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return ""
    except OSError:
        return None
    return "alive"


def _began_on_windows(process: int) -> str | None:
    import ctypes

    kernel = ctypes.WinDLL("kernel32", use_last_error=True)  # type: ignore[attr-defined]
    kernel.OpenProcess.restype = ctypes.c_void_p
    # The rights are SYNCHRONIZE and PROCESS_QUERY_LIMITED_INFORMATION.
    # ERROR_INVALID_PARAMETER (87): there is no such process.
    handle = kernel.OpenProcess(0x00101000, False, process)
    if not handle:
        return "" if ctypes.get_last_error() == 87 else None  # type: ignore[attr-defined]
    try:
        # WAIT_TIMEOUT (258): the process has not ended.
        if kernel.WaitForSingleObject(ctypes.c_void_p(handle), 0) != 258:
            return ""
        # When it was created, when it ended, and its times in the kernel and outside.
        times = [ctypes.c_uint64() for _ in range(4)]
        known = kernel.GetProcessTimes(ctypes.c_void_p(handle), *map(ctypes.byref, times))
        return str(times[0].value) if known else "alive"
    finally:
        kernel.CloseHandle(ctypes.c_void_p(handle))


class Folder:
    """The folder of this user's notes, open inside the context."""

    def __init__(self) -> None:
        self.path, self._descriptor = "", -1

    def __enter__(self) -> Folder:
        base, name, flags = _base()
        self.path = os.path.join(base, name)
        if not _POSIX:
            # On Windows, each user has an own folder for temporary files.
            with contextlib.suppress(FileExistsError):
                os.mkdir(self.path)
            if not stat.S_ISDIR(os.lstat(self.path).st_mode):
                raise _library.Error(f"{self.path} is not a folder: remove it")
            return self
        where = os.open(base, flags | os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            with contextlib.suppress(FileExistsError):
                os.mkdir(name, 0o700, dir_fd=where)
            own = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            self._descriptor = os.open(name, own, dir_fd=where)
        except OSError as why:
            raise _library.Error(f"{self.path} is not a folder of this user ({why.strerror}): remove it") from why
        finally:
            os.close(where)
        found = os.fstat(self._descriptor)
        if found.st_uid != os.geteuid() or found.st_mode & 0o077:
            self.__exit__()
            raise _library.Error(f"{self.path} belongs to another user, or others may access it: remove it")
        return self

    def __exit__(self, *_: object) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def write(self, note: Note) -> None:
        """Writes a note, replacing an old one. Raises if a file of its name is not a note."""
        name = f"{note.process}.json"
        if self._read(name) is not None:
            self._unlink(name)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _flag("O_NOFOLLOW") | _flag("O_CLOEXEC")
        with os.fdopen(self._open(name, flags), "w", encoding="utf-8") as file:
            json.dump({"giant-kitten": "monitor", **asdict(note)}, file)

    def remove(self, note: Note) -> None:
        """Removes a note, unless another one has replaced it."""
        name = f"{note.process}.json"
        if self._read(name) == note:
            self._unlink(name)

    def notes(self) -> Iterator[Note]:
        """The notes of programs that may be running; removes those of processes that have ended."""
        names = os.listdir(self._descriptor if _POSIX else self.path)
        for name in sorted(name for name in names if re.fullmatch(r"[0-9]+\.json", name)):
            note = self._read(name)
            if note is None or name != f"{note.process}.json":
                continue
            if note.is_gone():
                self._unlink(name)
            elif note.is_here():
                yield note

    def _read(self, name: str) -> Note | None:
        """The note in a file, or None if the file is not a note."""
        try:
            # Opening a named pipe must not wait for a writer.
            descriptor = self._open(name, os.O_RDONLY | _flag("O_NOFOLLOW") | _flag("O_NONBLOCK") | _flag("O_CLOEXEC"))
        except OSError:
            return None
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                return None
            found = json.loads(os.read(descriptor, _LONGEST + 1))
        except (OSError, ValueError, RecursionError):
            return None
        finally:
            os.close(descriptor)
        return _note(found)

    def _open(self, name: str, flags: int) -> int:
        if _POSIX:
            return os.open(name, flags, 0o600, dir_fd=self._descriptor)
        return os.open(os.path.join(self.path, name), flags, 0o600)

    def _unlink(self, name: str) -> None:
        with contextlib.suppress(OSError):
            if _POSIX:
                os.unlink(name, dir_fd=self._descriptor)
            else:
                os.unlink(os.path.join(self.path, name))


def _flag(name: str) -> int:
    """A flag of `os.open`; 0 on systems without it."""
    return int(getattr(os, name, 0))


def _base() -> tuple[str, str, int]:
    """The parent of the folder, the folder's name, and the flags with which to open the parent.

    The parent is the user's runtime folder if it belongs to this user alone, or else the folder for
    temporary files.
    """
    base = os.environ.get("XDG_RUNTIME_DIR", "").rstrip("/")
    if _POSIX and os.path.isabs(base):
        with contextlib.suppress(OSError):
            found = os.lstat(base)
            if stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o022:
                return base, "giant-kitten", os.O_NOFOLLOW
    user = os.geteuid() if _POSIX else re.sub(r"\W", "_", os.environ.get("USERNAME", "user"))
    return tempfile.gettempdir(), f"giant-kitten-{user}", 0


def _note(found: object) -> Note | None:
    if not isinstance(found, dict) or found.get("giant-kitten") != "monitor":
        return None
    process, born, title, url = (found.get(name) for name in ("process", "born", "title", "url"))
    if not isinstance(process, int) or isinstance(process, bool) or not 0 < process < 1 << 32:
        return None
    if not (isinstance(born, str) and isinstance(title, str) and isinstance(url, str)):
        return None
    note = Note(process, born, title, url)
    return note if len(title) <= _LONGEST_TITLE and _URL.fullmatch(url) and note.port < 1 << 16 else None
