"""The monitor's servers with hostile connections and foreign notes, without a browser."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import ON_WINDOWS, no_forks, not_on_windows
from giant_kitten import _library
from giant_kitten._monitor import notes, own, server, watch

TOKEN = "t" * 32


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which programs note their addresses."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    (tmp_path / "run").mkdir(mode=0o700)
    (tmp_path / "temporary").mkdir(mode=0o700)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    return tmp_path / ("temporary" if ON_WINDOWS else "run")


@contextlib.contextmanager
def serving(host: str = server.LOCAL) -> Iterator[Any]:
    """The server of the page of all programs, on an address of this machine."""
    made = watch.watch(host=host)
    thread = threading.Thread(target=made.serve_forever, daemon=True)
    thread.start()
    yield made
    made.shutdown()
    made.server_close()
    thread.join()


@pytest.fixture
def watcher(base: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The server of the page of all programs, in this process and with short time limits."""
    monkeypatch.setattr(server, "PATIENCE", 1.0)
    monkeypatch.setattr(watch, "ANSWER", 1.0)
    with serving() as made:
        yield made


def get(server: Any, path: str = "") -> str:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(server.url + path, timeout=20) as answer:
        return str(answer.read().decode())


def problem(server: Any, process: int) -> str:
    found = json.loads(get(server, f"{process}/state"))
    assert found["devices"] == []
    return str(found["problem"])


def connect(server: Any, said: bytes = b"") -> socket.socket:
    made = socket.create_connection(server.server_address, timeout=10)
    made.sendall(said)
    return made


def is_closed(connection: socket.socket) -> bool:
    try:
        return connection.recv(1) == b""
    except ConnectionError:
        return True


# ---- Connections -------------------------------------------------------------------------------


def test_connections_that_say_nothing_are_few_and_do_not_last(watcher: Any) -> None:
    began, threads = time.monotonic(), threading.active_count()
    held = [connect(watcher, b"GET /") for _ in range(5 * server.MOST)]
    assert all(is_closed(one) for one in held[server.MOST :])
    assert time.monotonic() - began < server.PATIENCE
    assert threading.active_count() - threads <= server.MOST
    assert all(is_closed(one) for one in held)
    assert time.monotonic() - began < 3 * server.PATIENCE
    assert "No program to show" in get(watcher)


@pytest.mark.parametrize("said", [b"GET /", b"GET / HTTP/1.1\r\nX: "])
def test_a_request_that_comes_by_drops_is_not_waited_for(watcher: Any, said: bytes) -> None:
    began = time.monotonic()
    with connect(watcher, said) as one, contextlib.suppress(ConnectionError):
        one.settimeout(0.1)
        while time.monotonic() - began < 10:
            one.sendall(b"a")
            try:
                if one.recv(100) == b"":
                    break
            except TimeoutError:
                continue
    assert time.monotonic() - began < 4 * server.PATIENCE


def test_an_answer_that_nobody_takes_is_not_waited_for(watcher: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watcher, "find", lambda path: ("text/html", "x" * (64 << 20)))
    head = f"GET /{watcher.token}/ HTTP/1.1\r\nHost: 127.0.0.1:{watcher.server_address[1]}\r\n\r\n"
    before = threading.active_count()
    with connect(watcher, head.encode()) as one:
        one.recv(1)
        until = time.monotonic() + 10
        while threading.active_count() > before and time.monotonic() < until:
            time.sleep(0.05)
        assert threading.active_count() <= before


def test_there_is_one_answer_a_connection_and_to_head_none_but_its_head(watcher: Any) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", watcher.server_address[1], timeout=10)
    connection.request("HEAD", f"/{watcher.token}/")
    answer = connection.getresponse()
    assert answer.status == 200 and answer.read() == b"" and answer.will_close
    assert int(answer.headers["Content-Length"]) == len(get(watcher))


@pytest.mark.parametrize(
    "head",
    [
        "Host: evil.example:{port}\r\n",
        "",
        "Host: 127.0.0.1:{port}\r\nHost: evil.example\r\n",
        "Host: 127.0.0.1.evil.example:{port}\r\n",
        "Host: localhost:x\r\n",
    ],
)
def test_requests_with_another_host_get_nothing(watcher: Any, head: str) -> None:
    head = head.format(port=watcher.server_address[1])
    assert status(watcher, head) == 404


def status(server: Any, head: str, token: str = "") -> int:
    """The status of the answer to a request with these lines in its head."""
    with connect(server, f"GET /{token or server.token}/ HTTP/1.1\r\n{head}\r\n".encode()) as one:
        return int(one.recv(20).split()[1])


@pytest.mark.parametrize("host", ["127.0.0.1:{port}", "LOCALHOST:{port}", "localhost:9000", "127.0.0.1", "[::1]:9000"])
def test_a_forwarded_port_is_answered(watcher: Any, host: str) -> None:
    assert status(watcher, f"Host: {host.format(port=watcher.server_address[1])}\r\n") == 200


def test_other_machines_see_the_page_where_that_is_asked_for(base: Path) -> None:
    with serving(host="0.0.0.0") as everywhere:
        assert status(everywhere, "Host: gpu-box.example:8123\r\n") == 200
        assert status(everywhere, "Host: gpu-box.example:8123\r\n", TOKEN) == 404
        assert everywhere.url.startswith(f"http://{socket.gethostname()}:")
        assert everywhere.local_url == f"http://127.0.0.1:{everywhere.server_address[1]}/{everywhere.token}/"


def test_a_token_may_stay_the_same(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(server.TOKEN_VARIABLE, TOKEN)
    with serving() as same:
        assert same.url.endswith(f"/{TOKEN}/") and status(same, "Host: localhost\r\n", TOKEN) == 200
    for wrong in ("short", "a/" * 20, "é" * 30, "t" * 101):
        monkeypatch.setenv(server.TOKEN_VARIABLE, wrong)
        with pytest.raises(_library.Error, match="20 to 100 letters"):
            watch.watch()


def test_an_address_of_another_machine_is_refused() -> None:
    with pytest.raises(
        _library.Error, match=r"listen on port 0 of 192\.0\.2\.1 \(.*\): name an address of this machine"
    ):
        watch.watch(host="192.0.2.1")


@pytest.mark.parametrize(
    ("given", "begins"),
    [("0.0.0.0:0", f"http://{socket.gethostname()}:"), ("127.0.0.1:0", "http://127.0.0.1:"), ("0", None)],
)
def test_the_variable_names_an_address(
    base: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], given: str, begins: str | None
) -> None:
    monkeypatch.setenv(own.VARIABLE, given)
    monkeypatch.setattr(own, "_served", None)
    own.from_environment()
    said = capsys.readouterr().err
    if begins is None:
        assert said == ""
    else:
        assert said.startswith(f"giant-kitten: the memory map is at {begins}")
        assert own._served is not None
        own._served.shutdown()
        own._served.server_close()


@pytest.mark.parametrize("given", ["8123x", "0.0.0.0", "[::1]", "a:b"])
def test_the_variable_is_refused_where_it_names_no_port(
    base: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], given: str
) -> None:
    monkeypatch.setenv(own.VARIABLE, given)
    monkeypatch.setattr(own, "_served", None)
    own.from_environment()
    assert "is no port and no ADDRESS:PORT" in capsys.readouterr().err and own._served is None


BUSY = """
import os, resource, sys, threading, time
from giant_kitten._monitor import own
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
print(own.monitor(), flush=True)
held = []
try:
    while True:
        held.append(os.open("/dev/null", os.O_RDONLY))
except OSError:
    pass
sys.stdin.readline()
before = time.process_time()
time.sleep(2)
print(time.process_time() - before, flush=True)
for descriptor in held:
    os.close(descriptor)
sys.stdin.readline()
"""


@not_on_windows("a process has no limit of descriptors there")
def test_connections_do_not_busy_a_program_without_descriptors(base: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", BUSY], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as program:
        assert program.stdin and program.stdout and program.stderr
        url = program.stdout.readline().strip()
        port = int(url.split(":")[2].split("/")[0])
        with contextlib.ExitStack() as stack:
            for _ in range(8):
                stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10))
            program.stdin.write("\n")
            program.stdin.flush()
            assert float(program.stdout.readline()) < 0.5
        time.sleep(1)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        assert opener.open(url, timeout=20).status == 200
        program.stdin.close()
        assert program.wait(20) == 0 and program.stderr.read() == ""


@no_forks
def test_a_forked_child_does_not_keep_the_port_and_serves_by_itself(base: Path) -> None:
    program = """
import os, sys
from giant_kitten._monitor import own
first = own.monitor()
child = os.fork()
if child == 0:
    second = own.monitor()
    os._exit(int(second == first))
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    # Python 3.12 warns of a fork beside threads.
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert (done.stdout, done.stderr) == ("0\n", "")


LOOKED_AT = """
import json, os, urllib.request
import torch, giant_kitten
url = giant_kitten.monitor()
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
look = lambda: json.load(opener.open(url + "state"))
before = look()
print(before["note"], before["problem"], before["devices"], torch.cuda.is_initialized(), flush=True)
child = os.fork()
if child == 0:
    torch.ones(3, device="cuda").cpu()
    os._exit(0)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
kept = torch.ones(3, device="cuda:0")
print([device["index"] for device in look()["devices"]], giant_kitten.stats(1)["in_use"])
"""


@no_forks
def test_looking_begins_nothing(card: None, base: Path) -> None:
    environment = {**os.environ, "FAKE_CUDA_PROFILE": "nominal-8g,nominal-6g"}
    done = subprocess.run(
        [sys.executable, "-c", LOOKED_AT], env=environment, capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.splitlines() == ["Nothing has used the GPU yet. None [] False", "0", "[0] 0"]


@pytest.mark.parametrize(
    ("text", "asked"),
    [("1", (0, server.LOCAL)), (" TRUE ", (0, server.LOCAL)), ("Yes", (0, server.LOCAL)), ("on", (0, server.LOCAL)),
     ("auto", (0, server.LOCAL)), ("8123", (8123, server.LOCAL)), ("0.0.0.0:8123", (8123, "0.0.0.0")),
     ("[::1]:0", (0, "::1")), ("0", None), ("", None), (" Off ", None), ("no", None), ("false", None)],
)  # fmt: skip
def test_the_variable_is_read_by_the_same_table(
    monkeypatch: pytest.MonkeyPatch, text: str, asked: tuple[int, str] | None
) -> None:
    found: list[tuple[int, str]] = []
    monkeypatch.setattr(own, "monitor", lambda port, host: found.append((port, host)))
    monkeypatch.setenv("GIANT_KITTEN_MONITOR", text)
    own.from_environment()
    assert found == ([] if asked is None else [asked])


# ---- Notes -------------------------------------------------------------------------------------


def note(base: Path, url: str, title: str = "a program", **changed: Any) -> Path:
    """Writes a note like that of this process."""
    made = {"giant-kitten": "monitor", **vars(notes.own(title, url)), **changed}
    file = base / notes._base()[1] / f"{made['process']}.json"
    file.parent.mkdir(mode=0o700, exist_ok=True)
    file.write_text(json.dumps(made))
    return file


@contextlib.contextmanager
def listening(answer: Callable[[socket.socket], None]) -> Iterator[tuple[str, list[bytes]]]:
    """Another server: its address, and the requests that it got."""
    asked: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection, contextlib.suppress(OSError):
                    connection.settimeout(5)
                    asked.append(connection.recv(4096))
                    answer(connection)

        threading.Thread(target=serve, daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/{TOKEN}/", asked
        # On Windows it is enough to close it, and only connections are shut down.
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)


def saying(text: bytes) -> Callable[[socket.socket], None]:
    return lambda connection: connection.sendall(text)


def dripping(connection: socket.socket) -> None:
    while True:
        connection.sendall(b"a")
        time.sleep(0.1)


OK = b"HTTP/1.1 200 OK\r\n\r\n"
FOREIGN = {
    "no HTTP": saying(b"SSH-2.0-OpenSSH_9\r\n"),
    "nothing": lambda connection: None,
    "slow": lambda connection: time.sleep(3),
    "drops": dripping,
    "no state": saying(OK + b"[1, 2]"),
    "no JSON": saying(OK + b"<html>"),
    "lists in lists": saying(OK + b"[" * 100000),
    "not UTF-8": saying(OK + b"\xff\xfe"),
    "an error": saying(b"HTTP/1.1 500 No\r\n\r\n"),
    "elsewhere": saying(b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/x\r\n\r\n"),
    "long": saying(OK + b'{"devices": [], "x": "' + b"x" * (watch.LARGEST + 10)),
}


@pytest.mark.parametrize("what", FOREIGN)
def test_a_program_that_does_not_answer_is_not_forgotten(watcher: Any, base: Path, what: str) -> None:
    with listening(FOREIGN[what]) as (url, _):
        file = note(base, url)
        began = time.monotonic()
        assert "does not answer" in problem(watcher, os.getpid())
        assert time.monotonic() - began < 4 * watch.ANSWER
        assert "a program" in get(watcher) and file.exists()
    assert "does not answer" in problem(watcher, os.getpid()) and file.exists()


def test_no_proxy_is_asked(watcher: Any, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = b'{"devices": [], "problem": "from the program"}'
    with listening(saying(OK + state)) as (url, asked), listening(saying(OK + b"{}")) as (proxy, overheard):
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy)
        monkeypatch.delenv("no_proxy", raising=False)
        note(base, url)
        assert problem(watcher, os.getpid()) == "from the program"
        assert asked[0].startswith(f"GET /{TOKEN}/state ".encode()) and overheard == []


def test_only_notes_of_ended_processes_are_removed(watcher: Any, base: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    url = f"http://127.0.0.1:1/{TOKEN}/"
    boot, space, began = notes.own("", url).born.split(" ")
    waiting = subprocess.Popen([sys.executable, "-c", ""])
    if ON_WINDOWS:
        waiting.wait()
    else:
        os.waitid(os.P_PID, waiting.pid, os.WEXITED | os.WNOWAIT)
    ended.wait()
    running = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    gone = [
        note(base, url, "ended", process=ended.pid),
        note(base, url, "not waited for", process=waiting.pid),
        note(base, url, "another has its number", process=running.pid, born=f"{boot} {space} 1"),
    ]
    alive = [note(base, url, "alive"), note(base, url, "in a container", process=1, born=f"{boot} pid:[1] {began}")]
    other = note(base, url, "on another machine", process=2, born=f"other {space} {began}")
    page = get(watcher)
    assert [file for file in gone if file.exists()] == [] and all(file.exists() for file in (*alive, other))
    assert "alive" in page and "in a container" in page and "on another machine" not in page
    assert problem(watcher, ended.pid) == "This program has ended."
    waiting.wait()
    running.communicate(b"\n")


def test_other_files_are_left_alone_and_do_no_harm(watcher: Any, base: Path, tmp_path: Path) -> None:
    url = f"http://127.0.0.1:1/{TOKEN}/"
    file = note(base, url, "<b>the one</b>")
    folder = file.parent
    strangers: dict[str, Any] = {
        "credentials.json": {"auth": "precious"}, "1.json": [], "2.json": {"url": url, "title": "x"}, "3.json": 7,
        "4.json": {**json.loads(file.read_text()), "process": 5}, "6.json": {"giant-kitten": "monitor"},
        "7.json": {**json.loads(file.read_text()), "process": 7, "url": "http://evil.example/"},
        "8.json": {**json.loads(file.read_text()), "process": 8, "title": ["x"]},
        "9.json": {**json.loads(file.read_text()), "process": 9, "url": url.replace(":1/", ":99999/")},
        "10.json": {**json.loads(file.read_text()), "process": 10**30},
    }  # fmt: skip
    for name, content in strangers.items():
        (folder / name).write_text(json.dumps(content))
    (folder / "11.json").write_bytes(b"[" * 4000)
    (folder / "12.json").write_bytes(b"\xff\xfe{")
    (folder / "13.json").mkdir()
    elsewhere = tmp_path / "elsewhere.json"
    elsewhere.write_text(json.dumps({**json.loads(file.read_text()), "process": 15}))
    if not ON_WINDOWS:
        os.mkfifo(folder / "14.json")
        (folder / "15.json").symlink_to(elsewhere)
    before = sorted(os.listdir(folder))
    page = get(watcher)
    assert page.count("giant-kitten-map src=") == 1 and "&lt;b&gt;the one" in page
    assert sorted(os.listdir(folder)) == before and elsewhere.exists()


# On Windows only the user may write to the user's folder for temporary files.
@pytest.mark.parametrize("where", ["temporary"] if ON_WINDOWS else ["run", "temporary"])
@pytest.mark.parametrize("how", ["a file"] if ON_WINDOWS else ["a link", "open to others", "a file"])
def test_a_folder_that_is_not_the_users_own_is_not_looked_into(
    watcher: Any, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, how: str
) -> None:
    if where == "temporary":
        monkeypatch.delenv("XDG_RUNTIME_DIR")
    folder = tmp_path / where / notes._base()[1]
    victim = tmp_path / "victim"
    victim.mkdir(mode=0o700)
    for name in ("1.json", "credentials.json"):
        (victim / name).write_text("precious")
    if how == "a link":
        folder.symlink_to(victim)
    elif how == "a file":
        folder.write_text("mine")
    else:
        folder.mkdir()
        folder.chmod(0o755)
    page = get(watcher)
    assert "remove it" in page and folder.name in page
    with pytest.raises(_library.Error, match="remove it"), notes.Folder():
        pass
    assert sorted(os.listdir(victim)) == ["1.json", "credentials.json"]
    # The program continues without a note.
    own._note(f"http://127.0.0.1:1/{TOKEN}/")
    assert sorted(os.listdir(victim)) == ["1.json", "credentials.json"]


@not_on_windows("there is no runtime folder there")
@pytest.mark.parametrize("how", ["a link", "open to others", "missing", "not absolute"])
def test_a_runtime_folder_that_is_not_the_users_own_is_not_used(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    given = tmp_path / "given"
    if how == "a link":
        given.symlink_to(base)
    elif how == "open to others":
        given.mkdir()
        given.chmod(0o777)
    monkeypatch.chdir(tmp_path)
    for text in ("run",) if how == "not absolute" else (str(given), f"{given}/"):
        monkeypatch.setenv("XDG_RUNTIME_DIR", text)
        with notes.Folder() as folder:
            assert folder.path == str(tmp_path / "temporary" / f"giant-kitten-{os.geteuid()}")
    assert os.listdir(base) == []


def test_a_note_takes_the_place_of_an_old_one_alone_and_goes_with_its_program(base: Path) -> None:
    mine = notes.own("now", f"http://127.0.0.1:2/{TOKEN}/")
    file = note(base, f"http://127.0.0.1:1/{TOKEN}/", "before")
    with notes.Folder() as folder:
        folder.write(mine)
        assert list(folder.notes()) == [mine]
        assert ON_WINDOWS or file.stat().st_mode & 0o777 == 0o600
        folder.remove(notes.own("another", mine.url))
        assert file.exists()
        folder.remove(mine)
        assert not file.exists()
        file.write_text("mine")
        with pytest.raises(FileExistsError):
            folder.write(mine)
        folder.remove(mine)
    assert file.read_text() == "mine"


@not_on_windows("a process does not list its descriptors there")
def test_the_descriptors_of_notes_are_closed(watcher: Any, base: Path) -> None:
    note(base, f"http://127.0.0.1:1/{TOKEN}/")
    os.mkfifo(base / "giant-kitten" / "14.json")
    import resource

    get(watcher)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        get(watcher)
    assert len(os.listdir("/proc/self/fd")) <= before + 1 < resource.getrlimit(resource.RLIMIT_NOFILE)[0]
