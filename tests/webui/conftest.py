"""Tests of giant-kitten inside WebUIs, in real Chromium: run by `scripts/webui-test`.

`scripts/windows-test` runs those that need neither a browser nor a card in Windows' Python.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page, Route

HERE = Path(__file__).parent
EXTENSION = HERE.parent.parent / "webui" / "automatic1111"
PICTURES = os.environ.get("GIANT_KITTEN_PICTURES")
ON_WINDOWS = os.name == "nt"
# Their hosts need a card, and there is no PyTorch with CUDA for Windows in the registry.
collect_ignore = ["test_page.py", "test_comfyui.py", "test_genuine.py"] if ON_WINDOWS else []


def not_on_windows(why: str) -> pytest.MarkDecorator:
    """A mark for tests of what Windows does not have."""
    return pytest.mark.skipif(ON_WINDOWS, reason=why)


def only_on_windows(why: str) -> pytest.MarkDecorator:
    """A mark for tests of what only Windows has."""
    return pytest.mark.skipif(not ON_WINDOWS, reason=why)


no_links = not_on_windows("only administrators may make links there")
no_forks = not_on_windows("processes do not fork there")


@pytest.fixture(scope="session")
def card() -> None:
    """A card that PyTorch can use."""
    if torch.version.cuda is None:
        pytest.skip("this PyTorch was built without CUDA")


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Chromium."""
    if "GIANT_KITTEN_CHROMIUM" not in os.environ:
        pytest.skip("there is no Chromium here")
    from playwright.sync_api import sync_playwright

    arguments = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
    with sync_playwright() as started:
        found = started.chromium.launch(executable_path=os.environ["GIANT_KITTEN_CHROMIUM"], args=arguments)
        yield found
        found.close()


@dataclass
class Watched:
    """A page, with the messages of its console and the addresses of its requests."""

    page: Page
    ignored: str = ""
    said: list[str] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)


# Every page that was opened, in order.
OPENED: list[Page] = []


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Callable[..., Page]]:
    """Opens pages, which may neither log errors nor send requests to other servers."""
    opened: list[Watched] = []

    def answer(route: Route) -> None:
        # gradio itself requests fonts and a script from elsewhere.
        if not route.request.url.startswith(
            ("https://fonts.g", "https://cdnjs.cloudflare.com/ajax/libs/iframe-resizer")
        ):
            opened[-1].outside.append(route.request.url)
        route.fulfill(status=200, body="", headers={"Access-Control-Allow-Origin": "*"})

    def open_one(url: str, width: int = 1000, scheme: Any = "light", height: int = 900, ignored: str = "") -> Page:
        page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
        page.set_default_timeout(30000)
        watched = Watched(page, ignored)
        opened.append(watched)
        OPENED.append(page)
        page.route(lambda address: not address.startswith(("http://127.0.0.1:", "file:", "data:", "blob:")), answer)
        page.on("console", lambda found: watched.said.append(f"{found.type}: {found.text} ({found.location['url']})"))
        page.on("pageerror", lambda error: watched.said.append(f"error: {error.stack or error}"))
        # The genuine pages load megabytes of script.
        page.goto(url, timeout=120000)
        return page

    yield open_one
    for watched in opened:
        watched.page.close()
    errors = [text for watched in opened for text in watched.said if is_error(text, watched.ignored)]
    assert errors == []
    assert [url for watched in opened for url in watched.outside] == []


def is_error(text: str, ignored: str) -> bool:
    """Whether a console message is an error; `ignored` matches those of a genuine WebUI."""
    return text.startswith("error") and not (ignored and re.search(ignored, text))


def picture(page: Page, name: str, **how: Any) -> None:
    """Saves a picture of a page in the folder GIANT_KITTEN_PICTURES, if that is set."""
    if PICTURES:
        Path(PICTURES).mkdir(parents=True, exist_ok=True)
        page.screenshot(path=str(Path(PICTURES) / f"{name}.png"), full_page=True, **how)


def contrast(page: Page) -> float:
    """The lowest contrast of any text of the map with its background."""
    found: list[float] = page.evaluate(CONTRAST)
    assert found
    return min(found)


# The definition is that of WCAG.
CONTRAST = """() => {
  const root = document.querySelector("giant-kitten-map").shadowRoot;
  const numbers = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const light = (colour) => {
    const linear = (c) => (c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    const [r, g, b] = numbers(colour).map((c) => linear(c / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (at) => {
    for (; at; at = at.parentElement) {
      const found = getComputedStyle(at).backgroundColor;
      if (numbers(found).length < 4 || numbers(found)[3] > 0) return found;
    }
    return "rgb(255, 255, 255)";
  };
  const all = [...root.querySelectorAll("b, span, th, td, dt, dd, p, summary")];
  return all.filter((at) => at.textContent && at.clientWidth).map((at) => {
    const pair = [light(getComputedStyle(at).color), light(behind(at))].sort((a, b) => b - a);
    return (pair[0] + 0.05) / (pair[1] + 0.05);
  });
}"""


def free_port() -> int:
    """A free port."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@dataclass
class Server:
    """A process that serves a page."""

    url: str
    process: subprocess.Popen[str]
    log: Path

    def printed(self) -> str:
        """Its output so far."""
        return self.log.read_text()

    def get(self, path: str) -> Any:
        """Its JSON answer to a GET request."""
        with urllib.request.urlopen(self.url + path, timeout=60) as answer:
            return json.load(answer)

    def post(self, path: str, body: Any, headers: dict[str, str] | None = None) -> tuple[int, Any]:
        """The status and the JSON of its answer to a POST request."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = {"Content-Type": "application/json", **(headers or {})}
        try:
            with urllib.request.urlopen(urllib.request.Request(self.url + path, data, headers), timeout=120) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as answer:
            return answer.code, json.loads(answer.read() or b"null")

    def device(self) -> Any:
        """The first device of its state."""
        return self.get("giant-kitten/state")["devices"][0]


@contextlib.contextmanager
def serving(command: list[str], url: str, ready: str, log: Path, where: Path, /, **variables: str) -> Iterator[Server]:
    """Runs a server inside the context; it must not print a traceback.

    Pages that were opened inside are closed before it ends. They would ask on, and log that it is
    gone.
    """
    before = len(OPENED)
    environment = {**os.environ, "GRADIO_ANALYTICS_ENABLED": "False", "PYTHONUNBUFFERED": "1", **variables}
    environment = {name: value for name, value in environment.items() if value != ""}
    with log.open("w") as out:
        process = subprocess.Popen(command, env=environment, stdout=out, stderr=subprocess.STDOUT, text=True, cwd=where)
        server = Server(url, process, log)
        try:
            until = time.monotonic() + 180
            while ready not in server.printed():
                assert process.poll() is None and time.monotonic() < until, server.printed()
                time.sleep(0.1)
            yield server
        finally:
            for page in OPENED[before:]:
                page.close()
            process.terminate()
            process.wait(30)
    # Messages of a genuine WebUI while it starts do not matter.
    start, _, after = server.printed().partition(ready)
    ours = [found for found in re.findall(r"Traceback.*\n(?:\s.*\n)*.*", start) if "giant" in found.lower()]
    assert "Traceback" not in after and not ours, server.printed()


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., contextlib.AbstractContextManager[Server]]:
    """Starts host pages."""

    def start(gradio: str, *flags: str, **variables: str) -> contextlib.AbstractContextManager[Server]:
        folder = tmp_path_factory.mktemp("host")
        port = free_port()
        variables = {"GIANT_KITTEN": "dedicated:256MiB", **variables}
        packages = os.environ.get(f"GRADIO_{gradio.replace('.', '_')}")
        if packages is None:
            pytest.skip(f"gradio {gradio} is not for this Python")
        variables["PYTHONPATH"] = packages
        command = [sys.executable, str(HERE / "host.py"), str(EXTENSION), "--port", str(port), *flags]
        return serving(
            command, f"http://127.0.0.1:{port}/", "the host page is ready", folder / "log", folder, **variables
        )

    return start
