"""Do the lips of a real person follow the sound and not the source? A clip of a talking person, its own sound, others'.

    python -m eval.real_clip --video talk.mp4 --output output/talk --speeches a.wav b.wav
    python -m eval.real_clip --video talk.mp4 --audio talk.wav --model checkpoints/mine --preset fast

Every run goes through the product from file to file; the face mesh reads the lips of source and finished video.

own    the clip's own sound: the picture beside the source, and whether the lips are the source's
ahead  its sound one second ahead: the lips must be those the source has a second later, not those that it shows
other  each of the speeches: the lips must not be the source's

r is Pearson's; the opening of the lips is the mean beside the source's; PSNR in a box around the source's mouth.
Writes scores.json, scores.md, the videos and sheet.png: eight frames of source, own and ahead at the source's size.
"""

import argparse
import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image

from latentsync.contact_sheet import evenly_spaced
from latentsync.engine import lip_sync
from latentsync.faces.detect import mouth_opening
from latentsync.faces.finder import FaceTracker
from latentsync.given_paths import given_path, path_or_word
from latentsync.media.audio_reader import read_audio
from latentsync.media.video_reader import probe_video, read_frames
from latentsync.media.video_writer import write_wav
from latentsync.metrics.faces import OUTER_LIPS, correlation, opening_track
from latentsync.metrics.pictures import psnr_of
from latentsync.model.loading import LipSyncModel, choose_device, find_model, load_model
from latentsync.options import LipSyncOptions
from latentsync.presets import PRESETS, apply_preset
from latentsync.synthetic.speech import SAMPLE_RATE
from latentsync.tracks.cache import TrackCache

log = logging.getLogger(__name__)
AHEAD = 1.0  # s
AROUND = 0.3  # of the mouth's width, on every side of it: the box
SHOWN = 8  # frames of the sheet
FACE = 1.6  # side of what the sheet shows, in heights of the box of the whole mesh


@dataclass(frozen=True)
class RunScore:
    """r_sound: with the lips that belong to the sound, where the source has them; r_source: with those it shows."""

    run: str
    num_frames: int
    r_sound: float | None
    r_source: float
    opening: float  # beside the source's mean
    psnr: float | None  # dB, in the box around the mouth


@dataclass(frozen=True)
class Source:
    """What is known of the clip: F frames' lips, and of each the boxes (left, top, right, bottom) px of mouth, face."""

    video: Path
    fps: float
    opening: np.ndarray
    mouths: np.ndarray
    faces: np.ndarray

    @classmethod
    def of(cls, video: Path, duration: float) -> "Source":
        fps, tracker, found = float(probe_video(video).fps), FaceTracker(), None
        openings, mouths, faces = [], [], []
        for frame in islice(read_frames(video), round(duration * fps)):
            found = tracker(frame.pixels, found)
            openings.append(np.nan if found is None else mouth_opening(found.landmarks))
            mouths.append(np.full(4, np.nan) if found is None else _box(found.landmarks[list(OUTER_LIPS)], AROUND))
            faces.append(np.full(4, np.nan) if found is None else _box(found.landmarks, 0))
        return cls(video, fps, np.array(openings), np.array(mouths), np.array(faces))

    @property
    def num_frames(self) -> int:
        return len(self.opening)


def _box(points: np.ndarray, around: float) -> np.ndarray:
    low, high = points[:, :2].min(0), points[:, :2].max(0)
    reach = around * (high[0] - low[0])
    return np.concatenate([low - reach, high + reach])


def score_run(run: str, source: Source, result: Path, ahead: int = 0, speaks_own: bool = True) -> RunScore:
    """Scores of a finished video; ahead: frames by which its sound is early; speaks_own: whether it is the clip's."""
    opening = opening_track(frame.pixels for frame in read_frames(result))
    count = min(len(opening), source.num_frames - ahead)
    opening, shown = opening[:count], source.opening[:count]
    belongs = source.opening[ahead : ahead + count]
    known = np.isfinite(opening) & np.isfinite(belongs if speaks_own else shown)
    beside = (belongs if speaks_own else shown)[known]
    return RunScore(
        run=run,
        num_frames=count,
        r_sound=correlation(opening, belongs) if speaks_own else None,
        r_source=correlation(opening, shown),
        opening=float(opening[known].mean() / beside.mean()) if known.any() else float("nan"),
        psnr=mouth_psnr(source, result) if speaks_own and not ahead else None,
    )


def mouth_psnr(source: Source, result: Path) -> float:
    """In the boxes around the source's mouth, over all frames, dB."""
    errors, count = 0.0, 0
    for before, after, box in zip(read_frames(source.video), read_frames(result), source.mouths, strict=False):
        if np.isfinite(box).all():
            left, top, right, bottom = box.round().astype(int).clip(0)
            part = (slice(top, bottom), slice(left, right))
            difference = after.pixels[part].astype(np.float64) - before.pixels[part]
            errors, count = errors + float((difference**2).sum()), count + difference.size
    return psnr_of(errors / max(count, 1))


def score_clip(
    source: Source, waveform: np.ndarray, speeches: Sequence[Path], model: LipSyncModel, options: LipSyncOptions,
    output: Path,
) -> list[RunScore]:  # fmt: skip
    """waveform: (T,) at SAMPLE_RATE, the clip's own sound."""
    late, cache = round(AHEAD * source.fps), TrackCache(output / "tracks")
    own, ahead = output / "own.wav", output / "ahead.wav"
    whole = round(source.num_frames / source.fps * SAMPLE_RATE)
    write_wav(own, waveform[:whole], SAMPLE_RATE)
    write_wav(ahead, waveform[round(AHEAD * SAMPLE_RATE) : whole], SAMPLE_RATE)
    runs = [("own", own, 0, True), ("ahead", ahead, late, True)]
    runs += [(f"other {number + 1}", speech, 0, False) for number, speech in enumerate(speeches)]
    scores = []
    for run, speech, early, speaks_own in runs:
        result = output / f"{run.replace(' ', '_')}.mp4"
        lip_sync(source.video, speech, result, model, options, track_cache=cache)
        scores.append(score_run(run, source, result, early, speaks_own))
        log.info("%s", scores[-1])
    return scores


def sheet(source: Source, videos: Sequence[Path]) -> np.ndarray:
    """Faces at the source's size, a row a video; (h, w, 3) uint8 RGB."""
    shown = {video: [frame.pixels for frame in read_frames(video)] for video in videos}
    chosen = evenly_spaced(min(source.num_frames, *map(len, shown.values())), SHOWN)
    side = int(FACE * np.nanmedian(source.faces[:, 3] - source.faces[:, 1]))
    rows = []
    for frames in shown.values():
        parts = []
        for index in chosen:
            centre = np.nan_to_num(source.faces[index].reshape(2, 2).mean(0))
            height, width = frames[index].shape[:2]
            left, top = (
                int(np.clip(c - side / 2, 0, max(0, n - side))) for c, n in zip(centre, (width, height), strict=True)
            )
            part = frames[index][top : top + side, left : left + side]
            parts.append(np.pad(part, ((0, side - part.shape[0]), (0, side - part.shape[1]), (0, 0))))
        rows.append(np.concatenate(parts, 1))
    return np.concatenate(rows)


def table(scores: Sequence[RunScore]) -> str:
    def number(value: float | None, digits: int = 2) -> str:
        return "-" if value is None else f"{value:.{digits}f}"

    lines = ["| sound | r with the lips of the sound | r with the source's | opening | PSNR of the mouth, dB |"]
    lines.append("|---|---|---|---|---|")
    for s in scores:
        cells = number(s.r_sound), number(s.r_source), number(s.opening), number(s.psnr, 1)
        lines.append(f"| {s.run} | {' | '.join(cells)} |")
    others = np.array([s.r_source for s in scores if s.r_sound is None])
    if len(others):
        lines += ["", f"Others' speech: mean r with the source's lips {others.mean():.2f}, from {others.min():.2f} to "]
        lines[-1] += f"{others.max():.2f}."
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--video", type=given_path, required=True)
    parser.add_argument("--audio", type=given_path, help="the clip's own sound (default: that of the video)")
    parser.add_argument("--speeches", type=given_path, nargs="*", default=[], help="others' speech")
    parser.add_argument("--duration", type=float, default=8.0, help="s of the clip (default: %(default)s)")
    parser.add_argument("--model", type=path_or_word, default="tiny")
    parser.add_argument("--checkpoints", type=given_path, default=Path("checkpoints"))
    parser.add_argument("--preset", choices=sorted(PRESETS), default="balanced")
    parser.add_argument("--output", type=given_path, default=Path("output/real_clip"))
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    arguments.output.mkdir(parents=True, exist_ok=True)
    model = load_model(find_model(arguments.model, arguments.checkpoints), device=choose_device())
    source = Source.of(arguments.video, arguments.duration)
    options = apply_preset(LipSyncOptions(), arguments.preset)
    waveform = read_audio(arguments.audio or arguments.video)
    scores = score_clip(source, waveform, arguments.speeches, model, options, arguments.output)
    (arguments.output / "scores.json").write_text(json.dumps([asdict(s) for s in scores], indent=1), encoding="utf-8")
    (arguments.output / "scores.md").write_text(table(scores) + "\n", encoding="utf-8")
    videos = [arguments.video, *(arguments.output / f"{run}.mp4" for run in ("own", "ahead"))]
    Image.fromarray(sheet(source, videos)).save(arguments.output / "sheet.png")
    print(table(scores))


if __name__ == "__main__":
    main()
