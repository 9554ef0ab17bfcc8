"""A stand-in for ComfyUI, with the modules and the frontend that our package uses.

    comfyui_host.py PACKAGE --port N [--late] [--dynamic [--stuck]] [--without-package]

`PACKAGE` is the folder that goes into `custom_nodes`; its prestartup script, nodes, routes and
frontend extension are used in the way of ComfyUI. A prompt loads a small model, runs the package's
nodes, and samples. With `--dynamic`, models are in the memory of a stand-in for comfy-aimdo. As in
ComfyUI, prompts run in a thread of their own.
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import sys
import types
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from aiohttp import web
from stand_in import load, module

PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>host page</title>
<link rel="icon" href="data:,"><style>body { margin: 0; display: flex } main { flex: 1; height: 900px }
aside { width: clamp(190px, 40vw, 400px); flex: none }</style>
<nav></nav><aside></aside><main></main><script type="module" src="extensions/giant-kitten/giant_kitten.js"></script>"""

# The sidebar part of `app` in ComfyUI's frontend.
APP = """
export const app = {
  extensionManager: {
    registerSidebarTab(tab) {
      const button = document.createElement("button");
      button.title = tab.tooltip;
      button.textContent = tab.title;
      button.className = `${tab.id}-tab-button`;
      button.onclick = () => tab.render(document.querySelector("aside"));
      document.querySelector("nav").append(button);
    },
  },
  registerExtension(extension) { extension.setup(this); },
};
"""


class Patcher:
    """`comfy.model_patcher.ModelPatcher`: a model that is on the CPU until it is needed."""

    def __init__(self) -> None:
        import torch

        layers = [torch.nn.Linear(2048, 2048, bias=False, dtype=torch.float16) for _ in range(8)]
        self.model = types.SimpleNamespace(diffusion_model=torch.nn.Sequential(*layers))


class Host:
    """The server and its model."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.package = options, Path(options.package)
        load(self.package / "prestartup_script.py", "prestartup_script")
        import torch

        self.torch = torch
        self.history: dict[str, Any] = {}
        if options.late:
            torch.zeros(1, device="cuda")
        self.routes = web.RouteTableDef()
        self.modules()
        if options.dynamic:
            self.dynamic_vram()
        if options.without_package:
            # The import of a module that is None fails as if it were not there.
            sys.modules["giant_kitten.webui"] = None  # type: ignore[assignment]
        self.package_module = load(self.package / "__init__.py", "giant-kitten")
        self.nodes = self.package_module.NODE_CLASS_MAPPINGS
        self.names = self.package_module.NODE_DISPLAY_NAME_MAPPINGS

    def modules(self) -> None:
        """Creates all modules that the package imports."""
        loaded: list[Any] = []
        host = self

        def load_models_gpu(patchers: list[Patcher]) -> None:
            for patcher in patchers:
                patcher.model.diffusion_model.cuda()
                loaded[:] = [types.SimpleNamespace(model=patcher)]

        class PromptExecutor:
            """`execution.PromptExecutor`."""

            def execute(self, prompt: Any, prompt_id: str) -> None:
                host.history[prompt_id] = host.run(prompt)

        module("comfy")
        management = module(
            "comfy.model_management", current_loaded_models=loaded, load_models_gpu=load_models_gpu,
            unload_all_models=loaded.clear, soft_empty_cache=self.torch.cuda.empty_cache,
        )  # fmt: skip
        utils = module("comfy.utils", PROGRESS_BAR_HOOK=lambda *_: None)
        utils.__dict__["set_progress_bar_global_hook"] = lambda hook: setattr(utils, "PROGRESS_BAR_HOOK", hook)
        module("execution", PromptExecutor=PromptExecutor)
        module("server", PromptServer=types.SimpleNamespace(instance=types.SimpleNamespace(routes=self.routes)))
        self.management, self.utils = management, utils

    def dynamic_vram(self) -> None:
        """Says that dynamic VRAM is on, and has 96 MiB for each model that is loaded."""
        module("comfy.memory_management", aimdo_enabled=True)
        module("comfy.cli_args", args=types.SimpleNamespace(vram_headroom=0.5))
        module("comfy_aimdo")
        loaded = self.management.current_loaded_models

        def unload_all_models() -> None:
            # As comfy-aimdo does, it calls the driver, in whatever thread it is called.
            device = ctypes.c_int()
            if self.options.stuck or ctypes.CDLL("libcuda.so.1").cuCtxGetDevice(ctypes.byref(device)):
                raise RuntimeError("HostBuffer.truncate failed")
            loaded.clear()

        self.management.__dict__["unload_all_models"] = unload_all_models
        module("comfy_aimdo.control", get_total_vram_usage=lambda: (96 << 20) * len(loaded))

    def run(self, prompt: Any) -> Any:
        """The nodes of a prompt, in the order in which they are written."""
        torch, outputs = self.torch, {}
        results: dict[str, Any] = {}
        for name, node in prompt.items():
            given = {
                key: results[value[0]][value[1]] if isinstance(value, list) else value
                for key, value in node["inputs"].items()
            }
            if node["class_type"] == "Load":
                results[name] = (Patcher(),)
            elif node["class_type"] == "Sample":
                self.management.load_models_gpu([given["model"]])
                x = torch.zeros(given["width"], 2048, device="cuda", dtype=torch.float16)
                with torch.no_grad():
                    for step in range(4):
                        x = given["model"].model.diffusion_model(x)
                        self.utils.PROGRESS_BAR_HOOK(step + 1, 4, None)
                results[name] = (x.shape,)
            else:
                kind = self.nodes[node["class_type"]]
                answer = getattr(kind(), kind.FUNCTION)(**given)
                outputs[name] = answer.get("ui") if isinstance(answer, dict) else None
                results[name] = answer["result"] if isinstance(answer, dict) else answer
        return {"outputs": {name: output for name, output in outputs.items() if output}}

    def serve(self) -> None:
        """Serves until the process ends."""

        def text(content: str, kind: str) -> Any:
            async def answer(asked: Any) -> Any:
                return web.Response(text=content, content_type=kind)

            return answer

        worker = ThreadPoolExecutor(1)

        async def prompt(asked: Any) -> Any:
            body, known = await asked.json(), str(len(self.history))
            executor = sys.modules["execution"].PromptExecutor()
            await asyncio.get_running_loop().run_in_executor(worker, executor.execute, body["prompt"], known)
            return web.json_response({"prompt_id": known})

        async def history(asked: Any) -> Any:
            known = asked.match_info["known"]
            return web.json_response({known: self.history[known]} if known in self.history else {})

        async def info(asked: Any) -> Any:
            found = {
                name: {"input": kind.INPUT_TYPES(), "display_name": self.names[name], "category": kind.CATEGORY}
                for name, kind in self.nodes.items()
            }
            return web.json_response(found)

        app = web.Application()
        app.router.add_get("/", text(PAGE, "text/html"))
        app.router.add_get("/scripts/app.js", text(APP, "text/javascript"))
        app.router.add_static("/extensions/giant-kitten/", self.package / self.package_module.WEB_DIRECTORY)
        app.router.add_post("/prompt", prompt)
        app.router.add_get("/history/{known}", history)
        app.router.add_get("/object_info", info)
        app.add_routes(self.routes)

        async def ready(_: Any) -> None:
            asyncio.get_running_loop().call_later(0.2, lambda: print("To see the GUI go to: here", flush=True))

        app.on_startup.append(ready)
        web.run_app(app, host="127.0.0.1", port=self.options.port, print=None)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("package")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--late", action="store_true", help="start CUDA before the package comes")
    parser.add_argument("--dynamic", action="store_true", help="switch a stand-in for dynamic VRAM on")
    parser.add_argument("--stuck", action="store_true", help="dynamic VRAM fails to unload models")
    parser.add_argument("--without-package", action="store_true", help="as if giant-kitten's package were not there")
    Host(parser.parse_args()).serve()


if __name__ == "__main__":
    main()
