"""Inputs that several nodes share, with the command line's defaults."""

from ..latentsync.media.length_modes import LENGTH_MODES, TAIL_MODES
from ..latentsync.options import MAX_OFFSET, SETTINGS, LipSyncOptions
from ..latentsync.presets import CUSTOM, DEFAULT_PRESET, PRESETS, decided_fields
from ..latentsync.trajectory import SCHEDULERS as SOLVERS
from .host import io

DEFAULTS = LipSyncOptions()
CATEGORY = "LatentSync"
MASKS = ["mask", "mask2", "mask3", "mask4"]
SMOOTHINGS = ["temporal", "p_bias", "none"]
LENGTHS = list(LENGTH_MODES)
TAILS = list(TAIL_MODES)
METHODS = list(SETTINGS["blend_method"].choices)
SHAPES = list(SETTINGS["mask_shape"].choices)
PAUSES = list(SETTINGS["silence"].choices)
SCHEDULERS = list(SOLVERS)
PRESET_NAMES = [CUSTOM, *PRESETS]  # custom first: a graph saved before presets were there gives what it gave
SYNONYMS = ("dub", "dubbing", "talking", "talking head", "mouth", "wav2lip", "lipsync", "lip sync")
# What a preset may decide of a node's inputs, with its name in LipSyncOptions.
DECIDED = {"steps": "num_inference_steps"} | {
    name: name for name in ("guidance_scale", "mask_smooth", "silence", "blend_method", "mask_shape", "max_yaw", "fade")
}
MAX_SEED = 2**63 - 1
MAX_CACHE_INTERVAL = 10
MIN_FPS, MAX_FPS = 1.0, 240.0


def check_choices(**given: tuple[str | None, list[str]]) -> bool | str:
    """For validate_inputs: True, or what is wrong with a value that is not in its list, as in a graph of an older pack.

    given: input=(value, options); the value is None where it comes by a link. ComfyUI does not look after the lists of
    V3 nodes itself, and shows the answer at each input that validate_inputs names, so it says which one is meant.
    """
    for name, (value, options) in given.items():
        if value is not None and value not in options:
            return f"{name} is {value!r}, which is not in its list; choose one of {', '.join(options)}"
    return True


def advanced(shown):
    """The input, hidden until the user asks for the node's advanced ones (a right click, Show Advanced)."""
    return _with(shown, advanced=True)  # no argument of its own in the oldest host


def _with(shown, **told):
    """The input, of which the page is told more than the host knows."""
    shown.extra_dict = {**shown.extra_dict, **told}
    return shown


def seed() -> io.Int.Input:
    return io.Int.Input(
        "seed",
        default=DEFAULTS.seed,
        min=0,
        max=MAX_SEED,
        control_after_generate=True,
        tooltip="The random seed of the noise. The same seed gives the same lips again.",
    )


def steps() -> io.Int.Input:
    return io.Int.Input(
        "steps",
        default=DEFAULTS.num_inference_steps,
        min=1,
        max=999,
        tooltip="Denoising steps. More steps take proportionally longer; beyond 25 little changes.",
    )


def guidance_scale() -> io.Float.Input:
    return io.Float.Input(
        "guidance_scale",
        default=DEFAULTS.guidance_scale,
        min=0.0,
        max=20.0,
        step=0.01,
        round=False,
        tooltip="How strongly the lips follow the speech, usually 1 to 3. Higher moves them more and may distort them; "
        "1 or less turns guidance off and takes half the time.",
    )


def preset() -> io.Combo.Input:
    """For a node with all inputs of DECIDED: the page hides those that the chosen preset decides.

    New nodes begin with the command line's preset, but a prompt that names none means "custom", as it did before.
    """
    decides = {
        choice: {name: decided[field] for name, field in DECIDED.items() if field in decided}
        for choice, decided in ((choice, decided_fields(choice)) for choice in PRESET_NAMES)
    }
    shown = io.Combo.Input(
        "preset",
        options=PRESET_NAMES,
        default=DEFAULT_PRESET,
        optional=True,
        tooltip="How much time is spent. balanced is hardly to be told from quality and much faster, fast and draft "
        "are for a look, reference does as the reference implementation. What a preset decides is hidden; custom shows "
        "it and does what steps, guidance_scale and the rest say. A value that you changed from its default stays "
        "visible and wins over the preset.",
    )
    return _with(shown, latentsync_decides=decides)


def scheduler() -> io.Combo.Input:
    return io.Combo.Input(
        "scheduler",
        options=SCHEDULERS,
        default=DEFAULTS.scheduler,
        tooltip="How noise is taken away from step to step. ddim is the models' own; dpmpp_2m (DPM-Solver++) and unipc "
        "need about half as many steps.",
    )


def cache_interval() -> io.Int.Input:
    return io.Int.Input(
        "cache_interval",
        default=DEFAULTS.cache_interval,
        min=1,
        max=MAX_CACHE_INTERVAL,
        optional=True,
        tooltip="The U-Net's deep layers are computed once in so many steps and kept in between: 1 computes them at "
        "every step, 2 or 3 take about half the time and change the lips a little.",
    )


def guidance_start() -> io.Float.Input:
    return _share_of_steps("guidance_start", DEFAULTS.guidance_interval[0], "begins")


def guidance_end() -> io.Float.Input:
    return _share_of_steps("guidance_end", DEFAULTS.guidance_interval[1], "ends")


def _share_of_steps(name: str, default: float, what: str) -> io.Float.Input:
    return io.Float.Input(
        name,
        default=default,
        min=0.0,
        max=1.0,
        step=0.01,
        optional=True,
        tooltip=f"Where guidance {what}, as a share of the steps: 0 is the first step, 1 the end. Steps without "
        "guidance take half the time.",
    )


def mask_smooth() -> io.Float.Input:
    return io.Float.Input(
        "mask_smooth",
        default=DEFAULTS.mask_smooth,
        min=0.0,
        max=1.0,
        step=0.01,
        tooltip="Width of the soft edge around the new part of the face: 0 is a hard edge, 1 fades over a tenth of the "
        "face's side.",
    )


def fps(tooltip: str) -> io.Float.Input:
    return io.Float.Input("fps", default=25.0, min=MIN_FPS, max=MAX_FPS, step=0.001, round=False, tooltip=tooltip)


def length(name: str, *, optional: bool = False) -> io.Combo.Input:
    return io.Combo.Input(
        name,
        options=LENGTHS,
        default=DEFAULTS.length,
        optional=optional,
        tooltip="A video shorter than the speech: bounce goes back and forth, loop begins again, hold stands still at "
        "the last frame, trim ends the result there. speed makes the video slower or faster, so that it lasts as long "
        "as the speech.",
    )


def tail(*, optional: bool = False) -> io.Combo.Input:
    return io.Combo.Input(
        "tail",
        options=TAILS,
        default=DEFAULTS.tail,
        optional=optional,
        tooltip="A video longer than the speech: cut ends with the speech, keep lets the rest through as it is, in "
        "silence. Not together with trim; speed leaves no rest.",
    )


def audio_offset_ms() -> io.Float.Input:
    return io.Float.Input(
        "audio_offset_ms",
        default=DEFAULTS.audio_offset_ms,
        min=-MAX_OFFSET,
        max=MAX_OFFSET,
        step=0.01,
        round=False,
        optional=True,
        tooltip="Lets the lips come so many milliseconds later than in the speech; negative: earlier. The sound stays "
        "where it is. 40 is one frame at 25 frames per second.",
    )


def silence() -> io.Combo.Input:
    return io.Combo.Input(
        "silence",
        options=PAUSES,
        default=DEFAULTS.silence,
        optional=True,
        tooltip="In pauses of the speech, over music and noise too: close shuts the mouth, source lets the source's "
        "picture through, off leaves it to the model, which may take any sound for a voice.",
    )


def max_yaw() -> io.Float.Input:
    return io.Float.Input(
        "max_yaw",
        default=DEFAULTS.max_yaw,
        min=1.0,
        max=90.0,
        step=0.01,
        optional=True,
        tooltip="A face turned away from the camera by more degrees than this stays as it is: 90 is a profile, which "
        "no model draws well.",
    )


def fade() -> io.Float.Input:
    return io.Float.Input(
        "fade",
        default=DEFAULTS.fade,
        min=0.0,
        max=5.0,
        step=0.01,
        optional=True,
        tooltip="A face that is lost, covered, tiny or turned away gives way to the source over so many seconds; with "
        "0 it changes from one frame to the next.",
    )


def blend_method() -> io.Combo.Input:
    return io.Combo.Input(
        "blend_method",
        options=METHODS,
        default=DEFAULTS.blend_method,
        optional=True,
        tooltip="How the edge of the new part is hidden: feather fades one picture into the other; multiband does so "
        "over a wide way for broad colours and a narrow one for detail; poisson bends the new part's colours so that "
        "they meet the source's.",
    )


def mask_shape() -> io.Combo.Input:
    return io.Combo.Input(
        "mask_shape",
        options=SHAPES,
        default=DEFAULTS.mask_shape,
        optional=True,
        tooltip="Shape of the new part: drawn is the model's mask; landmarks also leaves out what lies beyond the "
        "face's own jaw and cheeks, such as a collar or a hand at the chin.",
    )


def sr_ratio(*, optional: bool = False) -> io.Int.Input:
    return io.Int.Input(
        "sr_ratio",
        default=DEFAULTS.sr_ratio,
        min=1,
        max=4,
        optional=optional,
        tooltip="Side of a restored face, in sides of the generated one. More than the frame shows is of no use.",
    )


def sr_strength(*, optional: bool = False) -> io.Float.Input:
    return io.Float.Input(
        "sr_strength",
        default=DEFAULTS.sr_strength,
        min=0.0,
        max=1.0,
        step=0.01,
        optional=optional,
        tooltip="How much of the restoration shows: 0 is the generated face, 1 the restored one.",
    )


def marking() -> io.Boolean.Input:
    return io.Boolean.Input(
        "marking",
        default=DEFAULTS.marking,
        optional=True,
        tooltip="The file's metadata tell that the result is AI-generated, and by which model. The pictures stay as "
        "they are.",
    )


def visible_mark() -> io.String.Input:
    return io.String.Input(
        "visible_mark",
        default=DEFAULTS.visible_mark or "",
        optional=True,
        tooltip="A label in the lower right corner of each frame, such as AI-generated. Empty: none.",
    )
