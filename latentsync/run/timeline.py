"""The time of a run: how long the result is, and which frame of the source is shown when."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import islice, repeat, takewhile
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
from PIL import Image

from ..errors import FrameCountError, MediaError
from ..media.audio_reader import NOTICEABLE, AudioFacts, probe_audio
from ..media.container import NoPictureError, opened_picture
from ..media.length_modes import shown_at, stretched_times
from ..media.video_reader import VideoFacts, VideoFrame, probe_video, read_frames, read_playback, video_length
from ..model.whisper import SAMPLE_RATE, AudioFeatureStream, num_reference_frames
from ..options import LipSyncOptions
from .speech import frames_in

UNUSUAL_SPEED = 2.0  # times faster, or slower, beyond which the report warns
LOOK_AHEAD = 1.0  # s after the speech that are searched for faces too, for what fades or is smoothed towards them
LONG = 0.2  # s; a frame that stays for longer while there is speech is shown again every STEP s, for its lips to move
STEP = Fraction(1, 25)  # s
STILL, FEW = 0.3, 14  # s that a frame stays, and frames a second: what is longer, or fewer, the report warns of

Value = TypeVar("Value")


@dataclass(frozen=True)
class Timeline:
    """What is known before a frame is read.

    fps          of the result, the average where it varies; time_base: seconds per tick of its frames' pts, the
                 source's unless that is coarser than LONG
    speech       s of the result that are made to speak
    end          s from which on nothing is shown; inf: to the end of the video
    num_frames   of the result, an estimate where frame times vary or the file declares a wrong length
    source       s of the whole video, 0 unless length is "speed"; whole_speech: s of all the speech, of which
                 start and duration may choose a part
    repeats      the video may be shown again
    """

    fps: Fraction
    time_base: Fraction
    speech: float
    end: float
    num_frames: int
    source: Fraction
    whole_speech: Fraction
    repeats: bool

    @property
    def pace(self) -> Fraction:
        """How many times faster than it was taken the video runs."""
        return self.source / self.whole_speech if self.source else Fraction(1)


def plan_time(
    path: str | Path, facts: VideoFacts, sound: AudioFeatureStream, audio_path: str | Path, options: LipSyncOptions
) -> Timeline:
    """The times of a run with the given video, `sound` being the part of `audio_path` to be spoken."""
    fps = options.fps or (1 / STEP if facts.fps * LONG < 1 else facts.fps)
    heard = Fraction(sound.num_samples, SAMPLE_RATE)
    frames = num_reference_frames(sound.num_features, fps) if options.extra_frames else frames_in(float(heard), fps)
    speech = float(frames / fps if options.extra_frames else heard)
    left = max(facts.duration - options.start, 0.0)
    end = speech if options.tail == "cut" or options.length == "speed" else options.duration or math.inf
    if options.length == "trim":
        frames = min(frames, frames_in(left, fps))
    elif end > speech:
        frames = max(frames, frames_in(min(left, end), fps))
    whole, source, is_part = heard, Fraction(0), options.start or options.duration is not None
    if options.length == "speed":
        source = Fraction(video_length(path)).limit_denominator(10**9)
        if is_part:
            whole = max(heard, Fraction(probe_audio(audio_path).duration).limit_denominator(10**6))
    tick = facts.time_base / (math.ceil(facts.time_base / STEP) if facts.time_base > LONG else 1)
    return Timeline(
        fps=fps,
        time_base=1 / fps if _is_constant(options) else tick,
        speech=speech,
        end=end,
        num_frames=frames,
        source=source,
        whole_speech=whole,
        repeats=options.length in ("bounce", "loop") and facts.duration < options.start + speech,
    )


def time_warnings(time: Timeline, options: LipSyncOptions) -> list[str]:
    """What a person should know of the video's new pace."""
    pace = float(time.pace)
    if options.length != "speed" or 1 / UNUSUAL_SPEED <= pace <= UNUSUAL_SPEED:
        return []
    return [
        f"the video runs {pace:.2f} times as fast as it was taken, to last {float(time.whole_speech):.2f} s like the "
        f"speech instead of {float(time.source):.2f} s. Movements look unnatural; take another length mode"
    ]


def rate_warnings(times: np.ndarray, facts: VideoFacts, time: Timeline, options: LipSyncOptions) -> list[str]:
    """What a person should know of a video that shows few frames. times: (N,) s of the source's frames."""
    if options.fps:
        return []
    stay = np.diff(times)[times[:-1] < time.speech]  # s
    if options.length == "speed" or not stay.size:
        stay = np.array([float(1 / (time.fps if options.length == "speed" else facts.fps))])
    if stay.max() > STILL:
        return [
            f"the picture of the video stands still for up to {stay.max():.2f} s: while there is speech, its frames "
            f"are shown again every {float(STEP):g} s, so that the lips go on moving. For a constant frame rate choose "
            "one (--fps 25)"
        ]
    if 1 / np.median(stay) < FEW:
        return [
            f"the video has only {1 / np.median(stay):.3g} frames a second, and the lips move no smoother than that. "
            "For smoother lips choose a higher rate (--fps 25)"
        ]
    return []


def sound_warnings(speech: AudioFacts, output: AudioFacts, options: LipSyncOptions) -> list[str]:
    """What a person should know of another sound for the result than the speech."""
    spoken, heard = (_part(facts.duration, options) for facts in (speech, output))
    if abs(spoken - heard) <= NOTICEABLE:
        return []
    what = "its rest is cut off" if heard > spoken else "it is followed by silence"
    return [
        f"the output audio lasts {heard:.2f} s and the speech {spoken:.2f} s: where the result is not as long as the "
        f"output audio, {what}. Give two sounds of one recording if they are meant to fit"
    ]


def _part(duration: float, options: LipSyncOptions) -> float:
    left = max(duration - options.start, 0.0)
    return left if options.duration is None else min(left, options.duration)


def source_frames(path: str | Path, facts: VideoFacts, time: Timeline, options: LipSyncOptions) -> Iterator[VideoFrame]:
    """The source's frames in the order and at the times of the result, see LengthMode and TailMode.

    A preview that reaches beyond the video shows the frames that the whole run has there, so it is counted from the
    video's beginning. The length a file declares is not relied on: one that ends early is continued from there.
    """
    if options.length == "speed":
        frames = _stretched(path, facts, time, options)
    elif options.length == "trim":
        frames = read_frames(path, start=options.start, fps=options.fps)
    else:
        turns = {"doubled_turns": options.doubled_turns, "fps": options.fps}
        if _is_beyond(facts, time, options):
            nearest = options.start - 0.5 / float(options.fps or facts.fps)
            frames = _from_time(read_playback(path, options.length, **turns), nearest)
        else:
            frames = read_playback(path, options.length, start=options.start, **turns)

    def is_shown(frame: VideoFrame) -> bool:
        return frame.index == 0 or frame.time < (time.speech if frame.is_repeat else time.end) - 1e-6

    return takewhile(is_shown, frames)


def without_stills(
    shown: Iterable[tuple[VideoFrame, Value]], facts: VideoFacts, time: Timeline, options: LipSyncOptions
) -> Iterator[tuple[VideoFrame, Value]]:
    """What `source_frames` gives, each frame with something that belongs to it, at the ticks of the result.

    A frame that stays for longer than LONG while there is speech (screen recordings, slides, one frame a second) comes
    again about every STEP seconds: every frame of the source keeps its time. A rate that was asked for is kept.
    """
    frames = _again_and_again(shown, facts, time, options)
    for index, (frame, value) in enumerate(frames):
        yield frame if frame.index == index else replace(frame, index=index), value
        del frame, value  # nothing is held here while the next one is made


def _again_and_again(
    shown: Iterable[tuple[VideoFrame, Value]], facts: VideoFacts, time: Timeline, options: LipSyncOptions
) -> Iterator[tuple[VideoFrame, Value]]:
    scale = 1 if _is_constant(options) else int(facts.time_base / time.time_base)
    latest = None
    for frame, value in shown:
        frame = frame if scale == 1 else replace(frame, pts=frame.pts * scale)
        if latest is not None:
            yield from _again(*latest, frame.time, time, options)
        yield frame, value
        latest = frame, value
        del frame, value
    if latest is not None:
        end = facts.duration - options.start if options.length == "trim" else time.speech
        yield from _again(*latest, min(end, time.speech), time, options)


def _again(
    frame: VideoFrame, value: Value, end: float, time: Timeline, options: LipSyncOptions
) -> Iterator[tuple[VideoFrame, Value]]:
    """A frame that is shown until `end`, s, once more and again where that is long."""
    if options.fps or end - frame.time <= LONG + 1e-6:
        return
    ticks = math.ceil((end - frame.time) / float(time.time_base) - 1e-6)
    parts = min(ticks, math.ceil((end - frame.time) / float(STEP) - 1e-6))
    for part in range(1, parts):
        passed = ticks * part // parts
        if (now := frame.time + float(passed * time.time_base)) >= time.speech - 1e-6:
            return
        yield replace(frame, pts=frame.pts + passed, time=now), value


@dataclass(frozen=True)
class SourceWindow:
    """The part of a video that a run looks at, every frame of it once, in the source's own order and number.

    A VideoFrame's source_index in a run is the index of the frame here.
    """

    path: Path
    start: float  # s
    duration: float | None  # s; None: to the end

    def frames(self) -> Iterator[VideoFrame]:
        return read_frames(self.path, start=self.start, duration=self.duration)


def source_window(path: str | Path, facts: VideoFacts, time: Timeline, options: LipSyncOptions) -> SourceWindow:
    """The window of `source_frames`, as far as its frames are made to speak."""
    if options.length == "speed" or _is_beyond(facts, time, options):
        return SourceWindow(Path(path), 0.0, None)
    return SourceWindow(Path(path), options.start, time.speech + LOOK_AHEAD)


def _is_constant(options: LipSyncOptions) -> bool:
    """Whether the result's frames are all equally long."""
    return bool(options.fps) or options.length == "speed"


def _is_beyond(facts: VideoFacts, time: Timeline, options: LipSyncOptions) -> bool:
    """Whether a preview shows frames that come again, so that those before it count."""
    return options.length != "trim" and options.start > 0 and facts.duration < options.start + time.speech


def _stretched(path: str | Path, facts: VideoFacts, time: Timeline, options: LipSyncOptions) -> Iterator[VideoFrame]:
    """Frames at the result's constant rate whose times in the source run faster or slower."""
    first = round(options.start * time.fps)
    times = stretched_times(time.fps, time.source, time.whole_speech, first)
    shown = shown_at(times, read_frames(path), lambda frame: frame.pts * facts.time_base)
    for index, frame in enumerate(islice(shown, frames_in(time.speech, float(time.fps)))):
        yield replace(frame, time=float(index / time.fps), pts=index, index=index)


def _from_time(frames: Iterator[VideoFrame], start: float) -> Iterator[VideoFrame]:
    """Frames from ``start`` seconds on, counted anew from the first of them."""
    first = None
    for frame in frames:
        if frame.time >= start:
            first = first or frame
            yield replace(
                frame, time=frame.time - first.time, pts=frame.pts - first.pts, index=frame.index - first.index
            )


# What stays as it is in front of a face, a hand or a microphone, as a picture or a video drawn by the user.

# Share of black to white that counts as all black or all white: a video's coding leaves neither exact, and what is
# protected must keep the source's very bits.
SLACK = 0.04
SAME_RATE = 0.005  # relative difference of frame rates that is only rounding


def protect_masks(
    path: str | Path, video_path: str | Path, facts: VideoFacts, timeline: Timeline, options: LipSyncOptions
) -> Iterator[np.ndarray]:
    """For each frame of the result, in step with timeline.source_frames: (H, W) float32 in [0, 1], 1 keeps the source.

    path: a picture, which counts for all frames, or a video with the frames of the source at the same times. White
    keeps, black and what is transparent does not. Masks are to be read only.

    Raises MediaError where the file cannot be read or has another size than the video, FrameCountError for a video of
    another length or frame rate, at once or where it turns out to end early.
    """
    picture = _picture(path)
    if picture is not None:
        _check_size(path, picture.shape[1], picture.shape[0], facts)
        return repeat(picture)
    mask_facts = probe_video(path)
    _check_size(path, mask_facts.width, mask_facts.height, facts)
    length, expected, fps = video_length(path), video_length(video_path), float(facts.fps)
    if abs(length - expected) * fps > 0.75 or abs(mask_facts.fps / facts.fps - 1) > SAME_RATE:
        raise FrameCountError(
            f"the protecting mask '{path}' runs {length:.2f} s at {float(mask_facts.fps):.5g} frames a second, but the "
            f"video runs {expected:.2f} s at {fps:.5g}; expected one mask for each of its frames. Draw it over all of "
            "the video and export it at the same rate, or give one picture for all frames"
        )
    return _running(path, mask_facts, timeline, options)


def _running(path: str | Path, facts: VideoFacts, timeline: Timeline, options: LipSyncOptions) -> Iterator[np.ndarray]:
    count = 0
    for frame in source_frames(path, facts, timeline, options):
        yield _stretched_masks(cv2.cvtColor(frame.pixels, cv2.COLOR_RGB2GRAY).astype(np.float32) / 255)
        count += 1
    raise FrameCountError(
        f"the protecting mask '{path}' ended after {count} frames, before the video; expected one mask for each of its "
        "frames. Export it again, or give one picture for all frames"
    )


def _picture(path: str | Path) -> np.ndarray | None:
    """(H, W) float32 in [0, 1], or None where the file is no still picture."""
    try:
        with opened_picture(path, MediaError, "the protecting mask") as image:
            if getattr(image, "is_animated", False):
                return None
            if image.mode.startswith("I"):  # 16 bits a pixel, which Pillow would cut off at 255
                return _stretched_masks(np.asarray(image, np.float32) / 65535)
            upright = image.convert("RGBA")
            black = Image.new("RGBA", upright.size, "black")
            return _stretched_masks(np.asarray(Image.alpha_composite(black, upright).convert("L"), np.float32) / 255)
    except NoPictureError:
        return None


def _stretched_masks(mask: np.ndarray) -> np.ndarray:
    return np.clip((mask - SLACK) / (1 - 2 * SLACK), 0, 1)


def _check_size(path: str | Path, width: int, height: int, facts: VideoFacts) -> None:
    if (width, height) != (facts.width, facts.height):
        raise MediaError(
            f"the protecting mask '{path}' is {width} x {height}, but the video is {facts.width} x {facts.height}; "
            "expected the same size. Resize the mask, or draw it over a frame of the video"
        )
