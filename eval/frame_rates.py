"""Do picture, sound and lips stay together at every frame rate? 24, 29.97, 50, 60, variable, and one resampled to 25.

    python -m eval.frame_rates --output output/frame_rates.json
    python -m eval.frame_rates --video clip.mp4 --audio speech.wav

An avatar filmed at each rate is given another speech, from file to file. Of each result: frames in and out; the largest
difference of a frame's time from the source's; how much longer the picture is than the speech; by how much the sound of
its first and of its last second is shifted against the speech that was given; and the lips, read by the face mesh: r
with the true ones at each frame's time, and the lag at which r is largest. Neither should change with the rate. (The
bundled model's lips are early by half a frame at 25 a second: it learned those of the middle of a frame's display.)

A video of one's own is shown at each rate by the frame of that moment; what its lips should be is not known.
"""

import argparse
import json
import math
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import takewhile
from pathlib import Path

import numpy as np
from scipy.signal import correlate, correlation_lags

from latentsync.engine import lip_sync
from latentsync.given_paths import given_path, path_or_word
from latentsync.media.audio_reader import read_audio
from latentsync.media.video_reader import read_frames, video_length
from latentsync.media.video_writer import VideoWriter, write_wav
from latentsync.metrics.faces import correlation, opening_track
from latentsync.model.loading import LipSyncModel, find_model, load_model
from latentsync.options import LipSyncOptions
from latentsync.synthetic.avatar import draw_frame
from latentsync.synthetic.clips import AvatarClip
from latentsync.synthetic.speech import SAMPLE_RATE

from .heldout_avatars import held_out_clips

SIDE = 256  # px of the frames
TICKS = 90_000  # a second, of the variable rate
RATES = {"24": Fraction(24), "29.97": Fraction(30000, 1001), "50": Fraction(50), "60": Fraction(60), "variable": None}
RESAMPLED = "29.97", Fraction(25)
LAGS = np.arange(-0.2, 0.2001, 0.005)  # s


@dataclass(frozen=True)
class RateScore:
    """times, sound and lag in ms, the rest as said above. longer: the picture than the speech, ms."""

    rate: str
    frames_in: int
    frames_out: int
    times: float | None
    longer: float
    sound_first: float
    sound_last: float
    r: float | None
    lag: float | None


Show = Callable[[float], np.ndarray]  # a moment in s -> (H, W, 3) uint8
Lips = Callable[[np.ndarray], np.ndarray]  # moments (F,) in s -> true openings (F,)


def avatar_at(clip: AvatarClip) -> Show:
    def show(moment: float) -> np.ndarray:
        opening, spread = clip.speech.lips_at(np.array([moment]))[0]
        pose = replace(clip.motion.pose(moment), opening=float(opening), spread=float(spread))
        return draw_frame(clip.identity, pose, SIDE, SIDE)

    return show


def video_at(video: Path, duration: float) -> Show:
    frames = [(frame.time, frame.pixels) for frame in takewhile(lambda f: f.time < duration, read_frames(video))]
    times = np.array([time for time, _ in frames]) - frames[0][0]
    return lambda moment: frames[max(0, int(np.searchsorted(times, moment + 1e-6)) - 1)][1]


def write_source(show: Show, duration: float, rate: Fraction | None, path: Path) -> None:
    """At a constant rate, or at times that wander between 20 and 60 a second (None)."""
    if rate is None:
        steps = np.random.default_rng(0).uniform(1 / 60, 1 / 20, int(60 * duration))
        moments = np.cumsum(steps) - steps[0]
        ticks = np.rint(moments[moments < duration] * TICKS).astype(int)
        time_base = Fraction(1, TICKS)
    else:
        ticks, time_base = np.arange(math.ceil(duration * rate)), 1 / rate
    average = rate or Fraction(len(ticks), max(1, round(duration)))
    height, width = show(0.0).shape[:2]
    with VideoWriter(path, width, height, rate=average, time_base=time_base) as writer:
        for tick in ticks:
            writer.write(show(float(tick * time_base)), int(tick))


def score(
    rate: str, source: Path, sound: Path, lips: Lips | None, model: LipSyncModel, options: LipSyncOptions
) -> RateScore:
    result = source.with_name("result.mp4")
    lip_sync(source, sound, result, model, options)
    before = np.array([frame.time for frame in read_frames(source)])
    after: list[float] = []

    def pixels():
        for frame in read_frames(result):
            after.append(frame.time)
            yield frame.pixels

    opening = opening_track(pixels())
    times = np.array(after)
    given, heard = (read_audio(path) for path in (sound, result))
    second = slice(0, SAMPLE_RATE), slice(len(given) - SAMPLE_RATE, len(given))
    similarity = [correlation(opening, lips(times - lag)) for lag in LAGS] if lips else None
    both = min(len(before), len(times))  # a result may show one frame more, where the last one ends before the sound
    return RateScore(
        rate,
        len(before),
        len(times),
        None if options.fps else float(np.abs(times[:both] - before[:both]).max() * 1000),
        (video_length(result) - len(given) / SAMPLE_RATE) * 1000,
        *(shift(given[part], heard[part]) for part in second),
        correlation(opening, lips(times)) if lips else None,
        float(LAGS[int(np.argmax(similarity))] * 1000) if lips else None,
    )


def shift(given: np.ndarray, heard: np.ndarray) -> float:
    """By how many ms the second sound comes later."""
    lags = correlation_lags(len(heard), len(given))
    return float(lags[correlate(heard, given).argmax()] / SAMPLE_RATE * 1000)


def table(scores: list[RateScore]) -> str:
    heads = (
        "frames a second", "frames in", "out", "times off, ms", "picture longer, ms", "sound late, first and last, ms",
        "r of lips", "lips late, ms",
    )  # fmt: skip
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    for s in scores:
        off = "" if s.times is None else f"{s.times:.2f}"
        lips = " | " if s.r is None or s.lag is None else f"{s.r:.2f} | {s.lag:.0f}"
        lines.append(
            f"| {s.rate} | {s.frames_in} | {s.frames_out} | {off} | {s.longer:.0f} | {s.sound_first:.2f}, "
            f"{s.sound_last:.2f} | {lips} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=path_or_word, default="tiny")
    parser.add_argument("--checkpoints", type=given_path, default=Path("checkpoints"))
    parser.add_argument("--output", type=given_path, help="scores as JSON")
    parser.add_argument("--duration", type=float, default=2.0, help="s of each clip, 1 or more")
    parser.add_argument("--video", type=given_path, help="a video of one's own instead of the avatar")
    parser.add_argument("--audio", type=given_path, help="the speech for it")
    parser.add_argument("--inference_steps", type=int, default=4)
    arguments = parser.parse_args()
    model = load_model(find_model(arguments.model, arguments.checkpoints))
    options = LipSyncOptions(num_inference_steps=arguments.inference_steps)
    duration = arguments.duration
    if arguments.video:
        waveform = read_audio(arguments.audio)[: round(duration * SAMPLE_RATE)]
        show, lips = video_at(arguments.video, duration), None
    else:
        clip = held_out_clips()[0][0]
        own, new = (replace(part, duration=duration) for part in (clip.own, clip.new))
        waveform, show = new.speech.waveform, avatar_at(own)
        lips = lambda times: new.speech.lips_at(times)[:, 0]  # noqa: E731
    scores = []
    with tempfile.TemporaryDirectory() as folder:
        sound = Path(folder) / "speech.wav"
        write_wav(sound, waveform, SAMPLE_RATE)
        for name, rate in RATES.items():
            source = Path(folder) / f"{name}.mp4"
            write_source(show, duration, rate, source)
            scores.append(score(name, source, sound, lips, model, options))
        name, fps = RESAMPLED
        source = Path(folder) / f"{name}.mp4"
        scores.append(score(f"{name} to {fps}", source, sound, lips, model, replace(options, fps=fps)))
    print(table(scores))
    if arguments.output:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(json.dumps([vars(s) for s in scores], indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
