"""Every setting of a run, once: the fields of LipSyncOptions are the table that all doors are made from.

Name, type and choices stand in the annotation, the default and the rest in its `setting`. The command line
(cli/arguments.py), the nodes (nodes/knobs.py) and the page (webapp/page.py) read SETTINGS. Standard library alone.
"""

import sys
from dataclasses import dataclass, field, fields, replace
from fractions import Fraction
from typing import Any, Literal, get_args, get_origin

from .errors import OptionError
from .media.length_modes import LengthMode, TailMode, check_modes

MAX_INFERENCE_STEPS = 999  # with DDIM's offset of 1, a thousand steps would ask for timestep 1000
# ddim: first order, the reference's. dpmpp_2m: DPM-Solver++ of second order, multistep. unipc: UniPC of second order.
Scheduler = Literal["ddim", "dpmpp_2m", "unipc"]
SCHEDULERS: tuple[Scheduler, ...] = get_args(Scheduler)


def check_scheduler(name: str) -> None:
    """Raises OptionError for a name that is not one of SCHEDULERS."""
    if name not in SCHEDULERS:
        raise OptionError(f"scheduler is {name!r}; expected one of {', '.join(SCHEDULERS)}")


def check_savings(guidance_interval: tuple[float, float], cache_interval: int) -> None:
    """Raises OptionError for an interval that is not within 0..1 in order, or a cache interval outside 1..999."""
    if len(guidance_interval) != 2 or not 0 <= guidance_interval[0] <= guidance_interval[1] <= 1:
        raise OptionError(
            f"guidance_interval is {guidance_interval}; expected two shares of the steps in order, such as (0, 0.5) "
            "for their first half"
        )
    if not 1 <= cache_interval <= MAX_INFERENCE_STEPS:
        raise OptionError(
            f"cache_interval is {cache_interval}; expected 1 (off) to {MAX_INFERENCE_STEPS}, usually at most 3"
        )


ABOVE_0, BELOW_INFINITY = sys.float_info.min, sys.float_info.max
MAX_OFFSET = 10_000  # ms
MAX_DURATION = 86_400.0  # s, of a node's widget


@dataclass(frozen=True)
class Setting:
    """A row of the table.

    default     None means `nothing`, which a node's widget says with 0 or an empty text
    help        a line for --help; `group`: where it stands there, "" for what is no option
    option, widget, label  its names on the command line (`name` unless given; no_`name` for what is on by default), in
                the nodes (`name` unless given) and on the page ("": not there)
    low, high   range, both ends included; `expected` says it in words
    range       of a node's widget, `slider` of the page's control (low, high, step), where they are narrower
    tooltip     of a node's input; info: a line on the page; words: of each choice there
    nodes       "file": LatentSync Lip Sync shows it, "frames": Lip Sync Images. Nodes of one stage name what they show
    advanced    hidden in a node until the user asks for more
    """

    default: Any
    help: str = ""
    group: str = ""
    option: str = ""
    widget: str = ""
    label: str = ""
    low: float | None = None
    high: float | None = None
    expected: str = ""
    nothing: str = ""
    unit: str = ""
    range: tuple[float, float] | None = None
    slider: tuple[float, float, float] | None = None
    tooltip: str = ""
    info: str = ""
    words: tuple[str, ...] = ()
    nodes: tuple[str, ...] = ()
    advanced: bool = False
    name: str = ""
    kind: type = str
    choices: tuple[str, ...] = ()

    @property
    def flag(self) -> str:
        """As the command line spells it."""
        return f"--{self.option}"

    def check(self, value: Any) -> None:
        """Raises OptionError for a value that is not one of the choices or not in the range."""
        if self.choices and value not in self.choices:
            raise OptionError(f"{self.option} is {value!r}; expected one of {', '.join(self.choices)}")
        if self.low is None or (value is None and self.default is None):
            return
        if not self.low <= value <= self.high or (self.kind is int and value % 1):
            shown = f"{float(value):g}" if isinstance(value, (float, Fraction)) else value
            whole = "a whole number from " if self.kind is int else ""
            raise OptionError(
                f"{self.option} is {shown}; expected {self.expected or f'{whole}{self.low:g} to {self.high:g}'}"
            )


def setting(default: Any, help: str = "", **words: Any) -> Any:
    """A field of the table."""
    return field(default=default, metadata={"row": Setting(default, help, **words)})


def settings_of(options: type) -> dict[str, Setting]:
    """The rows of a dataclass whose fields are settings, by name."""
    rows = {}
    for one in fields(options):
        kind, *_ = [part for part in get_args(one.type) if part is not type(None)] or [one.type]
        choices = get_args(one.type) if get_origin(one.type) is Literal else ()
        row = one.metadata["row"]
        option = f"no_{one.name}" if kind is bool and row.default else one.name
        rows[one.name] = replace(
            row, name=one.name, option=row.option or option, widget=row.widget or one.name,
            kind=str if choices else kind, choices=choices,
        )  # fmt: skip
    return rows


@dataclass(frozen=True)
class LipSyncOptions:
    """Settings of one run. Where the default differs from the reference, the comment says why.

    Raises OptionError when built with a value out of range.
    """

    # Of the result as a file
    marking: bool = setting(
        True,  # the container's metadata tell that the result is generated, see run/report.py
        "do not write into the result's metadata that it is generated (docs/responsible_use.md)",
        group="files", nodes=("file",), advanced=True,
        tooltip="The file's metadata tell that the result is AI-generated, and by which model. The pictures stay as "
        "they are.",
    )  # fmt: skip
    visible_mark: str | None = setting(
        None,  # a label that everybody sees, in a corner of each frame
        "write a label, such as 'AI-generated', in the lower right corner of each frame",
        group="files", unit="text", nodes=("file",), advanced=True, label="Label in the picture",
        nothing="none",
        tooltip="A label in the lower right corner of each frame, such as AI-generated. Empty: none.",
        info="In a corner of each frame, for example AI-generated. That it is generated stands in the file's metadata "
        "in any case.",
    )  # fmt: skip
    # A face that is lost, tiny, turned away or covered gives way to the source's picture over so many seconds, instead
    # of from one frame to the next as in the reference.
    fade: float = setting(
        0.16,
        "time in which a lost, covered, tiny or turned face fades to the source",
        group="faces", unit="seconds", low=0, high=5, expected="0 (at once) to 5 seconds",
        nodes=("file", "frames"), advanced=True,
        tooltip="A face that is lost, covered, tiny or turned away gives way to the source over so many seconds; with "
        "0 it changes from one frame to the next.",
    )  # fmt: skip
    max_yaw: float = setting(
        60.0,  # degrees from frontal at which a face counts as turned away
        "leave faces that are turned further as they are",
        group="faces", unit="degrees", low=ABOVE_0, high=90, expected="more than 0 to 90 degrees", range=(1.0, 90.0),
        nodes=("file", "frames"), advanced=True,
        tooltip="A face turned away from the camera by more degrees than this stays as it is: 90 is a profile, which "
        "no model draws well.",
    )  # fmt: skip
    # For a video of another length than the speech, see media/length_modes.py. The reference: bounce, cut.
    length: LengthMode = setting(
        "bounce",
        "a video shorter than the speech: bounce goes back and forth, loop begins again, hold stands still at the last "
        "frame, trim ends the result there; speed makes the video slower or faster, so that it lasts as long as the "
        "speech",
        group="time", nodes=("file", "frames"), label="If the video is shorter",
        tooltip="A video shorter than the speech: bounce goes back and forth, loop begins again, hold stands still at "
        "the last frame, trim ends the result there. speed makes the video slower or faster, so that it lasts as long "
        "as the speech.",
        info="What is shown while the speech goes on.",
        words=(
            *("Back and forth", "From the beginning again", "Hold the last frame", "End there"),
            "Change the video's speed",
        ),
    )  # fmt: skip
    tail: TailMode = setting(
        "cut",
        "a video longer than the speech: cut ends with the speech, keep shows the rest unchanged, in "
        "silence",
        group="time", nodes=("file", "frames"), label="If the video is longer",
        tooltip="A video longer than the speech: cut ends with the speech, keep lets the rest through as it is, in "
        "silence. Not together with trim; speed leaves no rest.",
        info="What becomes of the rest.", words=("End with the speech", "Keep the rest, in silence"),
    )  # fmt: skip
    doubled_turns: bool = setting(
        False
    )  # the reference shows the frame at which a bounce turns twice: it looks like a stop
    # ms by which the lips come later than in the speech, which itself stays where it is; negative: earlier
    audio_offset_ms: float = setting(
        0.0,
        "delay the lips against the sound; negative: lips earlier",
        group="time", unit="ms", low=-MAX_OFFSET, high=MAX_OFFSET, nodes=("file", "frames"), label="Lips later by (ms)",
        expected=f"{-MAX_OFFSET} to {MAX_OFFSET} milliseconds, positive for later lips",
        tooltip="Lets the lips come so many milliseconds later than in the speech; negative: earlier. The sound stays "
        "where it is. 40 is one frame at 25 frames per second.",
        info="If lips and sound do not meet; negative is earlier.",
    )  # fmt: skip
    # In pauses of the speech the mouth closes, or the source's picture comes back. The reference leaves it to the
    # model, which takes noise and music for a voice.
    silence: Literal["close", "source", "off"] = setting(
        "close",
        "in pauses of the speech, also over music or noise: close the mouth, show the source's picture, "
        "or leave it to the model",
        group="time", nodes=("file", "frames"), label="In pauses of the speech",
        tooltip="In pauses of the speech, over music and noise too: close shuts the mouth, source lets the source's "
        "picture through, off leaves it to the model, which may take any sound for a voice.",
        info="Also over music or noise.", words=("Close the mouth", "Show the source", "Leave it to the model"),
    )  # fmt: skip
    fps: Fraction | None = setting(
        None,  # the source's own frames and times. The reference resamples to 25.
        "output frame rate, e.g. 25 or 30000/1001",
        group="time", low=1, high=240, expected="1 to 240, or none for the source's own", nothing="the source's own",
    )  # fmt: skip
    start: float = setting(
        0.0,  # s, of source and speech alike: a preview of what the whole run would show there
        "preview: start at this time",
        group="time", unit="seconds", low=0, high=BELOW_INFINITY, range=(0.0, MAX_DURATION), nodes=("file",),
        expected="seconds from the beginning, 0 or more",
        tooltip="For a quick look: begin so many seconds into video and speech. 0 begins at the beginning.",
    )  # fmt: skip
    duration: float | None = setting(
        None,  # s; to the end of the speech
        "preview: length of the result",
        group="time", unit="seconds", low=ABOVE_0, high=BELOW_INFINITY, range=(0.0, MAX_DURATION), nodes=("file",),
        expected="more than 0 seconds", nothing="the whole speech",
        tooltip="For a quick look: length in seconds. 0 goes to the end of the speech.",
    )  # fmt: skip
    num_inference_steps: int = setting(
        25,
        "denoising steps, 1 to 999",
        group="generation", option="inference_steps", widget="steps", low=1, high=MAX_INFERENCE_STEPS,
        nodes=("file", "frames"), label="Steps", slider=(1, 60, 1),
        tooltip="Denoising steps. More steps take proportionally longer; beyond 25 little changes.",
        info="More is slower and a little finer.",
    )  # fmt: skip
    guidance_scale: float = setting(
        1.5,  # 1 or less: no guidance, half the time
        "weight of the speech, usually 1 to 3; 1 is twice as fast (default: the model's own, else 1.5)",
        group="generation", low=0, high=20, expected="0 to 20, usually 1 to 3", slider=(1, 4, 0.1),
        nodes=("file", "frames"), label="Weight of the speech",
        tooltip="How strongly the lips follow the speech, usually 1 to 3. Higher moves them more and may distort them; "
        "1 or less turns guidance off and takes half the time.",
        info="How much the lips follow it. Above 1 takes twice the time of 1.",
    )  # fmt: skip
    guidance_interval: tuple[float, float] = setting(
        (0.0, 1.0),  # shares of the steps between which guidance is on
        "part of the steps that use guidance, as shares: 0 0.5 is the first half",
        group="generation", unit="from to",
    )  # fmt: skip
    scheduler: Scheduler = setting(
        "ddim",  # see SCHEDULERS; the reference: ddim
        "solver: the reference's DDIM, or DPM-Solver++ or UniPC, which need about half the steps",
        group="generation",
        tooltip="How noise is taken away from step to step. ddim is the models' own; dpmpp_2m (DPM-Solver++) and unipc "
        "need about half as many steps.",
    )  # fmt: skip
    cache_interval: int = setting(
        1,  # steps in a row that share deep features, see model/unet.py; 1: none. The reference's apps: 3
        "compute the U-Net's deep layers only every N steps: 1 is every step, 3 takes about half the time",
        group="generation", unit="steps", low=1, high=MAX_INFERENCE_STEPS, range=(1, 10), advanced=True,
        expected=f"1 (off) to {MAX_INFERENCE_STEPS}, usually at most 3",
        tooltip="The U-Net's deep layers are computed once in so many steps and kept in between: 1 computes them at "
        "every step, 2 or 3 take about half the time and change the lips a little.",
    )  # fmt: skip
    chunk_overlap: int = setting(
        4,  # frames shared by neighbouring chunks and cross-faded, so that no seam shows. Reference: 0
        "frames, of the 16 made at a time, that are made twice and cross-faded to hide jumps",
        group="generation", unit="frames", low=0, high=12, range=(0, 8),
        tooltip="Faces are made 16 frames at a time. So many frames are made by both neighbouring chunks and "
        "cross-faded, so that no jump shows; 0 is faster and may flicker.",
    )  # fmt: skip
    seed: int = setting(
        1247,
        "seed of the noise: the same seed gives the same result; -1: a random one",
        group="generation", low=0, high=2**63 - 1, expected="a whole number from 0 to 2^63 - 1",
        nodes=("file", "frames"), label="Seed",
        tooltip="The random seed of the noise. The same seed gives the same lips again.",
        info="The same number gives the same result.",
    )  # fmt: skip
    mask_smooth: float = setting(
        0.5,  # 0 hard edge .. 1 wide feather, a tenth of the face: docs/mask_smooth.jpg
        "edge of the new part, from 0 (hard) to 1 (wide feather)",
        group="generation", low=0, high=1, expected="0 (hard edge) to 1 (wide feather)", slider=(0, 1, 0.05),
        nodes=("file", "frames"), label="Soft edge",
        tooltip="Width of the soft edge around the new part of the face: 0 is a hard edge, 1 fades over a tenth of the "
        "face's side.",
        info="Of the new part of the face: 0 is hard.",
    )  # fmt: skip
    mask_shape: Literal["drawn", "landmarks"] = setting(
        "drawn",  # the mask as drawn, or as the face's own jaw and cheeks lie
        "shape of the new part: the model's mask, or the face's own jaw and cheeks",
        group="generation", nodes=("file", "frames"), advanced=True,
        tooltip="Shape of the new part: drawn is the model's mask; landmarks also leaves out what lies beyond the "
        "face's own jaw and cheeks, such as a collar or a hand at the chin.",
    )  # fmt: skip
    blend_method: Literal["feather", "multiband", "poisson"] = setting(
        "feather",  # compared in docs/quality.md
        "how to hide the edge of the new part",
        group="generation", nodes=("file", "frames"), advanced=True,
        tooltip="How the edge of the new part is hidden: feather fades one picture into the other; multiband does so "
        "over a wide way for broad colours and a narrow one for detail; poisson bends the new part's colours so that "
        "they meet the source's.",
    )  # fmt: skip
    sr_ratio: int = setting(
        2,  # side of a restored face, in sides of the generated one
        "size of a face restored by --superres, in sizes of the generated face",
        group="generation", low=1, high=4, expected="1, 2, 3 or 4", nodes=("file",), advanced=True,
        tooltip="Side of a restored face, in sides of the generated one. More than the frame shows is of no use.",
    )  # fmt: skip
    sr_strength: float = setting(
        1.0,  # of restoration: 0 none .. 1 whole
        "strength of --superres, from 0 (none) to 1 (full)",
        group="generation", low=0, high=1, expected="0 (no restoration) to 1 (whole)", nodes=("file",), advanced=True,
        tooltip="How much of the restoration shows: 0 is the generated face, 1 the restored one.",
    )  # fmt: skip
    # No option of the command line
    mask: Literal["mask", "mask2", "mask3", "mask4"] = setting(
        "mask",
        tooltip="Which part of the face is made anew: mask is the one models are trained with, mask2 to mask4 are "
        "other shapes of the original LatentSync.",
    )
    # Mask whose hole is pasted; what is generated outside of it is dropped in favour of the source. None: what the
    # model's description says, else the whole of `mask`. A small model draws hair and neck worse than the lips.
    blend_mask: str | None = setting(None)
    chunk_frames: int = setting(16, low=1, high=24, expected="1 to 24, the model was trained with 16")
    clips_at_once: int = setting(2, low=1, high=16)  # faces denoised together; 1 needs less memory
    full_chunks: bool = setting(True)  # complete a short last chunk with frames before it: its normalisation spans it
    tf32: bool = setting(True)  # float32 on NVIDIA cards: several times as fast with 10 bits, device.float32_products
    posterior: Literal["mean", "sample"] = setting("mean")  # the mean is the VAE's best estimate; a sample adds noise
    audio_windows: Literal["overlap", "reference"] = setting("overlap")  # nothing jumps where two 30 s windows meet
    smoothing: Literal["temporal", "p_bias", "none"] = setting(
        "temporal",  # the crop does not tremble with the landmarks
        tooltip="Keeps the crop from trembling. temporal is strong on a still head and lets go of a moving one; p_bias "
        "repeats the original LatentSync; none takes each frame by itself.",
    )
    sampling: Literal["quality", "reference"] = setting("quality")  # anti-aliased and rounded, instead of truncated
    colour_match: bool = setting(
        True
    )  # broad colours around the lips are the source's: the model shifts them (faces/colours.py)
    edge_match: bool = setting(True)  # colour and gain along the edge are made the source's
    blend: Literal["mask", "reference"] = setting("mask")  # only the generated region changes, not the whole square
    extra_frames: bool = setting(False)  # the reference writes two frames more than the speech lasts

    def __post_init__(self):
        for name, value in vars(self).items():
            SETTINGS[name].check(value)
        check_savings(self.guidance_interval, self.cache_interval)
        check_modes(self.length, self.tail)
        if self.chunk_overlap > self.chunk_frames // 2:
            raise OptionError(f"chunk_overlap is {self.chunk_overlap}; expected 0 to {self.chunk_frames // 2}")
        if self.visible_mark is not None:
            _check_label(self.visible_mark)

    def as_reference(self) -> "LipSyncOptions":
        """These options with every deviation from the reference turned off."""
        return replace(
            self,
            scheduler="ddim",
            guidance_interval=(0.0, 1.0),
            cache_interval=1,
            fps=Fraction(25),
            doubled_turns=True,
            chunk_frames=16,
            chunk_overlap=0,
            full_chunks=False,
            tf32=False,
            blend_mask=self.mask,
            posterior="sample",
            audio_windows="reference",
            smoothing="p_bias",
            sampling="reference",
            colour_match=False,
            blend_method="feather",
            mask_shape="drawn",
            edge_match=False,
            blend="reference",
            silence="off",
            fade=0.0,
            max_yaw=90.0,
            extra_frames=True,
        )


SETTINGS = settings_of(LipSyncOptions)


def _check_label(text: str) -> None:
    """Raises OptionError for a text that cannot be shown."""
    if not text.strip() or len(text) > 100 or not (text.isascii() and text.isprintable()):
        raise OptionError(
            f"visible_mark is {text!r}; expected 1 to 100 letters, digits and signs without accents (ASCII, all that "
            "the label's font has) in one line, as in 'AI-generated'"
        )
