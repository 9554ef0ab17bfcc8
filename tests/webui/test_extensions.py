"""`python -m giant_kitten webui install|remove`: into the folders of WebUIs, and out again without a trace."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest
from giant_kitten.webui import extensions
from giant_kitten.webui.extensions import MARK, NAME, Refused, find, install, remove

FOLDERS = {
    "AUTOMATIC1111": ("webui.py", "modules/x.py", "extensions/x"),
    "Forge": ("webui.py", "modules/x.py", "modules_forge/x.py", "extensions/x"),
    "ComfyUI": ("main.py", "comfy/x.py", "custom_nodes/x"),
}


def make(folder: Path, kind: str) -> Path:
    for name in FOLDERS[kind]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("")
    return folder


def tree(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


@pytest.fixture
def webui(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A WebUI with an environment of its own."""
    folder = make(tmp_path / "webui", request.param)
    venv.create(folder / "venv", with_pip=False)
    return folder


@pytest.mark.parametrize("webui", FOLDERS, indirect=True)
def test_in_and_out_leaves_no_trace(webui: Path) -> None:
    (webui / "config.json").write_text(json.dumps({"a": 1, "ü": [2]}, indent=4, ensure_ascii=False))
    described = "ein Kätzchen\nSteps: 20, Size: 512x512, {}Version: v1.7.0"
    (webui / "params.txt").write_text(described.format(""))
    before = tree(webui)
    done = install(webui)
    extension = find(webui).extension
    assert (extension / MARK).exists() and (extension / "package" / "giant_kitten" / "map.js").exists()
    assert any("start" in line for line in done)
    # A second time is as the first.
    assert install(webui)[1:] == done
    assert (extension / "package" / "giant_kitten" / "map.js").exists()
    settings = json.loads((webui / "config.json").read_text())
    settings["giant_kitten_mode"] = "by hand"
    note = "Giant kitten: automatic; reserve 1.42 GiB; 1.00 GiB in shared memory, "
    (webui / "params.txt").write_text(described.format(note))
    (webui / "config.json").write_text(json.dumps(settings, indent=4, ensure_ascii=False))
    remove(webui)
    assert tree(webui) == before
    with pytest.raises(Refused, match="nothing is to be removed"):
        remove(webui)


def python(folder: Path, where: Path, *arguments: str, **variables: str) -> str:
    """Runs the WebUI's own Python."""
    kept = {name: value for name, value in os.environ.items() if name not in ("GIANT_KITTEN", "PYTHONPATH")}
    command = [str(folder / "venv" / "bin" / "python"), *arguments]
    done = subprocess.run(command, cwd=where, env={**kept, **variables}, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return done.stdout.strip()


SEEN = "import sys; print('giant_kitten._startup' in sys.modules)"


@pytest.mark.parametrize("webui", ["Forge"], indirect=True)
def test_the_allocator_comes_early_in_this_webui_and_nowhere_else(webui: Path, tmp_path: Path) -> None:
    program = webui / "launch.py"
    program.write_text(SEEN)
    elsewhere = tmp_path / "other.py"
    elsewhere.write_text(SEEN)
    assert python(webui, webui, "launch.py") == "False"
    install(webui)
    assert python(webui, webui, "launch.py") == "True"
    assert python(webui, webui, "-u", "launch.py", "--api") == "True"
    assert python(webui, tmp_path, str(program)) == "True"
    assert python(webui, tmp_path, str(elsewhere)) == "False"
    assert python(webui, webui, "launch.py", GIANT_KITTEN="0") == "False"
    shutil.rmtree(find(webui).extension)
    assert python(webui, webui, "launch.py") == "False", "removed by hand, it is silent"
    install(webui)
    remove(webui)
    assert python(webui, webui, "launch.py") == "False"


@pytest.mark.parametrize("webui", ["AUTOMATIC1111"], indirect=True)
def test_what_somebody_else_put_there_is_left_alone(webui: Path) -> None:
    there = webui / "extensions" / NAME
    there.mkdir()
    (there / "file").write_text("mine")
    for action in (install, remove):
        with pytest.raises(Refused):
            action(webui)
    assert (there / "file").read_text() == "mine"


@pytest.mark.parametrize("webui", ["AUTOMATIC1111"], indirect=True)
def test_only_our_own_file_is_removed_whatever_the_mark_says(webui: Path, tmp_path: Path) -> None:
    install(webui)
    precious = tmp_path / "precious"
    precious.write_text("")
    mark = find(webui).extension / MARK
    mark.write_text(json.dumps({"written": [str(precious)]}))
    remove(webui)
    assert precious.exists()


def test_what_is_no_webui_is_said_to_be_none(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="is not a folder"):
        find(tmp_path / "nowhere")
    with pytest.raises(Refused, match="neither"):
        find(tmp_path)
    make(tmp_path / "stable-diffusion-webui", "AUTOMATIC1111")
    with pytest.raises(Refused, match="its folder stable-diffusion-webui is one"):
        find(tmp_path)
    for kind in FOLDERS:
        assert find(make(tmp_path / kind, kind)).kind.name == kind


def test_a_webui_without_an_environment_of_its_own_uses_this_one(tmp_path: Path) -> None:
    assert find(make(tmp_path, "ComfyUI")).python() == Path(sys.executable)


def test_the_command_says_what_it_did(tmp_path: Path) -> None:
    make(tmp_path, "ComfyUI")
    command = [sys.executable, "-m", "giant_kitten", "webui"]
    for action, said in (("install", "put the extension into"), ("remove", "removed")):
        done = subprocess.run([*command, action, str(tmp_path)], capture_output=True, text=True, check=True)
        assert said in done.stdout and done.stderr == ""
    done = subprocess.run([*command, "remove", str(tmp_path)], capture_output=True, text=True, check=False)
    assert (
        done.returncode == 1 and done.stderr.startswith("giant-kitten: there is no ") and "Traceback" not in done.stderr
    )


def test_the_package_has_the_extensions_with_it() -> None:
    for kind in extensions.KINDS:
        assert (Path(extensions.__file__).parent / "folders" / kind.source).is_dir()
