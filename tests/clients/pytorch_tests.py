"""PyTorch's own tests of its allocator, on its allocator and on ours, over the fake CUDA runtime.

`scripts/torch-rig clients --pytorch PATH [PATTERN...]` runs it, on the user's own copy of
`test/test_cuda.py` of PyTorch's source, which stays unchanged. A test that passes here on PyTorch's
own allocator, where kernels do nothing, must pass on ours. The exceptions are in the table of
docs/pytorch-tests.md, with their reasons. The command reports every difference from that table, and
fails if there is one. A test that does not pass on ours is tried again without a shared tier
(`shared:0`).

Tests run one after the other in a process that has imported PyTorch. A test that does not pass is
run again alone, and the second run counts. A test that crashes or hangs does not affect the others.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import importlib.util
import json
import os
import re
import select
import signal
import subprocess
import sys
import tempfile
import unittest
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PAGE = Path(__file__).resolve().parents[2] / "docs" / "pytorch-tests.md"

# The tests of an allocator, of streams or of graphs: all tests of these classes,
WHOLE = ("TestBlockStateAbsorption", "TestMemPool", "TestCachingHostAllocatorCudaGraph")
# and those of these classes whose names say so. The other classes test the values of optimizers and
# of autocast, and files.
PARTLY = ("TestCuda", "TestCudaMallocAsync", "TestCudaDeviceParametrized")
NAMES = re.compile(
    r"alloc|mem|cach|snapshot|stream|event|graph|pool|oom|pinned|block|segment|garbage|expandable|split|traceback|cycles"
)
# Seconds for one test. Some collect garbage a hundred times.
LIMIT = 300.0

NATIVE, OURS, UNSHARED = "native", "ours", "ours without a shared tier"
VARIABLE = {NATIVE: "0", OURS: "1", UNSHARED: "shared:0"}


@dataclass(frozen=True)
class Outcome:
    """How a test ended: `passed`, `skipped`, `failed`, `crashed` or `hung`; and why."""

    how: str
    why: str = ""

    @property
    def good(self) -> bool:
        """Whether the test did not fail."""
        return self.how in ("passed", "skipped")


# --- in the process that runs tests -------------------------------------------------------------


def load(file: Path) -> Any:
    """The file as a module. Loading it initialises CUDA."""
    spec = importlib.util.spec_from_file_location(file.stem, file)
    if spec is None or spec.loader is None:
        raise ImportError(f"{file} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[file.stem] = module
    sys.path.insert(0, str(file.parent))
    spec.loader.exec_module(module)
    return module


def cases(suite: Iterable[Any]) -> Iterator[unittest.TestCase]:
    """Every test of a suite of suites."""
    for part in suite:
        if isinstance(part, unittest.TestCase):
            yield part
        else:
            yield from cases(part)


def name(case: unittest.TestCase) -> str:
    """`TestCuda.test_streams`."""
    return ".".join(case.id().split(".")[-2:])


def chosen(file: Path) -> dict[str, unittest.TestCase]:
    """The tests of the file that concern the allocator, by name."""
    found = {}
    for case in cases(unittest.defaultTestLoader.loadTestsFromModule(load(file))):
        kind, _, test = name(case).partition(".")
        if kind in WHOLE or (kind in PARTLY and NAMES.search(test)):
            found[name(case)] = case
    return found


def faults() -> int:
    """How many bytes of faults the simulated GPU has to report."""
    count = ctypes.CDLL("libcuda.so.1").fake_cuda_faults
    count.restype = ctypes.c_size_t
    return int(count(None, ctypes.c_size_t(0)))


def run(case: unittest.TestCase) -> Outcome:
    """Runs one test."""
    result, before = unittest.TestResult(), faults()
    case.run(result)
    wrong = [*result.errors, *result.failures]
    if wrong:
        lines = [line for line in wrong[0][1].splitlines() if line.strip()]
        places = re.findall(r'test_cuda\w*\.py", line (\d+)', wrong[0][1])
        place = places[-1] if places else "?"
        return Outcome("failed", f"line {place}: {message(lines)}")
    if faults() > before:
        return Outcome("failed", "memory was used too early: a fault of the simulated GPU")
    if result.skipped:
        return Outcome("skipped", result.skipped[0][1].splitlines()[0])
    if result.unexpectedSuccesses:
        return Outcome("failed", "it was expected to fail, and passed")
    return Outcome("passed")


def message(lines: list[str]) -> str:
    """The message of an exception, from the last line of a traceback that begins with its kind."""
    for number in range(len(lines) - 1, -1, -1):
        if re.match(r"[\w.]+(Error|Exception|Warning|Exit|Interrupt)\b", lines[number]):
            return " ".join(line.strip() for line in lines[number : number + 3])[:300]
    return lines[-1][:300]


def serve(file: Path) -> None:
    """Answers each line of the input, a list of tests or `null` to list all, with outcomes."""
    # The output of PyTorch and of the tests must not mix with the answers.
    answers = os.fdopen(os.dup(1), "w")
    log = os.open(os.environ["PYTORCH_TESTS_LOG"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    sys.argv = [str(file)]
    # Nothing else is imported: `torch.testing` queries CUDA's devices, and no fork may use CUDA
    # after that.
    import torch  # noqa: F401

    while line := sys.stdin.readline():
        asked = json.loads(line)
        child = os.fork()
        if child == 0:
            os.setsid()
            work(file, asked, answers)
            os._exit(0)
        print(json.dumps({"process": child}), file=answers, flush=True)
        _, status = os.waitpid(child, 0)
        print(json.dumps({"ended": status}), file=answers, flush=True)


def work(file: Path, asked: list[str] | None, answers: Any) -> None:
    """Runs tests one after the other, in a process of its own."""

    def tell(**what: Any) -> None:
        print(json.dumps(what), file=answers, flush=True)

    try:
        known = chosen(file)
        if asked is None:
            tell(tests=list(known))
            return
        for test in asked:
            tell(begun=test)
            print(f"\n== {test}", flush=True)
            outcome = run(known[test])
            print(f"{outcome.how}: {outcome.why}", flush=True)
            tell(test=test, how=outcome.how, why=outcome.why)
    except BaseException as why:
        tell(broken=f"{type(why).__name__}: {why}")


# --- in the process that compares ---------------------------------------------------------------


class Failure(Exception):
    """Why tests cannot be run at all."""


class Server:
    """A process with PyTorch imported, on one allocator, which runs tests in forked processes."""

    def __init__(self, file: Path, allocator: str, folder: Path) -> None:
        self.allocator = allocator
        self.log = folder / f"{allocator.replace(' ', '-')}.log"
        variables = {**os.environ, "PYTORCH_TESTS_LOG": str(self.log), "PYTHONPYCACHEPREFIX": str(folder / "cache")}
        variables["GIANT_KITTEN"] = VARIABLE[allocator]
        command = [sys.executable, __file__, str(file), "--serve"]
        self.process = subprocess.Popen(
            command, env=variables, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
        )
        self.buffer = b""

    def _ask(self, tests: list[str] | None) -> None:
        assert self.process.stdin
        self.process.stdin.write(json.dumps(tests).encode() + b"\n")

    def _line(self, seconds: float) -> dict[str, Any] | None:
        """The next line; `None` if there is none in time."""
        assert self.process.stdout
        while b"\n" not in self.buffer:
            if not select.select([self.process.stdout], [], [], seconds)[0]:
                return None
            more = os.read(self.process.stdout.fileno(), 1 << 16)
            if not more:
                raise Failure(f"the process of {self.allocator} has ended: {self.log.read_text()[-2000:]}")
            self.buffer += more
        line, _, self.buffer = self.buffer.partition(b"\n")
        return dict(json.loads(line))

    def tests(self) -> list[str]:
        """All chosen tests."""
        self._ask(None)
        found: list[str] = []
        while (line := self._line(600)) and "ended" not in line:
            if "broken" in line:
                raise Failure(f"the file cannot be imported: {line['broken']}")
            found = line.get("tests", found)
        return found

    def together(self, tests: list[str]) -> dict[str, Outcome]:
        """Runs tests in one process, up to the first that ends it."""
        outcomes: dict[str, Outcome] = {}
        self._ask(tests)
        child, begun = 0, None
        while True:
            line = self._line(LIMIT)
            if line is None:
                os.killpg(child, signal.SIGKILL)
                outcomes[begun or tests[0]] = Outcome("hung", f"no end within {LIMIT:.0f} s")
                begun = None
            elif "process" in line:
                child = line["process"]
            elif "begun" in line:
                begun = line["begun"]
            elif "test" in line:
                outcomes[line["test"]] = Outcome(line["how"], line["why"])
                begun = None
            elif "broken" in line:
                raise Failure(line["broken"])
            elif "ended" in line:
                if begun is not None:
                    signal_number = os.WTERMSIG(line["ended"]) if os.WIFSIGNALED(line["ended"]) else 0
                    outcomes[begun] = Outcome("crashed", f"signal {signal_number}, status {line['ended']}")
                return outcomes

    def run(self, tests: list[str]) -> dict[str, Outcome]:
        """Runs tests, and those that do not pass again alone."""
        outcomes: dict[str, Outcome] = {}
        left = list(tests)
        while left:
            outcomes |= self.together(left)
            left = [test for test in left if test not in outcomes]
        for test in tests:
            if not outcomes[test].good and len(tests) > 1:
                outcomes |= self.together([test])
        return outcomes

    def end(self) -> None:
        """Ends the process."""
        assert self.process.stdin
        self.process.stdin.close()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@contextlib.contextmanager
def serving(file: Path, allocator: str, folder: Path) -> Iterator[Server]:
    """A server that is ended at the end."""
    server = Server(file, allocator, folder)
    try:
        yield server
    finally:
        server.end()


def documented(page: str) -> dict[str, tuple[bool, str]]:
    """For each test in the page's table: whether it passes unshared, and why it fails otherwise."""
    rows = re.findall(r"^\| `(Test\w+\.test_\w+)` \| (passes)? *\| (.+) \|$", page, re.M)
    return {test: (bool(passes), why) for test, passes, why in rows}


def compare(file: Path, patterns: list[str], folder: Path) -> int:
    """Runs everything and reports. Returns how many tests differ from the page."""
    with serving(file, NATIVE, folder) as server:
        tests = [test for test in server.tests() if not patterns or any(part in test for part in patterns)]
        native = server.run(tests)
    passing = [test for test in tests if native[test].good]
    with serving(file, OURS, folder) as server:
        ours = server.run(passing)
    failing = [test for test in passing if not ours[test].good]
    unshared: dict[str, Outcome] = {}
    if failing:
        with serving(file, UNSHARED, folder) as server:
            unshared = server.run(failing)
    known = documented(PAGE.read_text())
    skipped = [test for test in passing if native[test].how == "skipped" and test not in failing]
    print(f"{len(tests)} tests of the allocator, streams and graphs")
    both = len(passing) - len(failing) - len(skipped)
    print(f"{both} pass on PyTorch's own allocator and on ours, {len(skipped)} skip")
    print(f"{len(tests) - len(passing)} do not pass on PyTorch's own here, where kernels do nothing:")
    for test in tests:
        if test not in passing:
            print(f"    {test}: {native[test].how}: {native[test].why}")
    print(f"{len(failing)} pass on PyTorch's own and not on ours:")
    different = 0
    for test in failing:
        as_documented = test in known and known[test][0] == unshared[test].good
        different += not as_documented
        print(f"    {'documented' if as_documented else 'DIFFERS   '} {test}: {ours[test].how}: {ours[test].why}")
        print(f"               without a shared tier: {unshared[test].how} {unshared[test].why}")
    for test in sorted(set(known) & set(passing) - set(failing)):
        different += 1
        print(f"    DIFFERS    {test} passes, but {PAGE.name} says that it does not")
    print(f"{different} differ from {PAGE.name}")
    return different


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("file", type=Path, help="test/test_cuda.py of a source of PyTorch near the release in use")
    parser.add_argument("patterns", nargs="*", help="parts of the names of tests; by default all")
    parser.add_argument("--keep", type=Path, help="where logs are kept; by default nothing is kept")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    file = arguments.file.resolve()
    if not file.is_file():
        parser.error(f"there is no file {file}")
    if arguments.serve:
        serve(file)
        return 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = (arguments.keep or Path(temporary)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        try:
            return 1 if compare(file, arguments.patterns, folder) else 0
        except Failure as why:
            print(why, file=sys.stderr)
            return 2


if __name__ == "__main__":
    sys.exit(main())
