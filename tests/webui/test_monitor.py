"""The monitor and the map's element: `python -m giant_kitten monitor`, in real Chromium."""

from __future__ import annotations

import json
import os
import re
import socket
import struct
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from conftest import PICTURES, Server, contrast, picture, serving

if TYPE_CHECKING:
    from playwright.sync_api import Page

PROGRAM = """
import time, torch, giant_kitten
on_gpu = {"device": "cuda", "dtype": torch.float16}
model = torch.nn.Sequential(*[torch.nn.Linear(4096, 4096, bias=False, **on_gpu) for _ in range(100)])
vae = torch.nn.Linear(8192, 8192, **on_gpu)
giant_kitten.activate(reserve="1GiB", model=model)
held = [torch.empty(mib << 20, dtype=torch.uint8, device="cuda") for mib in (700, 4096)]
print("the program runs", flush=True)
time.sleep(600)
"""


def start(folder: Path, *command: str, program: str = PROGRAM, **variables: str) -> Any:
    (folder / "program.py").write_text(program)
    variables = {"XDG_RUNTIME_DIR": str(folder), **variables}
    return serving(
        [sys.executable, *command, str(folder / "program.py")],
        "",
        "the program runs",
        folder / "log",
        folder,
        **variables,
    )


def address(server: Server) -> str:
    found = re.search(r"the memory map is at (\S+)", server.printed())
    assert found, server.printed()
    return found[1]


@pytest.fixture(scope="module")
def program(card: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with start(tmp_path_factory.mktemp("program"), "-m", "giant_kitten", "monitor") as server:
        server.url = address(server)
        yield server


def status(url: str, **headers: str) -> int:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as answer:
        return answer.code


def test_nobody_gets_in_without_the_token_or_by_another_name(program: Server) -> None:
    assert program.url.startswith("http://127.0.0.1:")
    port = program.url.split(":")[2].split("/")[0]
    assert status(program.url) == 200
    for path in (
        "",
        "state",
        "history",
        "map.js",
        "history.js",
        "x" * 32 + "/state",
        "../" + program.url.split("/")[3] + "x/state",
    ):
        assert status(f"http://127.0.0.1:{port}/{path}") == 404
    assert status(program.url + "state", Host="evil.example") == 404
    assert status(program.url + "elsewhere") == 404


def test_the_page_shows_the_memory_of_the_program(program: Server, open_page: Callable[..., Page]) -> None:
    page = open_page(program.url, width=760, height=500)
    card = page.get_by_role("region", name="Memory of simulated")
    card.wait_for()
    bars = card.get_by_role("img")
    assert "Dedicated (VRAM): " in (bars.nth(0).get_attribute("aria-label") or "")
    assert "weights 3.13 GiB" in (bars.nth(0).get_attribute("aria-label") or "")
    rows = card.get_by_role("row").all_inner_texts()
    assert any(row.split() == ["weights", "3.13", "GiB", "\u2013"] for row in rows), rows
    assert page.get_by_text("Reserve 1.00 GiB (given).").is_visible()
    card.get_by_text("All granules").click()
    page.get_by_text("resident, large blocks").first.wait_for()
    # It stays open when the statistics change.
    page.wait_for_timeout(1500)
    assert page.get_by_text("resident, large blocks").first.is_visible()


FOLLOWED = """
import time, torch, giant_kitten
on_gpu = {"device": "cuda", "dtype": torch.float16}
layers = lambda count: [torch.nn.Linear(4096, 4096, bias=False, **on_gpu) for _ in range(count)]

class Pause(torch.nn.Module):
    def forward(self, image):
        time.sleep(0.2)
        return image

unet, vae = torch.nn.Sequential(*layers(105), Pause(), *layers(105)), torch.nn.Sequential(*layers(10))
giant_kitten.mark([unet, vae])
giant_kitten.follow(unet, "unet")
giant_kitten.follow(vae, "vae")
image = torch.empty(65536, 4096, **on_gpu)
print("the program runs", flush=True)
with torch.no_grad():
    while True:
        for _ in range(4):
            unet(image)
        vae(image)
"""


def test_the_page_shows_the_weights_of_followed_modules_and_what_was(
    card: None, tmp_path: Path, open_page: Callable[..., Page]
) -> None:
    with start(tmp_path, "-m", "giant_kitten", "monitor", program=FOLLOWED, GIANT_KITTEN="copy_ahead:off") as server:
        page = open_page(address(server), width=760, height=500)
        # Weights lie in both tiers, and all scratch on the card.
        row = page.get_by_role("table", name="Weights by module and tier").get_by_role("row", name="unet")
        row.wait_for()
        page.wait_for_function(SHARED_WEIGHTS, timeout=60_000)
        assert page.title().startswith("program.py (process ")
        if PICTURES:
            # The charts below have something to show.
            page.wait_for_timeout(25_000)
        picture(page, "monitor")


SHARED_WEIGHTS = """() => {
  const rows = [...document.querySelector("giant-kitten-map").shadowRoot.querySelectorAll("tr")];
  return rows.some((row) => row.innerText.startsWith("unet") && /[GM]iB.*[GM]iB/s.test(row.innerText));
}"""


def test_the_last_minutes_are_drawn(program: Server, open_page: Callable[..., Page]) -> None:
    page = open_page(program.url, width=760, height=900)
    card = page.get_by_role("region", name=re.compile("The last 60 seconds of simulated"))
    card.wait_for()
    names = [image.get_attribute("aria-label") or "" for image in card.get_by_role("img").all()]
    assert [name.split(":")[0] for name in names] == ["Memory", "Over the link, by moves and copies", "A second"]
    assert re.search(r"now VRAM \d\.\d GiB, host memory .*, scratch in VRAM .*, ring of copies 0 B", names[0]), names[0]
    until = page.locator("giant-kitten-history path[stroke]")
    until.first.wait_for(state="attached")
    kept = program.get("history")
    assert kept["seconds"] == 600 and len(kept["devices"][0]["samples"][0]) == len(kept["figures"])
    stats = program.get("state")["devices"][0]["stats"]
    sample = dict(zip(kept["figures"], program.get("history")["devices"][0]["samples"][-1]))
    assert (sample["dedicated"], sample["shared"]) == (stats["dedicated_allocated"], stats["shared_allocated"])
    assert sample["moves_total"] == stats["migrations"]


def test_the_oldest_samples_make_room(monkeypatch: pytest.MonkeyPatch) -> None:
    from giant_kitten._monitor import recent

    monkeypatch.setattr(recent, "_in_use", lambda: iter([(0, {"device": "card", **dict.fromkeys(STATS, 7)})]))
    made = recent.Recent(kept=3)
    for _ in range(5):
        made.sample()
    (device,) = made.state()["devices"]
    assert device["name"] == "card" and len(device["samples"]) == 3
    assert device["samples"][0][1:] == (7, 7, 7, 7, 14, 7, 7)


STATS = (
    "dedicated_allocated", "shared_allocated", "reserve_used", "staging", "migrated_bytes", "copied_ahead_bytes",
    "migrations", "safe_points",
)  # fmt: skip


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_is_readable_at_360_pixels_in_light_and_dark(
    program: Server, open_page: Callable[..., Page], scheme: str
) -> None:
    page = open_page(program.url, width=360, scheme=scheme, height=640)
    page.get_by_role("region", name="Memory of").wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    assert contrast(page) >= 4.5
    picture(page, f"monitor-narrow-{scheme}")


def test_colours_differ_for_every_kind_of_colour_vision(program: Server, open_page: Callable[..., Page]) -> None:
    for scheme in ("light", "dark"):
        page = open_page(program.url, scheme=scheme)
        page.get_by_role("region", name="Memory of").wait_for()
        names = ["model", "other", "scratch", "free"]
        colours = page.evaluate(
            """(names) => {
                const style = getComputedStyle(document.querySelector("giant-kitten-map"));
                return names.map((name) => style.getPropertyValue(`--${name}`).trim());
            }""",
            names,
        )
        seen = [[int(colour[i : i + 2], 16) for i in (1, 3, 5)] for colour in colours]
        for matrix in (((1, 0, 0), (0, 1, 0), (0, 0, 1)), *DICHROMATS):
            found = [tuple(sum(w * c for w, c in zip(row, colour)) for row in matrix) for colour in seen]
            for i, one in enumerate(found):
                for other in found[:i]:
                    assert sum((a - b) ** 2 for a, b in zip(one, other)) ** 0.5 > 40, (scheme, matrix, colours)


# Red, green and blue as seen without one kind of cone, after Viénot et al. (1999); without the blue
# one, after Machado et al. (2009).
DICHROMATS = (
    ((0.112, 0.888, 0.0), (0.112, 0.888, 0.0), (0.004, -0.004, 1.0)),
    ((0.292, 0.708, 0.0), (0.292, 0.708, 0.0), (-0.022, 0.022, 1.0)),
    ((1.256, -0.077, -0.179), (-0.078, 0.931, 0.148), (0.005, 0.691, 0.304)),
)


def test_a_program_that_has_ended_is_said_to_have(open_page: Callable[..., Page], tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()
    state = {"problem": "This program has ended.", "devices": []}
    page = open_page(report(tmp_path, state).as_uri())
    assert page.get_by_text("This program has ended.").is_visible()


def report(folder: Path, state: Any) -> Path:
    """A page that contains its state, like a report."""
    import giant_kitten

    script = Path(giant_kitten.__file__).with_name("map.js").read_text()
    text = json.dumps(state).replace("<", "\\u003c")
    file = folder / "report.html"
    file.write_text(
        f"<!doctype html><meta charset=utf-8><giant-kitten-map><script type='application/json'>{text}</script>"
        f"</giant-kitten-map><script>{script}</script>"
    )
    return file


def test_a_report_carries_its_map_with_it(program: Server, open_page: Callable[..., Page], tmp_path: Path) -> None:
    state = program.get("state")
    state["devices"][0]["stats"]["device"] = "<img src=x onerror=alert(1)>"
    page = open_page(report(tmp_path, state).as_uri())
    assert page.get_by_text("<img src=x").is_visible()
    assert page.get_by_role("row").count() >= 5


@pytest.mark.parametrize("width", [190, 250, 360])
def test_the_legend_stands_beside_its_boxes_however_narrow(
    program: Server, open_page: Callable[..., Page], tmp_path: Path, width: int
) -> None:
    page = open_page(report(tmp_path, program.get("state")).as_uri(), width=width)
    page.get_by_role("row").first.wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    table, card = page.evaluate(FRAME)
    assert card["left"] < table["left"] and table["right"] < card["right"]
    for box, text in page.evaluate(LEGEND):
        assert box["right"] <= text["left"] and text["top"] <= (box["top"] + box["bottom"]) / 2 <= text["bottom"]


FRAME = """() => ["table", ".card"].map((name) => document.querySelector("giant-kitten-map").shadowRoot
  .querySelector(name).getBoundingClientRect().toJSON())"""
# The positions of the box and of the first line of each row's name.
LEGEND = """() => [...document.querySelector("giant-kitten-map").shadowRoot.querySelectorAll("tbody th")].map(head => {
  const words = document.createRange();
  words.selectNodeContents(head.lastChild);
  return [head.querySelector("i").getBoundingClientRect(), words.getClientRects()[0]].map((found) => found.toJSON());
})"""


def test_the_variable_is_enough_and_one_page_shows_all_programs(
    card: None, open_page: Callable[..., Page], tmp_path: Path
) -> None:
    with start(tmp_path, GIANT_KITTEN_MONITOR="1") as one:
        environment = {**os.environ, "XDG_RUNTIME_DIR": str(tmp_path), "PYTHONUNBUFFERED": "1"}
        command = [sys.executable, "-m", "giant_kitten", "monitor"]
        watcher = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        try:
            assert watcher.stdout
            url = re.search(r"is at (\S+)", watcher.stdout.readline())
            assert url
            page = open_page(url[1])
            page.get_by_role("region", name="Memory of").wait_for()
            assert page.get_by_text(f"process {one.process.pid}").is_visible()
            one.process.terminate()
            one.process.wait(10)
            page.get_by_text("This program has ended.").wait_for()
            page.reload()
            assert page.get_by_text("No program to show").is_visible()
        finally:
            watcher.terminate()
            watcher.wait(10)


def test_pages_that_go_away_in_the_middle_of_an_answer_are_nobodys_fault(program: Server) -> None:
    host, path = program.url.removeprefix("http://").split("/", 1)
    name, port = host.split(":")
    for _ in range(30):
        with socket.create_connection((name, int(port))) as page:
            # The connection is closed without reading, so that the server's answer meets a reset.
            page.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            page.sendall(f"GET /{path}state HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
    assert status(program.url) == 200
    assert "Traceback" not in program.printed()


@pytest.mark.parametrize(
    ("port", "said"), [("99999", "cannot listen on port 99999"), ("x", "x is no port and no ADDRESS:PORT")]
)
def test_an_invalid_port_is_reported_and_the_program_continues(
    card: None, tmp_path: Path, port: str, said: str
) -> None:
    with start(tmp_path, GIANT_KITTEN_MONITOR=port) as server:
        assert said in server.printed()


def test_a_program_that_has_not_used_the_gpu_says_so(open_page: Callable[..., Page], tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text("import time\nprint('the program runs', flush=True)\ntime.sleep(600)\n")
    command = [sys.executable, "-m", "giant_kitten", "monitor", str(tmp_path / "program.py")]
    variables = {"XDG_RUNTIME_DIR": str(tmp_path)}
    with serving(command, "", "the program runs", tmp_path / "log", tmp_path, **variables) as server:
        page = open_page(address(server))
        page.get_by_text("Nothing has used the GPU yet.").wait_for()
        assert page.get_by_text("Waiting for the first statistics.").count() == 0
