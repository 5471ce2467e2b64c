"""How well a video's lips go with its sound, and by how much the two lie apart, as SyncNet sees it."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ..errors import AudioError, FaceNotFoundError, FrameCountError, LatentSyncError, ModelNotFoundError, OptionError
from ..faces.align import warp_faces
from ..faces.choice import find_person
from ..faces.finder import FaceFinder
from ..media.audio_reader import read_audio
from ..media.video_reader import VideoFrame, read_frames
from ..model.device import own_threads
from ..model.loading import BUNDLED, LipSyncModel
from ..model_files import STABLE_SYNCNET, Framing, find_network, weight_folders
from ..options import LipSyncOptions
from ..run.report import BACKGROUND, FAINT, INK, RESULT, SOURCE, LipSyncReport, SyncRecord
from ..voice_activity import OffsetEstimate
from .pairs import THRESHOLD
from .syncnet import (
    BUNDLED_SYNCNET,
    FPS,
    NUM_MELS,
    SAMPLE_RATE,
    StableSyncNet,
    count_windows,
    load_syncnet,
    mel_window,
    seen_part,
    sync_mel,
)

MAX_SHIFT = 15  # frames either way, as in the LSE scores
LEAST_OVERLAP = 5  # windows that a shift is told from, where there are as many


@dataclass(frozen=True)
class SyncScore:
    """What SyncNet makes of a clip; cosines lie in 0..1.

    offset_frames   by how much the lips come later than the sound at 25 fps, negative where earlier: the sign of
                    voice_activity.estimate_offset and of SyncNet's own AV offset; the shift of the largest cosine
    confidence      that largest mean cosine less the median over all shifts: 0 where no shift is better than others
    distance        mean distance of the unit vectors at that shift, 0..1.41; less is better
    cosine          mean cosine as the clip is, not shifted
    accuracy        share of its windows, not shifted, whose cosine says that they belong together
    offsets, curve  the shifts tried, in frames, and the mean cosine at each; NaN where too few windows overlap
    num_windows     runs of frames looked at
    """

    offset_frames: int
    confidence: float
    distance: float
    cosine: float
    accuracy: float
    offsets: np.ndarray
    curve: np.ndarray
    num_windows: int

    @property
    def offset_ms(self) -> float:
        return 1000.0 * self.offset_frames / FPS


@own_threads()
def sync_score(
    faces: np.ndarray,
    sound: np.ndarray,
    syncnet: StableSyncNet,
    *,
    max_shift: int = MAX_SHIFT,
    batch_size: int = 32,
    encode: Callable[[Tensor], Tensor] | None = None,
) -> SyncScore:
    """Compare every run of frames with the sound at the same time and up to `max_shift` frames earlier and later.

    faces: (F, S, S, 3) uint8 RGB, aligned as for the U-Net, 25 fps; sound: the waveform (T,) float at 16 kHz, or its
    sync_mel (80, M); both begin at the same time. encode: pixels (N, 3, S, S) in [-1, 1] to scaled latents, for a
    SyncNet of latents. Each run of frames and each window of sound is embedded once. Raises FrameCountError for too few
    frames, AudioError for too little sound, OptionError for what the SyncNet cannot look at.
    """
    config = syncnet.config
    if faces.ndim != 4 or faces.shape[-1] != 3 or faces.dtype != np.uint8:
        raise OptionError(f"The faces are {faces.dtype} {faces.shape}; expected uint8 of shape (F, S, S, 3).")
    if len(faces) < config.num_frames:
        raise FrameCountError(f"{len(faces)} frames were given; SyncNet needs at least {config.num_frames} in a row.")
    mel = sync_mel(sound) if np.ndim(sound) == 1 else np.asarray(sound, np.float32)
    if mel.ndim != 2 or mel.shape[0] != NUM_MELS:
        raise AudioError(f"The sound has shape {np.shape(sound)}; expected a waveform (T,) or a mel (80, M).")
    num_heard = count_windows(len(faces) + max_shift, mel.shape[1], config.num_frames)
    if not num_heard:
        raise AudioError(
            f"The sound has {mel.shape[1]} mel columns ({mel.shape[1] / 80:.2f} s); SyncNet needs at least "
            f"{config.mel_size[1]} ({config.mel_size[1] / 80:.2f} s)."
        )
    seen = _embed_faces(faces, syncnet, batch_size, encode)
    heard = _embed_sound(mel, num_heard, syncnet, batch_size)
    cosines = (seen @ heard.T).cpu().numpy()  # (runs of frames, windows of sound)
    offsets = np.arange(-max_shift, max_shift + 1)
    least = min(LEAST_OVERLAP, *cosines.shape)
    diagonals = [cosines.diagonal(-offset) for offset in offsets]  # lips later: their sound came before
    curve = np.array([part.mean() if len(part) >= least else np.nan for part in diagonals])
    best = int(np.nanargmax(curve))
    unshifted = cosines.diagonal()
    return SyncScore(
        offset_frames=int(offsets[best]),
        confidence=float(curve[best] - np.nanmedian(curve)),
        distance=float(np.sqrt(np.clip(2 - 2 * diagonals[best], 0, None)).mean()),
        cosine=float(unshifted.mean()),
        accuracy=float((unshifted > THRESHOLD).mean()),
        offsets=offsets,
        curve=curve,
        num_windows=len(cosines),
    )


@torch.inference_mode()
def _embed_faces(
    faces: np.ndarray, syncnet: StableSyncNet, batch_size: int, encode: Callable[[Tensor], Tensor] | None
) -> Tensor:
    """(F - 15, D): of the runs of frames beginning at each frame."""
    config, device = syncnet.config, next(syncnet.parameters()).device
    if config.latent and encode is None:
        raise OptionError("This SyncNet looks at latents; give `encode`, which makes them of pixels.")
    prepared = []
    for start in range(0, len(faces), batch_size):  # each frame resized, or encoded, once
        part = torch.from_numpy(np.ascontiguousarray(faces[start : start + batch_size])).to(device)
        part = part.permute(0, 3, 1, 2).float() / 127.5 - 1
        if config.latent:
            part = encode(part).float()
        prepared.append(seen_part(part, config).to(syncnet.dtype))
    pictures = torch.cat(prepared)  # (F, C, h, w)
    channels = pictures.shape[1]
    runs = pictures.flatten(0, 1).unfold(0, config.num_frames * channels, channels).movedim(-1, 1)  # (N, F*C, h, w)
    return torch.cat([syncnet.embed_frames(part.contiguous()) for part in runs.split(batch_size)])


@torch.inference_mode()
def _embed_sound(mel: np.ndarray, count: int, syncnet: StableSyncNet, batch_size: int) -> Tensor:
    """(count, D): of the windows that belong to runs beginning at each frame."""
    windows = np.stack([mel_window(mel, start, syncnet.config.num_frames) for start in range(count)])[:, None]
    parts = torch.from_numpy(windows).to(next(syncnet.parameters()).device, syncnet.dtype).split(batch_size)
    return torch.cat([syncnet.embed_audio(part) for part in parts])


# The face of a clip at 25 frames a second, aligned as for training: what SyncNet looks at.

FRAME_COUNT = 16  # of a SyncNet's window: less than this is no stretch


@dataclass(frozen=True)
class SpokenFaces:
    """The longest stretch in which a face is seen without a break.

    faces  (F, S, S, 3) uint8 RGB at 25 a second; start: s from the clip's beginning; clip: s that were looked at
    """

    faces: np.ndarray
    start: float
    clip: float

    @property
    def seconds(self) -> float:
        return len(self.faces) / FPS


def spoken_faces(
    frames: Callable[[], Iterable[VideoFrame]],
    resolution: int,
    face: str = "largest",
    finder: FaceFinder | None = None,
    least: int = FRAME_COUNT,
    framing: Framing = "insightface",
) -> SpokenFaces:
    """frames: gives the clip's frames at 25 a second, anew each time it is called; resolution: S; face: whose, see
    faces/choice.py; framing: what the network was trained with, see faces/detect.py. Raises FaceNotFoundError where
    no face is seen in `least` consecutive frames.
    """
    advice = f"Choose another part of the video, with a face in {least} consecutive frames at {FPS} a second"
    person = find_person(frames(), face, finder, advice=advice)
    placement = person.placement(resolution, LipSyncOptions(fade=0.0), framing)
    rows = placement.longest_stretch()
    if len(rows) < least:
        raise FaceNotFoundError(
            f"no face is seen in {least} consecutive frames at {FPS} a second, the longest stretch is {len(rows)}; "
            "expected a visible face. Choose another part of the video, or another face"
        )
    shown = islice(frames(), rows[0], rows[-1] + 1)
    faces = [
        warp_faces([frame.pixels], placement.at(row).matrix[None], resolution)[0]
        for row, frame in zip(rows, shown, strict=True)
    ]
    return SpokenFaces(np.stack(faces), rows[0] / FPS, person.clip.num_frames / FPS)


# How lips and sound of a clip go together by StableSyncNet: the score, and the offset between them.

HEARD_ON = 1.0  # s after the faces, with which lips that come early are compared
SURE = 0.25  # of a score: from half of it on an offset is worth telling a person


@dataclass(frozen=True)
class ClipSync:
    """A clip's SyncScore, from `start` on for `seconds`; notes: what to know of that."""

    score: SyncScore
    start: float = 0.0
    seconds: float = 0.0
    notes: tuple[str, ...] = ()

    def estimate(self) -> OffsetEstimate:
        """As the report tells it."""
        confidence = float(np.clip(self.score.confidence / SURE, 0, 1))
        return OffsetEstimate(self.score.offset_ms, confidence, "SyncNet")


def find_syncnet(folders: Sequence[Path] = ()) -> Path:
    """The released one in one of the folders, else the bundled one. Raises ModelNotFoundError."""
    try:
        return find_network(STABLE_SYNCNET, folders)
    except ModelNotFoundError:
        if BUNDLED_SYNCNET.is_file():
            return BUNDLED_SYNCNET
        raise


def described_syncnet(path: Path) -> str:
    """For a person: which one it is and what it knows."""
    return "the bundled SyncNet, which knows drawn avatars only" if path == BUNDLED_SYNCNET else str(path)


def clip_text(found: ClipSync, syncnet: str) -> str:
    """A few lines for a person; syncnet: see described_syncnet."""
    score = found.score
    way = "after" if score.offset_frames > 0 else "before"
    offset = f"{abs(score.offset_ms):.0f} ms {way} the sound" if score.offset_frames else "with the sound"
    lines = [
        f"sync score {score.confidence:.3f}: the lips come {offset} ({found.seconds:.1f} s)",
        f"as it is: {100 * score.accuracy:.0f} % of the windows are taken for in sync, mean cosine {score.cosine:.3f}",
        f"by {syncnet}",
    ]
    return "\n".join([*lines, *found.notes])


def sync_of(found: SpokenFaces, waveform: np.ndarray, syncnet: StableSyncNet) -> ClipSync:
    """waveform: (T,) float32 at 16 kHz of the whole clip."""
    first = round(found.start * SAMPLE_RATE)
    heard = waveform[first : first + round((found.seconds + HEARD_ON) * SAMPLE_RATE)]
    if not len(heard):
        raise AudioError(f"the sound ends before {found.start:.2f} s, where the face is seen; expected speech there")
    notes = []
    if found.seconds < found.clip - 1 / FPS:
        notes.append(
            f"sync was measured from {found.start:.2f} s to {found.start + found.seconds:.2f} s, the longest "
            f"stretch with a face of {found.clip:.2f} s"
        )
    return ClipSync(sync_score(found.faces, heard, syncnet), found.start, found.seconds, tuple(notes))


@own_threads()
def frames_sync(
    frames: Callable[[], Iterable[VideoFrame]], waveform: np.ndarray, syncnet: StableSyncNet, face: str = "largest"
) -> ClipSync:
    """frames: gives the clip's frames at 25 a second anew each time; waveform: (T,) float32 at 16 kHz.

    Raises FaceNotFoundError without a face through a whole window, AudioError without sound there.
    """
    config = syncnet.config
    faces = spoken_faces(frames, config.resolution, face, least=config.num_frames, framing=syncnet.framing)
    return sync_of(faces, waveform, syncnet)


def clip_sync(
    path: str | Path,
    syncnet: StableSyncNet,
    *,
    face: str = "largest",
    longest: float | None = None,
    audio_path: str | Path | None = None,
) -> ClipSync:
    """Of a video file; longest: s from its beginning that are looked at, None for all; audio_path: in place of its own
    sound. Raises MediaError's subclasses, FaceNotFoundError."""
    waveform = read_audio(audio_path or path, sample_rate=SAMPLE_RATE, duration=longest)
    found = frames_sync(partial(read_frames, path, fps=FPS, duration=longest), waveform, syncnet, face)
    if longest is None or found.start + found.seconds + 1 / FPS < longest:
        return found
    return replace(found, notes=(*found.notes, f"the first {longest:g} s were looked at"))


# The sync score of a finished result, for its report.

LONGEST = 20.0  # s from the beginning that are measured: enough to tell, and cheap
TELLING = 0.5  # confidence from which on SyncNet's offset goes before the loudness'


def syncnet_for(model: LipSyncModel, checkpoints: Path | None) -> Path | None:
    """The SyncNet that knows what the model draws: the bundled one for the bundled model, else the released one among
    the checkpoints; None where that is not there."""
    if model.unet_path is not None and model.unet_path.parent == BUNDLED:
        return BUNDLED_SYNCNET if BUNDLED_SYNCNET.is_file() else None
    try:
        return find_network(STABLE_SYNCNET, weight_folders(checkpoints=checkpoints))
    except ModelNotFoundError:
        return None


def with_sync(report: LipSyncReport, syncnet_path: Path, device="cpu", longest: float = LONGEST) -> LipSyncReport:
    """The report with the score of its file's first face; what cannot be measured is told there, not raised.

    A confident offset takes the place of the one told from the loudness. Raises CheckpointError's subclasses and
    ModelNotFoundError for a bad SyncNet.
    """
    syncnet, name = load_syncnet(syncnet_path, device), described_syncnet(syncnet_path)
    try:
        found = clip_sync(report.path, syncnet, face=_face(report), longest=longest)
    except LatentSyncError as error:
        return replace(report, sync=SyncRecord(name, note=str(error)))
    score = found.score
    record = SyncRecord(
        name,
        round(score.confidence, 4),
        round(score.accuracy, 4),
        round(score.offset_ms, 1),
        round(found.seconds, 2),
        "; ".join(found.notes),
    )
    estimate = found.estimate()
    return replace(report, sync=record, offset=estimate if estimate.confidence >= TELLING else report.offset)


def _face(report: LipSyncReport) -> str:
    """The number of the first face that speaks: the result has the faces that the source has."""
    return str(report.faces[0].index) if report.faces else "largest"


# A picture of how lips and sound of a clip go together at each shift.


def sync_picture(score: SyncScore, width: int = 640, height: int = 320) -> np.ndarray:
    """The mean cosine over the shift of the sound, the best one marked: (height, width, 3) uint8 RGB."""
    image = Image.new("RGB", (width, height), BACKGROUND)
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(size=max(10, height // 22))
    line, margin = max(10, height // 22) + 8, 12
    left, right, top, bottom = margin, width - margin, 2 * line, height - 2 * line
    known = np.isfinite(score.curve)
    low, high = float(score.curve[known].min()), float(score.curve[known].max())
    middle = float(np.median(score.curve[known]))

    def x(offset: float) -> float:
        return left + (offset - score.offsets[0]) / max(score.offsets[-1] - score.offsets[0], 1) * (right - left)

    def y(cosine: float) -> float:
        return bottom - (cosine - low) / max(high - low, 1e-6) * (bottom - top)

    draw.text((left, 4), f"sync score {score.confidence:.3f}, offset {score.offset_ms:+.0f} ms", INK, font)
    draw.line((left, y(middle), right, y(middle)), FAINT)
    draw.line((x(0), top, x(0), bottom), FAINT)
    points = [(x(offset), y(value)) for offset, value in zip(score.offsets[known], score.curve[known], strict=True)]
    draw.line(points, SOURCE, width=2)
    place = x(score.offset_frames), y(high)
    draw.ellipse((place[0] - 5, place[1] - 5, place[0] + 5, place[1] + 5), RESULT)
    for offset in (score.offsets[0], 0, score.offsets[-1]):
        text = f"{1000 * offset / FPS:+.0f} ms" if offset else "0"
        share = (x(offset) - left) / (right - left)
        draw.text((x(offset) - share * draw.textlength(text, font), bottom + 4), text, INK, font)
    text = "lips before the sound  <  >  after it"
    draw.text(((width - draw.textlength(text, font)) / 2, height - line), text, INK, font)
    return np.asarray(image).copy()
