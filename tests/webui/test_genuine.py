"""The genuine AUTOMATIC1111 or Forge, where a checkout is at hand: installed into, driven, and left without a trace.

    GIANT_KITTEN_WEBUI=/path/to/stable-diffusion-webui scripts/webui-test tests/webui/test_genuine.py

The folder needs an environment (`venv`), its repositories and a checkpoint, as after its own first start. Besides:

    GIANT_KITTEN_WEBUI_RIG         the release of the rig whose fake libraries its PyTorch runs on; with a GPU, none
    GIANT_KITTEN_WEBUI_ARGS        more arguments for its launch.py, as in "--opt-sdp-attention --ckpt-dir /models"
    GIANT_KITTEN_WEBUI_PYTHONPATH  where packages of its own are, besides its environment
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Server, free_port, picture, serving
from giant_kitten.webui.extensions import find
from playwright.sync_api import Page

FOLDER = os.environ.get("GIANT_KITTEN_WEBUI", "")

pytestmark = pytest.mark.skipif(not FOLDER, reason="GIANT_KITTEN_WEBUI names no folder of a genuine WebUI")


def command(action: str) -> None:
    subprocess.run([sys.executable, "-m", "giant_kitten", "webui", action, FOLDER], check=True)


def traces() -> list[str]:
    """Every file of ours in the folder and in its Python."""
    webui = find(FOLDER)
    places = [webui.folder / webui.kind.extensions, *webui.python().parent.parent.glob("lib/python*/site-packages")]
    found = [str(path) for place in places for path in place.glob("giant-kitten*")]
    settings = webui.folder / "config.json"
    if settings.exists():
        found += [key for key in json.loads(settings.read_text()) if "giant_kitten" in key]
    controls = webui.folder / "ui-config.json"
    if controls.exists():
        found += [key for key in json.loads(controls.read_text()) if "GK:" in key or "giant" in key.lower()]
    return found


@pytest.fixture(scope="module")
def genuine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The WebUI, on giant-kitten by nothing but the command."""
    command("install")
    port, webui = free_port(), find(FOLDER)
    variables = {"GIANT_KITTEN": "", "IGNORE_CMD_ARGS_ERRORS": "1"}
    # Its own packages, and nothing of the rig's but the fake libraries.
    variables["PYTHONPATH"] = os.environ.get("GIANT_KITTEN_WEBUI_PYTHONPATH", "")
    rig = os.environ.get("GIANT_KITTEN_WEBUI_RIG")
    if rig:
        cache = Path(os.environ.get("GIANT_KITTEN_RIG", Path.home() / ".cache" / "giant-kitten-rig"))
        variables["LD_LIBRARY_PATH"] = str(cache / rig / "fake")
    line = [
        str(webui.python()), str(webui.folder / "launch.py"), "--skip-prepare-environment", "--skip-torch-cuda-test",
        "--api", "--disable-nan-check", "--no-download-sd-model", "--no-hashing", "--port", str(port),
        *os.environ.get("GIANT_KITTEN_WEBUI_ARGS", "").split(),
    ]  # fmt: skip
    log = tmp_path_factory.mktemp("genuine") / "log"
    try:
        with serving(line, f"http://127.0.0.1:{port}/", "Startup time", log, webui.folder, **variables) as found:
            yield found
    finally:
        command("remove")
    assert traces() == []


def generate(server: Server, **body: Any) -> tuple[list[Any], str]:
    """The pictures, and what is said of them."""
    wanted = {"prompt": "a kitten", "width": 512, "height": 512, "steps": 3, **body}
    status, answer = server.post("sdapi/v1/txt2img", wanted)
    assert status == 200, answer
    return answer["images"], json.loads(answer["info"])["infotexts"][0]


def test_it_starts_on_giant_kitten_and_generates(genuine: Server) -> None:
    images, said = generate(genuine)
    assert len(images) == 1 and "Giant kitten: automatic" in said
    state = genuine.get("giant-kitten/state")
    assert state["problem"] is None and state["work"]["iterations"] == 3


@pytest.mark.parametrize(("action", "said"), [(2, "Activated"), (1, "VRAM is free"), (0, "Disabled")])
def test_generating_before_and_after_each_action(genuine: Server, action: int, said: str) -> None:
    for no_abort in (False, True):
        values = [action, 0.5, 0, no_abort, False, False]
        images, found = generate(genuine, script_name="Giant kitten", script_args=values)
        assert bool(images) == no_abort and ("Steps: 3" if no_abort else said) in found
    stats = genuine.device()["stats"]
    assert stats["phase_name"] == ("disabled", "freed", "active")[action]
    assert len(generate(genuine)[0]) == 1


@pytest.mark.parametrize(
    "values", [[9, 0, 0, False, False, False], [2, "x", 0, False, False, False], [2, 1e9], ["", None]]
)
def test_wrong_values_are_answered_in_a_sentence(genuine: Server, values: list[Any]) -> None:
    images, said = generate(genuine, script_name="Giant kitten", script_args=values)
    assert images == [] and said.endswith(".")


def test_batches_hires_and_image_to_image(genuine: Server) -> None:
    assert genuine.post("giant-kitten/v1/act", {"action": "automatic"})[0] == 200
    assert len(generate(genuine, batch_size=2, n_iter=2)[0]) >= 4
    hires = {"enable_hr": True, "hr_scale": 1.5, "denoising_strength": 0.5, "hr_upscaler": "Latent"}
    # Forge's API fails without the last, on any allocator; AUTOMATIC1111's does not know it.
    assert len(generate(genuine, **hires, hr_additional_modules=[])[0]) == 1
    image = generate(genuine)[0][0]
    body = {"init_images": [image], "denoising_strength": 0.5, "steps": 4, "width": 512, "height": 512}
    assert genuine.post("sdapi/v1/img2img", body)[0] == 200


# What its own page cannot load here, and what gradio 4.40 says of itself.
THEIRS = r"Element is not in the DOM|ERR_NAME_NOT_RESOLVED|404|webui-assets"


def open_panel(page: Page) -> Any:
    page.locator("#txt2img_generate").wait_for()
    page.locator("#tab_txt2img").get_by_text("Giant kitten: memory").first.click()
    found = page.locator("#tab_txt2img giant-kitten-map")
    found.get_by_role("region").wait_for(timeout=30000)
    return found


def test_the_page_and_a_reload_of_the_ui(genuine: Server, open_page: Callable[..., Page]) -> None:
    assert genuine.post("giant-kitten/v1/act", {"action": "activate", "reserve": 0.5})[0] == 200
    page = open_page(genuine.url, height=1000, ignored=THEIRS)
    found = open_panel(page)
    found.get_by_text("Reserve 512.0 MiB (given).").wait_for()
    page.locator("#tab_txt2img #script_list input").first.click()
    page.locator("ul.options li", has_text=re.compile("^ *✓? *Giant kitten *$")).first.click()
    page.locator("#tab_txt2img").get_by_text("GK: free VRAM").first.click()
    page.locator("#txt2img_generate").click()
    page.locator("#html_info_txt2img").first.get_by_text("VRAM is free").wait_for(timeout=60000)
    found.get_by_text("freed, by hand").wait_for()
    for name, said in (("disable", "Disabled"), ("apply", "Activated")):
        page.locator(f"#tab_txt2img [id*=giant_kitten_memory_{name}]").first.click()
        page.locator("#tab_txt2img [id*=giant_kitten_memory_said]").first.get_by_text(said).wait_for()
    picture(page, "genuine")
    assert genuine.post("giant-kitten/v1/act", {"action": "activate", "persist": 0.5})[0] == 200
    starts = genuine.printed().count("Startup time")
    # The page goes on asking while the server is away, and so does gradio: what that one says does not count.
    page.close()
    page = open_page(genuine.url, ignored=".")
    page.locator("#txt2img_generate").wait_for()
    # Its buttons do nothing before gradio has bound them.
    page.wait_for_timeout(3000)
    page.get_by_text("Reload UI").last.click()
    for _ in range(180):
        if genuine.printed().count("Startup time") > starts:
            break
        page.wait_for_timeout(500)
    assert genuine.printed().count("Startup time") > starts, "the UI did not start again"
    page.close()
    stats = genuine.device()["stats"]
    assert (stats["automatic"], stats["persist"]) == (1, 0), "unloading the script restores everything"
    open_panel(open_page(genuine.url, ignored=THEIRS))
    assert len(generate(genuine)[0]) == 1
