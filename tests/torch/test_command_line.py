"""The command `giant-kitten`, which is `python -m giant_kitten` too."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import giant_kitten
import pytest
from giant_kitten import _library

SCRIPT = str(Path(sys.executable).with_name("giant-kitten"))
COMMANDS = ([SCRIPT], [sys.executable, "-m", "giant_kitten"])
IS_OURS = "import sys, torch; print(torch.cuda.get_allocator_backend(), sys.argv[1:], __name__)\n"


def command(
    start: list[str], *arguments: str, where: Path | None = None, **variables: str
) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "GIANT_KITTEN"}
    return subprocess.run(
        [*start, *arguments], env={**environment, **variables}, cwd=where, capture_output=True, text=True, timeout=300,
        check=False,
    )  # fmt: skip


@pytest.mark.parametrize("start", COMMANDS)
def test_the_version_is_that_of_the_library(start: list[str]) -> None:
    done = command(start, "--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"giant-kitten {_library.version()}\n", "")
    lost = command(start, "--version", GIANT_KITTEN_LIBRARY="/nowhere")
    assert lost.returncode == 1 and "/nowhere" in lost.stderr and "Traceback" not in lost.stderr


def test_the_package_has_a_version() -> None:
    assert giant_kitten.__version__ == _library.version()


@pytest.mark.parametrize("start", COMMANDS)
def test_without_a_command_it_says_what_there_is(start: list[str]) -> None:
    done = command(start)
    assert (done.returncode, done.stdout, done.stderr) == (0, command(start, "--help").stdout, "")


@pytest.mark.parametrize("start", COMMANDS)
def test_it_names_itself_as_it_was_started(start: list[str]) -> None:
    name = "giant-kitten" if start == COMMANDS[0] else "python -m giant_kitten"
    assert command(start, "--help").stdout.startswith(f"usage: {name} ")
    assert f"usage: {name} run [--options OPTIONS] (SCRIPT | -m MODULE)" in command(start, "run").stderr


@pytest.mark.parametrize("start", COMMANDS)
@pytest.mark.parametrize("variable", ["", "0", "reserve:1GiB"])
def test_a_module_is_started_as_python_starts_it(start: list[str], variable: str, tmp_path: Path) -> None:
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__main__.py").write_text(
        "from . import beside\nprint(__package__, __spec__.name)\n" + IS_OURS
    )
    (tmp_path / "package" / "beside.py").touch()
    done = command(start, "run", "-m", "package", "-m", "--options", where=tmp_path, GIANT_KITTEN=variable)
    ours = "pluggable ['-m', '--options'] __main__\n"
    assert (done.stdout, done.stderr, done.returncode) == (f"package package.__main__\n{ours}", "", 0)


def test_options_are_for_the_program_and_for_the_pythons_that_it_starts(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    told = "import os, torch; print(os.environ['GIANT_KITTEN'], torch.cuda.get_allocator_backend(), flush=True)"
    program.write_text(f"import subprocess, sys\n{told}\nsubprocess.run([sys.executable, '-c', {told!r}], check=True)")
    for options, seen in (([], "1"), (["--options", "reserve:1GiB"], "reserve:1GiB")):
        done = command(COMMANDS[0], "run", *options, str(program))
        assert done.stdout == f"{seen} pluggable\n" * 2, done.stderr


@pytest.mark.parametrize("start", COMMANDS)
@pytest.mark.parametrize(
    ("end", "status", "said"),
    [("pass", 0, ""), ("import sys; sys.exit(7)", 7, ""), ("import sys; sys.exit('enough')", 1, "enough\n"),
     ("import os; os._exit(9)", 9, ""), ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", -9, "")],
)  # fmt: skip
def test_the_exit_status_is_that_of_the_program(
    start: list[str], end: str, status: int, said: str, tmp_path: Path
) -> None:
    (tmp_path / "program.py").write_text(end)
    for which in (["program.py"], ["-m", "program"]):
        done = command(start, "run", *which, where=tmp_path)
        assert (done.returncode, done.stdout, done.stderr) == (status, "", said)


def test_errors_of_the_program_are_shown_as_its_own(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text("1 / 0")
    done = command(COMMANDS[0], "run", "program.py", where=tmp_path)
    assert done.returncode == 1 and "Traceback" in done.stderr and done.stderr.endswith("division by zero\n")
    missing = command(COMMANDS[0], "run", "nothing.py", where=tmp_path)
    assert missing.returncode == 1 and "there is no script nothing.py" in missing.stderr
    assert "Traceback" not in missing.stderr
    for other in ("webui-user.bat", "C:\\webui\\RUN.BAT", "webui.sh", "python.exe"):
        done = command(COMMANDS[0], "monitor", other, where=tmp_path)
        assert done.returncode == 1 and f"{other} is not a program in Python: set GIANT_KITTEN=1" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_reach_the_program(number: signal.Signals, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    waits = "import time; print('ready', flush=True); time.sleep(60)"
    program.write_text(f"import signal, sys; signal.signal({int(number)}, lambda *_: sys.exit(5)); {waits}")
    plain = tmp_path / "plain.py"
    plain.write_text(waits)
    for script, status in ((program, 5), (plain, -number)):
        process = subprocess.Popen(
            [SCRIPT, "run", str(script)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert process.stdout and process.stdout.readline() == "ready\n"
        time.sleep(0.1)
        process.send_signal(number)
        process.communicate(timeout=60)
        assert process.returncode == status


def test_the_page_of_all_programs_names_the_program_and_not_the_command(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir(mode=0o700)
    program = "import pathlib; print(*(note.read_text() for note in pathlib.Path('run').rglob('*.json')))"
    (tmp_path / "program.py").write_text(program)
    done = command(COMMANDS[0], "monitor", "program.py", where=tmp_path, XDG_RUNTIME_DIR=str(tmp_path / "run"))
    assert '"title": "program.py (process ' in done.stdout, done.stderr


REPORT = ["version", "library", "python", "executable", "torch", "cuda", "driver", "problems", "findings", "devices"]
DEVICE = [
    "index", "device", "rung", "rungs_refused", "dedicated_total", "dedicated_free", "dedicated_capacity",
    "shared_total", "shared_capacity", "shared_budget", "shared_used", "shared_others",
    "dedicated_granted", "dedicated_usage", "shared_granted", "shared_usage", "granted_unknown",
]  # fmt: skip


def test_the_doctors_json_has_these_keys() -> None:
    done = command(COMMANDS[0], "doctor", "--json", FAKE_CUDA_PROFILE="nominal-8g,nominal-6g")
    report = json.loads(done.stdout)
    assert done.returncode == report["problems"] == 0 and list(report) == REPORT
    assert report["version"] == _library.version() and Path(report["library"]).exists()
    assert all(list(finding) == ["about", "found", "remedy"] for finding in report["findings"])
    assert all(finding["about"] and finding["remedy"] is None for finding in report["findings"])
    assert [list(device) for device in report["devices"]] == [DEVICE, DEVICE]
    assert [device["index"] for device in report["devices"]] == [0, 1]
    cards = [finding["found"] for finding in report["findings"] if "; the card has " in finding["found"]]
    assert len(cards) == 2 and all(card.endswith(" of it free") for card in cards)


def test_the_doctors_json_has_the_same_keys_whatever_is_wrong() -> None:
    old = command(COMMANDS[0], "doctor", "--json", FAKE_CUDA_RUNGS="none")
    report = json.loads(old.stdout)
    assert old.returncode == report["problems"] == 1 and list(report) == REPORT
    (remedy,) = [finding for finding in report["findings"] if finding["remedy"]]
    assert remedy["about"] == "cuda:0" and "no shared memory" in remedy["remedy"]
    wrong: list[dict[str, Any]] = [
        {"GIANT_KITTEN_LIBRARY": "/nowhere"}, {"CUDA_VISIBLE_DEVICES": ""}, {"GIANT_KITTEN": "nonsense"},
    ]  # fmt: skip
    for variables in wrong:
        done = command(COMMANDS[0], "doctor", "--json", **variables)
        report = json.loads(done.stdout)
        assert done.returncode == 1 and report["problems"] >= 1, variables
        assert list(report) == REPORT and report["devices"] == []


def test_the_json_of_stats_has_these_keys() -> None:
    done = command(COMMANDS[0], "stats", "--json")
    report = json.loads(done.stdout)
    assert done.returncode == 0 and list(report) == ["version", "devices"]
    assert [list(device) for device in report["devices"]] == [DEVICE]
