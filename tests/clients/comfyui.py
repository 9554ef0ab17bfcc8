"""A genuine ComfyUI server on the genuine PyTorch over the fake CUDA runtime, with prompts by HTTP.

`scripts/torch-rig clients --comfyui PATH [CASE...]` runs it, on the user's own checkout of ComfyUI,
which stays unchanged. Each case starts a server and sends it prompts of the plain text-to-image
workflow. It passes if every picture has the requested size, the allocator is the expected one, the
simulated GPU found no fault, and the server ends without an error. The checkpoint has the names and
shapes of Stable Diffusion 1.5 and weights of zeros. Kernels do nothing, so pictures mean nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
SQUARE = (512, 512, 1)


@dataclass(frozen=True)
class Case:
    """One server, and its prompts."""

    name: str
    # Dedicated memory of the card, in MiB.
    dedicated: int
    # Width, height and number of pictures of each prompt.
    prompts: tuple[tuple[int, int, int], ...]
    arguments: tuple[str, ...] = ()
    variable: str = "1"
    backend: str = "pluggable"
    # Text that the server's log must have, and text that it must not have.
    said: str = ""
    unsaid: str = ""


FOUR = (SQUARE, SQUARE, (640, 512, 1), (768, 768, 1))
CASES = (
    Case("native", 8192, (SQUARE, SQUARE), ("--disable-cuda-malloc",), "0", "native"),
    Case("default", 8192, (SQUARE, SQUARE)),
    Case("disable-cuda-malloc", 8192, (SQUARE, SQUARE), ("--disable-cuda-malloc",)),
    Case("card-of-3g", 3072, FOUR),
    Case("card-of-1g", 1024, FOUR),
    Case("card-of-1g-reserve", 1024, FOUR, variable="reserve:256MiB"),
    # 1536 x 1536 needs more than the card has, and overflows to the shared tier.
    Case("large-decode-shared", 1024, (SQUARE, (1536, 1536, 1)), unsaid="tiled VAE decoding"),
    # Without a shared tier ComfyUI catches PyTorch's out of memory and decodes in tiles, as on
    # PyTorch's own.
    Case("large-decode-native", 1024, (SQUARE, (1536, 1536, 1)), (), "0", "cudaMallocAsync", "tiled VAE decoding"),
    Case("large-decode-tiled", 1024, (SQUARE, (1536, 1536, 1)), variable="shared:0", said="tiled VAE decoding"),
)


class Failure(Exception):
    """Why a case fails."""


class Server:
    """A running ComfyUI."""

    def __init__(self, comfyui: Path, case: Case, folder: Path, checkpoint: Path) -> None:
        self.case, self.folder = case, folder
        self.log, self.faults = folder / "server.log", folder / "faults"
        for name in ("models/checkpoints", "output", "input", "user", "temp", "custom_nodes", "web"):
            (folder / name).mkdir(parents=True)
        (folder / "web" / "index.html").write_text("<html></html>")
        (folder / "models" / "checkpoints" / checkpoint.name).symlink_to(checkpoint)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.address = f"http://127.0.0.1:{port}"
        variables = {
            **os.environ,
            "GIANT_KITTEN": case.variable,
            "FAKE_CUDA_PROFILE": str(self._profile()),
            "FAKE_CUDA_FAULTS": str(self.faults),
        }
        # fmt: off
        command = [
            sys.executable, "main.py", "--listen", "127.0.0.1", "--port", str(port), "--base-directory", str(folder),
            "--front-end-root", str(folder / "web"), "--database-url", f"sqlite:///{folder}/user/comfyui.db",
            "--disable-all-custom-nodes", "--disable-api-nodes", *case.arguments,
        ]
        # fmt: on
        with self.log.open("w") as log:
            # A process in a shell's background ignores Ctrl-C and passes that on. The server must
            # not ignore it.
            signal.signal(signal.SIGINT, signal.default_int_handler)
            self.process = subprocess.Popen(command, cwd=comfyui, env=variables, stdout=log, stderr=subprocess.STDOUT)

    def _profile(self) -> Path:
        file = self.folder / "card.toml"
        file.write_text(
            f'name = "{self.case.name}"\ndedicated = "{self.case.dedicated} MiB"\nshared = "64 GiB"\n'
            "vram_bandwidth = 300e9\nlink_to_device = 13e9\nlink_to_host = 13e9\nfp16_rate = 20e12\n"
            "in_place_reread = 1.0\n"
        )
        return file

    def get(self, path: str) -> Any:
        """Sends a GET request."""
        with urllib.request.urlopen(self.address + path, timeout=30) as answer:
            return json.load(answer)

    def post(self, path: str, body: Any) -> Any:
        """Sends a POST request."""
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(self.address + path, json.dumps(body).encode(), headers)
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                text = answer.read()
        except urllib.error.HTTPError as why:
            raise Failure(f"{path} was refused: {why.read().decode()[:2000]}") from why
        return json.loads(text) if text else None

    def wait_for(self, what: str, seconds: float, path: str) -> Any:
        """Requests until there is an answer that is not empty."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if self.process.poll() is not None:
                raise Failure(f"the server ended with {self.process.returncode} before {what}")
            with contextlib.suppress(OSError):
                answer = self.get(path)
                if answer:
                    return answer
            time.sleep(0.1)
        raise Failure(f"no {what} within {seconds:.0f} s")

    def draw(self, number: int, size: tuple[int, int, int]) -> float:
        """Sends a prompt and waits for its pictures; returns the seconds."""
        width, height, count = size
        started = time.monotonic()
        known = self.post("/prompt", {"prompt": workflow(number, width, height, count)})["prompt_id"]
        done = self.wait_for(f"answer to prompt {number}", 300, f"/history/{known}")[known]
        for kind, message in done["status"]["messages"]:
            if kind == "execution_error":
                raise Failure(f"prompt {number}: {message['exception_type']}: {message['exception_message']}")
        pictures = [picture for output in done["outputs"].values() for picture in output.get("images", [])]
        for picture in pictures:
            head = (self.folder / "output" / picture["subfolder"] / picture["filename"]).read_bytes()[:24]
            if struct.unpack(">II", head[16:]) != (width, height):
                raise Failure(
                    f"prompt {number}: a picture of {struct.unpack('>II', head[16:])}, not {width} x {height}"
                )
        if len(pictures) != count:
            raise Failure(f"prompt {number}: {len(pictures)} pictures, not {count}")
        return time.monotonic() - started

    def unload(self) -> None:
        """Unloads the models, and checks that their memory is freed."""
        self.post("/free", {"unload_models": True, "free_memory": True})
        until = time.monotonic() + 120
        while (held := self.get("/system_stats")["devices"][0]["torch_vram_total"]) > 512 << 20:
            if time.monotonic() > until:
                raise Failure(f"{held >> 20} MiB are still held after all models were unloaded")
            time.sleep(0.25)
        # The worker unloads in its own time, and Python would end the thread in the middle of C++
        # destructors.
        worked, before = self._processor_seconds(), -1.0
        while worked - before > 0.1:
            time.sleep(1)
            before, worked = worked, self._processor_seconds()

    def _processor_seconds(self) -> float:
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def end(self) -> None:
        """Ends the server as a user does, with Ctrl-C."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(120)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
                raise Failure("the server did not end within 120 s") from None


def workflow(number: int, width: int, height: int, count: int) -> dict[str, Any]:
    """The workflow that ComfyUI begins with, text to image: each node by its name."""

    def node(kind: str, **inputs: Any) -> dict[str, Any]:
        return {"class_type": kind, "inputs": inputs}

    sampling = {"seed": number, "steps": 4, "cfg": 7.5, "sampler_name": "euler", "scheduler": "normal", "denoise": 1}
    return {
        "load": node("CheckpointLoaderSimple", ckpt_name="zeros.safetensors"),
        "wanted": node("CLIPTextEncode", clip=["load", 1], text="a photograph of a kitten"),
        "unwanted": node("CLIPTextEncode", clip=["load", 1], text="dogs"),
        "latent": node("EmptyLatentImage", width=width, height=height, batch_size=count),
        "sample": node(
            "KSampler", model=["load", 0], positive=["wanted", 0], negative=["unwanted", 0],
            latent_image=["latent", 0], **sampling,
        ),
        "decode": node("VAEDecode", samples=["sample", 0], vae=["load", 2]),
        "save": node("SaveImage", images=["decode", 0], filename_prefix="picture"),
    }  # fmt: skip


@contextlib.contextmanager
def serving(comfyui: Path, case: Case, folder: Path, checkpoint: Path) -> Iterator[Server]:
    """A server that is ended in any case."""
    server = Server(comfyui, case, folder, checkpoint)
    try:
        server.wait_for("listening", 600, "/system_stats")
        yield server
        server.end()
    finally:
        if server.process.poll() is None:
            server.process.kill()
            server.process.wait()


def run(comfyui: Path, case: Case, folder: Path, checkpoint: Path) -> str:
    """Runs a case, and returns the text to print."""
    with serving(comfyui, case, folder, checkpoint) as server:
        name = server.get("/system_stats")["devices"][0]["name"]
        if not name.endswith(f": {case.backend}"):
            raise Failure(f"the allocator is {name!r}, not {case.backend}")
        seconds = [server.draw(number, size) for number, size in enumerate(case.prompts)]
        server.unload()
    log = server.log.read_text()
    if server.process.returncode != 0:
        raise Failure(f"the server ended with {server.process.returncode}")
    if server.faults.exists() and server.faults.read_text():
        raise Failure(f"faults: {server.faults.read_text()[:2000]}")
    if case.said not in log or (case.unsaid and case.unsaid in log):
        raise Failure(f"the log should have {case.said!r} and not {case.unsaid!r}")
    complaint = re.search(r".*(giant-kitten\[\d+\] (warn|error): |giant-kitten is not in use).*", log)
    if complaint:
        raise Failure(complaint[0])
    return " ".join(f"{each:.1f} s" for each in seconds)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("comfyui", type=Path, help="a checkout of ComfyUI")
    parser.add_argument("cases", nargs="*", choices=[[], *(case.name for case in CASES)], help="cases; by default all")
    parser.add_argument("--keep", type=Path, help="where logs and pictures are kept; by default nothing is kept")
    arguments = parser.parse_args()
    if not (arguments.comfyui / "main.py").exists():
        parser.error(f"{arguments.comfyui} is not a checkout of ComfyUI: it has no main.py")
    chosen = [case for case in CASES if not arguments.cases or case.name in arguments.cases]
    failed = 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = (arguments.keep or Path(temporary)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        checkpoint = folder / "zeros.safetensors"
        make = [sys.executable, str(HERE / "comfyui_checkpoint.py"), str(checkpoint)]
        subprocess.run(make, cwd=arguments.comfyui, check=True, env={**os.environ, "GIANT_KITTEN": "0"})
        for case in chosen:
            started = time.monotonic()
            try:
                report = f"passed, prompts {run(arguments.comfyui, case, folder / case.name, checkpoint)}"
            except Failure as why:
                failed += 1
                log = folder / case.name / "server.log"
                tail = "\n    ".join(log.read_text().splitlines()[-25:])
                report = f"FAILED: {why}\n    {tail}"
            print(f"{case.name:20} {time.monotonic() - started:6.1f} s  {report}", flush=True)
    print(f"{len(chosen) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
