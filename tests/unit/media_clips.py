"""Small media files for the tests, written with PyAV itself and not with the code under test."""

import os
import wave
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

_BANDS = 10  # vertical bands that spell the frame number in black and white


def demo_video() -> Path:
    """The reference's demo clip, where the checkout has one beside it."""
    folder = Path(os.environ.get("LATENTSYNC_MEDIA", Path(__file__).parents[3] / "shared" / "media"))
    path = folder / "demo1_video.mp4"
    if not path.is_file():
        pytest.skip(f"no demo clip at {path}; set LATENTSYNC_MEDIA")
    return path


def numbered_picture(number: int, width: int, height: int) -> np.ndarray:
    """(H, W, 3) uint8: the number in binary, which survives compression."""
    bits = np.array([number >> bit & 1 for bit in range(_BANDS)])
    row = np.where(bits[np.arange(width) * _BANDS // width], 220, 30).astype(np.uint8)
    return np.broadcast_to(row[None, :, None], (height, width, 3)).copy()


def read_number(pixels: np.ndarray) -> int:
    """The number of a `numbered_picture`."""
    width = pixels.shape[1]
    centres = [(2 * band + 1) * width // (2 * _BANDS) for band in range(_BANDS)]
    return sum(int(pixels[:, x].mean() > 128) << bit for bit, x in enumerate(centres))


def write_clip(
    path,
    *,
    pictures=12,
    fps=25,
    size=(160, 96),
    pts=None,
    time_base=None,
    pixel_format="yuv420p",
    tags=None,
    rotation=None,
    hflip=False,
    gop=250,
    muxer=None,
    options=None,
    tone=None,
    tone_delay=0.0,
):
    """Write a clip of numbered pictures (or of the given arrays and `av.VideoFrame`s) and, with `tone`, a sine."""
    width, height = size
    if isinstance(pictures, int):
        pictures = [numbered_picture(number, width, height) for number in range(pictures)]
    with av.open(f"file:{path}", "w", format=muxer) as container:
        stream = container.add_stream("libx264", rate=Fraction(fps), options={"crf": "10", **(options or {})})
        stream.width, stream.height, stream.pix_fmt = width, height, pixel_format
        stream.codec_context.gop_size = gop
        stream.codec_context.time_base = time_base or 1 / Fraction(fps)
        for name, value in (tags or {}).items():
            setattr(stream.codec_context, name, value)
        if rotation is not None:
            if not hasattr(stream, "set_display_rotation"):
                pytest.skip("this release of PyAV cannot write how a picture is turned")
            stream.set_display_rotation(rotation, hflip=hflip)
        sound = None
        if tone:
            sound = container.add_stream("aac", rate=44_100)
            sound.layout = "stereo"
        for place, picture in enumerate(pictures):
            frame = picture if isinstance(picture, av.VideoFrame) else av.VideoFrame.from_ndarray(picture)
            frame.pts = pts[place] if pts else place
            frame.time_base = stream.codec_context.time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
        if tone:
            samples = np.tile(sine(tone, 1.0, 44_100), (2, 1))
            frame = av.AudioFrame.from_ndarray(samples, "fltp", "stereo")
            frame.sample_rate, frame.time_base, frame.pts = 44_100, Fraction(1, 44_100), round(tone_delay * 44_100)
            container.mux(sound.encode(frame))
            container.mux(sound.encode())
    return path


def sine(frequency: float, seconds: float, sample_rate: int) -> np.ndarray:
    """(T,) float32 with amplitude 0.5."""
    return (0.5 * np.sin(2 * np.pi * frequency * np.arange(round(seconds * sample_rate)) / sample_rate)).astype("f4")


def write_pcm(path, samples: np.ndarray, sample_rate: int):
    """A 16-bit wav file of (C, T) samples, written with the standard library."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(samples.shape[0])
        file.setsampwidth(2)
        file.setframerate(sample_rate)
        file.writeframes((samples.T * 32767).astype("<i2").tobytes())
    return path


def encode_sound(path, samples: np.ndarray, sample_rate: int, codec: str, layout: str):
    """(C, T) float samples in any codec and container."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=sample_rate)
        stream.layout = layout
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples.astype("f4")), "fltp", layout)
        frame.sample_rate, frame.time_base, frame.pts = sample_rate, Fraction(1, sample_rate), 0
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def write_without_frames(path: Path) -> None:
    """A file with a video track that holds nothing, and a sound track that holds something."""
    with av.open(str(path), "w") as container:
        container.add_stream("libx264", rate=25).pix_fmt = "yuv420p"
        sound = container.add_stream("aac", rate=16_000)
        frame = av.AudioFrame.from_ndarray(np.zeros((2, 4096), np.float32), "fltp", "stereo")
        frame.sample_rate, frame.pts, frame.time_base = 16_000, 0, Fraction(1, 16_000)
        container.mux(sound.encode(frame))
        container.mux(sound.encode())
