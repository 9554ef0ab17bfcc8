"""`python -m giant_kitten`: what was found on this machine, and programs run on the allocator."""

from __future__ import annotations

import argparse
import ctypes
import os
import runpy
import sys
from typing import Any

from . import _library, _variable


def doctor() -> int:
    """Says what was found, and what to do about what is wrong. Returns how many things are."""
    problems = 0

    def say(name: str, found: str, remedy: str = "") -> None:
        nonlocal problems
        problems += bool(remedy)
        print(f"{'!' if remedy else ' '} {name:12} {found}")
        if remedy:
            print(f"{'':15}{remedy}")

    try:
        version = _library.library().gk_version().decode()
        say("library", f"giant-kitten {version}, {_library.library_path()}")
    except _library.Error as why:
        say("library", "cannot be loaded", str(why))
        return problems
    say("variable", _variable.meaning())
    late = _variable.too_late()
    if late:
        say("", "giant-kitten is not in use", late)
    from . import _install

    for name in _install._VARIABLES:
        text = os.environ.get(name, "")
        if "backend" in text:
            say(name, text, "the choice of a backend is ignored while giant-kitten is in use: take it out")
        if "expandable_segments" in text:
            say(name, f"{text}: without effect, giant-kitten's segments always grow")
    try:
        import torch

        say("torch", f"{torch.__version__}, CUDA {torch.version.cuda}")
        _install.install()
    except ImportError as why:
        say("torch", f"not here ({why})", "install a CUDA build of PyTorch beside giant-kitten")
        return problems
    except _library.Error as why:
        say("torch", "cannot be served", str(why))
        return problems
    if not torch.cuda.is_available():
        remedy, seen = "is the NVIDIA driver installed, and recent enough for this PyTorch?", "CUDA_VISIBLE_DEVICES"
        if seen in os.environ:
            remedy = f"{seen}={os.environ[seen]} hides what it does not name: unset it, or name a GPU that is here"
        say("driver", "PyTorch finds no GPU", remedy)
        return problems
    from ._report import size

    for device in range(torch.cuda.device_count()):
        try:
            # Looked at, and not put to use: neither heap nor reserve is made on a device that others may need.
            found = _library.read_json("gk_device_json", device)
        except _library.Error as why:
            say(f"cuda:{device}", "cannot be used", str(why))
            continue
        say(f"cuda:{device}", f"{found['device']}: dedicated {size(found['dedicated_capacity'])}")
        remedy = ""
        if found["rung"] == "none":
            remedy = "the driver offers no shared memory (it needs CUDA 12.2 or later): " + "; ".join(
                found["rungs_refused"]
            )
        elif found["shared_capacity"] == 0:
            remedy = 'the host has no memory to spare: close programs, or set the option "shared"'
        say("", f"shared {size(found['shared_capacity'])} by {found['rung']}", remedy)
        if found["rung"] != "none":
            say(
                "",
                f"of the host's {size(found['shared_total'])} half is for all processes of this user: {_left(found)}",
            )
        if found["rung"] == "pinned":
            say("", "on this driver what exists cannot change tier: actions take tensors out and back instead, because")
            for reason in found["rungs_refused"]:
                say("", f"  {reason}")
    print("nothing is wrong" if problems == 0 else f"{problems} to mend")
    return problems


def _left(found: dict[str, Any]) -> str:
    from ._report import size

    left = max(0, min(found["shared_budget"], found["shared_total"] // 2 - found["shared_others"]))
    return f"others hold {size(found['shared_others'])}, so this one may take {size(left)} on all devices together"


def forget(program: str | None) -> int:
    """Forgets what `reserve:remembered` has kept of a program, or of all. Returns the exit status."""
    count = ctypes.c_size_t()
    try:
        _library.call("gk_forget", None if program is None else os.fsencode(program), ctypes.byref(count))
    except _library.Error as why:
        print(f"giant-kitten: {why}", file=sys.stderr)
        return 1
    what = "nothing was remembered" if count.value == 0 else f"forgot what {count.value} programs have wanted"
    print(what if program is None or count.value else f"nothing was remembered of {program}")
    return 0


def watch(port: int) -> int:
    """Serves the page of all programs until it is interrupted."""
    from . import _monitor

    try:
        server = _monitor.watch(port)
    except _library.Error as why:
        print(f"giant-kitten: {why}", file=sys.stderr)
        return 1
    print(f"The memory map of all programs is at {server.url} (Ctrl+C ends it)", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        server.server_close()
    return 0


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m giant_kitten", description=(__doc__ or "").split(": ")[1])
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("doctor", help="say what was found on this machine, and what to do about what is wrong")
    commands.add_parser("stats", help="say what each device has, before anything is allocated")
    runner = commands.add_parser("run", help="run a script on the allocator")
    runner.add_argument("--options", help='as in GIANT_KITTEN: "reserve:1.6GiB,sort:reversed"')
    runner.add_argument("script", help="the script")
    runner.add_argument("arguments", nargs=argparse.REMAINDER, help="its arguments")
    watcher = commands.add_parser(
        "monitor", help="show the memory map of a program, or of all that run, on a local page"
    )
    watcher.add_argument("--port", type=int, default=0, help="the port on 127.0.0.1; a free one if not given")
    watcher.add_argument("--options", help='as in GIANT_KITTEN: "reserve:1.6GiB,sort:reversed"')
    watcher.add_argument("script", nargs="?", help="the script to run; without one, all running programs are shown")
    watcher.add_argument("arguments", nargs=argparse.REMAINDER, help="its arguments")
    webui = commands.add_parser("webui", help="put the extension into a WebUI, or take it out")
    webui.add_argument("action", choices=("install", "remove"))
    webui.add_argument("folder", help="the WebUI's folder: AUTOMATIC1111's, Forge's or ComfyUI's")
    forgetter = commands.add_parser("forget", help="forget the reserves that reserve:remembered has kept")
    forgetter.add_argument("program", nargs="?", help="of this script or program alone")
    parsed = parser.parse_args(arguments)
    if parsed.command == "forget":
        return forget(parsed.program)
    if parsed.command == "doctor":
        return 1 if doctor() else 0
    if parsed.command == "webui":
        from .webui import extensions

        return extensions.main(parsed.action, parsed.folder)
    if parsed.command == "monitor" and parsed.script is None:
        return watch(parsed.port)
    from . import _install, _monitor

    try:
        _install.install(getattr(parsed, "options", None))
    except _library.Error as why:
        print(f"giant-kitten: {why}", file=sys.stderr)
        return 1
    if parsed.command == "stats":
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
    if parsed.command == "monitor":
        try:
            print(f"giant-kitten: the memory map is at {_monitor.monitor(parsed.port)}", file=sys.stderr)
        except _library.Error as why:
            print(f"giant-kitten: {why}", file=sys.stderr)
            return 1
    sys.argv = [parsed.script, *parsed.arguments]
    sys.path[0] = os.path.dirname(os.path.abspath(parsed.script))
    runpy.run_path(parsed.script, run_name="__main__")
    return 0


if __name__ == "__main__":
    sys.exit(main())
