"""What is on the page, from top to bottom."""

from dataclasses import dataclass, fields
from pathlib import Path

import gradio as gr

from latentsync.options import SETTINGS, LipSyncOptions, Setting
from latentsync.presets import DEFAULT_PRESET

from . import quality
from .examples import EXAMPLES
from .model_cache import BUNDLED, NO_RESTORER
from .settings import Limits

STYLE = Path(__file__).parent / "static" / "page.css"
# Fonts of the visitor's system; greys and buttons dark enough to be read (WCAG AA).
THEME = gr.themes.Default(
    primary_hue="teal", font=("system-ui", "sans-serif"), font_mono=("ui-monospace", "monospace")
).set(
    block_info_text_color="*neutral_600",
    block_info_text_color_dark="*neutral_300",
    body_text_color_subdued="*neutral_600",
    body_text_color_subdued_dark="*neutral_300",
    button_primary_background_fill="*primary_700",
    button_primary_background_fill_hover="*primary_800",
    button_primary_background_fill_dark="*primary_700",
)
WELCOME = """# LatentSync
Give it a video of someone talking and another speech: the lips will speak that speech.

Use it only with the consent of those who are seen and heard, and tell who watches it that it was generated."""
QUIET = {"show_progress": "hidden", "api_visibility": "private", "concurrency_limit": None}  # what every event is given
# Of the settings; others follow.
ORDER = ("num_inference_steps", "guidance_scale", "length", "tail", "silence", "mask_smooth", "audio_offset_ms", "seed")
PLAYER = """import(new URL("widgets/player.js", document.baseURI).href)
    .then((player) => player.mount(element, props, watch));"""


@dataclass(frozen=True)
class Parts:
    """The components that events are about; restoration's are None where the page does not offer it."""

    video: gr.Video
    faces: gr.Gallery
    faces_note: gr.HTML
    everyone: gr.Checkbox
    speech: gr.Audio
    examples: tuple[gr.Button, ...]
    preset: gr.Dropdown
    model: gr.Dropdown
    restorer: gr.Dropdown | None
    strength: gr.Slider | None
    ratio: gr.Slider | None
    fidelity: gr.Slider | None
    settings: dict[str, gr.components.Component]  # by the name of the setting
    start: gr.Number
    seconds: gr.Slider
    preview: gr.Button
    run: gr.Button
    cancel: gr.Button
    progress: gr.HTML
    player: gr.HTML
    downloads: gr.HTML

    def named(self, *names: str) -> list:
        return [getattr(self, name) for name in names if getattr(self, name) is not None]


def lay_out(
    models: list[tuple[str, str]], restorers: list[tuple[str, str]] | None, limits: Limits, options: LipSyncOptions
) -> Parts:
    """Inside a gr.Blocks. restorers: None where super-resolution is not offered. options: to begin with."""
    made: dict = dict.fromkeys(field.name for field in fields(Parts))
    gr.Markdown(WELCOME)
    with gr.Row(equal_height=False):
        with gr.Column():
            made |= _inputs(limits)
        with gr.Column():
            made |= _settings(models, restorers, options)
            made |= _buttons()
    made["player"] = gr.HTML(
        html_template="<div></div>", js_on_load=PLAYER, apply_default_css=False, elem_id="player", min_height=80
    )
    made["downloads"] = gr.HTML(elem_id="downloads")
    return Parts(**made)


def _inputs(limits: Limits) -> dict:
    most = f"up to {limits.seconds / 60:g} minutes and {limits.upload_mb} MB"
    made: dict = {
        "video": gr.Video(
            label=f"1. Video of someone talking ({most})", sources=["upload", "webcam"], buttons=[], elem_id="video"
        )
    }
    made["faces_note"] = gr.HTML(elem_id="faces_note")
    made["faces"] = gr.Gallery(
        label="Who speaks? Click on a face", columns=4, height=190, fit_columns=False, object_fit="contain",
        visible=False, interactive=False, allow_preview=False, buttons=[], elem_id="faces",
    )  # fmt: skip
    made["everyone"] = gr.Checkbox(label="Everyone in the picture speaks", visible=False, elem_id="everyone")
    made["speech"] = gr.Audio(
        label="2. Speech: a sound file, or a video with sound",
        sources=["upload", "microphone"],
        buttons=[],
        type="filepath",
        elem_id="speech",
    )
    gr.Markdown("**Nothing at hand?** Examples of drawn faces, for the bundled model:")
    with gr.Row():
        made["examples"] = tuple(gr.Button(example.label, size="sm", min_width=90) for example in EXAMPLES)
    return made


def _settings(models: list[tuple[str, str]], restorers: list[tuple[str, str]] | None, options: LipSyncOptions) -> dict:
    first = models[0][1]
    made: dict = {
        "preset": gr.Dropdown(
            [(label, name) for name, label in quality.LABELS.items()],
            value=DEFAULT_PRESET,
            label="3. Quality",
            info=quality.hint(DEFAULT_PRESET),
            elem_id="preset",
        ),
        "model": gr.Dropdown(models, value=first, label="Model", info=model_hint(first), elem_id="model"),
    }
    if restorers is not None:
        made |= _restoration(restorers)
    with gr.Accordion("More settings", open=False):
        made["settings"] = _details(options)
    return made


def _details(options: LipSyncOptions) -> dict:
    """The rows of the table that have a label, two beside each other."""
    made: dict = {}
    rows = [row for row in SETTINGS.values() if row.label]
    rows.sort(key=lambda row: ORDER.index(row.name) if row.name in ORDER else len(ORDER))
    for pair in zip(rows[::2], [*rows[1::2], None], strict=False):
        with gr.Row():
            made |= {row.name: control(row, getattr(options, row.name, row.default)) for row in pair if row}
    return made


def control(row: Setting, value) -> gr.components.Component:
    """What a setting is chosen with."""
    words = {"label": row.label, "info": row.info or None}
    if row.choices:
        return gr.Dropdown(list(zip(row.words or row.choices, row.choices, strict=True)), value=value, **words)
    if row.kind is bool:
        return gr.Checkbox(value, **words)
    if row.kind is str:
        return gr.Textbox(value or "", max_length=60, placeholder=row.nothing, **words)
    if row.slider:
        low, high, step = row.slider
        return gr.Slider(low, high, value, step=step, **words)
    minimum = row.low if row.low is not None and row.low >= 0 else None
    return gr.Number(value, precision=0 if float(row.default).is_integer() else None, minimum=minimum, **words)


def _restoration(restorers: list[tuple[str, str]]) -> dict:
    with gr.Accordion("Face restoration", open=True, elem_id="restoration"):
        missing = [name for name in ("GFPGAN", "CodeFormer") if name not in (key for _, key in restorers)]
        how = "Makes the new part sharper; takes longer."
        if missing:
            how += f" Not installed: {' and '.join(missing)}. Get them with: python install.py --models gfpgan"
        made = {"restorer": gr.Dropdown(restorers, value=NO_RESTORER, label="Restorer", info=how, elem_id="restorer")}
        made["strength"] = gr.Slider(0, 1, 1, step=0.05, label="Strength", visible=False)
        made["ratio"] = gr.Slider(
            1, 4, 2, step=1, label="Size", visible=False, info="Of the restored face, in sizes of the generated one."
        )
        made["fidelity"] = gr.Slider(
            0, 1, 0.5, step=0.05, label="Faithfulness", visible=False, info="0 is most restored, 1 most like the input."
        )
    return made


def _buttons() -> dict:
    made: dict = {}
    with gr.Group():
        with gr.Row():
            made["seconds"] = gr.Slider(1, 10, 3, step=1, label="Preview length (s)", min_width=140)
            made["start"] = gr.Number(0, label="Preview from (s)", minimum=0, min_width=140)
        made["preview"] = gr.Button("Preview", elem_id="preview")
    made["run"] = gr.Button("Make the whole video", variant="primary", elem_id="run")
    made["cancel"] = gr.Button("Cancel", variant="stop", visible=False, elem_id="cancel")
    made["progress"] = gr.HTML(elem_id="progress")
    return made


def model_hint(model: str) -> str:
    """What to know of a model."""
    if model == BUNDLED:
        return "For drawn faces and for trying everything: on real faces its mouth is a smear."
    return "A released model, for real faces."
