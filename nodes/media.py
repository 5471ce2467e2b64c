"""ComfyUI's pictures, sounds and videos for the library, which takes single frames and files."""

import contextlib
import math
import struct
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from . import host

if TYPE_CHECKING:
    from ..latentsync.media.video_reader import VideoFacts, VideoFrame

IEEE_FLOAT = 3  # the wav format of float samples
# Lossless RGB at exact times: Matroska rounds them to milliseconds, AVI counts frames.
SPILL_SUFFIX, SPILL_MUXER, SPILL_CODEC, SPILL_FORMAT = ".mov", "mov", "libx264rgb", "rgb24"
SPILL_OPTIONS = {"qp": "0", "preset": "ultrafast", "bf": "0"}
LIMITED_RANGE = 1  # of the result, which takes over what its source says

LEAST_CUT = 0.02  # s, less than a frame


class VideoFile(NamedTuple):
    """A VIDEO as a file.

    path: its pictures. reference: how the front end can fetch it; None where it cannot. heard: the file with its own
    sound, which begins at `start` seconds of it and lasts `duration` seconds (None: to the end); None where it lies in
    memory. notices: what a person should know of the host's file, where `path` is another one.
    """

    path: Path
    reference: dict[str, str] | None
    heard: Path | None
    start: float = 0.0
    duration: float | None = None
    notices: tuple[str, ...] = ()


def waveform_of(audio) -> tuple[torch.Tensor, int]:
    """AUDIO -> samples (C, T) float32 and their rate in Hz. Raises ValueError with a message for the user.

    audio: ComfyUI's mapping, which need not be a dict, or None, as Get Video Components gives for a silent video. Its
    waveform is a batch of one sound (1, C, T); other packs also give one sound (C, T) or (T,).
    """
    if audio is None:
        raise ValueError(
            "there is no sound: the video it was taken from is silent. Link a Load Audio node with the speech instead"
        )
    waveform, sample_rate = _unpacked(audio)
    if waveform.ndim == 3 and len(waveform) > 1:
        raise ValueError(
            f"the audio is a batch of {len(waveform)} sounds, of shape {tuple(waveform.shape)}; expected one sound. "
            "Link the node from before they were put together, and run once for each"
        )
    if waveform.ndim not in (1, 2, 3):
        raise ValueError(
            f"the audio has the shape {tuple(waveform.shape)}; expected (1, channels, samples). Link another audio node"
        )
    if not waveform.numel():
        raise ValueError("the audio is empty; expected speech, at least a few frames long")
    waveform = waveform[0] if waveform.ndim == 3 else torch.atleast_2d(waveform)
    from ..latentsync.media.container import MAX_CHANNELS, MAX_SECONDS, SAMPLE_RATES

    slowest, fastest = SAMPLE_RATES
    if not slowest <= sample_rate <= fastest or waveform.shape[0] > MAX_CHANNELS:
        raise ValueError(
            f"the audio has {sample_rate} samples a second in {waveform.shape[0]} channels; expected {slowest} to "
            f"{fastest} and at most {MAX_CHANNELS}. Convert it"
        )
    if waveform.shape[1] > MAX_SECONDS * sample_rate:
        raise ValueError(f"the audio lasts more than {MAX_SECONDS / 3600:.0f} hours. Cut it")
    samples = waveform.detach().cpu()
    if not samples.is_floating_point():  # 16-bit samples of some videos come as they are
        samples = samples.float() / (1 << (8 * samples.element_size() - 1))
    return samples.float(), sample_rate


def _unpacked(audio) -> tuple[torch.Tensor, int]:
    """Waveform, of any shape, and sample rate. Raises ValueError where the audio has none."""
    try:
        waveform, sample_rate = audio["waveform"], audio["sample_rate"]
    except (host.management.InterruptProcessingException, MemoryError):
        raise
    except (KeyError, TypeError) as reason:
        raise ValueError(
            f"the audio is a {type(audio).__name__} without waveform and sample_rate; expected what Load Audio gives. "
            "Link such a node"
        ) from reason
    except Exception as reason:  # a loader of another pack that reads the sound only now, with errors of its own
        raise ValueError(
            "the node that the audio comes from could not read it (the log tells why): most likely its clip has no "
            "sound. Link a Load Audio node with the speech instead"
        ) from reason
    try:
        return torch.as_tensor(waveform), int(sample_rate)
    except (TypeError, ValueError, RuntimeError) as reason:
        raise ValueError(
            f"the audio holds a {type(waveform).__name__} and the sample rate {sample_rate!r}; expected a tensor "
            "(1, channels, samples) and a number. Link a Load Audio node"
        ) from reason


def checked_images(images: torch.Tensor, name: str) -> torch.Tensor:
    """IMAGE (F, H, W, 3 or 4) as it is. Raises ValueError for an empty batch and for other shapes."""
    if images.ndim != 4 or images.shape[3] not in (3, 4):
        raise ValueError(f"{name} has the shape {tuple(images.shape)}; expected pictures of shape (N, H, W, 3)")
    if not len(images):
        raise ValueError(f"{name} is an empty batch; expected at least one frame")
    from ..latentsync.media.container import MAX_PIXELS

    if images.shape[1] * images.shape[2] > MAX_PIXELS:
        raise ValueError(
            f"{name} has pictures of {images.shape[2]} x {images.shape[1]}; expected {MAX_PIXELS // 10**6} million "
            "pixels at most. Make them smaller"
        )
    return images


class ByteFrames:
    """IMAGE (F, H, W, 3 or 4) as frames (H, W, 3) uint8, as often as one goes through them.

    One is made at a time: all of them at once would double the memory.
    """

    def __init__(self, images: torch.Tensor):
        self._images = images

    def __len__(self) -> int:
        return len(self._images)

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) px"""
        return tuple(self._images.shape[1:3])

    def __iter__(self) -> Iterator[np.ndarray]:
        for image in self._images:
            host.stop_if_interrupted()
            yield as_bytes(image)


def frames_at(images: torch.Tensor, fps: float, wanted: int) -> Iterator["VideoFrame"]:
    """IMAGE shown at `fps` -> the frames that are on the screen at `wanted` times a second."""
    from ..latentsync.media.video_reader import VideoFrame

    for index in range(max(1, round(len(images) * wanted / fps))):
        host.stop_if_interrupted()
        shown = min(int((index + 0.5) * fps / wanted), len(images) - 1)
        yield VideoFrame(as_bytes(images[shown]), index / wanted, index, index, shown)


def as_bytes(image: torch.Tensor) -> np.ndarray:
    """One picture (H, W, 3 or 4) of an IMAGE -> (H, W, 3) uint8."""
    return image[..., :3].cpu().float().mul(255).round().clamp(0, 255).to(torch.uint8).contiguous().numpy()


def write_picture(image: torch.Tensor, path: Path) -> None:
    """(H, W, 3 or 4) of an IMAGE, or (H, W) of a MASK, as a file without loss (.png)."""
    from PIL import Image

    Image.fromarray(as_bytes(image if image.ndim == 3 else _grey(image))).save(path)


def _grey(mask: torch.Tensor) -> torch.Tensor:
    """MASK (..., H, W) -> (..., H, W, 3), a view."""
    return mask[..., None].expand(*mask.shape, 3)


def float_frames(images: torch.Tensor) -> Iterator[np.ndarray]:
    """IMAGE (F, H, W, 3 or 4) -> frames (H, W, 3) float32, one at a time; views where possible, to be read only."""
    for image in images:
        yield image[..., :3].cpu().float().numpy()


def as_images(frames: np.ndarray) -> torch.Tensor:
    """(F, H, W, 3) uint8, or float32 in [0, 1] -> IMAGE (F, H, W, 3) float32 in [0, 1]."""
    images = torch.from_numpy(frames)
    return images.float().div_(255) if images.dtype == torch.uint8 else images


def chosen_images(images: torch.Tensor, indices: list[int]) -> torch.Tensor:
    """The frames of an IMAGE at `indices`: the batch itself or a view of its beginning where that is all."""
    if indices == list(range(len(indices))):
        return images if len(indices) == len(images) else images[: len(indices)]
    return images[torch.tensor(indices, device=images.device)]


def fitted_sound(audio, seconds: Fraction) -> dict:
    """AUDIO cut off after `seconds`, or followed by silence until then, at its own rate."""
    waveform, sample_rate = audio["waveform"], int(audio["sample_rate"])
    missing = round(seconds * sample_rate) - waveform.shape[-1]
    return {"waveform": torch.nn.functional.pad(waveform, (0, missing)), "sample_rate": sample_rate}


def one_sound(audio):
    """AUDIO as other nodes expect it, (1, C, T): itself where it is. Raises ValueError like `waveform_of`."""
    samples, sample_rate = waveform_of(audio)
    waveform = audio["waveform"]
    is_usual = isinstance(waveform, torch.Tensor) and waveform.ndim == 3
    return audio if is_usual else {"waveform": samples[None], "sample_rate": sample_rate}


@contextlib.contextmanager
def as_wav(audio) -> Iterator[Path]:
    """AUDIO as a file with all its bits, at its own rate, removed afterwards. Raises ValueError like `waveform_of`."""
    samples, sample_rate = waveform_of(audio)
    channels = len(samples)
    body = np.ascontiguousarray(samples.numpy().T.astype("<f4", copy=False)).data.cast("B")
    head = struct.pack("<HHIIHH", IEEE_FLOAT, channels, sample_rate, sample_rate * channels * 4, channels * 4, 32)
    path = host.temp_path(".wav")
    try:
        with path.open("wb") as file:
            file.write(b"RIFF" + struct.pack("<I", min(36 + len(body), 2**32 - 1)) + b"WAVE")
            file.write(b"fmt " + struct.pack("<I", len(head)) + head)
            file.write(b"data" + struct.pack("<I", min(len(body), 2**32 - 1)))
            file.write(body)
        yield path
    finally:
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def as_file(video) -> Iterator[VideoFile]:
    """VIDEO as a file: its own where it has one, else a temporary copy that is removed afterwards.

    A video that was put together from frames (Create Video) lies in memory as a whole, 25 MB a frame at 1080p, as long
    as ComfyUI keeps it; it is copied without loss, frame by frame. So is the part of a file that newer hosts' trims
    leave: it is read from the file, one frame in memory at a time. What hosts crop or resize they decode themselves.
    """
    with contextlib.ExitStack() as stack:
        source = _source_file(video, stack)
        if source is not None:
            from ..latentsync.media.isolation import check_apart

            check_apart(source)  # a file that crashes a decoder is not to take the server with it
        if source is None or _is_edited(video, source):
            path = stack.enter_context(_removed(host.temp_path(SPILL_SUFFIX)))
            _write_components(video, path)
            yield VideoFile(path, None, None)
            return
        start, duration = _trim_window(video)
        if not start and duration is None:
            yield VideoFile(source, host.file_reference(source), source)
            return
        path = stack.enter_context(_removed(host.temp_path(SPILL_SUFFIX)))
        facts = _write_part(source, start, duration, path)
        begins = math.ceil(start * facts.fps - 0.01) / float(facts.fps)  # of the first frame
        yield VideoFile(path, None, source, begins, duration, facts.notices)


@contextlib.contextmanager
def as_mask_file(mask: torch.Tensor, video: Path) -> Iterator[Path]:
    """MASK (1 or F, H, W) as a picture, or as a video without loss that runs along with a video of F frames.

    Raises ValueError for a mask of another size or of another number of frames than the video.
    """
    from ..latentsync.media.video_reader import probe_video, video_length

    facts = probe_video(video)
    mask = mask[None] if mask.ndim == 2 else mask
    count = round(video_length(video) * float(facts.fps))
    if tuple(mask.shape[1:]) != (facts.height, facts.width):
        raise ValueError(
            f"protect is {mask.shape[2]} x {mask.shape[1]}, but the video is {facts.width} x {facts.height}; expected "
            "the same size. Resize the mask, or draw it over a frame of the video"
        )
    if len(mask) not in (1, count):
        raise ValueError(
            f"protect has {len(mask)} masks, but the video has {count} frames; expected one mask for all frames, or "
            "one for each"
        )
    path = host.temp_path(".png" if len(mask) == 1 else SPILL_SUFFIX)
    try:
        if len(mask) == 1:
            write_picture(mask[0], path)
        else:
            _write_frames(enumerate(ByteFrames(_grey(mask))), (facts.height, facts.width), facts.fps, path)
        yield path
    finally:
        path.unlink(missing_ok=True)


def _source_file(video, stack: contextlib.ExitStack) -> Path | None:
    """The file that a VIDEO is read from, a temporary one if it is in memory; None for a VIDEO of frames."""
    if isinstance(video, host.InputImpl.VideoFromComponents):
        return None
    try:
        source = video.get_stream_source()
    except ValueError:  # other videos of frames in memory
        return None
    if isinstance(source, str):
        return Path(source)
    path = stack.enter_context(_removed(host.temp_path(SPILL_SUFFIX)))
    path.write_bytes(source.getbuffer())
    return path


@contextlib.contextmanager
def _removed(path: Path) -> Iterator[Path]:
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


def _trim_window(video) -> tuple[float, float | None]:
    """Where a VIDEO begins in its file and how long it lasts, in s; None: to the end. (0, None) where no host trims."""
    start, duration = video.get_active_trim_window() if hasattr(video, "get_active_trim_window") else (0.0, 0.0)
    return start, duration or None


def _is_edited(video, path: Path) -> bool:
    """Whether a VIDEO shows something else than its file, or a part of it of which the host does not say where it is.

    Newer hosts tell, those between show another size where they crop, or are shorter than their file where they trim.
    """
    import av

    if hasattr(video, "has_pending_frame_edits"):
        return video.has_pending_frame_edits()
    try:
        with av.open(str(path)) as container:
            whole, pictures = container.duration, container.streams.video
            coded = [(stream.codec_context.width, stream.codec_context.height) for stream in pictures[:1]]
    except (OSError, av.FFmpegError):  # no video, or not there: the library's reader tells which
        return False
    if not coded:
        return False
    if hasattr(video, "as_cropped") and sorted(video.get_dimensions()) != sorted(coded[0]):  # turned videos: swapped
        return True
    if hasattr(video, "get_active_trim_window"):
        return False
    return whole is not None and video.get_duration() < whole / av.time_base - LEAST_CUT


def _write_components(video, path: Path) -> None:
    components = video.get_components()
    frames = ByteFrames(checked_images(components.images, "the video"))
    _write_frames(enumerate(frames), frames.size, components.frame_rate, path)


def _write_part(source: Path, start: float, duration: float | None, path: Path) -> "VideoFacts":
    """Write a part of a file to another, without loss and with its frames' times; returns the facts of the whole file.

    The frames are those that the host takes: from the first one that begins at `start` or later.
    """
    from ..latentsync.media.video_reader import probe_video, read_frames

    facts = probe_video(source)
    late = 0.49 / float(facts.fps)  # the reader takes the nearest frame, which may be the one before
    frames = read_frames(source, start=start + late, duration=duration)
    timed = ((frame.pts, frame.pixels) for frame in frames)
    color = facts.output_color
    told = {
        "time_base": facts.time_base,
        "sample_aspect_ratio": facts.sample_aspect_ratio,
        "color_range": color.color_range,
        "color_primaries": color.primaries,
        "color_trc": color.transfer,
    }
    _write_frames(timed, (facts.height, facts.width), facts.fps, path, told)
    return facts


def _write_frames(
    frames: Iterable[tuple[int, np.ndarray]], size: tuple[int, int], rate, path: Path, told: dict | None = None
) -> None:
    """Encode frames (H, W, 3) uint8 with their pts without loss; no sound is needed, as the speech takes its place.

    size: (H, W) px. told: what else the file says of itself, by the names of PyAV's codec context; its time_base is a
    frame unless it is there.
    """
    import av

    rate = Fraction(rate).limit_denominator(100_000)
    with av.open(f"file:{path}", "w", format=SPILL_MUXER) as container:
        stream = container.add_stream(SPILL_CODEC, rate=rate, options=SPILL_OPTIONS)
        (stream.height, stream.width), stream.pix_fmt = size, SPILL_FORMAT
        context = stream.codec_context
        for name, value in {"time_base": 1 / rate, "color_range": LIMITED_RANGE, **(told or {})}.items():
            setattr(context, name, value)
        for pts, pixels in frames:
            host.stop_if_interrupted()
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = pts, context.time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
