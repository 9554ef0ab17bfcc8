"""The genuine AUTOMATIC1111 or Forge, if a checkout is given: installed into, driven, restored.

    export GIANT_KITTEN_WEBUI=/path/to/stable-diffusion-webui
    export GIANT_KITTEN_WEBUI_CHECKPOINT=/path/to/sd15.safetensors
    scripts/webui-test tests/webui/test_genuine.py

The folder needs an environment (`venv`) and its repositories, as after its own first start, and the
checkpoint needs the shapes of Stable Diffusion 1.5. Other models are created here. Also:

    GIANT_KITTEN_WEBUI_RIG         the release of the rig with the fake libraries for its PyTorch,
                                   with a card of 4 GiB that finishes work late; not set with a GPU
    GIANT_KITTEN_WEBUI_ARGS        more arguments for its launch.py, such as "--opt-sdp-attention"
    GIANT_KITTEN_WEBUI_PYTHONPATH  more folders of its packages, in addition to its environment
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import models
import pytest
import torch
from conftest import Server, contrast, free_port, picture, serving
from giant_kitten.webui.extensions.kinds import find
from playwright.sync_api import Page

FOLDER = os.environ.get("GIANT_KITTEN_WEBUI", "")
CHECKPOINT = Path(os.environ.get("GIANT_KITTEN_WEBUI_CHECKPOINT", ""))
WATCHER = Path(__file__).with_name("watcher.py")
MIB = 1 << 20

pytestmark = pytest.mark.skipif(
    not (FOLDER and CHECKPOINT.is_file()),
    reason="GIANT_KITTEN_WEBUI and GIANT_KITTEN_WEBUI_CHECKPOINT name no genuine WebUI with a checkpoint",
)

CARD = """
name = "a card of 4 GiB"
dedicated = "4 GiB"
shared = "16 GiB"
vram_bandwidth = 360e9
link_to_device = 13e9
link_to_host = 13e9
fp16_rate = 25e12
in_place_reread = 1.0
"""


def command(action: str) -> None:
    subprocess.run([sys.executable, "-m", "giant_kitten", "webui", action, FOLDER], check=True)


def traces() -> list[str]:
    """All files of ours in the folder and in its Python."""
    webui = find(FOLDER)
    places = [webui.folder / webui.kind.extensions, *webui.python().parent.parent.glob("lib/python*/site-packages")]
    found = [str(path) for place in places for path in place.glob("giant-kitten*")]
    settings = webui.folder / "config.json"
    if settings.exists():
        found += [key for key in json.loads(settings.read_text()) if "giant_kitten" in key]
    described = webui.folder / "params.txt"
    if described.exists():
        found += re.findall("Giant kitten.*", described.read_text())
    controls = webui.folder / "ui-config.json"
    if controls.exists():
        found += [key for key in json.loads(controls.read_text()) if "GK:" in key or "giant" in key.lower()]
    return found


@contextlib.contextmanager
def started(folder: Path) -> Iterator[Server]:
    """Starts the WebUI and waits until it answers."""
    port, webui = free_port(), find(FOLDER)
    variables = {"GIANT_KITTEN": "", "IGNORE_CMD_ARGS_ERRORS": "1"}
    # It uses its own packages, and only the fake libraries of the rig.
    variables["PYTHONPATH"] = os.environ.get("GIANT_KITTEN_WEBUI_PYTHONPATH", "")
    rig = os.environ.get("GIANT_KITTEN_WEBUI_RIG")
    if rig:
        cache = Path(os.environ.get("GIANT_KITTEN_RIG", Path.home() / ".cache" / "giant-kitten-rig"))
        variables["LD_LIBRARY_PATH"] = str(cache / rig / "fake")
        (folder / "card.toml").write_text(CARD)
        variables["FAKE_CUDA_PROFILE"] = str(folder / "card.toml")
        variables["FAKE_CUDA_FAULTS"] = str(folder / "faults")
        variables["FAKE_CUDA_COMPLETION"] = "late"
    line = [
        str(webui.python()), str(webui.folder / "launch.py"), "--skip-prepare-environment", "--skip-torch-cuda-test",
        "--api", "--api-server-stop", "--ckpt-dir", str(folder / "checkpoints"), "--lora-dir", str(folder / "lora"),
        "--controlnet-dir", str(folder / "controlnet"),
        "--disable-nan-check", "--no-download-sd-model", "--no-hashing", "--port", str(port),
        *os.environ.get("GIANT_KITTEN_WEBUI_ARGS", "").split(),
    ]  # fmt: skip
    address, log = f"http://127.0.0.1:{port}/", folder / "log"
    # Users would end it like this. Forge never ends by itself.
    ends = webui.kind.name != "Forge"
    with serving(line, address, "Startup time", log, webui.folder, **variables) as found:
        # This waits for the first checkpoint. AUTOMATIC1111 cannot load another one at the same
        # time.
        generate(found)
        assert found.post("sdapi/v1/options", {"sd_model_checkpoint": "one.safetensors"})[0] == 200
        yield found
        if ends:
            stop(found)
    assert not rig or (folder / "faults").read_text() == ""


@contextlib.contextmanager
def extension(name: str, file: str, text: str) -> Iterator[None]:
    """Another extension in the WebUI, of one file."""
    webui = find(FOLDER)
    made = webui.folder / webui.kind.extensions / name
    try:
        (made / file).parent.mkdir(parents=True)
        (made / file).write_text(text)
        yield
    finally:
        shutil.rmtree(made)


@contextlib.contextmanager
def installed(folder: Path) -> Iterator[None]:
    """Installs the extension by the command only, and removes it; the settings stay the same."""
    make_models(folder)
    settings = find(FOLDER).folder / "config.json"
    before = settings.read_bytes() if settings.exists() else None
    command("install")
    try:
        yield
    finally:
        command("remove")
        found = traces()
        if before is not None:
            settings.write_bytes(before)
    assert found == []


@pytest.fixture(scope="module")
def genuine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("genuine")
    with installed(folder), extension("watcher", "scripts/watcher.py", WATCHER.read_text()), started(folder) as found:
        yield found


def stop(server: Server) -> None:
    request = urllib.request.Request(server.url + "sdapi/v1/server-stop", b"", method="POST")
    with urllib.request.urlopen(request, timeout=30):
        pass
    server.process.wait(60)


def make_models(folder: Path) -> None:
    """Two checkpoints, a LoRA, a ControlNet."""
    for name in ("checkpoints", "lora", "controlnet"):
        (folder / name).mkdir()
    (folder / "checkpoints" / "one.safetensors").symlink_to(CHECKPOINT.resolve())
    shapes = models.header(CHECKPOINT)
    models.write(folder / "checkpoints" / "two.safetensors", shapes)
    models.write(folder / "lora" / "little.safetensors", models.lora())
    models.write(folder / "controlnet" / "control_zero.safetensors", models.controlnet(shapes))


def generate(server: Server, **body: Any) -> tuple[list[Any], str]:
    """The pictures of a generation, and their description."""
    wanted = {"prompt": "a kitten", "width": 512, "height": 512, "steps": 3, **body}
    status, answer = server.post("sdapi/v1/txt2img", wanted)
    assert status == 200, answer
    return answer["images"], json.loads(answer["info"])["infotexts"][0]


# This is the first test, because there is only memory for one WebUI at a time.
def test_an_early_start_of_cuda_is_reported_in_one_sentence(tmp_path: Path, open_page: Callable[..., Page]) -> None:
    webui = find(FOLDER)
    early = "import torch\n\n\ndef preload(parser):\n    torch.zeros(1, device='cuda')\n"
    with installed(tmp_path):
        # As if the folder had been copied by hand, next to an extension that uses the GPU in its
        # preload.
        for file in webui.python().parent.parent.glob("lib/python*/site-packages/giant-kitten*.pth"):
            file.unlink()
        with extension("a-program-that-comes-early", "preload.py", early), started(tmp_path) as server:
            assert "giant-kitten came too late" in server.get("giant-kitten/state")["problem"]
            status, answer = server.post("giant-kitten/v1/act", {"action": "activate"})
            assert status == 422 and "GIANT_KITTEN=1" in answer["detail"]
            values = [2, 0.5, 0, False, False, False]
            images, said = generate(server, script_name="Giant kitten", script_args=values)
            assert images == [] and "giant-kitten came too late" in said
            assert len(generate(server)[0]) == 1
            page = open_page(server.url, ignored=THEIRS)
            shown(page)
            page.locator("#tab_txt2img").get_by_text("Giant kitten: memory").first.click()
            found = page.locator("#tab_txt2img giant-kitten-map")
            found.get_by_text("giant-kitten came too late").wait_for(timeout=30000)
            picture(page, f"{webui.kind.name.lower()}-too-late")
            page.locator("#tab_txt2img [id*=giant_kitten_memory_free]").first.click()
            told = page.locator("#tab_txt2img [id*=giant_kitten_memory_said]").first
            told.get_by_text("giant-kitten came too late").wait_for()
            page.close()


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


MODES = ({"action": "automatic"}, {"action": "activate", "reserve": 0.5})


@pytest.fixture(params=MODES, ids=("automatic", "by hand"))
def placed(genuine: Server, request: pytest.FixtureRequest) -> Iterator[Server]:
    """The server in each mode; at the end, the model must be dedicated while it works."""
    assert genuine.post("giant-kitten/v1/act", request.param)[0] == 200
    assert genuine.device()["stats"]["out_of_memory"] == 0
    yield genuine
    _, _, seen = look_on(genuine, steps=20)
    assert any(map(is_all_dedicated, seen)), seen[-1]["map"]["bytes"]
    stats = genuine.device()["stats"]
    assert stats["out_of_memory"] == 0 and stats["automatic"] == (request.param is MODES[0])


def look_on(server: Server, **body: Any) -> tuple[list[Any], str, list[Any]]:
    """Generates, and looks at the device repeatedly during the steps."""

    def looks() -> Iterator[Any]:
        until, began = time.monotonic() + 120, False
        while time.monotonic() < until:
            state = server.get("giant-kitten/state")
            running = state["work"]["running"] and state["work"]["iterations"] > 1
            if running:
                yield state["devices"][0]
            elif began:
                return
            began = began or running
            time.sleep(0.02)

    with ThreadPoolExecutor() as pool:
        seen = pool.submit(lambda: list(looks()))
        return (*generate(server, **body), seen.result())


def is_all_dedicated(device: Any, *beside: int) -> bool:
    """Whether only the UNet of one checkpoint is marked as the model, and is dedicated.

    `beside` are the bytes of what is marked with it; by default of nothing, or of a ControlNet that
    is still loaded. So many bytes may be shared, because the card is too small for both and for the
    other memory of a generation.
    """
    kinds = device["map"]["bytes"]
    near, far = kinds["dedicated"]["model"], kinds["shared"]["model"]
    # The sizes of blocks are rounded up.
    known = [size for size in beside or (0, controlnet_size()) if 0 <= near + far - unet_size() - size < 8 * MIB]
    return bool(known and far < max(known[0], 4 * MIB))


def unet_size() -> int:
    shapes = models.header(CHECKPOINT)
    return models.size({name: shape for name, shape in shapes.items() if name.startswith(models.UNET)})


def controlnet_size() -> int:
    return models.size(models.controlnet(models.header(CHECKPOINT)))


def test_a_switch_of_checkpoints_is_placed_at_once(placed: Server) -> None:
    for name in ("two", "one", "two"):
        images, said = generate(placed, override_settings={"sd_model_checkpoint": f"{name}.safetensors"})
        assert len(images) == 1 and f"Model: {name}" in said
        assert is_all_dedicated(placed.device()), "the new checkpoint is placed within its first generation"


def test_a_refiner_is_placed_within_the_generation(placed: Server) -> None:
    for _ in range(2):
        wanted = {"refiner_checkpoint": "two.safetensors", "refiner_switch_at": 0.5, "steps": 6}
        images, said = generate(placed, **wanted, override_settings=by_steps(placed))
        assert len(images) == 1 and "Refiner: two" in said
        assert is_all_dedicated(placed.device())
    assert "Model: one" in generate(placed)[1]


def by_steps(server: Server) -> dict[str, bool]:
    """The setting with which a refiner takes over after a part of the steps, where there is one.

    Without it, later versions of AUTOMATIC1111 compute the time on the GPU, and kernels do nothing.
    """
    name = "refiner_switch_by_sample_steps"
    return {name: True} if name in server.get("sdapi/v1/options") else {}


def test_a_lora(placed: Server) -> None:
    for prompt in ("a kitten <lora:little:0.7>", "a kitten <lora:little:1>", "a kitten"):
        assert len(generate(placed, prompt=prompt)[0]) == 1
        assert is_all_dedicated(placed.device())
    assert "Couldn't find Lora" not in placed.printed()


def test_a_controlnet(placed: Server) -> None:
    try:
        known = placed.get("controlnet/model_list")["model_list"]
    except urllib.error.HTTPError:
        pytest.skip("this WebUI has no ControlNet: it is an extension of its own in AUTOMATIC1111")
    unit = {"enabled": True, "module": "none" if "none" in modules(placed) else "None", "weight": 1.0}
    unit["model"] = next(name for name in known if name.startswith("control_zero"))
    # The name of the picture in its API depends on the version.
    unit["image"] = generate(placed)[0][0]
    for _ in range(2):
        images, said, seen = look_on(placed, steps=20, alwayson_scripts={"controlnet": {"args": [unit]}})
        assert images and "control_zero" in said
        # It is part of the model while it runs with it.
        assert any(is_all_dedicated(device, controlnet_size()) for device in seen), seen[-1]["map"]["bytes"]
    assert len(generate(placed)[0]) == 1


def modules(server: Server) -> list[str]:
    return list(server.get("controlnet/module_list")["module_list"])


def test_batches_hires_fix_and_image_to_image(placed: Server) -> None:
    assert len(generate(placed, batch_size=2, n_iter=2)[0]) >= 4
    hires = {"enable_hr": True, "hr_scale": 1.5, "denoising_strength": 0.5, "hr_upscaler": "Latent"}
    # Without the last one, Forge's API fails on any allocator; AUTOMATIC1111's does not know it.
    assert len(generate(placed, **hires, hr_additional_modules=[])[0]) == 1
    image = generate(placed)[0][0]
    body = {"init_images": [image], "denoising_strength": 0.5, "steps": 4, "width": 512, "height": 512}
    assert placed.post("sdapi/v1/img2img", body)[0] == 200


def test_image_to_image_takes_the_script_too(genuine: Server) -> None:
    body = {"init_images": [generate(genuine)[0][0]], "denoising_strength": 0.5, "steps": 4}
    for no_abort in (False, True):
        values = [2, 0.5, 0, no_abort, False, False]
        asked = {**body, "width": 512, "height": 512, "script_name": "Giant kitten", "script_args": values}
        status, answer = genuine.post("sdapi/v1/img2img", asked)
        assert status == 200 and bool(answer["images"]) == no_abort


def test_an_interrupted_generation_ends_and_the_next_is_whole(genuine: Server) -> None:
    answers: list[Any] = []
    running = threading.Thread(target=lambda: answers.append(generate(genuine, steps=150)))
    running.start()
    until = time.monotonic() + 60
    while not (work := genuine.get("giant-kitten/state")["work"])["running"] or work["iterations"] < 2:
        assert time.monotonic() < until
        time.sleep(0.05)
    urllib.request.urlopen(urllib.request.Request(genuine.url + "sdapi/v1/interrupt", b"", method="POST")).close()
    running.join(60)
    work = genuine.get("giant-kitten/state")["work"]
    assert answers and not work["running"] and work["iterations"] < 150
    assert len(generate(genuine)[0]) == 1 and genuine.get("giant-kitten/state")["work"]["iterations"] == 3


def test_memory_that_a_large_picture_evicted_returns_before_the_next(genuine: Server) -> None:
    assert genuine.post("giant-kitten/v1/act", {"action": "automatic"})[0] == 200
    generate(genuine)
    # The decoder needs more than the card.
    assert len(generate(genuine, width=1536, height=1536)[0]) == 1
    stats = genuine.device()["stats"]
    assert stats["fell_to_shared"] > 0 and stats["out_of_memory"] == 0
    # The size is new too, so nothing is known about its needs.
    generate(genuine, width=576, height=512)
    assert is_all_dedicated(genuine.device()), genuine.device()["map"]["bytes"]


def test_its_own_attention_stays_on_the_card(genuine: Server) -> None:
    """The attention needs 24 GiB for this size, or works in slices of the reported free memory."""
    assert genuine.post("giant-kitten/v1/act", {"action": "automatic"})[0] == 200
    generate(genuine)
    before = genuine.device()["stats"]
    generate(genuine, width=1024, height=1024)
    after = genuine.device()["stats"]
    # The reserve for the decoder at the size before may be too small for this one.
    assert after["fell_to_shared_bytes"] - before["fell_to_shared_bytes"] < 2048 * MIB and after["out_of_memory"] == 0


ACTIONS = (
    {"action": "automatic"},
    {"action": "activate", "reserve": 0.5},
    {"action": "free VRAM"},
    {"action": "disable"},
)


@pytest.fixture(params=("Full", "Approx NN", "TAESD"))
def previews(genuine: Server, request: pytest.FixtureRequest) -> Iterator[Server]:
    """The server with live previews of each kind, at every step."""
    with decoder_of_previews():
        set_previews(genuine, request.param, every=1)
        yield genuine
        set_previews(genuine, "Approx NN", every=10)


def set_previews(server: Server, kind: str, every: int) -> None:
    wanted = {"live_previews_enable": True, "show_progress_every_n_steps": every, "show_progress_type": kind}
    assert server.post("sdapi/v1/options", wanted)[0] == 200


@contextlib.contextmanager
def decoder_of_previews() -> Iterator[None]:
    """TAESD's decoder, which the WebUI would download; its weights are zeros."""
    file = find(FOLDER).folder / "models" / "VAE-taesd" / "taesd_decoder.pth"
    if file.exists():
        yield
        return
    file.parent.mkdir(exist_ok=True)
    weights = {name: torch.zeros(shape) for name, shape in models.taesd().items()}
    # AUTOMATIC1111 refuses the files inside the archives of newer releases of PyTorch.
    torch.save(weights, file, _use_new_zipfile_serialization=False)
    try:
        yield
    finally:
        file.unlink()
        with contextlib.suppress(OSError):
            file.parent.rmdir()


def test_live_previews_from_several_tabs_run_beside_generations_and_actions(previews: Server) -> None:
    assert previews.post("giant-kitten/v1/act", ACTIONS[0])[0] == 200
    before, moved, over = exceptions(previews), previews.device()["stats"]["migrations"], threading.Event()

    def tab() -> int:
        seen = 0
        while not over.is_set():
            seen += previews.get("sdapi/v1/progress")["current_image"] is not None
        return seen

    def act() -> list[int]:
        """Each action waits for the generation that runs."""
        answers: list[int] = []
        while not over.is_set():
            answers.append(previews.post("giant-kitten/v1/act", ACTIONS[len(answers) % len(ACTIONS)])[0])
        return answers

    with ThreadPoolExecutor() as pool:
        tabs, acting = [pool.submit(tab) for _ in range(4)], pool.submit(act)
        try:
            for side in (512, 768, 512, 640, 512, 768):
                assert len(generate(previews, steps=20, width=side)[0]) == 1
        finally:
            over.set()
    assert all(tab.result() > 10 for tab in tabs) and set(acting.result()) == {200}
    assert exceptions(previews) == before, "a preview has failed"
    watched = previews.get("watcher")
    assert watched["previews"] > 50 and watched["actions"] > 5 and watched["overlaps"] == []
    stats = previews.device()["stats"]
    assert stats["out_of_memory"] == 0 and stats["migrations"] > moved
    if "GIANT_KITTEN_WEBUI_RIG" in os.environ:
        assert (previews.log.parent / "faults").read_text() == ""


def exceptions(server: Server) -> Any:
    """The errors that the WebUI has noted; it does not print those of previews."""
    return server.get("internal/sysinfo")["Exceptions"]


def test_each_of_the_originals_options_has_its_effect(genuine: Server) -> None:
    def act(*values: Any) -> Any:
        images, _ = generate(genuine, script_name="Giant kitten", script_args=list(values))
        assert images == []
        return genuine.device()["stats"]

    stats = act(2, 2.5, 0, False, False, False)
    assert stats["phase_name"] == "active" and stats["automatic"] == 0 and stats["reserve"] == 2560 * MIB
    first = genuine.device()["map"]["bytes"]["dedicated"]
    act(2, 2.5, 0, False, False, True)
    kinds = genuine.device()["map"]["bytes"]
    assert kinds["dedicated"]["other"] > 64 * MIB, "all tensors are equal"
    # Small tensors share granules with those of the UNet, and move with them.
    assert first["model"] > kinds["dedicated"]["model"] and first["other"] < 32 * MIB, "the UNet goes first"
    small_first = genuine.device()["stats"]["shared_allocated"]
    act(2, 2.5, 0, False, True, True)
    assert genuine.device()["map"]["bytes"]["shared"] != kinds["shared"] and small_first > 0
    assert act(2, 0, 1.0, False, False, False)["persist"] == 1024 * MIB
    assert act(0, 0, 0, False, True, True)["persist"] == 0
    stats = act(1, 0, 0, False, False, False)
    assert stats["phase_name"] == "freed" and stats["dedicated_allocated"] == 0
    assert act(0, 0, 0, False, False, False)["shared_allocated"] == 0


def test_two_tabs_of_the_page(genuine: Server, open_page: Callable[..., Page]) -> None:
    assert genuine.post("giant-kitten/v1/act", {"action": "automatic"})[0] == 200
    one = open_page(genuine.url, ignored=THEIRS)
    other = open_panel(open_page(genuine.url, ignored=THEIRS))
    open_panel(one)
    one.wait_for_timeout(3000)
    one.locator("#tab_txt2img [id*=giant_kitten_memory_free]").first.click()
    other.get_by_text("VRAM is free").first.wait_for()
    one.locator("#tab_txt2img [id*=giant_kitten_memory_disable]").first.click()
    other.get_by_text("disabled", exact=True).wait_for()


# Files that its own page cannot load here, and messages of gradio 4.40.
THEIRS = r"Element is not in the DOM|ERR_NAME_NOT_RESOLVED|404|webui-assets"


def shown(page: Page) -> None:
    """Waits for the page: megabytes of script, from a server that may be busy."""
    page.locator("#txt2img_generate").wait_for(timeout=60000)


def open_panel(page: Page) -> Any:
    shown(page)
    page.locator("#tab_txt2img").get_by_text("Giant kitten: memory").first.click()
    found = page.locator("#tab_txt2img giant-kitten-map")
    found.get_by_role("region").wait_for(timeout=30000)
    return found


def choose_script(page: Page) -> None:
    page.locator("#tab_txt2img #script_list input").first.click()
    page.locator("ul.options li", has_text=re.compile("^ *✓? *Giant kitten *$")).first.click()


def from_the_script_on(page: Page) -> dict[str, float]:
    """The menu of scripts on the page, and the controls of the chosen one."""
    found: dict[str, float] = page.evaluate(
        """() => {
            const [all, from] = ["#txt2img_script_container", "#tab_txt2img #script_list"].map(
                (where) => document.querySelector(where).getBoundingClientRect());
            return {x: all.x, y: from.y + scrollY, width: all.width, height: all.bottom - from.y};
        }"""
    )
    return found


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_pictures_of_the_page(genuine: Server, open_page: Callable[..., Page], theme: str) -> None:
    """Takes the pictures of the docs after generations that exceed the card, once settled."""
    assert genuine.post("giant-kitten/v1/act", {"action": "automatic"})[0] == 200
    for _ in range(3):
        generate(genuine, width=1536, height=1536)
    name = find(FOLDER).kind.name.lower()
    for width, end in ((1100, theme), (360, f"{theme}-narrow")):
        page = open_page(f"{genuine.url}?__theme={theme}", width, theme, ignored=THEIRS)
        found = open_panel(page)
        found.get_by_text("seconds per iteration").wait_for()
        box = found.bounding_box()
        assert box and box["width"] <= width and contrast(page) >= 4.5
        picture(page, f"{name}-{end}")
        choose_script(page)
        page.locator("#tab_txt2img").get_by_text("GK: persist").wait_for()
        picture(page, f"{name}-script-{end}", clip=from_the_script_on(page))
        page.locator("#tabs > .tab-nav button", has_text="Settings").first.click()
        page.locator("#settings button", has_text="Giant kitten").first.click()
        page.locator("#setting_giant_kitten_mode").wait_for()
        picture(page, f"{name}-settings-{end}")
        page.close()


def test_the_page_and_a_reload_of_the_ui(genuine: Server, open_page: Callable[..., Page]) -> None:
    assert genuine.post("giant-kitten/v1/act", {"action": "activate", "reserve": 0.5})[0] == 200
    page = open_page(genuine.url, height=1000, ignored=THEIRS)
    found = open_panel(page)
    found.get_by_text("Reserve 512.0 MiB (given).").wait_for()
    choose_script(page)
    page.locator("#tab_txt2img").get_by_text("GK: free VRAM").first.click()
    page.locator("#txt2img_generate").click()
    page.locator("#html_info_txt2img").first.get_by_text("VRAM is free").wait_for(timeout=60000)
    found.get_by_text("VRAM is free").first.wait_for()
    for name, said in (("disable", "Disabled"), ("apply", "Activated")):
        page.locator(f"#tab_txt2img [id*=giant_kitten_memory_{name}]").first.click()
        page.locator("#tab_txt2img [id*=giant_kitten_memory_said]").first.get_by_text(said).wait_for()
    assert genuine.post("giant-kitten/v1/act", {"action": "activate", "persist": 0.5})[0] == 200
    starts = genuine.printed().count("Startup time")
    # The page and gradio continue to ask while the server is away; gradio's errors do not count.
    page.close()
    page = open_page(genuine.url, ignored=".")
    shown(page)
    # Its buttons have no effect before gradio has bound them.
    page.wait_for_timeout(3000)
    page.get_by_text("Reload UI").last.click()
    for _ in range(360):
        if genuine.printed().count("Startup time") > starts:
            break
        page.wait_for_timeout(500)
    assert genuine.printed().count("Startup time") > starts, "the UI did not start again"
    # The page returns by itself. It must not be closed meanwhile, because its server would wait for
    # it forever at its end.
    shown(page)
    page.wait_for_load_state("load")
    stats = genuine.device()["stats"]
    assert (stats["automatic"], stats["persist"]) == (1, 0), "unloading the script restores everything"
    open_panel(open_page(genuine.url, ignored=THEIRS))
    # The model is still the same, with the attention that it was given.
    assert len(generate(genuine, width=1536, height=1536)[0]) == 1
