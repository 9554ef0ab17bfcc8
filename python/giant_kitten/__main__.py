"""`python -m giant_kitten`: checks this machine, and runs programs on the allocator."""

from __future__ import annotations

import argparse
import ctypes
import os
import runpy
import sys

from . import _library


def stats() -> int:
    """Prints the memory of each device. Returns the exit status."""
    import torch

    from ._report import size

    for device in range(torch.cuda.device_count()):
        found = _library.read_json("gk_device_json", device)
        print(
            f"cuda:{device}: {found['device']}, shared memory by {found['rung']}\n"
            f"dedicated {size(found['dedicated_capacity'])} of {size(found['dedicated_total'])}, "
            f"shared {size(found['shared_capacity'])} of the host's {size(found['shared_total'])}"
        )
    return 0


def forget(program: str | None) -> int:
    """Forgets the remembered reserves of a program, or of all. Returns the exit status."""
    count = ctypes.c_size_t()
    _library.call("gk_forget", None if program is None else os.fsencode(program), ctypes.byref(count))
    if count.value:
        print(f"forgot the reserves of {count.value} program{'' if count.value == 1 else 's'}")
    else:
        print("nothing was remembered" + ("" if program is None else f" of {program}"))
    return 0


def watch(port: int) -> int:
    """Serves the page of all programs until it is interrupted. Returns the exit status."""
    from ._monitor.watch import watch

    server = watch(port)
    print(f"The memory map of all programs is at {server.url} (Ctrl+C ends it)", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        server.server_close()
    return 0


def monitor(port: int) -> None:
    """Serves the memory map of the script that runs next, and prints its address to stderr."""
    from ._monitor.own import monitor

    print(f"giant-kitten: the memory map is at {monitor(port)}", file=sys.stderr)


def run(script: str, arguments: list[str]) -> int:
    """Runs a script as Python would. Returns the exit status."""
    sys.argv = [script, *arguments]
    sys.path[0] = os.path.dirname(os.path.abspath(script))
    runpy.run_path(script, run_name="__main__")
    return 0


def _parser() -> argparse.ArgumentParser:
    description = (__doc__ or "").split(": ")[1]
    parser = argparse.ArgumentParser(prog="python -m giant_kitten", description=description)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("doctor", help="check this machine, and say how to solve each problem")
    commands.add_parser("stats", help="print the memory of each device, before anything is allocated")
    options = 'options as in GIANT_KITTEN, for example "reserve:1.6GiB,sort:reversed"'
    runner = commands.add_parser("run", help="run a script on the allocator")
    runner.add_argument("--options", help=options)
    runner.add_argument("script", help="the script")
    runner.add_argument("arguments", nargs=argparse.REMAINDER, help="the script's arguments")
    watcher = commands.add_parser(
        "monitor", help="show the memory map of a script, or of all running programs, on a local page"
    )
    watcher.add_argument("--port", type=int, default=0, help="the port on 127.0.0.1; by default a free one")
    watcher.add_argument("--options", help=options)
    watcher.add_argument("script", nargs="?", help="the script to run; by default all running programs are shown")
    watcher.add_argument("arguments", nargs=argparse.REMAINDER, help="the script's arguments")
    webui = commands.add_parser("webui", help="install the extension into a WebUI, or remove it")
    webui.add_argument("action", choices=("install", "remove"))
    webui.add_argument("folder", help="the folder of the WebUI: AUTOMATIC1111, Forge or ComfyUI")
    forgetter = commands.add_parser("forget", help="forget the reserves that reserve:remembered has kept")
    forgetter.add_argument("program", nargs="?", help="the script or program; by default all of them")
    return parser


def _do(parsed: argparse.Namespace) -> int | None:
    """Does a command. Returns the exit status, or None if the command goes on to run a script."""
    if parsed.command == "forget":
        return forget(parsed.program)
    if parsed.command == "doctor":
        from ._doctor import doctor

        return 1 if doctor() else 0
    if parsed.command == "webui":
        from .webui.extensions import commands

        return commands.main(parsed.action, parsed.folder)
    if parsed.command == "monitor" and parsed.script is None:
        return watch(parsed.port)
    from ._torch.install import install

    install(getattr(parsed, "options", None))
    if parsed.command == "stats":
        return stats()
    if parsed.command == "monitor":
        monitor(parsed.port)
    return None


def main(arguments: list[str] | None = None) -> int:
    """The command line. Returns the exit status."""
    parsed = _parser().parse_args(arguments)
    try:
        status = _do(parsed)
    except _library.Error as why:
        print(f"giant-kitten: {why}", file=sys.stderr)
        return 1
    # Scripts run outside of the handler: their own errors are shown with a traceback.
    return run(parsed.script, parsed.arguments) if status is None else status


if __name__ == "__main__":
    sys.exit(main())
