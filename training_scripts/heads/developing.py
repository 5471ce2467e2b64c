"""What a camera makes of light: where it stands, exposure, blur, background, curve and colour; then what is recorded: a
sensor's noise, sharpening, fewer pixels, and a real codec.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

import av
import cv2
import numpy as np

from latentsync.errors import LatentSyncError
from latentsync.media.video_writer import same_everywhere

from .cameras import Shot
from .people import Person
from .transforms import about, rotation, shift

NECK = np.array((0.0, -0.105, -0.085))  # m from the eyes' middle: what the head turns about
FACE_LIGHT = (0.03, 0.58)  # brightness of a well exposed face: of the darkest skin, and what the lightest adds


class Camera:
    """Where head and camera are in every frame of a shot."""

    def __init__(self, shot: Shot, num_frames: int):
        self._shot = shot
        models = [self.model(index) for index in range(num_frames)]
        face = np.array((0, -0.035, -0.03, 1))
        way = np.stack([(model @ face)[:3] for model in models])
        aim = way.mean(0)
        self.place = np.array((aim[0], aim[1], aim[2] + shot.distance))
        near, far = max(shot.distance - 0.3, 0.05), shot.distance + 0.6
        focal = 2 * shot.distance / shot.height
        lens = np.zeros((4, 4))
        lens[0, 0] = lens[1, 1] = focal
        lens[0, 2], lens[1, 2] = -2 * shot.offset / shot.height
        lens[2, 2], lens[2, 3], lens[3, 2] = (far + near) / (near - far), 2 * far * near / (near - far), -1
        self.matrix = lens @ shift(-self.place)
        self._screen = np.stack([self.project(place) for place in way])
        self._lips = np.stack([self.project((model @ np.array((0, -0.045, 0.015, 1)))[:3]) for model in models])

    def project(self, place: np.ndarray) -> np.ndarray:
        """(2,) shares of the frame from its left and top."""
        clip = self.matrix @ np.append(place, 1)
        return np.array((clip[0], -clip[1])) / clip[3] / 2 + 0.5

    def model(self, index: int) -> np.ndarray:
        """(4, 4) head space to the world."""
        yaw, pitch, roll = self._shot.turn[index]
        turn = rotation(2, roll) @ rotation(0, pitch) @ rotation(1, yaw)
        return shift((*self._shot.move[index], 0)) @ about(NECK, turn)

    def travel(self, index: int) -> np.ndarray:
        """(2,) shares of the frame that the face goes from this frame to the next, while the shutter is open."""
        last = len(self._screen) - 1
        ahead, behind = min(index + 1, last), max(index - 1, 0)
        return (self._screen[ahead] - self._screen[behind]) / max(ahead - behind, 1) * self._shot.shutter

    def blurred(self, light: np.ndarray, index: int, size: int) -> np.ndarray:
        """(H, W) or (H, W, C) float32 as moved and as out of focus as the head is in that frame."""
        travel = self.travel(index) * size
        if np.hypot(*travel) > 0.7:
            light = cv2.filter2D(light, -1, _streak(travel), borderType=cv2.BORDER_REPLICATE)
        if self._shot.defocus * size > 0.3:
            light = cv2.GaussianBlur(light, (0, 0), self._shot.defocus * size)
        return light

    def exposure(self, raw: np.ndarray, size: int, person: Person) -> float:
        """The factor by which the face of the first frame is exposed as the shot wants it."""
        x, y = (self._lips[0] * size).astype(int)
        reach = max(4, int(0.045 / self._shot.height * size))
        face = raw[max(0, y - reach) : y + reach, max(0, x - reach) : x + reach]
        bright = (face[..., :3] @ np.array((0.25, 0.65, 0.10)))[face[..., 3] > 0.9]
        level = float(np.percentile(bright, 70)) if bright.size else 0.2
        wanted = FACE_LIGHT[0] + FACE_LIGHT[1] * float(np.mean(person.look["skin"])) ** 0.8
        return wanted * 2**self._shot.exposure / max(level, 1e-3)


class Developer:
    """From linear light to a picture: background, curve, colour."""

    def __init__(self, shot: Shot, background: np.ndarray, size: int):
        self._shot, self._size = shot, size
        self._background = background**2.2
        steps = np.linspace(0, 1, 4096) ** 2 * 8.0
        gained = steps * 1.35
        film = gained * (1 + gained / 7.0) / (1 + gained)  # a shoulder for what is bright
        film = np.clip(film / 1.0, 0, 1)
        seen = np.where(film <= 0.0031308, film * 12.92, 1.055 * np.maximum(film, 1e-9) ** (1 / 2.4) - 0.055)
        self._curve = (np.clip(0.5 + (seen - 0.5) * shot.contrast, 0, 1) * 255 + 0.5).astype(np.uint8)
        grey = np.tile((0.2126, 0.7152, 0.0722), (3, 1))
        self._colour = ((1 - shot.saturation) * grey + shot.saturation * np.eye(3)) @ np.diag(shot.white_balance)

    def picture(self, raw: np.ndarray, index: int) -> np.ndarray:
        """(H, W, 3) uint8 RGB of linear light and coverage (H, W, 4) before the shot's background."""
        size = self._size
        margin = (len(self._background) - size) / 2
        sway = np.clip(self._shot.sway[index] * size, -margin, margin)
        move = np.array(((1, 0, -margin + sway[0]), (0, 1, -margin + sway[1])), np.float32)
        behind = cv2.warpAffine(
            self._background, move, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
        )
        light = raw[..., :3] + behind * (1 - raw[..., 3:])
        light = cv2.transform(light, self._colour)
        place = np.sqrt(np.clip(light, 0, 7.99, out=light), out=light) * (4095 / 8.0**0.5)
        return self._curve[place.astype(np.uint16)]


def _streak(travel: np.ndarray) -> np.ndarray:
    """A line as a kernel, as long as the way (2,) px."""
    reach = int(np.ceil(np.abs(travel).max() / 2)) + 1
    kernel = np.zeros((2 * reach + 1, 2 * reach + 1), np.float32)
    for share in np.linspace(-0.5, 0.5, 8 * reach):
        x, y = reach + travel * share
        column, row = int(x), int(y)
        for dy, wy in ((0, 1 - (y - row)), (1, y - row)):
            for dx, wx in ((0, 1 - (x - column)), (1, x - column)):
                if row + dy <= 2 * reach and column + dx <= 2 * reach:
                    kernel[row + dy, column + dx] += wy * wx
    return kernel / kernel.sum()


@dataclass(frozen=True)
class Film:
    """What a shot of a person shows.

    lips    (F, 3) float32, measured on the mesh, whatever the camera sees. Opening: between the middles of the inner
            lips, in distances of the eyes, 0 when they touch. Spread: between the corners of the mouth, in that of the
            same person at rest. Rounding: how far the lips protrude and purse, 0 at rest
    """

    lips: np.ndarray
    _layers: Callable[[], Iterator[tuple[np.ndarray, np.ndarray | None]]]
    _developer: Callable[[], Developer]

    @property
    def frames(self) -> Iterator[np.ndarray]:
        """(H, W, 3) uint8 RGB, drawn as they are asked for; again each time."""
        return (frame for frame, _ in self.outlined)

    @property
    def outlined(self) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
        """Frames and how far the thing covers each pixel, (H, W) float32 0..1; None where there is no thing."""
        developer = self._developer()
        for index, (light, outline) in enumerate(self._layers()):
            yield developer.picture(light, index), outline

    @property
    def layers(self) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
        """(H, W, 4) float32 linear light and coverage, premultiplied, without a background; and the outline."""
        return self._layers()


# After the lens


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
