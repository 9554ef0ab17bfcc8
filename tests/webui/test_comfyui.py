"""The ComfyUI package in real Chromium: in our stand-in, and in a genuine ComfyUI if given.

    GIANT_KITTEN_COMFYUI=/path/to/ComfyUI scripts/webui-test tests/webui/test_comfyui.py

The genuine one runs on the rig's PyTorch (2.15.0), or in its own environment. Also:

    GIANT_KITTEN_WEBUI_CHECKPOINT  a checkpoint in the shapes of Stable Diffusion 1.5
    GIANT_KITTEN_COMFYUI_ARGS      more arguments for its main.py
    GIANT_KITTEN_COMFYUI_PATH      more folders of its packages, in addition to its environment
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import models
import pytest
from bad_bodies import BAD_BODIES
from conftest import HERE, Server, contrast, free_port, picture, serving
from giant_kitten.webui.extensions.kinds import find
from playwright.sync_api import Locator, Page

FOLDER = os.environ.get("GIANT_KITTEN_COMFYUI", "")
CHECKPOINT = os.environ.get("GIANT_KITTEN_WEBUI_CHECKPOINT", "")
# Console errors of a genuine page that do not mention our files.
THEIRS = r"(?s)^(?!.*(giant|kitten))"


def host(folder: Path, *flags: str, variable: str = "") -> Any:
    port = free_port()
    package = HERE.parent.parent / "webui" / "comfyui"
    line = [sys.executable, str(HERE / "comfyui_host.py"), str(package), "--port", str(port), *flags]
    address = f"http://127.0.0.1:{port}/"
    return serving(line, address, "To see the GUI go to", folder / "log", folder, GIANT_KITTEN=variable)


def has_dynamic_vram() -> bool:
    return "--disable-dynamic-vram" in (find(FOLDER).folder / "comfy" / "cli_args.py").read_text()


def genuine(folder: Path, *flags: str) -> Any:
    port, comfyui = free_port(), find(FOLDER)
    for name in ("models/checkpoints", "models/controlnet", "output", "input", "user", "temp", "custom_nodes"):
        (folder / name).mkdir(parents=True)
    # The dialogs for new users are switched off.
    settings = folder / "user" / "default" / "comfy.settings.json"
    settings.parent.mkdir()
    settings.write_text('{"Comfy.TutorialCompleted": true, "Comfy.Workflow.ShowMissingModelsWarning": false}')
    (folder / "models" / "checkpoints" / "one.safetensors").symlink_to(Path(CHECKPOINT).resolve())
    control = models.controlnet(models.header(Path(CHECKPOINT)))
    models.write(folder / "models" / "controlnet" / "control_zero.safetensors", control)
    (folder / "custom_nodes" / "giant-kitten").symlink_to(comfyui.extension)
    line = [
        str(comfyui.python()), str(comfyui.folder / "main.py"), "--listen", "127.0.0.1", "--port", str(port),
        "--base-directory", str(folder), "--disable-api-nodes", "--database-url", f"sqlite:///{folder}/user/comfyui.db",
        *os.environ.get("GIANT_KITTEN_COMFYUI_ARGS", "").split(), *flags,
    ]  # fmt: skip
    variables = {
        "GIANT_KITTEN": "",
        "PYTHONPATH": os.environ.get("GIANT_KITTEN_COMFYUI_PATH", ""),
        "FAKE_CUDA_FAULTS": str(folder / "faults"),
    }
    address = f"http://127.0.0.1:{port}/"
    return serving(line, address, "To see the GUI go to", folder / "log", comfyui.folder, **variables)


WAYS = {"host": (), "cudaMallocAsync": (), "disable-cuda-malloc": ("--disable-cuda-malloc",)}


@contextlib.contextmanager
def installed() -> Iterator[None]:
    """Installs the package into the genuine ComfyUI by the command, and removes it."""
    if not (FOLDER and CHECKPOINT):
        pytest.skip("GIANT_KITTEN_COMFYUI and GIANT_KITTEN_WEBUI_CHECKPOINT name no genuine ComfyUI with a checkpoint")
    command = [sys.executable, "-m", "giant_kitten", "webui"]
    subprocess.run([*command, "install", FOLDER], check=True)
    try:
        yield
    finally:
        subprocess.run([*command, "remove", FOLDER], check=True)
    assert not find(FOLDER).extension.exists()


@pytest.fixture(scope="module", params=WAYS)
def comfyui(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("comfyui")
    if request.param == "host":
        with host(folder) as found:
            yield found
        return
    with installed():
        flags = ("--disable-dynamic-vram",) if has_dynamic_vram() else ()
        with genuine(folder, *WAYS[request.param], *flags) as found:
            yield found
        complaints = re.findall(r"giant-kitten is not in use.*|giant-kitten\[\d+\] (?:warn|error): .*", found.printed())
        assert complaints == []


def workflow(comfyui: Server, action: str, **values: Any) -> dict[str, Any]:
    """A prompt that loads a model, does an action, samples, and reports the status."""

    def node(kind: str, **inputs: Any) -> dict[str, Any]:
        return {"class_type": kind, "inputs": inputs}

    options = {"reserve": 0.0, "persist": 0.0, "sort_reversed": False, "ignored_model": False, **values}
    act = node("GiantKittenAction", model=["load", 0], action=action, **options)
    if "CheckpointLoaderSimple" not in comfyui.get("object_info"):
        return {
            "load": node("Load"),
            "act": act,
            "sample": node("Sample", model=["act", 0], width=512),
            "said": node("GiantKittenStatus", after=["act", 1]),
            "status": node("GiantKittenStatus", after=["sample", 0]),
        }
    sampling = {"seed": time.time_ns() % 2**31, "steps": 4, "cfg": 7.5, "denoise": 1}
    return {
        "load": node("CheckpointLoaderSimple", ckpt_name="one.safetensors"),
        "wanted": node("CLIPTextEncode", clip=["load", 1], text="a photograph of a kitten"),
        "latent": node("EmptyLatentImage", width=512, height=512, batch_size=1),
        "act": act,
        "sample": node(
            "KSampler", model=["act", 0], positive=["wanted", 0], negative=["wanted", 0], latent_image=["latent", 0],
            sampler_name="euler", scheduler="normal", **sampling,
        ),
        "decode": node("VAEDecode", samples=["sample", 0], vae=["load", 2]),
        "save": node("SaveImage", images=["decode", 0], filename_prefix="picture"),
        "status": node("GiantKittenStatus", after=["decode", 0]),
    }  # fmt: skip


def draw(comfyui: Server, action: str, **values: Any) -> str:
    """Sends a prompt, waits for its end, and returns what the status node said."""
    return send(comfyui, workflow(comfyui, action, **values))


def send(comfyui: Server, prompt: dict[str, Any]) -> str:
    status, answer = comfyui.post("prompt", {"prompt": prompt})
    assert status == 200, answer
    known, until = answer["prompt_id"], time.monotonic() + 120
    while not (history := comfyui.get(f"history/{known}")):
        assert time.monotonic() < until, comfyui.printed()
        time.sleep(0.1)
    assert history[known].get("status", {}).get("status_str", "success") == "success", history
    return str(history[known]["outputs"]["status"]["text"][0])


def open_tab(page: Page) -> Locator:
    # The genuine frontend is megabytes of script.
    page.locator(".giant-kitten-tab-button").first.click(timeout=120000)
    found = page.locator("giant-kitten-map")
    found.get_by_role("region").wait_for()
    return found


# This is the first test, because later the package is already in the genuine ComfyUI.
def test_dynamic_vram_is_reported_and_prompts_run(tmp_path: Path, open_page: Callable[..., Page]) -> None:
    with installed():
        if not has_dynamic_vram():
            pytest.skip("this ComfyUI has no dynamic VRAM")
        with genuine(tmp_path / "dynamic") as server:
            assert "DynamicVRAM support detected and enabled" in server.printed()
            draw(server, "activate", reserve=0.5)
            assert "start with --disable-dynamic-vram" in server.get("giant-kitten/state")["problem"]
            # We do not allocate the weights, apart from the smallest, only the other memory.
            device = server.device()
            kinds, stats = device["map"]["bytes"], device["stats"]
            assert sum(kinds[tier]["model"] for tier in kinds) < 1 << 20 < stats["allocated_peak"]
            assert stats["out_of_memory"] == 0 and device["others"] > 1 << 30
            page = open_page(server.url, width=1200, ignored=THEIRS)
            open_tab(page).get_by_role("rowheader", name="ComfyUI's dynamic VRAM and others").wait_for()
            for name, answer in (
                ("Free VRAM", "ComfyUI's dynamic VRAM has unloaded its models"),
                ("Take VRAM back", "Activated: the reserve is 512.0 MiB"),
                # The only prompt so far had an action in it, so nobody knows what it needed.
                ("Apply the suggestion", "There is no suggestion yet"),
                ("Automatic", "determined automatically"),
                ("Disable", "Disabled"),
            ):
                page.locator(".giant-kitten").get_by_role("button", name=name, exact=True).click()
                said(page).get_by_text(answer).wait_for()
                assert (server.device()["others"] == 0) == (name != "Disable"), name
                if name == "Automatic":
                    draw(server, "automatic")


def test_the_nodes_are_in_the_list(comfyui: Server) -> None:
    found = comfyui.get("object_info")
    for name, shown in (("GiantKittenAction", "Giant kitten: action"), ("GiantKittenStatus", "Giant kitten: status")):
        assert (found[name]["display_name"], found[name]["category"]) == (shown, "giant-kitten")
    assert comfyui.get("giant-kitten/state")["problem"] is None


@pytest.mark.parametrize(("action", "phase"), [("activate", "active"), ("free VRAM", "freed"), ("disable", "disabled")])
def test_actions_from_a_node(comfyui: Server, action: str, phase: str) -> None:
    said = draw(comfyui, action, reserve=0.5)
    assert phase in said and comfyui.device()["stats"]["phase_name"] == phase
    work = comfyui.get("giant-kitten/state")["work"]
    assert not work["running"] and work["iterations"] == 4
    if action == "activate":
        assert comfyui.device()["map"]["bytes"]["dedicated"]["model"] > 0
        assert comfyui.device()["stats"]["reserve"] == 1 << 29
    assert "automatic" in draw(comfyui, "automatic") and comfyui.device()["stats"]["automatic"] == 1


def test_actions_from_the_panel(comfyui: Server, open_page: Callable[..., Page]) -> None:
    draw(comfyui, "automatic")
    page = open_page(comfyui.url, width=1200, ignored=THEIRS)
    found = open_tab(page)
    panel = page.locator(".giant-kitten")
    panel.get_by_label("Reserve by hand in GiB").fill("0.5")
    for name, said, phase in (
        ("Activate", "Activated: the reserve is 512.0 MiB", "by hand"),
        ("Free VRAM", "VRAM is free", "VRAM is free"),
        ("Take VRAM back", "Activated: the reserve is 512.0 MiB", "by hand"),
        ("Disable", "Disabled", "disabled"),
        ("Automatic", "determined automatically", "automatic"),
    ):
        panel.get_by_role("button", name=name, exact=True).click()
        panel.locator("> [role=status]").get_by_text(said).first.wait_for()
        found.get_by_text(phase, exact=True).first.wait_for()
    panel.get_by_label("Reserve by hand in GiB").fill("900")
    panel.get_by_role("button", name="Activate", exact=True).click()
    panel.locator("> [role=status]").get_by_text("“reserve” is 900 GiB, and the card has").wait_for()
    panel.get_by_label("Reserve by hand in GiB").fill("")
    panel.get_by_role("button", name="Activate", exact=True).click()
    panel.locator("> [role=status]").get_by_text("Write the reserve as a number of GiB").wait_for()
    other = open_tab(open_page(comfyui.url, ignored=THEIRS))
    panel.get_by_role("button", name="Free VRAM", exact=True).click()
    other.get_by_text("VRAM is free").first.wait_for()
    panel.get_by_role("button", name="Automatic", exact=True).click()
    panel.locator("> [role=status]").get_by_text("determined automatically").wait_for()


def test_the_panel_needs_no_model_yet(tmp_path: Path, open_page: Callable[..., Page]) -> None:
    with host(tmp_path) as server:
        status, answer = server.post("giant-kitten/act", {"action": "disable"})
        assert status == 422 and "check “ignored model”" in answer["detail"]
        page = open_page(server.url)
        page.locator(".giant-kitten-tab-button").click()
        panel = page.locator(".giant-kitten")
        panel.get_by_role("button", name="Disable", exact=True).click()
        said(page).get_by_text("Disabled").wait_for()
        panel.get_by_label("Reserve by hand in GiB").fill("0.5")
        panel.get_by_role("button", name="Activate", exact=True).click()
        said(page).get_by_text("Activated: the reserve is 512.0 MiB").wait_for()


def said(page: Page) -> Locator:
    """The sentence of the panel."""
    return page.locator(".giant-kitten > [role=status]")


def test_a_server_that_is_busy_and_one_that_is_gone(tmp_path: Path, open_page: Callable[..., Page]) -> None:
    with host(tmp_path) as server:
        page = open_page(server.url, ignored="ERR_")
        page.locator(".giant-kitten-tab-button").click()
        button = page.locator(".giant-kitten").get_by_role("button", name="Free VRAM")
        # The answer never comes, as while a long prompt runs. The clock of the page is the test's.
        page.clock.install()
        page.route("**/giant-kitten/panel", lambda route: None)
        button.click()
        said(page).get_by_text("Waiting for the queue").wait_for()
        page.clock.run_for(16000)
        said(page).get_by_text("A prompt still runs. This is done right after it.").wait_for()
        server.process.kill()
        server.process.wait()
        page.clock.run_for(16000)
        said(page).get_by_text("ComfyUI does not answer. Has it ended?").wait_for()
        page.unroute("**/giant-kitten/panel")
        button.click()
        said(page).get_by_text("ComfyUI does not answer. Has it ended?").wait_for()


def test_without_the_package_the_panel_says_what_to_do(tmp_path: Path, open_page: Callable[..., Page]) -> None:
    with host(tmp_path, "--without-package") as server:
        page = open_page(server.url, ignored="404|405")
        page.locator(".giant-kitten-tab-button").click()
        said(page).get_by_text("The package giant-kitten is not in ComfyUI's Python").wait_for()
        page.locator(".giant-kitten").get_by_role("button", name="Free VRAM").click()
        said(page).get_by_text("The package giant-kitten is not in ComfyUI's Python").wait_for()


def test_free_vram_unloads_what_dynamic_vram_keeps(tmp_path: Path, open_page: Callable[..., Page]) -> None:
    with host(tmp_path, "--dynamic") as server:
        draw(server, "automatic")
        device = server.device()
        assert device["others"] == 96 << 20 and "dynamic VRAM" in device["others_are"]
        page = open_page(server.url)
        found = open_tab(page)
        found.get_by_role("rowheader", name="ComfyUI's dynamic VRAM and others").wait_for()
        page.locator(".giant-kitten").get_by_role("button", name="Free VRAM").click()
        said(page).get_by_text("ComfyUI's dynamic VRAM has unloaded its models").wait_for()
        assert server.device()["others"] == 0


def test_what_dynamic_vram_cannot_unload_is_said(tmp_path: Path) -> None:
    with host(tmp_path, "--dynamic", "--stuck") as server:
        draw(server, "automatic")
        status, answer = server.post("giant-kitten/act", {"action": "free VRAM"})
        assert status == 200 and "VRAM is free" in answer["detail"]
        assert "(HostBuffer.truncate failed): it keeps 96.0 MiB" in answer["detail"]
        assert server.device()["phase"] == "VRAM is free" and server.device()["others"] == 96 << 20


def test_beside_dynamic_vram_no_reserve_is_suggested(tmp_path: Path) -> None:
    with host(tmp_path, "--dynamic", variable="dedicated:128MiB") as server:
        for _ in range(2):
            prompt = workflow(server, "automatic")
            prompt["sample"]["inputs"]["width"] = 1 << 14
            # Moving memory by hand within a prompt would leave nothing to observe.
            prompt["sample"]["inputs"]["model"] = ["load", 0]
            send(server, {name: prompt[name] for name in ("load", "sample", "status")})
        for loaded in (True, False):
            device = server.device()
            found = device["guide"]
            assert (device["others"] > 0) == loaded
            assert found["suggested"] == 0 and not found["prefers_automatic"]
            # The one in force is half a GiB.
            assert re.search(r"overflowed by \d+.\d MiB.*--vram-headroom 0.[67],", found["text"]), found
            server.post("giant-kitten/act", {"action": "free VRAM"})


@pytest.mark.parametrize("width", [120, 240, 360])
def test_the_panel_can_be_used_where_the_splitter_is_narrow(
    comfyui: Server, open_page: Callable[..., Page], width: int
) -> None:
    draw(comfyui, "activate", reserve=0.5)
    page = open_page(comfyui.url, width=1200, ignored=THEIRS)
    open_tab(page)
    panel = page.locator(".giant-kitten")
    panel.evaluate("(found, width) => (found.style.width = `${width}px`)", width)
    for button in panel.get_by_role("button").all():
        button.scroll_into_view_if_needed()
        box = button.bounding_box()
        # A finger finds it, and none of its words is cut off.
        assert box and box["height"] >= 30 and box["width"] >= 60, button.inner_text()
        assert button.evaluate("(found) => found.scrollWidth <= found.clientWidth + 1"), button.inner_text()


@pytest.mark.parametrize("width", [1200, 360])
def test_the_panel_fits_the_side_bar(comfyui: Server, open_page: Callable[..., Page], width: int) -> None:
    draw(comfyui, "activate", reserve=0.5)
    page = open_page(comfyui.url, width, ignored=THEIRS)
    found = open_tab(page)
    found.get_by_text("seconds per iteration").wait_for()
    panel = page.locator(".giant-kitten")
    kind = "comfyui" if "CheckpointLoaderSimple" in comfyui.get("object_info") else "comfyui-host"
    if kind == "comfyui":
        open_workflow(page, workflow(comfyui, "activate", reserve=0.5))
    picture(page, kind if width > 360 else f"{kind}-narrow")
    inside, room = panel.evaluate("(found) => [found.scrollWidth, found.clientWidth]")
    assert inside <= room and contrast(page) >= 4.5


def open_workflow(page: Page, prompt: dict[str, Any]) -> None:
    """Opens a prompt in the genuine page: its own first workflow needs models that are not here."""
    page.evaluate("(prompt) => app.loadApiJson(prompt, 'a kitten')", prompt)
    page.wait_for_function("app.graph.nodes.some((node) => node.type === 'GiantKittenAction')")
    # The page draws it, and takes back what it has said about its own.
    page.wait_for_timeout(2000)


def test_wrong_values_are_answered_in_a_sentence(comfyui: Server) -> None:
    for body, said in (
        (b"no JSON", "Expected a JSON object"),
        ({"action": "dance"}, "There is no action 'dance'"),
        ({"action": "activate", "reserve": "x"}, "“reserve” must be a number"),
        ({"action": "activate", "colour": 1}, "There is no field 'colour'"),
    ):
        status, answer = comfyui.post("giant-kitten/act", body)
        assert status == 422 and said in answer["detail"], (body, answer)


def test_every_invalid_body_gets_a_sentence(comfyui: Server) -> None:
    for body in (*BAD_BODIES, b" " * (1 << 17)):
        status, answer = comfyui.post("giant-kitten/act", body)
        assert 400 <= status < 500 and answer["detail"], (body[:100], status, answer)


@pytest.mark.parametrize("route", ["act", "panel"])
def test_a_page_of_somebody_elses_cannot_act(comfyui: Server, route: str) -> None:
    comfyui.post("giant-kitten/act", {"action": "automatic"})
    for status, headers in (
        (415, {"Content-Type": "text/plain"}),
        (403, {"Origin": "https://evil.example"}),
        (403, {"Sec-Fetch-Site": "cross-site"}),
        (200, {"Origin": comfyui.url.rstrip("/")}),
    ):
        found, answer = comfyui.post(f"giant-kitten/{route}", {"action": "free VRAM", "ignored_model": True}, headers)
        # A genuine ComfyUI refuses some of these itself, in its own words.
        assert found == status and (FOLDER or answer["detail"]), headers
        assert (comfyui.device()["stats"]["phase_name"] == "freed") == (status == 200)


# This is the last test on a server. Kernels do nothing, so it leaves values in memory that count as
# steps beyond the last one.
def test_a_controlnet_belongs_to_the_model_while_it_works(comfyui: Server) -> None:
    if "ControlNetLoader" not in comfyui.get("object_info"):
        pytest.skip("the host page has no ControlNet")
    draw(comfyui, "automatic")
    marked = comfyui.device()["map"]["bytes"]
    prompt = workflow(comfyui, "automatic")
    hint = {"image": ["decode", 0], "strength": 1.0, "conditioning": ["wanted", 0], "control_net": ["control", 0]}
    first = {**prompt["sample"]["inputs"], "seed": 1, "steps": 1}
    prompt |= {
        "control": {"class_type": "ControlNetLoader", "inputs": {"control_net_name": "control_zero.safetensors"}},
        "first": {"class_type": "KSampler", "inputs": first},
        "decode": {"class_type": "VAEDecode", "inputs": {"samples": ["first", 0], "vae": ["load", 2]}},
        "controlled": {"class_type": "ControlNetApply", "inputs": hint},
        "again": {"class_type": "VAEDecode", "inputs": {"samples": ["sample", 0], "vae": ["load", 2]}},
    }
    prompt["sample"]["inputs"]["positive"] = ["controlled", 0]
    prompt["save"]["inputs"]["images"] = prompt["status"]["inputs"]["after"] = ["again", 0]
    send(comfyui, prompt)
    found = comfyui.device()["map"]["bytes"]
    size = models.size(models.controlnet(models.header(Path(CHECKPOINT))))
    more = sum(found[tier]["model"] - marked[tier]["model"] for tier in ("dedicated", "shared"))
    # The sizes of blocks are rounded up.
    assert size <= more < size + (8 << 20)


def test_too_late_is_reported_in_one_sentence(tmp_path: Path, open_page: Callable[..., Page]) -> None:
    # Without the prestartup script, which waits for torch, nothing is early enough.
    with host_without_prestartup(tmp_path) as server:
        page = open_page(server.url)
        page.locator(".giant-kitten-tab-button").click()
        page.locator("giant-kitten-map").get_by_text("giant-kitten came too late").wait_for()
        page.locator(".giant-kitten").get_by_role("button", name="Free VRAM").click()
        page.locator(".giant-kitten").locator("> [role=status]").get_by_text("came too late").wait_for()
        assert "came too late" in draw(server, "activate")


def host_without_prestartup(folder: Path) -> Any:
    port = free_port()
    package = folder / "package"
    shutil.copytree(HERE.parent.parent / "webui" / "comfyui", package)
    (package / "prestartup_script.py").write_text("")
    line = [sys.executable, str(HERE / "comfyui_host.py"), str(package), "--port", str(port), "--late"]
    return serving(line, f"http://127.0.0.1:{port}/", "To see the GUI go to", folder / "log", folder, GIANT_KITTEN="")
