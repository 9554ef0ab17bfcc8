"""A stand-in for AUTOMATIC1111, with the `modules` that our extension uses and a small model.

    host.py EXTENSION --port N [--late] [--api] [--settings FILE] [--preload] [--without-package]

The page is built by real gradio. The extension's preload.py, script, settings, callbacks,
JavaScript and routes are used in the way of the WebUIs. `--late` starts CUDA before the extension
is loaded.
"""

from __future__ import annotations

import argparse
import contextlib
import html
import importlib
import json
import sys
import threading
import traceback
import types
from pathlib import Path
from typing import Any

from stand_in import load, module


class Script:
    """`modules.scripts.Script`."""

    is_img2img = False
    alwayson = False
    args_from = args_to = 0
    group: Any = None

    def title(self) -> str:
        raise NotImplementedError

    def show(self, is_img2img: bool) -> Any:
        return True

    def ui(self, is_img2img: bool) -> Any:
        return []

    def run(self, p: Any, *values: Any) -> Any:
        return None

    def process(self, p: Any, *values: Any) -> None: ...

    def postprocess_batch(self, p: Any, *values: Any, **named: Any) -> None: ...

    def postprocess(self, p: Any, processed: Any, *values: Any) -> None: ...

    def elem_id(self, item: str) -> str:
        return f"script_txt2img_{self.title().lower().replace(' ', '_')}_{item}"


class OptionInfo:
    """`modules.options.OptionInfo`."""

    def __init__(
        self, default: Any, label: str, component: Any = None, component_args: Any = None, section: Any = None
    ) -> None:
        self.default, self.label, self.component, self.component_args = default, label, component, component_args or {}
        self.section = section


class Options:
    """`modules.options.Options`: settings in a file."""

    def __init__(self, file: Path) -> None:
        self.__dict__["labels"] = {}
        self.__dict__["data"] = json.loads(file.read_text()) if file.exists() else {}

    def __getattr__(self, name: str) -> Any:
        if name in self.data:
            return self.data[name]
        if name in self.labels:
            return self.labels[name].default
        raise AttributeError(name)

    def add_option(self, key: str, info: OptionInfo) -> None:
        self.labels[key] = info
        self.data.setdefault(key, info.default)

    def set(self, key: str, value: Any) -> bool:
        self.data[key] = value
        return True

    def save(self, file: str) -> None:
        Path(file).write_text(json.dumps(self.data, indent=4))


class Processed:
    """`modules.processing.Processed`."""

    def __init__(self, p: Any, images: list[Any], seed: int = -1, info: str = "", infotexts: Any = None) -> None:
        self.images, self.info = images, info
        # Like current versions.
        self.infotexts = infotexts or [info] * len(images)


def script_name_to_index(name: str, scripts: list[Script]) -> int:
    """`modules.api.api.script_name_to_index`."""
    return [script.title().lower() for script in scripts].index(name.lower())


class Callbacks:
    """`modules.script_callbacks`."""

    NAMES = ("app_started", "ui_settings", "model_loaded", "cfg_denoiser", "script_unloaded", "infotext_pasted")

    def __init__(self) -> None:
        self.known: dict[str, list[Any]] = {name: [] for name in self.NAMES}

    def call(self, name: str, *arguments: Any) -> None:
        for callback in list(self.known[name]):
            callback(*arguments)


def make_model(width: int, blocks: int) -> Any:
    """A small UNet: convolutions and attention."""
    import torch
    from torch import nn

    class Block(nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.GroupNorm(8, width)
            self.conv = nn.Conv2d(width, width, 3, padding=1)
            self.qkv = nn.Linear(width, 3 * width)
            self.out = nn.Linear(width, width)

        def forward(self, x: Any) -> Any:
            x = x + self.conv(nn.functional.silu(self.norm(x)))
            b, c, h, w = x.shape
            q, k, v = self.qkv(x.flatten(2).transpose(1, 2)).view(b, h * w, 3, 8, c // 8).permute(2, 0, 3, 1, 4)
            y = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, h * w, c)
            return x + self.out(y).transpose(1, 2).view(b, c, h, w)

    class UNet(nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Conv2d(4, width, 3, padding=1)
            self.blocks = nn.Sequential(*[Block() for _ in range(blocks)])
            self.last = nn.Conv2d(width, 4, 3, padding=1)

        def forward(self, x: Any) -> Any:
            return self.last(self.blocks(self.first(x)))

    with torch.device("meta"):
        unet = UNet().half()
    return unet.to_empty(device="cpu").eval()


class Host:
    """The page, its model and its settings."""

    def __init__(self, options: argparse.Namespace) -> None:
        import torch

        self.torch = torch
        self.options = options
        self.extension = Path(options.extension)
        self.callbacks = Callbacks()
        self.lock = threading.Lock()
        if options.late:
            torch.zeros(1, device="cuda")
        if options.preload:
            load(self.extension / "preload.py", "preload").preload(argparse.ArgumentParser())
        if options.without_package:
            # The import of a module that is None fails as if it were not there.
            sys.modules["giant_kitten.webui"] = None  # type: ignore[assignment]
        self.settings = Options(Path(options.settings))
        self.model_data = types.SimpleNamespace(sd_model=None)
        self.modules()

    def modules(self) -> None:
        """Creates all modules that the extension imports."""
        module("modules").__path__ = []
        module("modules.scripts", Script=Script, AlwaysVisible=object())
        hooks = {f"on_{name}": self.callbacks.known[name].append for name in Callbacks.NAMES}
        module("modules.script_callbacks", **hooks)
        module("modules.devices", device=self.torch.device("cuda"))
        module("modules.sd_models", model_data=self.model_data)
        module("modules.processing", Processed=Processed, process_images=self.process_images)
        module("modules.call_queue", queue_lock=self.lock)
        module("modules.api").__path__ = []
        module("modules.api.api", script_name_to_index=script_name_to_index)
        arguments = types.SimpleNamespace(api=self.options.api, api_auth=self.options.api_auth, freeze_settings=False)
        module(
            "modules.shared", opts=self.settings, cmd_opts=arguments, OptionInfo=OptionInfo,
            config_filename=self.options.settings,
        )  # fmt: skip

    def load_model(self, width: int = 320, parked: bool = False) -> None:
        """Loads a checkpoint, onto the GPU or parked on the CPU."""
        unet = make_model(width, 12)
        self.model_data.sd_model = types.SimpleNamespace(model=types.SimpleNamespace(diffusion_model=unet))
        if not parked:
            unet.cuda()
        self.callbacks.call("model_loaded", self.model_data.sd_model)

    def load_scripts(self) -> None:
        """Loads the extension's script, as at every start of the UI."""
        for known in self.callbacks.known.values():
            known.clear()
        found = load(self.extension / "scripts" / "giant_kitten.py", "giant_kitten.py")
        kinds = [kind for kind in vars(found).values() if isinstance(kind, type) and issubclass(kind, Script)]
        self.scripts = [kind() for kind in kinds]
        visible = sys.modules["modules.scripts"].AlwaysVisible
        for script in self.scripts:
            script.alwayson = script.show(False) is visible
        self.selectable = [script for script in self.scripts if not script.alwayson]
        self.callbacks.call("ui_settings")

    # ---- Generating -----------------------------------------------------------------------------

    def generate(
        self, chosen: int, values: list[Any], steps: int, width: int, height: int, batch: int = 1
    ) -> Processed:
        """Like txt2img: runs the chosen script, and generates unless that returns a result."""
        p = types.SimpleNamespace(
            steps=steps, width=width, height=height, batch_size=batch, seed=1, extra_generation_params={}
        )
        with self.lock:
            if chosen:
                script = self.selectable[chosen - 1]
                done = script.run(p, *values[script.args_from : script.args_to])
                if done is not None:
                    assert isinstance(done, Processed)
                    return done
            return self.process_images(p)

    def process_images(self, p: Any) -> Processed:
        torch = self.torch
        visible = [script for script in self.scripts if script.alwayson]
        for script in visible:
            script.process(p)
        unet = self.model_data.sd_model.model.diffusion_model
        with torch.no_grad():
            if next(unet.parameters()).device.type != "cuda":
                unet.cuda()
            x = torch.zeros(2 * p.batch_size, 4, p.height // 8, p.width // 8, device="cuda", dtype=torch.float16)
            for _ in range(p.steps):
                x = x - 0.1 * unet(x)
                self.callbacks.call("cfg_denoiser", None)
        torch.cuda.synchronize()
        for script in visible:
            script.postprocess_batch(p, images=[], batch_number=0)
        notes = "".join(f", {name}: {value}" for name, value in p.extra_generation_params.items())
        done = Processed(p, ["picture"], p.seed, f"Steps: {p.steps}, Size: {p.width}x{p.height}{notes}")
        for script in visible:
            script.postprocess(p, done)
        torch.cuda.empty_cache()
        return done

    # ---- The page -------------------------------------------------------------------------------

    def build(self) -> Any:
        """The parts of the page that the extension needs."""
        import gradio as gr

        values: list[Any] = []
        with gr.Blocks(title="host page") as page:
            with gr.Tab("txt2img"):
                steps = gr.Slider(1, 50, 4, step=1, label="Sampling steps")
                width = gr.Slider(64, 2048, 512, step=64, label="Width", elem_id="width")
                height = gr.Slider(64, 2048, 512, step=64, label="Height", elem_id="height")
                for script in self.scripts:
                    if script.alwayson:
                        with gr.Group():
                            self.create(script, values)
                names = ["None"] + [script.title() for script in self.selectable]
                chosen = gr.Dropdown(names, value="None", label="Script", type="index", elem_id="script_list")
                for script in self.selectable:
                    with gr.Group(visible=False) as script.group:
                        self.create(script, values)
                groups = [script.group for script in self.selectable]
                chosen.change(lambda index: gr.update(visible=index == 1), chosen, groups)
                go = gr.Button("Generate", variant="primary", elem_id="generate")
                shown = gr.HTML(elem_id="result")
                go.click(self.click, [chosen, steps, width, height, *values], shown, api_name="generate")
            with gr.Tab("Settings"):
                self.settings_page()
        return page

    def create(self, script: Script, values: list[Any]) -> None:
        made = list(script.ui(False) or [])
        script.args_from, script.args_to = len(values), len(values) + len(made)
        values.extend(made)

    def settings_page(self) -> None:
        import gradio as gr

        parts = []
        for key, info in self.settings.labels.items():
            kind = info.component or (gr.Checkbox if isinstance(info.default, bool) else gr.Textbox)
            parts.append(
                kind(label=info.label, value=self.settings.data[key], elem_id=f"setting_{key}", **info.component_args)
            )

        def keep(*given: Any) -> str:
            for key, value in zip(self.settings.labels, given):
                self.settings.set(key, value)
            self.settings.save(self.options.settings)
            return "<p>kept</p>"

        done = gr.HTML(elem_id="settings_kept")
        gr.Button("Apply settings", elem_id="settings_apply").click(keep, parts, done)

    def click(self, chosen: int, steps: int, width: int, height: int, *values: Any) -> str:
        try:
            done = self.generate(chosen, list(values), int(steps), int(width), int(height))
        except Exception as why:
            traceback.print_exc()
            return f"<p class='error'>{type(why).__name__}: {html.escape(str(why))}</p>"
        return f"<p>{html.escape(done.info)}</p>"

    def add_api(self, app: Any) -> None:
        """The parts of the API that the tests use, and routes for actions of menus."""
        from fastapi import Body

        given = Body(...)

        def txt2img(body: Any = given) -> Any:
            find = sys.modules["modules.api.api"].script_name_to_index
            chosen = find(body["script_name"], self.selectable) + 1 if body.get("script_name") else 0
            values: list[Any] = [None] * 16
            if chosen:
                script = self.selectable[chosen - 1]
                values[script.args_from : script.args_to] = body["script_args"]
                script.args_to = script.args_from + len(body["script_args"])
            size = (body.get("width", 512), body.get("height", 512), body.get("batch_size", 1))
            done = self.generate(chosen, values, body.get("steps", 4), *size)
            return {"images": done.images, "info": done.infotexts[0]}

        def model(body: Any = given) -> Any:
            self.load_model(**body)
            return {}

        def paste(body: Any = given) -> Any:
            self.callbacks.call("infotext_pasted", "", body)
            return body

        def unload() -> Any:
            self.callbacks.call("script_unloaded")
            return {}

        app.add_api_route("/sdapi/v1/txt2img", txt2img, methods=["POST"])
        app.add_api_route("/host/model", model, methods=["POST"])
        app.add_api_route("/host/paste", paste, methods=["POST"])
        app.add_api_route("/host/unload", unload, methods=["POST"])

    def serve(self) -> None:
        """Serves until the process ends."""
        import gradio

        scripts = sorted((self.extension / "javascript").glob("*.js"))
        tags = "".join(f'<script src="file={script}"></script>' for script in scripts).encode()
        respond = gradio.routes.templates.TemplateResponse

        def with_scripts(*arguments: Any, **named: Any) -> Any:
            answer = respond(*arguments, **named)
            answer.body = answer.body.replace(b"</head>", tags + b"</head>")
            answer.init_headers()
            return answer

        gradio.routes.templates.TemplateResponse = with_scripts
        self.load_scripts()
        self.load_model()
        page = self.build()
        app, _, _ = page.queue().launch(
            server_name="127.0.0.1", server_port=self.options.port, prevent_thread_lock=True, quiet=True,
            allowed_paths=[str(self.extension)], show_api=False,
        )  # fmt: skip
        self.add_api(app)
        self.callbacks.call("app_started", page, app)
        print("the host page is ready", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            threading.Event().wait()


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("extension")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--settings", default="settings.json")
    parser.add_argument("--late", action="store_true", help="start CUDA before the extension comes")
    parser.add_argument("--preload", action="store_true", help="run the extension's preload.py, as AUTOMATIC1111 does")
    parser.add_argument("--without-package", action="store_true", help="as if giant-kitten's package were not there")
    parser.add_argument("--api", action="store_true")
    parser.add_argument("--api-auth")
    if sys.version_info >= (3, 12):
        # Beside gradio 3, it brings distutils, which that needs and Python has no more.
        with contextlib.suppress(ImportError):
            importlib.import_module("setuptools")
    Host(parser.parse_args()).serve()


if __name__ == "__main__":
    main()
