"""Reading sound: facts about an audio track, and its samples in blocks at any rate."""

import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from itertools import pairwise

import av
import numpy as np
from av.stream import Disposition

from ..errors import AudioError, MediaError, OptionError
from .container import (
    MAX_CHANNELS,
    MAX_GAP,
    MAX_SECONDS,
    SAMPLE_RATES,
    decode_stream,
    open_media,
    scan_duration,
    video_stream,
)
from .video_decoder import VideoDecoder

# Channels of opposite polarity: heard by everyone over loudspeakers, they cancel when they are mixed to mono.
#
# One of two microphones is wired the wrong way round, or an effect turned a channel over to make the sound wide.

WINDOW = 1.0  # s judged as one; in shorter ones two microphones some distance apart can look like it for a vowel
LOST = 8.0  # a mix is mended where its power grows by so much (9 dB), and again left alone where it grows by less
SOUND = 2.0  # than this
QUIET = 1e-6  # mean square, -60 dB: of no account below
RAMP = 0.01  # s in which a channel is turned over, without a click
LEAST_TURNED = 0.25  # s


class Polarity:
    """Finds the channels that are to be turned over before a mono mix, window by window.

    weights: (C,) of the mix. turned: seconds so far in which at least one channel was turned.
    """

    def __init__(self, weights: Sequence[float], sample_rate: int):
        self._weights, self._rate = np.asarray(weights, np.float64), sample_rate
        self._signs = np.ones(len(self._weights))
        self.turned = 0.0

    def gains(self, blocks: Sequence[np.ndarray]) -> list[np.ndarray | None]:
        """For consecutive blocks (C, T_i) in [-1, 1], together about a WINDOW: what each is to be multiplied by.

        Arrays (C, T_i) in [-1, 1], or None for a block that stays as it is.
        """
        before = self._signs
        self._signs = self._judged(blocks)
        if before.min() > 0 and self._signs.min() > 0:
            return [None] * len(blocks)
        if self._signs.min() < 0:
            self.turned += sum(block.shape[1] for block in blocks) / self._rate
        gains: list[np.ndarray | None] = [np.tile(self._signs[:, None], block.shape[1]) for block in blocks]
        length = min(round(RAMP * self._rate), gains[0].shape[1])
        gains[0][:, :length] = np.linspace(before, self._signs, length, axis=1)
        return gains

    def _judged(self, blocks: Sequence[np.ndarray]) -> np.ndarray:
        """(C,) 1 or -1, of the window; those of the window before where it tells nothing."""
        with np.errstate(all="ignore"):  # damaged sound has any values; the reader tells that
            powers = sum(block @ block.T for block in blocks) / sum(block.shape[1] for block in blocks)
            powers = powers * np.outer(self._weights, self._weights)
        total = np.trace(powers)
        if not QUIET * self._weights.sum() ** 2 < total < np.inf:
            return self._signs
        signs = np.zeros(len(powers))
        for channel in np.argsort(-powers.diagonal(), kind="stable"):  # the loudest keeps its polarity
            signs[channel] = -1 if signs @ powers[channel] < 0 else 1
        plain, best = powers.sum(), signs @ powers @ signs
        if best > LOST * plain:
            return signs
        return np.ones(len(powers)) if best < SOUND * plain else self._signs


def polarity_notice(name: str, turned: float) -> str | None:
    """What a person should know of a sound in which channels were turned over for so many seconds."""
    if turned < LEAST_TURNED:
        return None
    return (
        f"channels of {name} are of opposite phase for {turned:.1f} s and would cancel in the mono mix that moves the "
        "lips: for that mix one of them is turned over. The sound of the result stays as it is; to mend that too, "
        "invert one channel in an audio editor"
    )


# The reader

_BLOCK = 16_384  # samples per channel given at a time, at most about 1 s of speech
_GAP = 0.1  # s; smaller jumps between packets are rounding of the container's clock
NOTICEABLE = 0.1  # s of sound before the picture, or between two lengths; less is an encoder's padding
_LAST = 0.5  # s at the end in which a packet is looked for
# Formats that know how long they are. Those that write it into their head are still wrong where they were cut off.
_COUNTING = {"mp4", "matroska", "ogg", "flac", "wav", "w64", "aiff", "caf", "au", "mpegts", "avi", "asf", "flv"}


@dataclass(frozen=True)
class AudioFacts:
    """What a file says about its audio track: the only one that is flagged as the default, else the first."""

    sample_rate: int  # Hz
    channels: int
    layout: str  # FFmpeg's name, e.g. mono, stereo, 5.1
    duration: float  # s from the first picture, where there is one
    codec: str
    notices: tuple[str, ...] = ()  # what will not come out as one would expect, a line for a person each


def probe_audio(path: str | os.PathLike) -> AudioFacts:
    """Facts about the audio track of `path`, an audio file or a video with sound.

    Raises `AudioError` where `path` is missing, not a media file, or without an audio track.
    """
    with open_media(path, AudioError) as container:
        stream = _audio_stream(container, path)
        start = float((stream.start_time or 0) * stream.time_base)
        end = _end(container, stream, path, start)
        origin = _origin(container, path)
        if origin is None or abs(start - origin) > _longest_gap(container):
            origin = start
        early = max(origin - start, 0.0)
        notices = [_tracks_notice(path, container, stream)] if len(container.streams.audio) > 1 else []
        notices += [_early_notice(path, early)] if early > NOTICEABLE else []
        context = stream.codec_context
        return AudioFacts(
            context.sample_rate,
            context.channels,
            _layout_name(context),
            min(max(end - origin, 0.0), MAX_SECONDS),
            context.name,
            tuple(notices),
        )


def _end(
    container: av.container.InputContainer, stream: av.AudioStream, path: str | os.PathLike, start: float
) -> float:
    """The time in the container at which the sound ends, s; `start` is that at which it begins. Moves the container.

    What the file declares is taken where it can be trusted: its format counts its samples, and there is sound at that
    time. Of others, such as an mp3, FFmpeg guesses the length from the first packets' bit rate; all packets are read.
    """
    declared = None
    if stream.duration:
        declared = start + float(stream.duration * stream.time_base)
    elif container.duration:
        declared = ((container.start_time or 0) + container.duration) / 1e6
    if declared and _COUNTING & set(container.format.name.split(",")) and _has_sound(container, stream, declared):
        return declared
    end = start + scan_duration(path, stream.index)
    return declared if declared and abs(declared - end) <= NOTICEABLE else end  # which leaves out an encoder's padding


def _has_sound(container: av.container.InputContainer, stream: av.AudioStream, end: float) -> bool:
    """Whether a packet ends about there."""
    end = min(end, MAX_SECONDS)
    try:
        container.seek(max(round((end - _LAST) / stream.time_base), 0), stream=stream)
        ends = (packet.pts + (packet.duration or 0) for packet in container.demux(stream) if packet.pts is not None)
        return any(time * stream.time_base > end - _LAST for time in ends)
    except (av.FFmpegError, OSError):
        return False


def _tracks_notice(path: str | os.PathLike, container: av.container.InputContainer, stream: av.AudioStream) -> str:
    tracks = list(container.streams.audio)
    taken = tracks.index(stream)
    words = [stream.metadata.get("title"), stream.metadata.get("language"), _layout_name(stream.codec_context)]
    other = 0 if taken else 1
    return (
        f"'{path}' has {len(tracks)} audio tracks, of which number {taken + 1} is heard "
        f"({', '.join(filter(None, words))}). For another, extract it and give that file, number {other + 1} by: "
        f"ffmpeg -i INPUT -map 0:a:{other} track{other + 1}.wav"
    )


def _early_notice(path: str | os.PathLike, early: float) -> str:
    return (
        f"the sound of '{path}' begins {early:.2f} s before its first picture that can be shown: that part is left "
        "out, so that sound and picture stay together. To have it spoken, give the sound as a file of its own (wav)"
    )


def audio_length(path: str | os.PathLike) -> float:
    """Seconds of sound, by the packets in the file and not by what it declares.

    Reads all of the file without decoding it. Raises `AudioError` as `probe_audio` does.
    """
    with open_media(path, AudioError) as container:
        index = _audio_stream(container, path).index
    return scan_duration(path, index)


def read_audio(path: str | os.PathLike, **options) -> np.ndarray:
    """All samples at once, as `read_audio_blocks` gives them, with its options and errors: (T,) float32, or (C, T)."""
    return np.concatenate(list(read_audio_blocks(path, **options)), axis=-1)


def read_audio_blocks(
    path: str | os.PathLike,
    *,
    sample_rate: int = 16_000,
    mono: bool = True,
    layout: str | None = None,
    start: float = 0.0,
    duration: float | None = None,
    on_notice: Callable[[str], None] = lambda text: None,
) -> Iterator[np.ndarray]:
    """Samples of `path` at `sample_rate` in blocks: float32 in [-1, 1], (T,) if `mono`, else (C, T).

    Sampling and mixing are libswresample's, as with the ffmpeg program. Mono is the weighted sum of the channels with
    front left and right at 0.707, centre at 1, surrounds at 0.5, no LFE, divided by the sum of the weights: (L + R) / 2
    for stereo. (Asked for floats, libswresample leaves out the division, which makes stereo 3 dB too loud.) Without
    `mono`, the channels are those of the file or of `layout`. Channels that would cancel in the mix because they are of
    opposite polarity are turned over for it, where that is so.

    start, duration: the part to read, in seconds; exact to the sample. Less than `duration` is given where the
    file ends earlier. The sound of a video counts from its first picture: what comes before that is left out, and
    where the sound starts later, and where packets are missing on the way, the gap is filled with silence.

    on_notice: is given a line for a person about sound that was not taken as it is, at its end.

    Raises `AudioError` where `path` is missing, not a media file, without an audio track or without samples, where
    `start` lies beyond its end, and for values that are not finite; `OptionError` for an impossible part or rate.
    """
    if not (math.isfinite(start) and start >= 0):
        raise OptionError(f"start is {start}; expected seconds from the beginning of the sound, 0 or more.")
    if duration is not None and not duration > 0:
        raise OptionError(f"duration is {duration}; expected more than 0 seconds, or None for all of the sound.")
    if not 1000 <= sample_rate <= 384_000:
        raise OptionError(f"sample_rate is {sample_rate}; expected 1000 to 384000 Hz.")
    skip = round(start * sample_rate)
    left = None if duration is None else round(duration * sample_rate)
    total, judges = 0, []
    with open_media(path, AudioError) as container:
        stream = _audio_stream(container, path)
        layout = "mono" if mono else layout or _layout_name(stream.codec_context)
        for block in _convertible(_resampled(container, stream, path, layout, sample_rate, judges), path):
            total += block.shape[1]
            if total > MAX_SECONDS * sample_rate:
                raise AudioError(
                    f"The sound in '{path}' is longer than {MAX_SECONDS:.0f} s. Cut it, or repair its timestamps."
                )
            block, skip = block[:, skip:], max(0, skip - block.shape[1])
            if left is not None:
                block = block[:, :left]
                left -= block.shape[1]
            if block.shape[1]:
                if not np.isfinite(block).all():
                    raise AudioError(
                        f"The sound in '{path}' holds values that are not numbers (NaN or infinite). Export it again."
                    )
                yield block[0] if mono else block
            if left == 0:
                break
    if notice := polarity_notice(f"'{path}'", sum(judge.turned for judge in judges)):
        on_notice(notice)
    if left == 0:
        return
    if total == 0:
        raise AudioError(f"The audio track of '{path}' holds no sound at all (0 samples). Choose another file.")
    if skip or total == round(start * sample_rate):
        raise AudioError(f"'{path}' is {total / sample_rate:.2f} s long; cannot start at {start:g} s. Start earlier.")


def _convertible(blocks: Iterator[np.ndarray], path: str | os.PathLike) -> Iterator[np.ndarray]:
    """The blocks; what libswresample has against the sound is told of the file."""
    try:
        yield from blocks
    except (av.FFmpegError, ValueError) as reason:
        raise AudioError(
            f"The sound in '{path}' cannot be converted ({reason}): it is damaged. Export it again."
        ) from reason


def _audio_stream(container: av.container.InputContainer, path: str | os.PathLike) -> av.AudioStream:
    tracks = container.streams.audio
    usable = [track for track in tracks if track.codec_context is not None and track.codec_context.sample_rate]
    flagged = [track for track in usable if track.disposition & Disposition.default]
    stream = next(iter(flagged if len(flagged) == 1 else usable or tracks), None)
    if stream is None:
        kind = "is a video without an audio track" if video_stream(container) else "holds no audio track"
        raise AudioError(
            f"'{path}' {kind}; expected speech. Give a wav, mp3, m4a, flac or ogg file or a video with sound."
        )
    if stream.codec_context is None or not stream.codec_context.sample_rate:
        raise AudioError(f"The sound in '{path}' is of a kind that cannot be decoded here. Convert it to wav.")
    rate, channels = stream.codec_context.sample_rate, stream.codec_context.channels
    if not (SAMPLE_RATES[0] <= rate <= SAMPLE_RATES[1] and channels <= MAX_CHANNELS):
        raise AudioError(
            f"The sound in '{path}' claims {rate} samples a second in {channels} channels; expected {SAMPLE_RATES[0]} "
            f"to {SAMPLE_RATES[1]} and at most {MAX_CHANNELS}. Export it again."
        )
    return stream


def _layout_name(context: av.AudioCodecContext) -> str:
    """The channel layout; files that give only a count get the usual layout for it."""
    name = context.layout.name
    return av.AudioLayout(_USUAL_LAYOUTS.get(context.channels, name)).name if name.endswith("channels") else name


_USUAL_LAYOUTS = {1: "mono", 2: "stereo", 3: "2.1", 4: "4.0", 5: "5.0", 6: "5.1", 7: "6.1", 8: "7.1"}


def _resampled(
    container: av.container.InputContainer,
    stream: av.AudioStream,
    path: str | os.PathLike,
    layout: str,
    sample_rate: int,
    judges: list[Polarity],
) -> Iterator[np.ndarray]:
    """(C, T) float32 blocks of the whole track. judges: is given who decided on the polarity of its channels."""
    graph, source = None, None
    frames = _without_gaps(container, stream, path)
    for frame in _in_phase(frames, judges) if layout == "mono" else frames:
        if frame.samples == 0:
            continue
        # The timestamps have done their work; left in, they could make the resampler's clock jump.
        frame.pts = None
        frame_kind = (frame.format.name, frame.layout.name, frame.sample_rate)
        if frame_kind != source:
            # Some streams change rate or channels on the way; the part before is finished first.
            yield from _drain(graph, None)
            source = frame_kind
            graph = _resampler(frame, layout, sample_rate)
        yield from _drain(graph, frame)
    yield from _drain(graph, None)


def _resampler(frame: av.AudioFrame, layout: str, sample_rate: int) -> av.filter.Graph:
    """libswresample as a filter, since `av.AudioResampler` takes its options only in recent releases of PyAV."""
    graph = av.filter.Graph()
    nodes = (
        graph.add_abuffer(
            sample_rate=frame.sample_rate,
            format=frame.format.name,
            layout=frame.layout.name,
            time_base=Fraction(1, frame.sample_rate),
        ),
        graph.add("aresample", rematrix_maxval="1.0"),
        graph.add("aformat", sample_rates=str(sample_rate), sample_fmts="fltp", channel_layouts=layout),
        graph.add("abuffersink"),
    )
    for node, following in pairwise(nodes):
        node.link_to(following)
    graph.configure()
    return graph


def _drain(graph: av.filter.Graph | None, frame: av.AudioFrame | None) -> Iterator[np.ndarray]:
    if graph is None:
        return
    graph.push(frame)
    while True:
        try:
            samples = graph.pull().to_ndarray()
        except (av.BlockingIOError, av.EOFError):  # nothing more until the next frame; nothing more at all
            return
        for first in range(0, samples.shape[1], _BLOCK):
            yield samples[:, first : first + _BLOCK]


def _without_gaps(
    container: av.container.InputContainer, stream: av.AudioStream, path: str | os.PathLike
) -> Iterator[av.AudioFrame]:
    """Decoded frames from the time on that counts as 0 s, with silence where the timestamps say that there is a gap."""
    expected = _origin(container, path)
    longest = _longest_gap(container)
    tolerance = 0.0  # the beginning is placed exactly
    early = 0  # samples before 0 s that are still to be left out
    for frame in decode_stream(container, stream):
        if frame.pts is not None:
            now = float(frame.pts * Fraction(frame.time_base or stream.time_base))
            if expected is not None and tolerance < now - expected <= longest:
                yield from _silence(frame, round((now - expected) * frame.sample_rate))
                expected = now
            elif tolerance == 0.0:
                if expected is not None and 0 < expected - now <= longest:
                    early = round((expected - now) * frame.sample_rate)
                expected = now
            tolerance = _GAP
        if expected is not None:
            expected += frame.samples / frame.sample_rate
        if early >= frame.samples:
            early -= frame.samples
        elif early:
            yield _frame(frame, _samples(frame)[:, early:])
            early = 0
        else:
            yield frame
    if early:
        raise AudioError(f"The sound of '{path}' ends before its first picture. Give the sound as a file of its own.")


def _longest_gap(container: av.container.InputContainer) -> float:
    """s; a gap longer than the whole file is a wrong timestamp."""
    return min(container.duration / 1e6 if container.duration else math.inf, MAX_GAP)


def _origin(container: av.container.InputContainer, path: str | os.PathLike) -> float | None:
    """The time in the container that counts as 0 s, or None for the track's own beginning.

    With a video it is the first picture that can be shown: after a cut between key frames it comes late. In mp4, mov
    and mkv a late start of the sound alone is meant too; in mp3 or ogg it is the encoder's delay or the place of a cut.
    """
    picture = video_stream(container)
    if picture is not None and picture.start_time is not None:
        state = os.stat(path)
        first = _first_picture(os.fspath(path), state.st_size, state.st_mtime_ns)
        return float(picture.start_time * picture.time_base) if first is None else first
    return 0.0 if {"mp4", "matroska"} & set(container.format.name.split(",")) else None


def _in_phase(frames: Iterator[av.AudioFrame], judges: list[Polarity]) -> Iterator[av.AudioFrame]:
    """The same frames, but where their channels would cancel in a mono mix some are turned over."""
    window: list[av.AudioFrame] = []
    seconds, kind = 0.0, None

    def judged() -> Iterator[av.AudioFrame]:
        gains = judges[-1].gains([_samples(frame) for frame in window])
        for frame, gain in zip(window, gains, strict=True):
            yield frame if gain is None else _frame(frame, _samples(frame) * gain)
        window.clear()

    for frame in frames:
        if (frame.layout.name, frame.sample_rate) != kind:
            if window:
                yield from judged()
            kind, seconds = (frame.layout.name, frame.sample_rate), 0.0
            judges.append(Polarity([_mono_weight(channel.name) for channel in frame.layout.channels], kind[1]))
        if frame.layout.nb_channels < 2 or frame.samples == 0:
            yield frame
            continue
        window.append(frame)
        seconds += frame.samples / frame.sample_rate
        if seconds >= WINDOW:
            yield from judged()
            seconds = 0.0
    if window:
        yield from judged()


def _mono_weight(channel: str) -> float:
    """Of libswresample's mono mix, without the division by their sum."""
    return {"FL": 0.7071, "FR": 0.7071, "FC": 1.0, "LFE": 0.0}.get(channel, 0.5)


@lru_cache(maxsize=16)
def _first_picture(path: str, size: int, changed: int) -> float | None:
    """The time in the container of the first picture that can be decoded, s; None where none can.

    Kept, as a run opens a sound several times and a large picture takes a while. size, changed: of the file, in bytes
    and ns, so that another file under the same name is another.
    """
    try:
        with VideoDecoder(path) as decoder:
            return float(decoder.origin * decoder.time_base)
    except MediaError:
        return None


def _silence(like: av.AudioFrame, samples: int) -> Iterator[av.AudioFrame]:
    for first in range(0, samples, _BLOCK):
        yield _frame(like, np.zeros((like.layout.nb_channels, min(_BLOCK, samples - first))))


def _samples(frame: av.AudioFrame) -> np.ndarray:
    """(C, T) float64 in [-1, 1] of a frame of any format."""
    values = frame.to_ndarray()
    if not frame.format.is_planar:
        values = values.reshape(-1, frame.layout.nb_channels).T
    if values.dtype == np.uint8:  # 8-bit wav is unsigned
        return values / 128.0 - 1.0
    return values / -float(np.iinfo(values.dtype).min) if values.dtype.kind == "i" else values.astype(np.float64)


def _frame(like: av.AudioFrame, samples: np.ndarray) -> av.AudioFrame:
    """A frame without a time, of the format of `like` and of samples as `_samples` gives them."""
    dtype = like.to_ndarray().dtype
    if dtype == np.uint8:
        samples = np.clip(np.round((samples + 1) * 128), 0, 255)
    elif dtype.kind == "i":
        limits = np.iinfo(dtype)
        samples = np.clip(np.round(samples * -float(limits.min)), limits.min, limits.max)
    values = samples.astype(dtype)
    packed = values if like.format.is_planar else values.T.reshape(1, -1)
    frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(packed), like.format.name, like.layout.name)
    frame.sample_rate, frame.time_base = like.sample_rate, like.time_base
    return frame
