"""Start and exit: the environment variable, late installs, invalid input, other interpreters."""

from __future__ import annotations

import ctypes.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import giant_kitten
import pytest
from conftest import python
from giant_kitten import _variable

IS_OURS = "import torch; print(torch.cuda.get_allocator_backend())"


def test_the_variable_alone_is_enough() -> None:
    assert python(IS_OURS) == "pluggable\n"


def texts(table: tuple[str, ...]) -> list[str]:
    """The values of a table in the forms that people write."""
    return [f" {text.title()}\t" if position % 2 else text.upper() for position, text in enumerate(table)]


@pytest.mark.parametrize(
    ("text", "seen"),
    [*((on, "pluggable") for on in texts(_variable.ON)), *((off, "native") for off in texts(_variable.OFF))],
)
def test_one_table_has_the_values_for_on_and_off(text: str, seen: str, monkeypatch: pytest.MonkeyPatch) -> None:
    program = IS_OURS + "; import sys; print(any('kitten' in name for name in sys.modules))"
    assert python(program, GIANT_KITTEN=text) == f"{seen}\n{seen == 'pluggable'}\n"
    monkeypatch.setenv("GIANT_KITTEN", text)
    assert _variable.wanted() == (seen == "pluggable")


def test_the_librarys_parser_of_options_has_the_same_table() -> None:
    known = texts(_variable.ON) + texts(_variable.OFF)
    program = f"from giant_kitten import _library; [_library.call('gk_configure', t.encode()) for t in {known!r}]"
    assert python(program, native=True) == ""


@pytest.mark.parametrize("text", ["1", "reserve:1GiB"])
def test_a_program_can_set_the_variable_itself_until_it_imports_torch(text: str) -> None:
    early = f"import os; os.environ['GIANT_KITTEN'] = '{text}';" + IS_OURS
    assert python(early, native=True) == "pluggable\n"
    off = "import os; os.environ['GIANT_KITTEN'] = 'off';" + IS_OURS
    assert python(off) == "native\n"


@pytest.mark.parametrize("asked", ["import giant_kitten", "giant_kitten.summary()"])
def test_a_variable_that_comes_too_late_is_reported(asked: str) -> None:
    program = f"""
import os, torch, giant_kitten
import io, contextlib
os.environ['GIANT_KITTEN'] = '1'
if {asked!r} == "import giant_kitten":
    import sys
    for name in [name for name in sys.modules if name.startswith("giant_kitten")]:
        del sys.modules[name]
    import giant_kitten
else:
    torch.zeros(1, device="cuda")
    print(giant_kitten.summary())
"""
    printed = python(program, native=True)
    assert printed.count("giant-kitten is not in use: GIANT_KITTEN=1 is set, but torch was imported without it") == 1
    assert "giant_kitten.install()" in printed and "Traceback" not in printed


def test_nothing_is_printed_without_a_problem() -> None:
    for program, native in (
        ("import torch, giant_kitten", True),
        ("import torch, giant_kitten; giant_kitten.summary()", False),
        ("import giant_kitten, os; os.environ['GIANT_KITTEN'] = '1'; import torch, giant_kitten", True),
        ("import os, torch; os.environ['GIANT_KITTEN'] = '0'; import giant_kitten", True),
    ):
        assert python(program, native=native) == "", program


def test_torch_that_was_there_before_is_served_at_once() -> None:
    # As if another .pth file imported it.
    line = (Path(giant_kitten.__file__).parent.parent / "giant_kitten.pth").read_text()
    program = f"import sys; sys.meta_path[:] = sys.meta_path[-3:]; import torch, os; exec({line!r}); {IS_OURS}"
    assert python(program).endswith("pluggable\n")


ITS_OWN = """
import sys, torch
memory = torch.cuda.memory
{before}
try:
    for change in (memory.change_current_allocator, torch.cuda.change_current_allocator):
        change(memory.CUDAPluggableAllocator({library!r}, "gk_torch_malloc", "gk_free"))
except RuntimeError as why:
    print(why)
print(torch.zeros(3, device="cuda").sum().item(), torch.cuda.get_allocator_backend())
"""


@pytest.mark.parametrize("before", ["", "torch.zeros(1, device='cuda')"])
def test_an_allocator_of_the_programs_own_is_refused_by_name(before: str) -> None:
    program = ITS_OWN.format(before=before, library=str(giant_kitten.library_path()))
    said, works = python(program).splitlines()
    assert "giant-kitten" in said and "GIANT_KITTEN=0" in said and "already" in said and works == "0.0 pluggable"
    # This is the remedy. PyTorch itself allows two swaps before CUDA starts.
    if not before:
        assert "giant-kitten" not in python(program, GIANT_KITTEN="0")


def test_options_in_the_variable() -> None:
    program = "import torch, giant_kitten; torch.zeros(1, device='cuda'); print(giant_kitten.stats()['reserve'])"
    assert python(program, GIANT_KITTEN="reserve:1GiB") == f"{1 << 30}\n"


@pytest.mark.parametrize(
    ("variable", "said"), [("reserve:1.6", "1.6GiB"), ("reserv:1GiB", "reserv"), ("maybe", "maybe")]
)
def test_an_invalid_option_is_reported_and_the_program_continues(variable: str, said: str) -> None:
    printed = python(IS_OURS, GIANT_KITTEN=variable)
    assert printed.endswith("native\n") and "giant-kitten is not in use" in printed and said in printed


def test_the_choice_for_mem_get_info_is_read_at_the_start() -> None:
    printed = python("import torch", GIANT_KITTEN_MEM_GET_INFO="all")
    assert "GIANT_KITTEN_MEM_GET_INFO=all is invalid" in printed and "both|dedicated" in printed


@pytest.mark.parametrize("part", [0.0, 0.05, 0.9, None])
def test_a_library_that_cannot_be_loaded_is_reported_and_the_program_continues(
    part: float | None, tmp_path: Path
) -> None:
    library = tmp_path / "library.so"
    if part is not None:
        whole = giant_kitten.library_path().read_bytes()
        library.write_bytes(whole[: int(part * len(whole))])
    else:
        # Another library.
        library = Path(ctypes.util.find_library("m") or "")
    printed = python(IS_OURS, GIANT_KITTEN_LIBRARY=str(library))
    assert printed.endswith("native\n") and "reinstall the package" in printed
    assert "it is truncated" in printed or not part


def test_asking_for_torch_is_not_importing_it() -> None:
    # As ComfyUI does.
    program = (
        "import importlib.util as u; print(u.find_spec('torch').name, u.find_spec('torch').origin[-11:]);" + IS_OURS
    )
    assert python(program) == "torch __init__.py\npluggable\n"


def test_torch_is_loaded_as_it_would_have_been() -> None:
    program = "import torch, inspect; print(type(torch.__loader__).__name__, 'def' in inspect.getsource(torch))"
    assert python(program) == python(program, native=True)


@pytest.mark.parametrize("text", ["backend:cudaMallocAsync", "backend:native,max_split_size_mb:64"])
def test_the_choice_of_a_backend_is_taken_out(text: str) -> None:
    program = "import torch; torch.zeros(9).pin_memory(); torch.zeros(9, device='cuda');" + IS_OURS
    assert python(program, PYTORCH_CUDA_ALLOC_CONF=text) == "pluggable\n"
    late = f"import os; os.environ['PYTORCH_CUDA_ALLOC_CONF'] = '{text}';" + program
    assert python(late) == "pluggable\n"


def test_nothing_is_imported_where_the_variable_is_not_set() -> None:
    program = "import sys; print([name for name in sys.modules if 'kitten' in name or name == 'torch'])"
    assert python(program, native=True) == "[]\n"
    assert "'torch'" not in python(program)


def test_installing_by_hand() -> None:
    program = "import giant_kitten; giant_kitten.install('reserve:1GiB'); giant_kitten.install();" + IS_OURS
    assert python(program, native=True) == "pluggable\n"


def test_installing_too_late() -> None:
    program = "import torch, giant_kitten; torch.zeros(1, device='cuda'); giant_kitten.install()"
    printed = python(program, native=True, code_expected=1)
    assert "CUDA has already been initialised" in printed and "GIANT_KITTEN=1" in printed


def test_the_allocator_of_pytorchs_own_interface() -> None:
    program = """
import giant_kitten, torch
memory, library = torch.cuda.memory, str(giant_kitten.library_path())
memory.change_current_allocator(memory.CUDAPluggableAllocator(library, "gk_torch_malloc", "gk_free"))
print(torch.arange(9).cuda().cpu().sum().item())
"""
    assert python(program, native=True) == "36\n"


@pytest.mark.parametrize(
    ("torch_py", "said"),
    [
        ("", "PyTorch cannot be imported"),
        ("__version__ = '1.13.1'", "too old"),
        ("__version__ = '2.4.0'\nclass version: cuda = None", "built without CUDA"),
    ],
)
def test_an_unsuitable_torch(tmp_path: Path, torch_py: str, said: str) -> None:
    if torch_py:
        (tmp_path / "torch.py").write_text(torch_py)
    else:
        (tmp_path / "torch.py").write_text("raise ImportError('No module named torch')")
    program = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import giant_kitten; giant_kitten.install()"
    assert said in python(program, native=True, code_expected=1)


def test_spawned_processes_work_and_forked_ones_get_an_error() -> None:
    program = """
import multiprocessing, sys, torch

def work(pipe):
    try:
        pipe.send((torch.cuda.get_allocator_backend(), torch.zeros(4, device="cuda").numel()))
    except BaseException as why:
        pipe.send(str(why))

if __name__ == "__main__":
    kept = torch.zeros(4, device="cuda")
    for method in ("spawn", "fork"):
        ours, theirs = multiprocessing.Pipe()
        child = multiprocessing.get_context(method).Process(target=work, args=(theirs,))
        child.start(); print(ours.recv(), flush=True); child.join(); print(child.exitcode, flush=True)
"""
    folder = Path(os.environ.get("TMPDIR", "/tmp"))
    file = folder / f"giant-kitten-spawn-{os.getpid()}.py"
    file.write_text(program)
    try:
        spawned, code, forked, forked_code = python("", str(file)).splitlines()
    finally:
        file.unlink()
    assert (spawned, code, forked_code) == ("('pluggable', 4)", "0", "0")
    assert "fork" in forked


@pytest.mark.parametrize(
    "end",
    [
        "",
        "sys.exit(3)",
        "raise ValueError",
        "os._exit(0)",
        "del kept; gc.collect(); torch.cuda.empty_cache()",
        "torch.cuda.synchronize(); builtins.kept = kept",
        "threading.Thread(target=lambda: torch.zeros(9, device='cuda')).start()",
        "atexit.register(lambda: torch.zeros(9, device='cuda').cpu())",
        "giant_kitten.activate(reserve='1GiB'); giant_kitten.free_vram()",
    ],
)
def test_the_end_of_the_interpreter_is_quiet(end: str) -> None:
    program = f"""
import atexit, builtins, gc, os, sys, threading, torch, giant_kitten
kept = [torch.zeros(1 << 20, device="cuda") for _ in range(5)]
side = torch.cuda.Stream()
kept[0].record_stream(side)
class Late:
    def __del__(self, kept=kept): kept.clear()
late = Late()
{end}
"""
    expected = {"sys.exit(3)": 3, "raise ValueError": 1}.get(end, 0)
    printed = python(program, code_expected=expected)
    assert "kitten" not in printed and "Segmentation" not in printed


def test_doctor_prints_its_findings() -> None:
    healthy = python("", "-m", "giant_kitten", "doctor")
    for part in ("giant-kitten 0.", "torch", "cuda:0", "dedicated 6.9", "by host_numa", "no problems found"):
        assert part in healthy, healthy
    old = python("", "-m", "giant_kitten", "doctor", code_expected=1, FAKE_CUDA_RUNGS="none")
    assert "no shared memory" in old and "cuMem" in old and "1 problem found" in old
    both = python(
        "", "-m", "giant_kitten", "doctor", code_expected=1, PYTORCH_CUDA_ALLOC_CONF="backend:cudaMallocAsync"
    )
    assert "remove it" in both


def test_the_doctor_says_so_of_a_pytorch_that_cannot_be_loaded(tmp_path: Path) -> None:
    broken = tmp_path / "torch"
    broken.mkdir()
    (broken / "__init__.py").write_text("raise OSError('[WinError 126] no module named fbgemm.dll')")
    printed = python("", "-m", "giant_kitten", "doctor", native=True, code_expected=1, PYTHONPATH=str(tmp_path))
    assert "cannot be imported (OSError: [WinError 126]" in printed and "install PyTorch again" in printed


def test_the_doctor_finds_the_gpu_without_pytorch(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError('there is none')")
    hidden: dict[str, Any] = {"PYTHONPATH": str(tmp_path), "native": True, "code_expected": 1}
    printed = python("", "-m", "giant_kitten", "doctor", **hidden)
    assert "install a CUDA build of PyTorch" in printed and "cuda:0       simulated nominal-8g: dedicated" in printed
    assert "half of the host's" in printed and "1 problem found" in printed
    printed = python("", "-m", "giant_kitten", "doctor", GIANT_KITTEN_CUDA_DRIVER="/none/libcuda.so.1", **hidden)
    assert "has no GPU that can be used" in printed and "2 problems found" in printed, printed


@pytest.mark.parametrize("value", ['"1"', "'1'", ' "reserve:1GiB" '])
def test_quotation_marks_around_the_variable_are_no_part_of_it(value: str) -> None:
    program = "import torch, giant_kitten; print(giant_kitten.is_installed(), len(torch.zeros(9, device='cuda')))"
    assert python(program, GIANT_KITTEN=value) == "True 9\n"


def test_tensors_that_are_not_on_a_gpu_do_not_move_in_silence() -> None:
    program = """
import torch, giant_kitten
giant_kitten.to_shared(torch.nn.Linear(8, 8))
giant_kitten.to_shared(torch.nn.ReLU())
giant_kitten.to_shared(torch.nn.Linear(8, 8, device="cuda"))
"""
    printed = python(program)
    assert printed.count("nothing of this is on a GPU") == 1, printed
    assert "the first tensor is on cpu. Move it to a GPU" in printed


@pytest.mark.parametrize("text", ["reserve:1.6", "reserve:8", "reserve=1.6GiB", "reserv:1.6GiB", "1.6GiB"])
def test_the_doctor_finds_options_that_are_wrong(text: str) -> None:
    printed = python("", "-m", "giant_kitten", "doctor", code_expected=1, GIANT_KITTEN=text)
    assert "! variable     its options are wrong" in printed and printed.count(f"GIANT_KITTEN={text}:") == 1, printed


@pytest.mark.parametrize("name", ["reserve", "persist"])
def test_the_doctor_finds_options_that_keep_more_than_the_card_has(name: str) -> None:
    printed = python("", "-m", "giant_kitten", "doctor", code_expected=1, GIANT_KITTEN=f"{name}:100GiB")
    assert f"!              the option {name} keeps all of it\n" in printed, printed
    assert f"{name}:100.00 GiB is more than the card has" in printed and "1 problem found" in printed
    python("", "-m", "giant_kitten", "doctor", GIANT_KITTEN=f"{name}:1GiB")


def test_lines_of_the_log_have_a_process_and_a_wrong_level_is_named() -> None:
    program = "import os, torch; torch.zeros(9, device='cuda'); print(os.getpid())"
    told, process = python(program, GIANT_KITTEN_LOG="INFO").splitlines()
    assert told.startswith(f"giant-kitten[{process}] info: device 0, ") and told.endswith("host_numa")
    told, process = python(program, GIANT_KITTEN_LOG="loud").splitlines()
    assert told == (
        f"giant-kitten[{process}] warn: GIANT_KITTEN_LOG=loud is no level: write off, error, warn, info, debug or trace"
    )


def test_calls_say_so_where_giant_kitten_is_not_in_use() -> None:
    program = """
import torch, giant_kitten
model = torch.nn.Linear(8, 8, device="cuda")
giant_kitten.follow(model)
model(torch.zeros(8, 8, device="cuda"))
giant_kitten.free_vram()
print(giant_kitten.summary())
for call in (giant_kitten.tier, giant_kitten.to_shared, lambda model: giant_kitten.activate(model=model)):
    try:
        call(model)
    except giant_kitten.Error as why:
        print(why)
"""
    printed = python(program, native=True)
    remedy = "set the environment variable GIANT_KITTEN=1"
    assert printed.count(remedy) == 5 and printed.count("this has no effect:") == 1, printed
    # Where somebody has left it out on purpose, nothing has to be said.
    assert "no effect" not in python(program, GIANT_KITTEN="0")


TWO: dict[str, Any] = {"FAKE_CUDA_PROFILE": "nominal-8g,nominal-6g"}


@pytest.mark.parametrize("seen", ["", "-1", "7"])
def test_where_every_gpu_is_hidden_the_processor_is_left(seen: str) -> None:
    program = "import torch; print(torch.cuda.is_available(), torch.cuda.device_count(), torch.ones(3).sum().item())"
    assert python(program, CUDA_VISIBLE_DEVICES=seen, **TWO) == "False 0 3.0\n"
    printed = python("", "-m", "giant_kitten", "doctor", code_expected=1, CUDA_VISIBLE_DEVICES=seen)
    assert f"CUDA_VISIBLE_DEVICES={seen} hides every GPU that it does not name" in printed


def test_the_gpu_that_is_seen_is_the_first() -> None:
    program = """
import torch, giant_kitten
kept = [torch.zeros(1 << 20, device=f"cuda:{device}") for device in range(torch.cuda.device_count())]
print([giant_kitten.stats(device)["dedicated_capacity"] for device in range(len(kept))])
"""
    both = json.loads(python(program, **TWO))
    assert both[0] > both[1]
    assert json.loads(python(program, CUDA_VISIBLE_DEVICES="1", **TWO)) == both[1:]
    assert json.loads(python(program, CUDA_VISIBLE_DEVICES="1,0", **TWO)) == both[::-1]


def test_running_a_script(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text("import sys, torch; print(torch.cuda.get_allocator_backend(), sys.argv[1:], __name__)")
    printed = python("", "-m", "giant_kitten", "run", str(script), "--its", "own", native=True)
    assert printed == "pluggable ['--its', 'own'] __main__\n"
    wrong = python(
        "", "-m", "giant_kitten", "run", "--options", "reserve:1.6", str(script), native=True, code_expected=1
    )
    assert "1.6GiB" in wrong and "Traceback" not in wrong
    assert "dedicated" in python("", "-m", "giant_kitten", "stats")


def test_a_device_without_a_shared_tier() -> None:
    program = """
import torch, giant_kitten
try:
    torch.empty(9 << 30, dtype=torch.uint8, device="cuda")
except torch.cuda.OutOfMemoryError as why:
    print(why)
print(giant_kitten.stats()["rung"])
"""
    printed = python(program, FAKE_CUDA_RUNGS="none")
    assert "CUDA out of memory" in printed and printed.endswith("none\n")


def test_the_start_of_python_costs_nothing() -> None:
    # Imports are compared, not times: there are none except those of Python itself.
    program = "import sys, json; print(json.dumps(sorted(sys.modules)))"
    here = set(json.loads(python(program, native=True)))
    bare = subprocess.run([sys.executable, "-S", "-c", program], capture_output=True, text=True, check=True)
    assert not {name for name in here - set(json.loads(bare.stdout)) if "kitten" in name or "ctypes" in name}
