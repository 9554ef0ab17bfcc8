"""giant-kitten in AUTOMATIC1111's WebUI and in Forge: custom script, panel, settings, routes.

This file only builds the controls. The package does the rest (`giant_kitten.webui.automatic1111`).
"""

import html
import sys
from pathlib import Path

import gradio as gr
from modules import script_callbacks, scripts

ROOT = Path(__file__).resolve().parent.parent
if (ROOT / "package").is_dir() and str(ROOT / "package") not in sys.path:
    sys.path.append(str(ROOT / "package"))

try:
    from giant_kitten.webui.automatic1111 import extension as kitten

    MISSING = None
except ImportError:
    kitten = None
    MISSING = (
        "The package giant-kitten is not in this WebUI's Python: run “python -m giant_kitten webui install FOLDER” "
        "with the WebUI's folder, from a Python that has it."
    )

GIB = 1 << 30


class GiantKitten(scripts.Script):
    """The custom script: an action before the generation, which continues only with “no abort”."""

    def title(self):
        return "Giant kitten"

    def ui(self, is_img2img):
        if MISSING:
            gr.HTML(f"<p>{html.escape(MISSING)}</p>")
            return []
        most = kitten.slider_most()
        with gr.Row():
            action = gr.Radio(
                label="GK: action",
                choices=["GK: disable", "GK: free VRAM", "GK: activate"],
                value="GK: disable",
                type="index",
                elem_id=self.elem_id("action"),
            )
            no_abort = gr.Checkbox(label="GK: no abort", value=False, elem_id=self.elem_id("no_abort"))
        reserve = gr.Slider(
            label="GK: reserve", minimum=0.0, maximum=most, step=0.1, value=0.0, elem_id=self.elem_id("reserve")
        )
        with gr.Row():
            reverse = gr.Checkbox(label="GK: sort reversed", value=False, elem_id=self.elem_id("reverse"))
            ignored = gr.Checkbox(label="GK: ignored model", value=False, elem_id=self.elem_id("ignored"))
        persist = gr.Slider(
            label="GK: persist", minimum=0.0, maximum=most, step=0.1, value=0.0, elem_id=self.elem_id("persist")
        )
        gr.HTML(explanation())
        controls = [action, reserve, persist, no_abort, reverse, ignored]
        for control in controls:
            control.do_not_save_to_config = True
        return controls

    def run(self, p, *values):
        from modules.processing import Processed, process_images

        said, goes_on = kitten.run_script(*values) if kitten else (MISSING, False)
        # Later versions only put the texts of pictures into the answer.
        return process_images(p) if goes_on else Processed(p, [], p.seed, said, infotexts=[said])


class GiantKittenPanel(scripts.Script):
    """The panel with the mode, the reserve and the memory map: always visible, folded at first."""

    def title(self):
        return "Giant kitten memory"

    def show(self, is_img2img):
        return scripts.AlwaysVisible

    def ui(self, is_img2img):
        with gr.Accordion("Giant kitten: memory", open=False, elem_id=self.elem_id("panel")):
            if MISSING:
                gr.HTML(f"<p>{html.escape(MISSING)}</p>")
                return []
            made = self._controls()
        for control in made:
            control.do_not_save_to_config = True
        return []

    def _controls(self):
        most = kitten.slider_most()
        with gr.Row():
            mode = gr.Radio(
                label="Reserve", choices=list(kitten.MODES), value=kitten.mode, elem_id=self.elem_id("mode")
            )
            reserve = gr.Slider(
                label="Reserve by hand (GiB)", minimum=0.0, maximum=most, step=0.1,
                value=kitten.reserve_gib, elem_id=self.elem_id("reserve"),
            )  # fmt: skip
        with gr.Row():
            apply = gr.Button("Apply", variant="primary", elem_id=self.elem_id("apply"))
            suggest = gr.Button("Apply the suggestion", elem_id=self.elem_id("suggest"))
        with gr.Row():
            free = gr.Button("Free VRAM", elem_id=self.elem_id("free"))
            back = gr.Button("Take VRAM back", elem_id=self.elem_id("back"))
            disable = gr.Button("Disable", elem_id=self.elem_id("disable"))
        said = gr.HTML(value=lambda: note(kitten.greeting()), elem_id=self.elem_id("said"))
        # The page presses this one, unseen, after another page has changed something.
        read = gr.Button("Read", elem_id=self.elem_id("read"))
        gr.HTML(
            "<style>[id*=giant_kitten_memory_read] { display: none !important }</style>"
            f'<giant-kitten-map src="giant-kitten/state" interval="{kitten.interval()}"></giant-kitten-map>',
            elem_id=self.elem_id("map"),
        )
        outputs = [said, mode, reserve]
        apply.click(lambda *values: answer(kitten.apply(*values)), inputs=[mode, reserve], outputs=outputs)
        suggest.click(lambda: answer(kitten.apply_suggestion()), inputs=[], outputs=outputs)
        free.click(lambda: answer(kitten.free_vram()), inputs=[], outputs=outputs)
        back.click(lambda: answer(kitten.take_back()), inputs=[], outputs=outputs)
        disable.click(lambda: answer(kitten.disable()), inputs=[], outputs=outputs)
        read.click(lambda: (kitten.mode(), kitten.reserve_gib()), inputs=[], outputs=[mode, reserve])
        return [mode, reserve, apply, suggest, free, back, disable, read, said]

    def process(self, p, *values):
        # before_process would be too early: the checkpoint of the generation is loaded after it.
        if kitten:
            kitten.begin(p)

    def postprocess_batch(self, p, *values, **named):
        if kitten:
            kitten.note(p)

    def postprocess(self, p, processed, *values):
        if kitten:
            kitten.session.end()


def explanation():
    """A description of each option, as HTML."""
    lines = [f"<b>{html.escape(name)}</b> {html.escape(text)}" for name, text in kitten.HELP.items()]
    inside = "".join(f"<p>{line}</p>" for line in [*lines, html.escape(kitten.WHICH_RESERVE)])
    return f'<div style="padding: 8px 12px">{inside}</div>'


def note(text):
    """A sentence under the buttons, as HTML."""
    return f"<p>{html.escape(text)}</p>" if text else ""


def answer(said):
    """The result of an action, and the new values of the controls."""
    return note(said), kitten.mode(), kitten.reserve_gib()


if kitten:
    script_callbacks.on_app_started(kitten.add_routes)
    script_callbacks.on_ui_settings(kitten.add_settings)
    script_callbacks.on_cfg_denoiser(lambda parameters: kitten.session.iteration())
    script_callbacks.on_script_unloaded(kitten.session.restore)
    script_callbacks.on_script_unloaded(kitten.fit_attention())
    script_callbacks.on_script_unloaded(kitten.gate_previews())
    script_callbacks.on_app_started(kitten.accept_older_names)
    script_callbacks.on_script_unloaded(kitten.forget_older_names)
    script_callbacks.on_infotext_pasted(kitten.rename_pasted)
