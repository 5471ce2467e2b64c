"""What a user can choose, with the defaults, and the preset that reproduces the reference."""

import math
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Literal

from .errors import OptionError
from .media.length_modes import LengthMode, TailMode, check_modes
from .trajectory import check_savings, check_scheduler

MAX_OFFSET = 10_000  # ms
BLEND_METHODS = ("feather", "multiband", "poisson")
MASK_SHAPES = ("drawn", "landmarks")
SILENCES = ("off", "close", "source")


@dataclass(frozen=True)
class LipSyncOptions:
    """Settings of one run. Where the default differs from the reference, the comment says why.

    Raises OptionError when built with a value out of range.
    """

    num_inference_steps: int = 25
    guidance_scale: float = 1.5  # 1 or less: no guidance, half the time
    scheduler: str = "ddim"  # see trajectory.py; the reference: ddim
    guidance_interval: tuple[float, float] = (0.0, 1.0)  # shares of the steps between which guidance is on
    cache_interval: int = 1  # steps in a row that share deep features, see unet.py; 1: none. The reference's apps: 3
    seed: int = 1247
    fps: Fraction | None = None  # None: the source's own frames and times. The reference resamples to 25.
    start: float = 0.0  # s, of source and speech alike: a preview of what the whole run would show there
    duration: float | None = None  # s; None: to the end of the speech
    # For a video of another length than the speech, see media/length_modes.py. The reference: bounce, cut.
    length: LengthMode = "bounce"
    tail: TailMode = "cut"
    doubled_turns: bool = False  # the reference shows the frame at which a bounce turns twice, which looks like a stop
    # ms by which the lips come later than in the speech, which itself stays where it is; negative: earlier
    audio_offset_ms: float = 0.0
    mask: str = "mask"
    # Mask whose hole is pasted; what is generated outside of it is dropped in favour of the source. None: what the
    # model's description says, else the whole of `mask`. A small model draws hair and neck worse than the lips.
    blend_mask: str | None = None
    mask_smooth: float = 0.5  # 0 hard edge .. 1 wide feather, a tenth of the face: docs/mask_smooth.jpg
    chunk_frames: int = 16  # frames denoised together; the model was trained with 16
    chunk_overlap: int = 4  # frames shared by neighbouring chunks and cross-faded, so that no seam shows. Reference: 0
    clips_at_once: int = 2  # faces whose chunks are denoised together; 1 needs less memory
    full_chunks: bool = True  # complete a short last chunk with frames before it: its normalisation spans the chunk
    tf32: bool = True  # of float32 on NVIDIA cards: several times as fast with 10 bits, see precision.float32_products
    posterior: Literal["mean", "sample"] = "mean"  # the mean is the VAE's best estimate; a sample adds noise
    audio_windows: Literal["overlap", "reference"] = "overlap"  # nothing jumps where two 30 s windows meet
    smoothing: Literal["none", "p_bias", "temporal"] = "temporal"  # the crop does not tremble with the landmarks
    sampling: Literal["quality", "reference"] = "quality"  # anti-aliased and rounded, instead of truncated
    colour_match: bool = True  # broad colours around the lips are the source's: model and VAE shift them (colours.py)
    blend_method: Literal["feather", "multiband", "poisson"] = "feather"  # compared in docs/seams.md
    mask_shape: Literal["drawn", "landmarks"] = "drawn"  # the mask as drawn, or as the face's own jaw and cheeks lie
    edge_match: bool = True  # colour and gain along the edge are made the source's
    blend: Literal["mask", "reference"] = "mask"  # only the generated region changes, not the whole face square
    # In pauses of the speech the mouth closes, or the source's picture comes back. The reference leaves it to the
    # model, which takes noise and music for a voice.
    silence: Literal["off", "close", "source"] = "close"
    # A face that is lost, tiny, turned away or covered gives way to the source's picture over so many seconds, instead
    # of from one frame to the next as in the reference.
    fade: float = 0.16
    max_yaw: float = 60.0  # degrees from frontal at which a face counts as turned away
    sr_ratio: int = 2  # side of a restored face, in sides of the generated one
    sr_strength: float = 1.0  # of restoration: 0 none .. 1 whole
    marking: bool = True  # the container's metadata tell that the result is generated, see provenance.py
    visible_mark: str | None = None  # a label that everybody sees, in a corner of each frame
    extra_frames: bool = False  # the reference writes two frames more than the speech lasts

    def __post_init__(self):
        if not 1 <= self.num_inference_steps <= 999:
            raise OptionError(f"inference_steps is {self.num_inference_steps}; expected a whole number from 1 to 999")
        if not 0 <= self.guidance_scale <= 20:
            raise OptionError(f"guidance_scale is {self.guidance_scale}; expected 0 to 20, usually 1 to 3")
        check_scheduler(self.scheduler)
        check_savings(self.guidance_interval, self.cache_interval)
        if not 0 <= self.mask_smooth <= 1:
            raise OptionError(f"mask_smooth is {self.mask_smooth}; expected 0 (hard edge) to 1 (wide feather)")
        if self.fps is not None and not 1 <= self.fps <= 240:
            raise OptionError(f"fps is {float(self.fps):g}; expected 1 to 240, or none for the source's own")
        if not 0 <= self.start < math.inf:
            raise OptionError(f"start is {self.start}; expected seconds from the beginning, 0 or more")
        if self.duration is not None and not 0 < self.duration < math.inf:
            raise OptionError(f"duration is {self.duration}; expected more than 0 seconds")
        check_modes(self.length, self.tail)
        _check_choice("blend_method", self.blend_method, BLEND_METHODS)
        _check_choice("mask_shape", self.mask_shape, MASK_SHAPES)
        _check_choice("silence", self.silence, SILENCES)
        if not 0 <= self.fade <= 5:
            raise OptionError(f"fade is {self.fade}; expected 0 (at once) to 5 seconds")
        if not 0 < self.max_yaw <= 90:
            raise OptionError(f"max_yaw is {self.max_yaw}; expected more than 0 to 90 degrees")
        if self.sr_ratio not in (1, 2, 3, 4):
            raise OptionError(f"sr_ratio is {self.sr_ratio}; expected 1, 2, 3 or 4")
        if not 0 <= self.sr_strength <= 1:
            raise OptionError(f"sr_strength is {self.sr_strength}; expected 0 (no restoration) to 1 (whole)")
        if not -MAX_OFFSET <= self.audio_offset_ms <= MAX_OFFSET:
            raise OptionError(
                f"audio_offset_ms is {self.audio_offset_ms:g}; expected {-MAX_OFFSET} to {MAX_OFFSET} milliseconds, "
                "positive for later lips"
            )
        if not 1 <= self.chunk_frames <= 24:
            raise OptionError(f"chunk_frames is {self.chunk_frames}; expected 1 to 24, the model was trained with 16")
        if not 0 <= self.chunk_overlap <= self.chunk_frames // 2:
            raise OptionError(f"chunk_overlap is {self.chunk_overlap}; expected 0 to {self.chunk_frames // 2}")
        if not 1 <= self.clips_at_once <= 16:
            raise OptionError(f"clips_at_once is {self.clips_at_once}; expected 1 to 16")
        if self.visible_mark is not None:
            _check_label(self.visible_mark)
        if not 0 <= self.seed < 2**63:
            raise OptionError(f"seed is {self.seed}; expected a whole number from 0 to 2^63 - 1")

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


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise OptionError(f"{name} is {value!r}; expected one of {', '.join(choices)}")


def _check_label(text: str) -> None:
    """Raises OptionError for a text that cannot be shown."""
    if not text.strip() or len(text) > 100 or not (text.isascii() and text.isprintable()):
        raise OptionError(
            f"visible_mark is {text!r}; expected 1 to 100 letters, digits and signs without accents (ASCII, all that "
            "the label's font has) in one line, as in 'AI-generated'"
        )
