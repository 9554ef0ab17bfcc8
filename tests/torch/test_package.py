"""The contents of the package."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
from importlib.metadata import distribution
from pathlib import Path

import giant_kitten
import pytest
from conftest import python
from giant_kitten import _variable

ROOT = Path(__file__).resolve().parent.parent.parent


def test_the_licences_travel_in_the_wheel() -> None:
    found = distribution("giant-kitten")
    names = found.metadata.get_all("License-File") or []
    assert sorted(names) == ["LICENSE-APACHE", "LICENSE-MIT", "NOTICES"]
    files = {Path(str(file)).name: file for file in found.files or ()}
    for name in names:
        assert Path(files[name].locate()).read_bytes() == (ROOT / name).read_bytes()


def test_the_notices_name_what_is_linked() -> None:
    subprocess.run([sys.executable, str(ROOT / "python" / "notices.py"), "--check"], check=True)
    text = (ROOT / "NOTICES").read_text()
    for part in ("libloading", "ISC", "parking_lot", "Copyright", "Permission is hereby granted"):
        assert part in text


def test_the_line_at_the_start_of_python_is_one_and_has_the_table(tmp_path: Path) -> None:
    line = (ROOT / "python" / "giant_kitten.pth").read_text(encoding="ascii")
    assert line.startswith("import ") and line.count("\n") == 1
    assert _variable.off_in_source() in line.replace('__import__("os")', "os")
    program = f"import timeit; print(min(timeit.repeat({line!r}, number=100, repeat=5)) / 100)"
    assert float(python(program, "", native=True)) < 0.0002
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIANT_KITTEN")}
    program = "import sys; print([name for name in sys.modules if 'kitten' in name or name in ('ctypes', 'torch')])"
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("[]\n", "")


@pytest.mark.parametrize(
    "locale", [{"LC_ALL": "C"}, {"LC_ALL": "POSIX"}, {"LC_ALL": "C.UTF-8"}, {"LC_ALL": "C", "PYTHONUTF8": "0"}]
)
def test_a_site_folder_of_any_name_in_any_locale(tmp_path: Path, locale: dict[str, str]) -> None:
    folder = tmp_path / "Jörg Иван 小猫"
    venv.create(folder, with_pip=False)
    (site,) = folder.glob("lib/*/site-packages")
    here = Path(giant_kitten.__file__).parent
    (site / "giant_kitten").symlink_to(here)
    shutil.copy(here.parent / "giant_kitten.pth", site)
    (site / "torch.py").write_text("__version__ = '2.4.0'\nclass version: cuda = None")
    command = [str(folder / "bin" / "python"), "-c", "import torch; print(torch.__version__)"]
    for variable, said in (("1", "was built without CUDA"), ("off", "")):
        environment = {"GIANT_KITTEN": variable, **locale}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        assert done.stdout == "2.4.0\n" and said in done.stderr and bool(done.stderr) == bool(said), done.stderr


def test_the_header_travels_in_the_wheel() -> None:
    header = Path(giant_kitten.__file__).parent / "include" / "giant_kitten.h"
    assert header.read_bytes() == (ROOT / "include" / "giant_kitten.h").read_bytes()


def test_the_library_of_the_wheel_is_stripped() -> None:
    assert giant_kitten.library_path().stat().st_size < 3 << 20
