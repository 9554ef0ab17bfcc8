"""The command `giant-kitten`: checks this machine, and runs programs on the allocator."""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import sys
from pathlib import Path
from typing import Any

from . import _library
from ._run import Program


def stats(as_json: bool = False) -> int:
    """Prints the memory of each device. Returns the exit status."""
    import torch

    found = [
        {"index": device, **_library.read_json("gk_device_json", device)} for device in range(torch.cuda.device_count())
    ]
    if as_json:
        # The keys are a promise to programs: docs/pytorch.md.
        print(json.dumps({"version": _library.version(), "devices": found}, indent=2))
    else:
        for device in found:
            print(_memory(device))
    return 0


def _memory(device: dict[str, Any]) -> str:
    from ._report import size

    return (
        f"cuda:{device['index']}: {device['device']}, shared memory by {device['rung']}\n"
        f"dedicated {size(device['dedicated_capacity'])} of {size(device['dedicated_total'])}, "
        f"shared {size(device['shared_capacity'])} of the host's {size(device['shared_total'])}"
    )


def forget(program: str | None) -> int:
    """Forgets the remembered reserves of a program, or of all. Returns the exit status."""
    count = ctypes.c_size_t()
    _library.call("gk_forget", None if program is None else os.fsencode(program), ctypes.byref(count))
    if count.value:
        print(f"forgot the reserves of {count.value} program{'' if count.value == 1 else 's'}")
    else:
        print("nothing was remembered" + ("" if program is None else f" of {program}"))
    return 0


def watch(port: int, host: str) -> int:
    """Serves the page of all programs until it is interrupted. Returns the exit status."""
    from ._monitor.watch import watch

    server = watch(port, host)
    print(f"The memory map of all programs is at {server.url} (Ctrl+C ends it)", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        server.server_close()
    return 0


def monitor(port: int, host: str) -> None:
    """Serves the memory map of the program that runs next, and prints its address to stderr."""
    from ._monitor.own import monitor

    print(f"giant-kitten: the memory map is at {monitor(port, host)}", file=sys.stderr)


class _Version(argparse.Action):
    """Prints the version of the library, which is loaded for nothing else."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        try:
            print(f"giant-kitten {_library.version()}")
        except _library.Error as why:
            parser.exit(1, f"giant-kitten: {why}\n")
        parser.exit()


def _parser() -> argparse.ArgumentParser:
    description = (__doc__ or "").split(": ")[1]
    started = Path(sys.argv[0]).stem
    name = started if started == "giant-kitten" else "python -m giant_kitten"
    parser = argparse.ArgumentParser(prog=name, description=description)
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")
    commands = parser.add_subparsers(dest="command")
    _add_json(commands.add_parser("doctor", help="check this machine, and say how to solve each problem"))
    _add_json(commands.add_parser("stats", help="print the memory of each device, before anything is allocated"))
    runner = commands.add_parser(
        "run",
        help="run a program on the allocator",
        usage="%(prog)s [--options OPTIONS] (SCRIPT | -m MODULE) [ARGS...]",
    )
    _add_program(runner)
    watcher = commands.add_parser(
        "monitor",
        help="show the memory map of a program, or of all running programs, on a page",
        usage="%(prog)s [--port PORT] [--host ADDRESS] [--options OPTIONS] [SCRIPT | -m MODULE] [ARGS...]",
    )
    watcher.add_argument("--port", type=int, default=0, help="the port of the page; by default a free one")
    watcher.add_argument(
        "--host",
        metavar="ADDRESS",
        default="127.0.0.1",
        help="the address of this machine to listen on; by default 127.0.0.1, so that only this machine sees the page. "
        "0.0.0.0 shows it to every machine that reaches this one and has the token",
    )
    _add_program(watcher, optional=True)
    webui = commands.add_parser(
        "webui",
        help="install the extension into a WebUI, remove it, or look at it",
        usage="%(prog)s [--python PATH] (install | remove | status) FOLDER",
    )
    webui.add_argument(
        "action",
        choices=("install", "remove", "status"),
        help="install puts the extension in place, or a newer one; remove leaves nothing of it; status says what is "
        "installed where",
    )
    webui.add_argument("--python", metavar="PATH", help="the Python that starts the WebUI; by default it is found")
    webui.add_argument("folder", nargs="+", help="the folder of the WebUI: AUTOMATIC1111, Forge or ComfyUI")
    forgetter = commands.add_parser("forget", help="forget the reserves that reserve:remembered has kept")
    forgetter.add_argument("program", nargs="?", help="the script or program; by default all of them")
    return parser


def _add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", dest="as_json", action="store_true", help="print JSON, for programs")


def _add_program(parser: argparse.ArgumentParser, optional: bool = False) -> None:
    """Adds the arguments that name a program to run."""
    otherwise = "; by default all running programs are shown" if optional else ""
    parser.add_argument("--options", help='options as in GIANT_KITTEN, for example "reserve:1.6GiB,sort:reversed"')
    parser.add_argument("-m", dest="is_module", action="store_true", help="the program is a module, not a script")
    parser.add_argument("program", nargs="?" if optional else None, help=f"the script or module to run{otherwise}")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="the program's arguments")


def _do(parsed: argparse.Namespace) -> int | Program:
    """Does a command. Returns the exit status, or the program that is to run then."""
    if parsed.command == "forget":
        return forget(parsed.program)
    if parsed.command == "doctor":
        from ._doctor import doctor

        return 1 if doctor(parsed.as_json) else 0
    if parsed.command == "webui":
        from .webui.extensions import commands

        folder = " ".join(parsed.folder)
        if len(parsed.folder) > 1:
            raise _library.Error(f'one folder is wanted: if its name has spaces, quote it, as in "{folder}"')
        return commands.main(parsed.action, folder, parsed.python)
    if parsed.command == "stats":
        from ._torch.install import install

        install()
        return stats(parsed.as_json)
    if parsed.command == "monitor" and parsed.program is None:
        return watch(parsed.port, parsed.host)
    program = Program(parsed.program, tuple(parsed.arguments), parsed.is_module)
    program.install(parsed.options)
    if parsed.command == "monitor":
        monitor(parsed.port, parsed.host)
    return program


def _take_any_letter() -> None:
    """Lets the names of folders be printed that have letters which the terminal lacks."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def main(arguments: list[str] | None = None) -> int:
    """The command line. Returns the exit status."""
    parser = _parser()
    parsed = parser.parse_args(arguments)
    if parsed.command is None:
        parser.print_help()
        return 0
    if getattr(parsed, "arguments", None) is None:
        # A program that is run keeps its streams as they are.
        _take_any_letter()
    try:
        done = _do(parsed)
    except _library.Error as why:
        print(f"giant-kitten: {why}", file=sys.stderr)
        return 1
    if isinstance(done, int):
        return done
    # Programs run outside of the handler: their own errors are shown with a traceback.
    done.run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
