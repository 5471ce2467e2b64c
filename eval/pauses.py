"""Does the mouth rest in the pauses of a speech? Each way of `silence`, over a quiet room, music and noise.

    python -m eval.pauses --output output/pauses.json
    python -m eval.pauses --gate      the gate alone: no model, many speeches
    python -m eval.pauses --video clip.mp4 --audio speech.wav

An avatar that goes on talking is given a speech with long pauses, from file to file, and the face mesh reads the mouth
of each result. Motion in pauses is the mean change of the opening in a second, in units of the distance of the outer
eye corners; opening is its mean there. "drawn" is what it should be: the avatar drawn with the lips of the new speech,
read by the same mesh. "source" of `silence` shows the source's mouth, which here talks: its row is to be compared with
the source's own. r is the correlation with the true lips outside of the pauses: closing must not cost words. Of a video
of one's own, whose speech gets the same pauses, neither the true lips nor r are known.
"""

import argparse
import json
import logging
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np

from latentsync.engine import lip_sync
from latentsync.given_paths import given_path, path_or_word
from latentsync.media.audio_reader import read_audio
from latentsync.media.video_reader import probe_video, read_frames
from latentsync.media.video_writer import write_wav
from latentsync.metrics.faces import correlation, opening_track
from latentsync.model.loading import LipSyncModel, find_model, load_model
from latentsync.options import SETTINGS, LipSyncOptions
from latentsync.synthetic.avatar import draw_frame
from latentsync.synthetic.clips import AvatarClip
from latentsync.synthetic.files import write_clip
from latentsync.synthetic.speech import SAMPLE_RATE, Speech
from latentsync.tracks.cache import TrackCache
from latentsync.voice_activity import SECONDS, VoiceGate, speech_activity

from .beds import BEDS, with_bed, with_pauses
from .heldout_avatars import HeldOutClip, held_out_clips

log = logging.getLogger(__name__)
SIDE = 256  # px of the frames
TURN = 1.2  # s
SETTLING = 0.35, 0.2  # s at the beginning and the end of a pause that do not count: the mouth closes and opens
AUDIBLE = 38.0  # dB below the loudest, under which there is no speech
CLEAR = 25.0  # dB, within which there surely is
MARGIN = 0.25  # s around speech that may be open


@dataclass(frozen=True)
class PauseScore:
    """motion: of the opening, a second; opening: mean; both in pauses and in eye distances; r: in words."""

    bed: str
    way: str
    motion: float
    opening: float
    r: float | None


def pauses_of(duration: float) -> list[tuple[float, float]]:
    """TURN seconds of speech, as many of silence, and so on."""
    return [(start, start + TURN) for start in np.arange(TURN, duration - TURN + 0.01, 2 * TURN)]


def in_pauses(times: np.ndarray, pauses: Sequence[tuple[float, float]]) -> np.ndarray:
    return np.any([(times >= start + SETTLING[0]) & (times < end - SETTLING[1]) for start, end in pauses], axis=0)


def scores_of_clip(
    clip: HeldOutClip, model: LipSyncModel, options: LipSyncOptions, duration: float, folder: Path
) -> list[PauseScore]:
    own, new = (replace(part, duration=duration) for part in (clip.own, clip.new))
    speech, source = with_pauses(new.speech, pauses_of(duration)), folder / "source.mp4"
    lips = speech.lips_at((np.arange(own.num_frames) + 0.5) / own.fps)
    write_clip(own, source, SIDE)
    drawn = opening_track(_drawn(own, index, lips[index]) for index in range(own.num_frames))
    measure = _Measure(own.num_frames, own.fps, duration, lips[:, 0])
    return [
        measure("", "drawn", drawn),
        measure("", "source's own", opening_track(own.frame(i, SIDE, SIDE) for i in range(own.num_frames))),
        *_each_way(source, speech.waveform, clip.index, model, options, measure, folder),
    ]


def scores_of_video(
    video: Path, audio: Path, model: LipSyncModel, options: LipSyncOptions, duration: float, folder: Path
) -> list[PauseScore]:
    waveform = read_audio(audio)[: round(duration * SAMPLE_RATE)]
    waveform = with_pauses(Speech(waveform, np.zeros((1, 2))), pauses_of(duration)).waveform
    fps = float(probe_video(video).fps)
    frames = islice(read_frames(video), round(duration * fps))
    own = opening_track(frame.pixels for frame in frames)
    measure = _Measure(len(own), fps, duration, None)
    ways = _each_way(video, waveform, 0, model, options, measure, folder)
    return [measure("", "source's own", own), *ways]


@dataclass(frozen=True)
class _Measure:
    """Scores openings (F,) of a clip; lips: (F,), the true ones, if they are known."""

    num_frames: int
    fps: float
    duration: float
    lips: np.ndarray | None

    def __call__(self, bed: str, way: str, opening: np.ndarray) -> PauseScore:
        quiet = in_pauses((np.arange(self.num_frames) + 0.5) / self.fps, pauses_of(self.duration))
        change = np.abs(np.diff(opening)) * self.fps
        motion = np.nanmean(change[quiet[1:] & quiet[:-1]])
        r = None if self.lips is None else correlation(opening[~quiet], self.lips[~quiet])
        return PauseScore(bed, way, float(motion), float(np.nanmean(opening[quiet])), r)


def _each_way(
    source: Path,
    waveform: np.ndarray,
    seed: int,
    model: LipSyncModel,
    options: LipSyncOptions,
    measure: _Measure,
    folder: Path,
) -> list[PauseScore]:
    ways = {
        "reference": options.as_reference(),
        **{way: replace(options, silence=way) for way in SETTINGS["silence"].choices},
    }
    scores, cache = [], TrackCache(folder / "tracks")
    for bed in BEDS:
        sound = folder / f"{bed}.wav"
        write_wav(sound, with_bed(waveform, bed, np.random.default_rng(seed)), SAMPLE_RATE)
        for way, chosen in ways.items():
            chosen = replace(chosen, extra_frames=False)
            lip_sync(source, sound, folder / "result.mp4", model, chosen, track_cache=cache)
            scores.append(measure(bed, way, _opening_of(folder / "result.mp4", measure.num_frames)))
            log.info("%s", scores[-1])
    return scores


def _drawn(clip: AvatarClip, index: int, lips: np.ndarray) -> np.ndarray:
    pose = replace(clip.pose(index), opening=float(lips[0]), spread=float(lips[1]))
    return draw_frame(clip.identity, pose, SIDE, SIDE)


def _opening_of(path: Path, number: int) -> np.ndarray:
    return opening_track(frame.pixels for frame in read_frames(path))[:number]


def table(scores: list[PauseScore]) -> str:
    """Medians over clips; motion also as a share of the reference's."""
    heads = ("sound", "silence", "motion in pauses", "of the reference's", "opening in pauses", "r in words")
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    kinds = list(dict.fromkeys((score.bed, score.way) for score in scores))

    def median(bed: str, way: str, name: str) -> float:
        return float(np.median([getattr(s, name) for s in scores if (s.bed, s.way) == (bed, way)]))

    for bed, way in kinds:
        motion = median(bed, way, "motion")
        share = f"{motion / median(bed, 'reference', 'motion'):.2f}" if bed else ""
        known = all(score.r is not None for score in scores)
        values = f"{median(bed, way, 'opening'):.3f} | " + (f"{median(bed, way, 'r'):.2f}" if known else "")
        lines.append(f"| {bed} | {way} | {motion:.2f} | {share} | {values} |")
    return "\n".join(lines)


def gate_table(count: int, duration: float = 10.0) -> tuple[str, list[dict]]:
    """Of the gate: the share of clear speech that it shuts off, and of pauses that it closes in. No model runs."""
    rows, pauses = [], pauses_of(duration)
    for bed in BEDS:
        shut, closed = [], []
        for seed in range(count):
            speech: Speech = with_pauses(AvatarClip(0, seed, duration).speech, pauses)
            level = speech_activity([speech.waveform]).level
            loudest, times = np.percentile(level, 95), (np.arange(len(level)) + 0.5) * SECONDS
            audible = times[level > loudest - AUDIBLE]
            silent = np.abs(times[:, None] - audible).min(1) > MARGIN
            sound = with_bed(speech.waveform, bed, np.random.default_rng(seed))
            is_open = VoiceGate(speech_activity([sound])).at(times) > 0.5
            shut.append(float((~is_open[level > loudest - CLEAR]).mean()))
            closed.append(float((~is_open[silent]).mean()))
        rows.append({"bed": bed, "shut": float(np.mean(shut)), "worst": max(shut), "closed": float(np.mean(closed))})
    lines = ["| sound | speech shut off | worst speech | pauses closed |", "|" + "---|" * 4]
    lines += [f"| {r['bed']} | {r['shut']:.2%} | {r['worst']:.2%} | {r['closed']:.0%} |" for r in rows]
    return "\n".join(lines), rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=path_or_word, default="tiny")
    parser.add_argument("--checkpoints", type=given_path, default=Path("checkpoints"))
    parser.add_argument("--output", type=given_path, help="scores as JSON")
    parser.add_argument("--clips", type=int, default=1, help="avatars; with --gate, speeches (at least 20)")
    parser.add_argument(
        "--duration", type=float, default=3 * TURN, help=f"s of each, speech and pause in turn, {TURN:g} s each"
    )
    parser.add_argument("--inference_steps", type=int, default=4)
    parser.add_argument("--video", type=given_path, help="a video of one's own instead of the avatars")
    parser.add_argument("--audio", type=given_path, help="the speech for it")
    parser.add_argument("--gate", action="store_true", help="measure the gate alone")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    if arguments.gate:
        text, rows = gate_table(max(arguments.clips, 20))
    else:
        model = load_model(find_model(arguments.model, arguments.checkpoints))
        options = LipSyncOptions(num_inference_steps=arguments.inference_steps)
        scores: list[PauseScore] = []
        with tempfile.TemporaryDirectory() as folder:
            if arguments.video:
                files = arguments.video, arguments.audio
                scores += scores_of_video(*files, model, options, arguments.duration, Path(folder))
            for clip in [] if arguments.video else held_out_clips()[0][: arguments.clips]:
                scores += scores_of_clip(clip, model, options, arguments.duration, Path(folder))
        text, rows = table(scores), [vars(score) for score in scores]
    print(text)
    if arguments.output:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(json.dumps(rows, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
