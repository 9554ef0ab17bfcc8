"""`giant-kitten webui` on stand-ins of WebUIs for Windows, with their launch scripts and Pythons.

Runs in Windows' Python under wine, which has the wheel: webuis.py FOLDER. The stand-ins have the
layouts that people unpack, in folders with the names that people choose. Nothing of a WebUI runs.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

BASE = Path(sys.executable).parent
VERSION = f"python3{sys.version_info.minor}"
SEEN = "import sys; print('giant_kitten._startup' in sys.modules)"
FILES = {
    "AUTOMATIC1111": ("webui.py", "launch.py", "modules/x.py", "extensions/x"),
    "Forge": ("webui.py", "launch.py", "modules/x.py", "modules_forge/x.py", "extensions/x"),
    "ComfyUI": ("main.py", "launch.py", "comfy/x.py", "custom_nodes/x"),
}
# Names with spaces, with letters that no code page has together, and in another case than the
# user writes them.
NAMES = ("plain", "with two spaces", "Jörg Иван 小猫", "Mixed CASE")
# One folder name is at most 255 letters long, and this path is longer than 260 in all.
LONG = "/".join(["a folder in a folder"] * 14)


def python_alone(folder: Path, settings: dict[str, str]) -> Path:
    """A python.exe with what it needs beside it, and files that say where its library is."""
    folder.mkdir(parents=True)
    for file in ("python.exe", "python3.dll", f"{VERSION}.dll", "vcruntime140.dll", "vcruntime140_1.dll"):
        shutil.copy(BASE / file, folder / file)
    for name, text in settings.items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder / "python.exe"


def environment(folder: Path) -> Path:
    """An environment as the module venv makes it, with copies of the programs."""
    python = python_alone(folder / "Scripts", {})
    (folder / "pyvenv.cfg").write_text(f"home = {BASE}\ninclude-system-site-packages = false\n", encoding="utf-8")
    (folder / "Lib" / "site-packages").mkdir(parents=True)
    return python


def unpacked(folder: Path) -> Path:
    """A Python as packages for unpacking bring it, which says by itself where its modules are."""
    lines = (".", BASE / "Lib", BASE / "DLLs", "import site")
    python = python_alone(folder, {f"{VERSION}._pth": "\n".join(map(str, lines))})
    (folder / "Lib" / "site-packages").mkdir(parents=True)
    return python


def make(folder: Path, kind: str) -> Path:
    """The folder of a WebUI, without a Python."""
    for name in FILES[kind]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(SEEN if name == "launch.py" else "")
    return folder


def automatic1111(root: Path) -> "tuple[Path, Path]":
    webui = make(root / "stable-diffusion-webui", "AUTOMATIC1111")
    return webui, environment(webui / "venv")


def automatic1111_elsewhere(root: Path) -> "tuple[Path, Path]":
    """An environment that webui-user.bat names."""
    webui = make(root / "webui", "AUTOMATIC1111")
    lines = ("@echo off", "set PYTHON=", "set VENV_DIR=%~dp0my venv", "set COMMANDLINE_ARGS=--api", "call webui.bat")
    (webui / "webui-user.bat").write_text("\r\n".join(lines))
    return webui, environment(webui / "my venv")


def forge(root: Path) -> "tuple[Path, Path]":
    webui = make(root / "stable-diffusion-webui-forge", "Forge")
    return webui, environment(webui / "venv")


def one_click(root: Path) -> "tuple[Path, Path]":
    """The packages of one click: run.bat, system and webui side by side."""
    return make(root / "webui", "Forge"), unpacked(root / "system" / "python")


def comfyui_portable(root: Path) -> "tuple[Path, Path]":
    portable = root / "ComfyUI_windows_portable"
    return make(portable / "ComfyUI", "ComfyUI"), unpacked(portable / "python_embeded")


LAYOUTS = (automatic1111, automatic1111_elsewhere, forge, one_click, comfyui_portable)


def run(python: Path, *arguments: str, where: "Path | None" = None, **variables: str) -> "tuple[int, str]":
    """The exit status of a Python, and what it prints."""
    kept = {name: value for name, value in os.environ.items() if name not in ("GIANT_KITTEN", "PYTHONPATH")}
    command = [str(python), *map(str, arguments)]
    done = subprocess.run(command, cwd=where, env={**kept, **variables}, capture_output=True, check=False, timeout=120)
    return done.returncode, (done.stdout + done.stderr).decode("utf-8", "replace").strip()


def webui(action: str, folder: Path) -> "tuple[int, str]":
    """The command of the package in this Python."""
    return run(Path(sys.executable), "-m", "giant_kitten", "webui", action, str(folder))


def tree(folder: Path) -> "dict[str, bytes]":
    files = (path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def expect(condition: object, *shown: object) -> None:
    """Ends the program where a condition does not hold."""
    if not condition:
        raise AssertionError(ascii(shown))


def comes_early(folder: Path, python: Path) -> None:
    """The allocator is installed at the start of this WebUI, and of nothing else."""
    other_case = Path(str(folder).swapcase())
    elsewhere = folder.parent / "other.py"
    elsewhere.write_text(SEEN)
    for where, program in (
        (folder, "launch.py"),
        (folder.parent, folder / "launch.py"),
        (other_case, "launch.py"),
        (folder.parent, other_case / "launch.py"),
    ):
        found = run(python, str(program), where=where)
        expect(found == (0, "True"), where, program, found)
    found = run(python, str(elsewhere), where=folder.parent)
    expect(found == (0, "False"), found)
    found = run(python, "launch.py", where=folder, GIANT_KITTEN="0")
    expect(found == (0, "False"), found)
    elsewhere.unlink()


def answers(python: Path, package: Path) -> None:
    """The doctor of the package that the extension has brought answers in the WebUI's Python."""
    start = f"import sys; sys.path.append({str(package)!r}); from giant_kitten.__main__ import main; main(['doctor'])"
    status, said = run(python, "-c", start)
    expect(status == 0 and "giant-kitten 0." in said and "cannot be imported" in said, said)


def in_and_out(root: Path, layout) -> None:
    folder, python = layout(root)
    is_comfyui = "ComfyUI" in folder.parts
    before = tree(root)
    status, said = webui("status", folder)
    expect(status == 1 and "install it" in said, said)
    status, said = webui("install", folder)
    expect(status == 0, said)
    status, said = webui("status", Path(str(folder).swapcase()))
    expect(status == 0 and "the extension brings the package" in said, said)
    extension = folder / ("custom_nodes" if is_comfyui else "extensions") / "giant-kitten"
    mark = json.loads((extension / "installed-by-giant-kitten.json").read_text("utf-8"))
    expect("package/giant_kitten/giant_kitten.dll" in mark["files"], mark)
    if not is_comfyui:
        comes_early(folder, python)
    answers(python, extension / "package")
    status, said = webui("install", folder)
    expect(status == 0 and "removed the extension that was there" in said, said)
    status, said = webui("remove", folder)
    expect(status == 0, said)
    expect(tree(root) == before, set(tree(root)) ^ set(before))


def too_long(root: Path) -> None:
    """A path that is too long for the system is refused in words, and nothing has changed."""
    folder, python = automatic1111(root / LONG)
    expect(len(str(folder)) > 260, len(str(folder)))
    before = tree(root)
    status, said = webui("install", folder)
    if status == 0:
        comes_early(folder, python)
        status, said = webui("remove", folder)
        expect(status == 0, said)
    else:
        expect("Traceback" not in said and "giant-kitten: " in said, said)
    print("  more than 260 letters:", "installed and removed" if status == 0 else ascii(said), flush=True)
    expect(tree(root) == before)


def monitor() -> None:
    """The page of all programs is served, and only to those who have its address."""
    command = [sys.executable, "-u", "-m", "giant_kitten", "monitor"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            found = None
            while found is None:
                line = process.stdout.readline()
                expect(line, "the monitor has ended")
                found = re.search(r"http://127\.0\.0\.1:\d+/\S*", line)
            with urllib.request.urlopen(found[0], timeout=60) as answer:
                expect("giant-kitten" in answer.read().decode(), "the page")
            try:
                urllib.request.urlopen(found[0].rsplit("/", 2)[0] + "/", timeout=60)
                raise AssertionError("it answers without the token")
            except urllib.error.HTTPError:
                pass
        finally:
            process.terminate()


def main() -> None:
    """The command line."""
    root = Path(sys.argv[1]).resolve()
    monitor()
    print("  the monitor answers", flush=True)
    for name in NAMES:
        # Every layout under the hardest name, and one with a .pth and one without under the others.
        for layout in LAYOUTS if not name.isascii() else (automatic1111, comfyui_portable):
            in_and_out(root / name / layout.__name__, layout)
            print(f"  {layout.__name__} in {name!a}", flush=True)
    too_long(root)
    print("each WebUI got the extension, and lost it without a trace")


if __name__ == "__main__":
    main()
