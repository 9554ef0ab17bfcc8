"""`giant-kitten webui install|remove|status` on folders of WebUIs, without a trace."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import subprocess
import sys
import venv
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import ON_WINDOWS, no_links, not_on_windows, only_on_windows
from giant_kitten.webui.actions import Refused
from giant_kitten.webui.extensions import kinds, pth
from giant_kitten.webui.extensions.commands import install, remove, status
from giant_kitten.webui.extensions.files import is_link
from giant_kitten.webui.extensions.folder import MARK
from giant_kitten.webui.extensions.kinds import NAME, find

FOLDERS = {
    "AUTOMATIC1111": ("webui.py", "modules/x.py", "extensions/x"),
    "Forge": ("webui.py", "modules/x.py", "modules_forge/x.py", "extensions/x"),
    "ComfyUI": ("main.py", "comfy/x.py", "custom_nodes/x"),
}
# Where the module venv puts the program and the packages.
PROGRAM = "Scripts/python.exe" if ON_WINDOWS else "bin/python"
SITE = "Lib/site-packages" if ON_WINDOWS else "lib/*/site-packages"
# The data of ComfyUI Desktop, whose Python is in .venv.
DESKTOP = ("custom_nodes/x", "models/x", "user/x")


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
    (webui / "config.json").write_text(json.dumps({"a": 1, "ü": [2]}, indent=4, ensure_ascii=False), "utf-8")
    described = "ein Kätzchen\nSteps: 20{0}, Size: 512x512, Version: v1.7.0{0}\n"
    # In text mode, as the WebUIs do: on Windows lines end as they do there.
    (webui / "params.txt").write_text(described.format(""), "utf-8")
    before = tree(webui)
    done = install(webui)
    extension = find(webui).extension
    assert (extension / MARK).exists() and (extension / "package" / "giant_kitten" / "map.js").exists()
    assert any("start" in line for line in done)
    # The second time is like the first.
    assert install(webui)[1:] == done
    assert (extension / "package" / "giant_kitten" / "map.js").exists()
    settings = json.loads((webui / "config.json").read_text("utf-8"))
    settings["giant_kitten_mode"] = "by hand"
    note = ", Giant kitten: automatic; reserve 1.42 GiB; 1.00 GiB in shared memory"
    (webui / "params.txt").write_text(described.format(note), "utf-8")
    (webui / "config.json").write_text(json.dumps(settings, indent=4, ensure_ascii=False), "utf-8")
    remove(webui)
    assert tree(webui) == before
    with pytest.raises(Refused, match="there is nothing to remove"):
        remove(webui)


def test_the_folder_of_comfyui_desktop(tmp_path: Path) -> None:
    folder = tmp_path / "ComfyUI"
    for name in DESKTOP:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("")
    venv.create(folder / ".venv", with_pip=False)
    before = tree(folder)
    assert find(folder).kind.name == "ComfyUI Desktop"
    assert any("start ComfyUI Desktop as usual" in line for line in install(folder))
    assert (folder / "custom_nodes" / NAME / "prestartup_script.py").exists()
    remove(folder)
    assert tree(folder) == before


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (("webui.py", "installer.py", "modules/x.py"), "is SD.Next: its pages and its queue differ"),
        (
            ("main.py", "comfy/x.py", "../app.asar"),
            "is the program of ComfyUI Desktop: .* give the folder that you chose",
        ),
    ],
)
def test_programs_that_are_known_and_not_supported_are_named(tmp_path: Path, files: tuple[str, ...], said: str) -> None:
    folder = tmp_path / "program"
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("")
    before = tree(tmp_path)
    with pytest.raises(Refused, match=said):
        install(folder)
    assert tree(tmp_path) == before


def python(folder: Path, where: Path, *arguments: str, **variables: str) -> str:
    """Runs the WebUI's own Python."""
    kept = {name: value for name, value in os.environ.items() if name not in ("GIANT_KITTEN", "PYTHONPATH")}
    command = [str(find(folder).python()), *arguments]
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
    for off in ("0", " Off ", "no", "FALSE", ""):
        assert python(webui, webui, "launch.py", GIANT_KITTEN=off) == "False"
    for on in ("1", "reserve:1GiB", " Yes "):
        assert python(webui, webui, "launch.py", GIANT_KITTEN=on) == "True"
    shutil.rmtree(find(webui).extension)
    assert python(webui, webui, "launch.py") == "False", "removed by hand, it is silent"
    install(webui)
    remove(webui)
    assert python(webui, webui, "launch.py") == "False"


@pytest.mark.parametrize("webui", ["AUTOMATIC1111"], indirect=True)
def test_files_of_others_are_left_alone(webui: Path) -> None:
    there = webui / "extensions" / NAME
    there.mkdir()
    (there / "file").write_text("mine")
    for action in (install, remove):
        with pytest.raises(Refused):
            action(webui)
    assert (there / "file").read_text() == "mine"


# Names that people have, and names that would be code if they were written without quoting.
NAMES: tuple[str, ...] = ("Jörg Иван 小猫", "a 'quoted' one", "#", "%s {x}", "%TEMP% ^& $x `; (x)!")
LOCALES: tuple[dict[str, str], ...] = ({"PYTHONUTF8": "0"}, {"PYTHONUTF8": "1"})
if not ON_WINDOWS:
    NAMES += ('a "quoted" one', "back\\slash", "g\nimport os; os.system('touch pwned')", "\udcff\udcfe")
    LOCALES = ({"LC_ALL": "C"}, {"LC_ALL": "POSIX"}, {"LC_ALL": "C.UTF-8"}, {"LC_ALL": "C", "PYTHONUTF8": "0"})


@pytest.mark.parametrize("name", NAMES)
def test_folders_of_any_name_in_any_locale(tmp_path: Path, name: str) -> None:
    webui = make(tmp_path / name, "AUTOMATIC1111")
    # The folder is renamed afterwards, because the module venv fails for some of the names.
    venv.create(tmp_path / "venv", with_pip=False)
    (tmp_path / "venv").rename(webui / "venv")
    (webui / "launch.py").write_text(SEEN)
    before = tree(webui)
    install(webui)
    (written,) = webui.glob(f"venv/{SITE}/giant-kitten-*.pth")
    line = written.read_text(encoding="ascii")
    assert line.count("\n") == 1 and line.startswith("import ")
    for variables in LOCALES:
        assert python(webui, webui, "launch.py", **variables) == "True"
        assert python(webui, tmp_path, "-c", SEEN, **variables) == "False"
    remove(webui)
    assert tree(webui) == before and not (webui / "pwned").exists()


def old_pth(folder: Path) -> str:
    """The .pth file of earlier versions."""
    inside = f"os.path.abspath(a).startswith({str(folder) + os.sep!r}) for a in getattr(sys, 'orig_argv', ())[1:]"
    start = '__import__("importlib.util").util.find_spec("giant_kitten") and __import__("giant_kitten._startup")'
    mine = f"any({inside}) or os.getcwd() == {str(folder)!r}"
    package = folder / "extensions" / NAME / "package"
    return f'{package}\nimport os, sys; "GIANT_KITTEN" in os.environ or not ({mine}) or {start}\n'


@pytest.mark.parametrize("webui", ["AUTOMATIC1111"], indirect=True)
@pytest.mark.parametrize("action", [install, remove])
def test_the_file_of_an_earlier_version_goes_also_where_python_does_not_start_with_it(
    webui: Path, action: Callable[[Path], list[str]]
) -> None:
    folder = webui.rename(webui.with_name("Иван"))
    install(folder)
    (new,) = folder.glob(f"venv/{SITE}/giant-kitten-*.pth")
    old = new.with_name("giant-kitten-webui.pth")
    # As if it had been read in the encoding of another locale.
    for text in (old_pth(folder), old_pth(folder).replace("import os, sys", "raise SystemExit(7); import os, sys")):
        old.write_text(text, "utf-8")
        action(folder)
        if "raise" in text:
            assert old.exists(), "it is not as we wrote it"
            old.unlink()
        else:
            assert not old.exists()
        install(folder)
    # The file of another WebUI.
    old.write_text(old_pth(folder.with_name("another")), "utf-8")
    action(folder)
    assert old.exists()


@no_links
def test_users_may_come_by_a_link(tmp_path: Path) -> None:
    webui, link = make(tmp_path / "webui", "Forge"), tmp_path / "link"
    venv.create(webui / "venv", with_pip=False)
    (webui / "launch.py").write_text(SEEN)
    link.symlink_to(webui)
    install(link)
    for program in (webui / "launch.py", link / "launch.py"):
        assert python(webui, tmp_path, str(program)) == "True"


HOLDS = "import ctypes, sys; ctypes.CDLL(sys.argv[1]); print(flush=True); input()"


@only_on_windows("elsewhere files in use can be replaced")
@pytest.mark.parametrize("webui", ["AUTOMATIC1111"], indirect=True)
def test_a_webui_that_runs_keeps_what_it_has(webui: Path) -> None:
    install(webui)
    before = tree(webui)
    library = find(webui).extension / "package" / "giant_kitten" / "giant_kitten.dll"
    program = [sys.executable, "-c", HOLDS, str(library)]
    with subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as running:
        assert running.stdout and running.stdout.readline()
        for action in (install, remove):
            with pytest.raises(Refused, match="is in use: close AUTOMATIC1111"):
                action(webui)
            assert tree(webui) == before
        running.communicate(b"\n", timeout=60)
    with (find(webui).extension / "preload.py").open(), pytest.raises(Refused, match="of files in use too: close"):
        remove(webui)
    # What was left is still known as ours.
    install(webui)
    assert tree(webui) == before
    remove(webui)


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, Path]:
    """Two WebUIs that share a Python."""
    venv.create(tmp_path / "shared", with_pip=False)
    folders = (make(tmp_path / "one", "AUTOMATIC1111"), make(tmp_path / "two", "Forge"))
    for folder in folders:
        if ON_WINDOWS:
            (folder / "webui-user.bat").write_text(f"set VENV_DIR={tmp_path / 'shared'}\n")
        else:
            (folder / "venv").symlink_to(tmp_path / "shared")
        (folder / "launch.py").write_text(SEEN)
    return folders


def test_two_webuis_can_share_a_python(two: tuple[Path, Path]) -> None:
    for folder in two:
        install(folder)
    assert [python(folder, folder, "launch.py") for folder in two] == ["True", "True"]
    remove(two[1])
    assert [python(folder, folder, "launch.py") for folder in two] == ["True", "False"]
    remove(two[0])
    assert not list((two[0] / "venv").glob(f"{SITE}/giant*"))


@pytest.mark.parametrize("webui", ["AUTOMATIC1111"], indirect=True)
def test_only_our_own_files_are_removed_whatever_the_mark_says(webui: Path, tmp_path: Path) -> None:
    install(webui)
    extension = find(webui).extension
    (site,) = webui.glob(f"venv/{SITE}")
    precious = [
        tmp_path / "giant-kitten-webui.pth", site / "precious.py", site / "giant-kitten-webui.pth",
        extension / "scripts" / "mine.py", extension / "package" / "notes.txt",
    ]  # fmt: skip
    for file in precious:
        file.write_text("precious")
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "scripts").mkdir(parents=True)
    (elsewhere / "scripts" / "giant_kitten.py").write_text("precious")
    if not ON_WINDOWS:
        (extension / "linked").symlink_to(elsewhere)
    mark = extension / MARK
    named = json.loads(mark.read_text())
    outside = ["../../webui.py", "linked/scripts/giant_kitten.py", str(elsewhere / "scripts" / "giant_kitten.py")]
    mark.write_text(json.dumps({"written": [*map(str, precious)], "files": [*named["files"], *outside, 7]}))
    said = remove(webui)
    assert all(file.read_text() == "precious" for file in (*precious, elsewhere / "scripts" / "giant_kitten.py"))
    assert any("which is not ours" in line for line in said)
    assert (webui / "webui.py").exists() and not (extension / "preload.py").exists() and not mark.exists()


@pytest.mark.parametrize("webui", ["AUTOMATIC1111"], indirect=True)
def test_an_update_keeps_files_of_others(webui: Path) -> None:
    install(webui)
    extension = find(webui).extension
    (extension / "mine.txt").write_text("mine")
    (extension / "scripts" / "giant_kitten.py").write_text("older")
    (webui / "config.json").write_text('{"giant_kitten_mode": "by hand"}')
    # Marks of earlier versions had no names of files.
    (extension / MARK).write_text('{"written": []}')
    install(webui)
    assert (extension / "mine.txt").read_text() == "mine"
    assert (extension / "scripts" / "giant_kitten.py").read_bytes() != b"older"
    assert "giant_kitten_mode" in (webui / "config.json").read_text()
    assert [child.name for child in extension.parent.iterdir() if "kitten" in child.name] == [NAME]


class Full:
    """A disk that is full after some files."""

    def __init__(self, after: int) -> None:
        self.left, self.copy = after, shutil.copy

    def __call__(self, source: Path, to: Path) -> object:
        self.left -= 1
        if self.left < 0:
            # The part for which there was room.
            Path(to).write_bytes(Path(source).read_bytes()[:10])
            raise OSError(errno.ENOSPC, "No space left on device", str(to))
        return self.copy(source, to)


@pytest.mark.parametrize("webui", ["AUTOMATIC1111"], indirect=True)
@pytest.mark.parametrize("after", [0, 1, 3, 20])
def test_a_full_disk_leaves_everything_as_it_was(webui: Path, monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    for older in (False, True):
        if older:
            install(webui)
        before = tree(webui)
        monkeypatch.setattr(shutil, "copy", Full(after))
        with pytest.raises(Refused, match=r"everything is as it was.*No space left"):
            install(webui)
        monkeypatch.undo()
        assert tree(webui) == before
    install(webui)


@pytest.mark.parametrize("webui", ["AUTOMATIC1111"], indirect=True)
def test_if_pythons_folder_is_not_writable_everything_is_as_it_was(
    webui: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(file: Path, content: str) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(file))

    for older in (False, True):
        if older:
            install(webui)
        before = tree(webui)
        monkeypatch.setattr(pth, "write", denied)
        with pytest.raises(Refused, match="run this as the user who installed the WebUI"):
            install(webui)
        monkeypatch.undo()
        assert tree(webui) == before


@pytest.mark.parametrize("webui", ["AUTOMATIC1111"], indirect=True)
@pytest.mark.parametrize("cut", [0, 1, 4, 12])
def test_an_incomplete_copy_of_an_earlier_version_counts_as_ours(webui: Path, cut: int) -> None:
    install(webui)
    extension = find(webui).extension
    (extension / MARK).unlink()
    files = sorted(path for path in extension.rglob("*") if path.is_file())
    for file in files[cut:]:
        file.unlink()
    if cut:
        files[cut - 1].write_bytes(files[cut - 1].read_bytes()[:7])
    assert "removed the extension that was there" in install(webui)
    (extension / MARK).unlink()
    assert f"removed {extension}" in remove(webui)


@pytest.mark.parametrize("webui", ["AUTOMATIC1111"], indirect=True)
def test_a_copy_made_by_hand_is_not_ours(webui: Path) -> None:
    extension = find(webui).extension
    shutil.copytree(Path(kinds.__file__).parents[1] / "folders" / "automatic1111", extension)
    for action in (install, remove):
        with pytest.raises(Refused, match="not put there by this command"):
            action(webui)
    package = Path(kinds.__file__).parents[2]
    shutil.copytree(package, extension / "package" / package.name, ignore=shutil.ignore_patterns("__pycache__"))
    said = status(webui)
    assert any("the extension brings the package" in line for line in said), said
    assert "it was cloned or copied" in said[-1]


@pytest.mark.parametrize("webui", ["AUTOMATIC1111"], indirect=True)
def test_an_install_that_was_killed_is_cleared_up(webui: Path) -> None:
    install(webui)
    extension = find(webui).extension
    before = tree(webui)
    older, unfinished = (extension.with_name(f"giant-kitten-{what}.disabled") for what in ("before", "unfinished"))
    shutil.copytree(extension, unfinished)
    extension.rename(older)
    install(webui)
    assert tree(webui) == before
    shutil.copytree(extension, older)
    remove(webui)
    assert not list(extension.parent.glob("giant*"))


@pytest.mark.parametrize("webui", ["AUTOMATIC1111"], indirect=True)
@pytest.mark.parametrize("name", ["giant-kitten-before.disabled", "giant-kitten-unfinished.disabled"])
def test_folders_of_somebody_elses_that_are_so_called_are_left_alone(webui: Path, name: str) -> None:
    install(webui)
    theirs = find(webui).extension.with_name(name)
    theirs.mkdir()
    (theirs / "mine.txt").write_text("mine")
    before = tree(webui)
    with pytest.raises(Refused, match="everything is as it was"):
        install(webui)
    assert tree(webui) == before
    remove(webui)
    assert (theirs / "mine.txt").read_text() == "mine"


@no_links
@pytest.mark.parametrize("webui", ["AUTOMATIC1111"], indirect=True)
@pytest.mark.parametrize("leads", ["somewhere", "nowhere", "to itself"])
def test_links_are_neither_followed_nor_removed(webui: Path, tmp_path: Path, leads: str) -> None:
    there = find(webui).extension
    target = {"somewhere": tmp_path / "elsewhere", "nowhere": tmp_path / "missing", "to itself": there}[leads]
    if leads == "somewhere":
        target.mkdir()
        (target / MARK).write_text('{"written": []}')
        (target / "mine.txt").write_text("mine")
    there.symlink_to(target)
    for action in (install, remove):
        with pytest.raises(Refused, match="is a link to"):
            action(webui)
    assert there.is_symlink() and (leads != "somewhere" or (target / "mine.txt").read_text() == "mine")


@only_on_windows("only Windows has junctions")
@pytest.mark.parametrize("webui", ["AUTOMATIC1111"], indirect=True)
def test_junctions_are_neither_followed_nor_removed(webui: Path, tmp_path: Path) -> None:
    there, target = find(webui).extension, tmp_path / "elsewhere"
    target.mkdir()
    (target / "mine.txt").write_text("mine")
    made = subprocess.run(["cmd", "/c", "mklink", "/J", str(there), str(target)], capture_output=True, text=True)
    if made.returncode or not is_link(there):
        pytest.skip("there are no junctions here")
    for action in (install, remove):
        with pytest.raises(Refused, match="is a link to"):
            action(webui)
    assert is_link(there) and (target / "mine.txt").read_text() == "mine"


@pytest.mark.parametrize("webui", ["AUTOMATIC1111"], indirect=True)
@pytest.mark.parametrize(
    "config",
    [b"[1]", b"7", b'"giant_kitten_x"', b"", b'{"giant_kitten_x": ', b'\xff\xfe{"giant_kitten_x": 1}', b"[" * 100000,
     b'{"giant_kitten_x": 1, "y": "\\ud800"}', b"null"],
    ids=lambda config: repr(config[:40]),
)  # fmt: skip
def test_invalid_settings_are_left_alone(webui: Path, config: bytes) -> None:
    install(webui)
    (webui / "config.json").write_bytes(config)
    remove(webui)
    assert (webui / "config.json").read_bytes() == config and not find(webui).extension.exists()


@pytest.mark.parametrize("webui", ["AUTOMATIC1111"], indirect=True)
def test_settings_that_cannot_be_written_are_left_whole(webui: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(webui)
    config = b'{"giant_kitten_mode": "by hand"}'
    (webui / "config.json").write_bytes(config)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    assert any("left its settings in config.json" in line for line in remove(webui))
    assert (webui / "config.json").read_bytes() == config and not list(webui.glob("*.unfinished"))


def test_other_folders_are_refused(tmp_path: Path) -> None:
    for nothing in (tmp_path / "nowhere", "", __file__):
        with pytest.raises(Refused, match="is not a folder"):
            find(nothing)
    for impossible in ("~nobody-of-that-name/x", "\0"):
        with pytest.raises(Refused):
            find(impossible)
    with pytest.raises(Refused, match="neither"):
        find(tmp_path)
    make(tmp_path / "stable-diffusion-webui", "AUTOMATIC1111")
    with pytest.raises(Refused, match="its folder stable-diffusion-webui is one"):
        find(tmp_path)
    for kind in FOLDERS:
        assert find(make(tmp_path / kind, kind)).kind.name == kind


def environment(place: Path) -> Path:
    """A program in an environment's place for Python, where nothing but its path matters."""
    program = place / PROGRAM
    program.parent.mkdir(parents=True)
    program.touch(0o755)
    return program


def test_a_webui_without_a_python_is_refused(tmp_path: Path) -> None:
    webui = make(tmp_path, "ComfyUI")
    before = tree(webui)
    with pytest.raises(Refused, match=r"has no Python of its own.*--python"):
        install(webui)
    assert tree(webui) == before
    environment(webui / "venv")
    with pytest.raises(Refused, match="does not run"):
        install(webui)
    assert not find(webui).extension.exists()


@pytest.mark.parametrize(
    "place",
    ["venv", ".venv", "env", "conda", "installer_files/env", "../python_embeded", "../system/python"],
)
def test_the_python_of_every_usual_layout_is_found(tmp_path: Path, place: str) -> None:
    webui = make(tmp_path / "webui", "Forge")
    expected = environment((webui / place).resolve())
    assert find(webui).python() == expected


def test_where_several_could_start_it_nothing_is_guessed(tmp_path: Path) -> None:
    webui = make(tmp_path / "webui", "AUTOMATIC1111")
    first, second = environment(webui / "venv"), environment(webui / "env")
    with pytest.raises(Refused, match="more than one Python"):
        find(webui).python()
    (webui / "webui.sh").touch()
    assert find(webui).python() == first, "its script starts venv and nothing else"
    environment(tmp_path / "system" / "python")
    with pytest.raises(Refused, match="more than one Python"):
        install(webui)
    if ON_WINDOWS:
        (webui / "webui-user.bat").write_text("rem set VENV_DIR=venv\nset VENV_DIR=env\n")
    else:
        (webui / "webui-user.sh").write_text('#venv_dir="venv"\nexport venv_dir="env"  # mine\n')
    assert find(webui).python() == second


@not_on_windows("the launch script is another there")
def test_settings_of_the_launch_script_count(tmp_path: Path) -> None:
    webui = make(tmp_path / "webui", "AUTOMATIC1111")
    environment(webui / "venv")
    elsewhere = environment(tmp_path / "a b")
    for text, expected in (
        (f"venv_dir='{tmp_path}/a b'", elsewhere),
        (f'venv_dir="-"\npython_cmd="{elsewhere}"', elsewhere), ("venv_dir=nowhere", "which has no Python"),
        ("venv_dir=-", "names no Python"), ("venv_dir=$(pwd)/x", "which only it can read"),
    ):  # fmt: skip
        (webui / "webui-user.sh").write_text(f"#!/bin/bash\n{text}\n")
        if isinstance(expected, Path):
            assert find(webui).python() == expected
        else:
            with pytest.raises(Refused, match=expected):
                find(webui).python()


@only_on_windows("batch files are for cmd")
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "oem"])
def test_settings_of_the_batch_file_count(tmp_path: Path, encoding: str) -> None:
    webui = make(tmp_path / "webui", "AUTOMATIC1111")
    environment(webui / "venv")
    elsewhere = environment(webui / "mein Kätzchen")
    for text, expected in (
        ("set VENV_DIR=mein Kätzchen", elsewhere), ('set "VENV_DIR=mein Kätzchen"', elsewhere),
        ('set VENV_DIR="mein Kätzchen"', elsewhere), ("@SET venv_dir=%~dp0mein Kätzchen\\  ", elsewhere),
        (f'set VENV_DIR=-\nset PYTHON="{elsewhere}"', elsewhere), ("set VENV_DIR=Hündchen", "Hündchen, which has no"),
        ("set SKIP_VENV=1", "names no Python"), ("set VENV_DIR=%USERPROFILE%\\x", "which only it can read"),
        ("set VENV_DIR=x\nset VENV_DIR=", webui / "venv" / PROGRAM),
    ):  # fmt: skip
        (webui / "webui-user.bat").write_bytes(
            f"@echo off\n{text}\ncall webui.bat\n".replace("\n", "\r\n").encode(encoding)
        )
        if isinstance(expected, Path):
            assert find(webui).python().resolve() == expected
        else:
            with pytest.raises(Refused, match=expected):
                find(webui).python()


@only_on_windows("shells there leave such quotes")
def test_paths_as_shells_pass_them_are_understood(tmp_path: Path) -> None:
    webui = make(tmp_path / "a webui", "ComfyUI")
    venv.create(tmp_path / "an environment", with_pip=False)
    named = str(tmp_path / "an environment" / "Scripts" / "python")
    install(webui, named)
    typed = str(webui)
    for folder in (
        f'{typed}"',
        f'"{typed}"',
        f"'{typed}'",
        f"{typed}\\",
        f" {typed} ",
        typed.replace("\\", "/"),
        typed.upper(),
    ):
        assert any(f"its Python is {named}.exe" in line for line in status(folder, f'{named}"'))
    remove(f'{typed}"')
    with pytest.raises(Refused, match="leave out the backslash before the closing quote"):
        status(f'{typed}" --python {named}')


def test_a_python_can_be_named_and_is_remembered(tmp_path: Path) -> None:
    webui = make(tmp_path / "webui", "AUTOMATIC1111")
    venv.create(tmp_path / "conda", with_pip=False)
    before = tree(webui)
    with pytest.raises(Refused, match="there is no Python at"):
        install(webui, str(tmp_path / "nowhere"))
    for named in (tmp_path / "conda", tmp_path / "conda" / PROGRAM):
        assert any("imports giant-kitten" in line for line in install(webui, str(named)))
        assert any("named with --python" in line for line in status(webui))
        assert any("imports giant-kitten" in line for line in install(webui)), "an update takes the same Python"
        remove(webui)
        assert tree(webui) == before and not list(tmp_path.glob(f"conda/{SITE}/giant*"))


def test_removing_leaves_nothing_in_a_python_that_was_named(tmp_path: Path) -> None:
    webui = make(tmp_path / "webui", "AUTOMATIC1111")
    for name in ("conda", "other"):
        venv.create(tmp_path / name, with_pip=False)
    before = tree(tmp_path)
    install(webui, str(tmp_path / "conda"))
    said = install(webui, str(tmp_path / "other"))
    assert any("which the extension before had written" in line for line in said), said
    assert not list(tmp_path.glob(f"conda/{SITE}/giant*"))
    venv.create(webui / "venv", with_pip=False)
    remove(webui, str(webui / "venv"))
    shutil.rmtree(webui / "venv")
    assert tree(tmp_path) == before


def test_a_folder_that_was_renamed_leaves_nothing_and_a_copy_takes_nothing(tmp_path: Path) -> None:
    webui = make(tmp_path / "webui", "AUTOMATIC1111")
    venv.create(tmp_path / "conda", with_pip=False)
    python = str(tmp_path / "conda")
    before = tree(tmp_path / "conda")
    install(webui, python)
    (old,) = tmp_path.glob(f"conda/{SITE}/giant*.pth")
    copy = tmp_path / "copy"
    shutil.copytree(webui, copy)
    remove(copy, python)
    assert old.exists(), "it starts the other one"
    webui.rename(tmp_path / "renamed")
    install(tmp_path / "renamed", python)
    assert not old.exists() and len(list(tmp_path.glob(f"conda/{SITE}/giant*.pth"))) == 1
    (tmp_path / "renamed").rename(webui)
    remove(webui, python)
    assert tree(tmp_path / "conda") == before


def test_an_environment_that_does_not_run_is_to_be_made_anew(tmp_path: Path) -> None:
    webui = make(tmp_path / "webui", "AUTOMATIC1111")
    environment(webui / "venv")
    for command in (install, status):
        with pytest.raises(
            Refused, match=f"delete its environment, {re.escape(str(webui / 'venv'))}, and start the WebUI"
        ):
            command(webui)
    named = environment(tmp_path / "conda")
    with pytest.raises(Refused, match="is no Python that runs"):
        install(webui, str(named))


def test_an_old_python_is_refused(tmp_path: Path) -> None:
    webui = make(tmp_path / "webui", "AUTOMATIC1111")
    venv.create(webui / "venv", with_pip=False)
    (site,) = webui.glob(f"venv/{SITE}")
    (site / "old.pth").write_text("import sys; sys.version_info = (3, 8, 10); sys.version = '3.8.10 (old)'\n")
    before = tree(webui)
    with pytest.raises(Refused, match=r"it is Python 3\.8\.10, and giant-kitten needs 3\.9 or later"):
        install(webui)
    assert tree(webui) == before


@not_on_windows("the launch script is another there")
def test_the_python_of_this_shells_environment_is_not_taken_for_the_webuis(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    webui = make(tmp_path / "webui", "AUTOMATIC1111")
    active = environment(tmp_path / "mine")
    monkeypatch.setenv("VIRTUAL_ENV", str(tmp_path / "mine"))
    monkeypatch.setenv("PATH", str(active.parent), prepend=os.pathsep)
    (webui / "webui-user.sh").write_text(f'venv_dir="-"\npython_cmd="{active.name}"\n')
    with pytest.raises(Refused, match="in the environment of this shell alone"):
        find(webui).python()
    (webui / "webui-user.sh").write_text(f'venv_dir="-"\npython_cmd="{active}"\n')
    assert find(webui).python() == active


def test_what_is_not_supported_any_more_can_be_removed(tmp_path: Path) -> None:
    webui = make(tmp_path / "webui", "AUTOMATIC1111")
    venv.create(webui / "venv", with_pip=False)
    before = tree(webui)
    install(webui)
    (webui / "installer.py").touch()
    with pytest.raises(Refused, match=r"is SD\.Next"):
        status(webui)
    remove(webui)
    (webui / "installer.py").unlink()
    assert tree(webui) == before


@pytest.mark.parametrize("webui", ["Forge"], indirect=True)
def test_an_install_that_cannot_be_imported_there_is_undone(webui: Path) -> None:
    (site,) = webui.glob(f"venv/{SITE}")
    (site / "giant_kitten.py").write_text("raise ImportError('an old one')")
    before = tree(webui)
    with pytest.raises(Refused, match=r"cannot use giant-kitten, and everything is as it was .*an old one"):
        install(webui)
    assert tree(webui) == before


@pytest.mark.parametrize("webui", FOLDERS, indirect=True)
def test_status_says_what_is_installed_where(webui: Path) -> None:
    with pytest.raises(Refused, match="has no extension of giant-kitten"):
        status(webui)
    install(webui)
    said = "\n".join(status(webui))
    for part in (str(webui), str(webui / "venv" / PROGRAM), str(find(webui).extension), "version 0."):
        assert part in said
    if find(webui).kind.starts_cuda_first:
        (written,) = webui.glob(f"venv/{SITE}/giant-kitten-*.pth")
        assert str(written) in said
        written.unlink()
        with pytest.raises(Refused, match="CUDA starts too early"):
            status(webui)


def test_the_command_prints_what_it_did(tmp_path: Path) -> None:
    webui = make(tmp_path / "webui", "ComfyUI")
    venv.create(webui / "venv", with_pip=False)
    command = [sys.executable, "-m", "giant_kitten", "webui"]
    for action, said in (
        ("install", "put the extension into"), ("status", "the extension brings the package"), ("remove", "removed"),
    ):  # fmt: skip
        done = subprocess.run([*command, action, str(webui)], capture_output=True, text=True, check=True)
        assert said in done.stdout and done.stderr == ""
    done = subprocess.run([*command, "remove", str(webui)], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert done.stderr.startswith("giant-kitten: ") and "there is nothing to remove" in done.stderr
    done = subprocess.run([*command, "status", *"C:/my own webui".split()], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and 'quote it, as in "C:/my own webui"' in done.stderr


def test_the_package_has_the_extensions_with_it() -> None:
    for kind in kinds.KINDS:
        assert (Path(kinds.__file__).parents[1] / "folders" / kind.source).is_dir()
