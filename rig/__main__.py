"""The command line of the rig: `scripts/torch-rig`."""

from __future__ import annotations

import argparse
import os
import shutil
import sys

from rig.folder import Rig
from rig.process import ROOT, pytest
from rig.releases import DEFAULT, RELEASES


def main() -> None:
    """Prepares a release, and becomes the program that the command names."""
    parser = _parser()
    arguments, others = parser.parse_known_args()
    if others and arguments.command not in ("test", "bench"):
        parser.error(f"unrecognized arguments: {' '.join(others)}")
    if arguments.command == "run" and not arguments.program:
        parser.error("run needs a program, as in: run python program.py")
    rig = Rig(RELEASES[arguments.torch])
    rig.prepare()
    if arguments.command == "test":
        _test(rig, others)
    elif arguments.command == "bench":
        _bench(rig, others)
    elif arguments.command == "clients":
        _clients(rig, arguments)
    elif arguments.command == "run":
        _run(rig, arguments.program, arguments.native)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="torch-rig",
        description="The genuine PyTorch on a fake CUDA runtime over the simulated GPU, prepared once.",
    )
    parser.add_argument("--torch", choices=RELEASES, default=DEFAULT, help="the release of PyTorch")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("prepare", help="prepare everything")
    commands.add_parser(
        "test", help="run the tests of the package, on our allocator", usage="%(prog)s [PYTEST ARGS...]"
    )
    commands.add_parser("bench", help="compare the allocators (benches/torch/run.py)", usage="%(prog)s [ARGS...]")
    clients = commands.add_parser("clients", help="run somebody else's program, from a checkout, on our allocator")
    client = clients.add_mutually_exclusive_group(required=True)
    client.add_argument("--comfyui", metavar="PATH", help="a checkout of ComfyUI")
    client.add_argument("--pytorch", metavar="PATH", help="test/test_cuda.py of PyTorch's source")
    clients.add_argument("cases", nargs="*", help="cases, or parts of the names of tests; by default all")
    clients.add_argument("--keep", metavar="PATH", help="where logs and pictures are kept")
    runner = commands.add_parser("run", help="run a program")
    runner.add_argument("--native", action="store_true", help="on PyTorch's own allocator")
    runner.add_argument("program", nargs=argparse.REMAINDER, help="the program and its arguments")
    return parser


def _test(rig: Rig, arguments: list[str]) -> None:
    rig.prepare_tests()
    command = [str(rig.python), *pytest(ROOT / "tests" / "torch", arguments)]
    os.execve(rig.python, command, rig.environment(native=False))


def _bench(rig: Rig, arguments: list[str]) -> None:
    rig.prepare_tests()
    environment = rig.environment(native=False)
    environment["GIANT_KITTEN_CUDA_INCLUDE"] = ":".join(str(folder) for folder in rig.include())
    command = [str(rig.python), str(ROOT / "benches" / "torch" / "run.py"), *arguments]
    os.execve(rig.python, command, environment)


def _clients(rig: Rig, arguments: argparse.Namespace) -> None:
    rig.prepare_tests()
    if arguments.comfyui:
        rig.prepare_comfyui()
        program, path = "comfyui.py", arguments.comfyui
    else:
        rig.prepare_pytorch_tests()
        program, path = "pytorch_tests.py", arguments.pytorch
    command = [str(rig.python), str(ROOT / "tests" / "clients" / program), path, *arguments.cases]
    command += ["--keep", arguments.keep] if arguments.keep else []
    os.execve(rig.python, command, rig.environment(native=False))


def _run(rig: Rig, command: list[str], native: bool) -> None:
    environment = rig.environment(native)
    program = shutil.which(command[0], path=environment["PATH"])
    if not program:
        sys.exit(f"torch-rig: there is no program {command[0]} in the virtual environment or on the PATH")
    os.execve(program, command, environment)


if __name__ == "__main__":
    main()
