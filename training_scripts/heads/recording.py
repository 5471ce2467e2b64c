"""What a camera makes of a picture after its lens: a sensor's noise, sharpening, fewer pixels, and a real codec."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

import av
import cv2
import numpy as np

from latentsync.errors import LatentSyncError
from latentsync.media.video_writer import same_everywhere

# (encoder, decoder, pixel format); those of held-out clips are heard of nowhere in training.
TRAINING_CODECS = (("libx264", "h264", "yuv420p"),)
HELD_OUT_CODECS = (
    ("mpeg4", "mpeg4", "yuv420p"),
    ("mjpeg", "mjpeg", "yuvj420p"),
    ("libvpx-vp9", "vp9", "yuv420p"),
    ("libx265", "hevc", "yuv420p"),
    ("libvpx", "vp8", "yuv420p"),
)

_RATE = Fraction(25)


@dataclass(frozen=True)
class Recording:
    """How pictures are recorded.

    noise       deviation at mid grey, of 0..1; `grain` px over which it is smooth
    sharpening  share of what a blur of 1 px takes away that is put on top
    scale       of the sides, at most 1
    codec       (encoder, decoder, pixel format)
    quality     the encoder's own number, small is good; `options` are the encoder's others
    """

    noise: float
    grain: float
    sharpening: float
    scale: float
    codec: tuple[str, str, str]
    quality: int
    options: dict[str, str]

    @classmethod
    def draw(cls, random: np.random.Generator, *, held_out: bool) -> "Recording":
        codecs = HELD_OUT_CODECS if held_out else TRAINING_CODECS
        codec = codecs[random.integers(len(codecs))]
        good = random.random() < 0.45
        scale = 1.0 if random.random() < 0.6 else float(np.exp(random.uniform(np.log(0.35), 0)))
        worst = 27 if scale < 0.6 else 33  # a small face has nothing to give away
        quality = int(random.integers(14, 24) if good else random.integers(22, worst))
        options = {
            "libx264": {"crf": str(quality), "preset": str(random.choice(("ultrafast", "veryfast", "fast")))},
            "libx265": {"crf": str(quality), "preset": "ultrafast", "x265-params": "log-level=none:pools=none"},
            "libvpx-vp9": {"crf": str(quality + 8), "b": "0", "deadline": "realtime", "cpu-used": "7"},
            "libvpx": {"crf": str(quality - 4), "b": "2M", "deadline": "realtime", "cpu-used": "7"},
        }.get(codec[0], {})
        if codec[0] in ("mpeg4", "mjpeg"):  # they count from 2 to 31
            quality = int(random.integers(2, 6) if good else random.integers(5, 12))
        if codec[0] == "libx264":
            options |= same_everywhere("libx264")
        return cls(
            noise=float(random.uniform(0, 0.012) if good else random.uniform(0.004, 0.035)),
            grain=float(random.choice((0.0, 0.0, 0.6, 0.9))),
            sharpening=float(random.uniform(0.2, 1.0) if random.random() < 0.35 else 0.0),
            scale=scale,
            codec=codec,
            quality=quality,
            options=options,
        )

    def frames(self, pictures: Iterator[np.ndarray], random: np.random.Generator) -> list[np.ndarray]:
        """(H', W', 3) uint8 RGB, one for each picture (H, W, 3). Raises LatentSyncError where some are lost."""
        return self._coded([self.sensed(picture, random) for picture in pictures])

    def sensed(self, picture: np.ndarray, random: np.random.Generator) -> np.ndarray:
        """(H', W', 3) uint8 RGB of (H, W, 3): as it comes from the sensor, before the codec."""
        height, width = (2 * round(side * self.scale / 2) for side in picture.shape[:2])
        if self.scale < 1:
            picture = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)
        values = picture.astype(np.float32) / 255
        # Bright places have more noise before, and less after the curve of the picture: nearly even, most in the dark.
        grain = random.standard_normal((height, width, 3), np.float32)
        grain = 0.75 * grain.mean(2, keepdims=True) * np.float32(3**0.5) + 0.5 * grain
        if self.grain:
            grain = cv2.GaussianBlur(grain, (0, 0), self.grain) * np.float32(1 + 1.6 * self.grain)
        values += grain * np.float32(self.noise) * (1.3 - 0.6 * values)
        if self.sharpening:
            values += np.float32(self.sharpening) * (values - cv2.GaussianBlur(values, (0, 0), 1.0))
        return (np.clip(values, 0, 1) * 255 + 0.5).astype(np.uint8)

    def _coded(self, pictures: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Through the encoder and back."""
        encoder, decoder, pixel_format = self.codec
        height, width = pictures[0].shape[:2]
        writer = av.CodecContext.create(encoder, "w")
        writer.width, writer.height, writer.pix_fmt, writer.time_base, writer.framerate = (
            width,
            height,
            pixel_format,
            1 / _RATE,
            _RATE,
        )
        writer.options, writer.thread_count = self.options, 1
        if encoder in ("mpeg4", "mjpeg"):
            writer.qmin = writer.qmax = self.quality
        reader = av.CodecContext.create(decoder, "r")
        reader.thread_count = 1
        decoded: list[np.ndarray] = []
        packets = []
        for index, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format=pixel_format)
            frame.pts, frame.time_base = index, 1 / _RATE
            packets += writer.encode(frame)
        for packet in [*packets, *writer.encode(None)]:
            decoded += reader.decode(packet)
        decoded += reader.decode(None)
        if len(decoded) != len(pictures):
            raise LatentSyncError(f"{encoder} gave {len(decoded)} frames back of {len(pictures)}")
        return [frame.reformat(format="rgb24").to_ndarray() for frame in decoded]
