"""ComfyUI's pictures, sounds and videos for the library, which takes single frames and files."""

import contextlib
import struct
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from . import host

if TYPE_CHECKING:
    from ..latentsync.media.video_reader import VideoFrame

IEEE_FLOAT = 3  # the wav format of float samples
# Lossless RGB; AVI counts frames where Matroska rounds their times to milliseconds.
SPILL_SUFFIX, SPILL_MUXER, SPILL_CODEC, SPILL_FORMAT = ".avi", "avi", "ffv1", "bgr0"

LEAST_CUT = 0.02  # s, less than a frame


class VideoFile(NamedTuple):
    """A VIDEO as a file. reference: how the front end can fetch it; None where it cannot."""

    path: Path
    reference: dict[str, str] | None


def waveform_of(audio) -> tuple[torch.Tensor, int]:
    """AUDIO -> samples (C, T) float32 and their rate in Hz. Raises ValueError with a message for the user.

    audio: ComfyUI's mapping, which need not be a dict, or None, as Get Video Components gives for a silent video.
    """
    if audio is None:
        raise ValueError(
            "there is no sound: the video it was taken from is silent. Link a Load Audio node with the speech instead"
        )
    waveform, sample_rate = audio["waveform"], int(audio["sample_rate"])
    if waveform.ndim != 3 or len(waveform) != 1:
        raise ValueError(
            f"the audio is a batch of {len(waveform)} sounds, of shape {tuple(waveform.shape)}; expected one sound. "
            "Link a single one"
        )
    if not waveform.shape[1] or not waveform.shape[2]:
        raise ValueError("the audio is empty; expected speech, at least a few frames long")
    from ..latentsync.media.limits import MAX_CHANNELS, MAX_SECONDS, SAMPLE_RATES

    slowest, fastest = SAMPLE_RATES
    if not slowest <= sample_rate <= fastest or waveform.shape[1] > MAX_CHANNELS:
        raise ValueError(
            f"the audio has {sample_rate} samples a second in {waveform.shape[1]} channels; expected {slowest} to "
            f"{fastest} and at most {MAX_CHANNELS}. Convert it"
        )
    if waveform.shape[2] > MAX_SECONDS * sample_rate:
        raise ValueError(f"the audio lasts more than {MAX_SECONDS / 3600:.0f} hours. Cut it")
    samples = waveform[0].detach().cpu()
    if not samples.is_floating_point():  # 16-bit samples of some videos come as they are
        samples = samples.float() / (1 << (8 * samples.element_size() - 1))
    return samples.float(), sample_rate


def checked_images(images: torch.Tensor, name: str) -> torch.Tensor:
    """IMAGE (F, H, W, 3 or 4) as it is. Raises ValueError for an empty batch and for other shapes."""
    if images.ndim != 4 or images.shape[3] not in (3, 4):
        raise ValueError(f"{name} has the shape {tuple(images.shape)}; expected pictures of shape (N, H, W, 3)")
    if not len(images):
        raise ValueError(f"{name} is an empty batch; expected at least one frame")
    from ..latentsync.media.limits import MAX_PIXELS

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
    as ComfyUI keeps it; it is copied without loss, frame by frame. So is one that is only a part of its file.
    """
    if isinstance(video, host.InputImpl.VideoFromComponents):
        source = None
    else:
        try:
            source = video.get_stream_source()
        except ValueError:  # other videos of frames in memory
            source = None
    if isinstance(source, str):
        from ..latentsync.media.isolation import check_apart

        check_apart(source)  # a file that crashes a decoder is not to take the server with it
    if isinstance(source, str) and not _is_cut(video, source):
        yield VideoFile(Path(source), host.file_reference(source))
        return
    path = host.temp_path(SPILL_SUFFIX)
    try:
        if source is None or isinstance(source, str):
            components = video.get_components()
            _write_frames(ByteFrames(checked_images(components.images, "the video")), components.frame_rate, path)
        else:
            path.write_bytes(source.getbuffer())
        yield VideoFile(path, None)
    finally:
        path.unlink(missing_ok=True)


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
            _write_frames(ByteFrames(_grey(mask)), facts.fps, path)
        yield path
    finally:
        path.unlink(missing_ok=True)


def _is_cut(video, path: str) -> bool:
    """Whether the VIDEO is only a part of its file, as newer releases of ComfyUI can have it."""
    import av

    try:
        with av.open(path) as container:
            whole = container.duration
    except (OSError, av.FFmpegError):  # no video, or not there: the library's reader tells which
        return False
    return whole is not None and video.get_duration() < whole / av.time_base - LEAST_CUT


def _write_frames(frames: ByteFrames, rate, path: Path) -> None:
    """Encode frames (H, W, 3) uint8 without loss; no sound is needed, as the speech takes its place."""
    import av

    with av.open(f"file:{path}", "w", format=SPILL_MUXER) as container:
        stream = container.add_stream(SPILL_CODEC, rate=Fraction(rate).limit_denominator(100_000))
        (stream.height, stream.width), stream.pix_fmt = frames.size, SPILL_FORMAT
        for pixels in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
