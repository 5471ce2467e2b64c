"""How a clip is filmed: the way of the head, lights, lens, exposure and what stands behind; all from a seed."""

from dataclasses import dataclass, field

import cv2
import numpy as np

HELD_OUT_SHOTS = 9_000_000  # seeds from here on have lights that no shot of training has
MAX_YAW = np.radians(45)
BACKGROUNDS = ("plain", "gradient", "paper", "room", "bokeh", "garden", "stripes", "patches")


@dataclass(frozen=True)
class Shot:
    """F frames of one camera.

    turn             (F, 3) float32 rad: yaw (to the person's left is positive), pitch (down), roll of the head
    move             (F, 2) float32 m: of the head, right and up in the picture
    distance         m from the camera to the head: the shorter, the stronger its perspective
    height           m of the head's plane that the frame's height shows
    offset           (2,) m: where the face's middle lies from that of the frame
    light_direction  (3, 3) towards the lights, unit length, x right, y up, z to the camera
    light_colour     (3, 3) linear; the first two throw shadows
    sky, ground      (3,) linear light from everywhere: from `sky_direction` (3,) and from the opposite side
    shadow_blur      how soft shadows are, in shares of the shadow map's side
    exposure         stops above (or below) a well exposed face
    white_balance    (3,) gains
    contrast         1 is the plain curve
    saturation       1 is the plain colour
    background       one of BACKGROUNDS; with `seed`, which of that kind
    shutter          share of the time from frame to frame in which light falls in: motion blur
    defocus          Gaussian blur of the person, in shares of the frame's height
    sway             (F, 2) the background's shift, in shares of the frame's height
    gaze             (F, 2) float32 rad: of the eyes, to the person's left and up
    expressions      {name: (F,) float32}: blinks, brows and eyelids that belong to the shot
    """

    seed: int
    turn: np.ndarray
    move: np.ndarray
    distance: float
    height: float
    offset: np.ndarray
    light_direction: np.ndarray
    light_colour: np.ndarray
    sky: np.ndarray
    ground: np.ndarray
    sky_direction: np.ndarray
    shadow_blur: float
    exposure: float
    white_balance: np.ndarray
    contrast: float
    saturation: float
    background: str
    shutter: float
    defocus: float
    sway: np.ndarray
    gaze: np.ndarray
    expressions: dict[str, np.ndarray] = field(default_factory=dict)

    @classmethod
    def from_seed(cls, seed: int, num_frames: int, fps: float = 25.0) -> "Shot":
        """The shot of a seed of at least 0, `num_frames` long; from HELD_OUT_SHOTS on with lights of their own."""
        random = np.random.default_rng([seed, 11])
        times = np.arange(num_frames) / fps
        gaze = np.stack([_saccades(random, times, 0.12), _saccades(random, times, 0.06)], 1)
        return cls(
            seed=seed,
            **_pose(random, times),
            **_lights(random, seed >= HELD_OUT_SHOTS),
            distance=float(np.exp(random.uniform(np.log(0.45), np.log(2.2)))),
            height=float(random.uniform(0.215, 0.33)),  # at 320 px a face is 190 to 290 px of its aligned square
            offset=random.normal((0, 0.010), (0.010, 0.006)).astype(np.float32),
            exposure=float(np.clip(random.normal(-0.05, 0.32), -0.9, 0.7)),
            white_balance=np.exp(
                random.normal(0, 1, 1) * (0.07, 0, -0.07) + random.normal(0, (0.02, 0.025, 0.02))
            ).astype(np.float32),
            contrast=float(random.uniform(0.85, 1.25)),
            saturation=float(random.uniform(0.75, 1.15)),
            background=str(random.choice(BACKGROUNDS)),
            shutter=float(random.uniform(0, 0.8)),
            defocus=float(random.uniform(0, 0.004)) if random.random() < 0.5 else 0.0,
            gaze=gaze.astype(np.float32),
            expressions=_upper_face(random, times, gaze),
        )


def _waves(random: np.random.Generator, times: np.ndarray, reach: float) -> np.ndarray:
    """(F,) a smooth way about 0, mostly within `reach`."""
    total = np.zeros(len(times))
    for _ in range(4):
        rate = random.uniform(0.07, 1.1)
        total += random.uniform(0.2, 0.7) / (0.6 + rate) * np.sin(2 * np.pi * (rate * times + random.random()))
    return reach * total


def _pose(random: np.random.Generator, times: np.ndarray) -> dict:
    """The way of the head and of the camera."""
    lively = random.uniform(0.3, 1.3)
    middle = random.uniform(-MAX_YAW, MAX_YAW) if random.random() < 0.25 else random.normal(0, 0.22)
    yaw = np.clip(middle + _waves(random, times, 0.15 * lively), -MAX_YAW, MAX_YAW)
    pitch = np.clip(random.normal(0.02, 0.10), -0.28, 0.28) + _waves(random, times, 0.07 * lively)
    nods = 0.03 * lively * np.sin(2 * np.pi * times * random.uniform(1.0, 2.5)) * (random.random() < 0.3)
    roll = random.normal(0, 0.06) + _waves(random, times, 0.05 * lively)
    shake = random.uniform(0, 0.004) * (random.random() < 0.35)
    sway = np.stack([_waves(random, times, shake), _waves(random, times, shake)], 1)
    move = np.stack([_waves(random, times, 0.010 * lively), _waves(random, times, 0.007 * lively)], 1)
    return {
        "turn": np.stack([yaw, pitch + nods, roll], 1).astype(np.float32),
        "move": (move + sway * 0.3).astype(np.float32),
        "sway": sway.astype(np.float32),
    }


def _saccades(random: np.random.Generator, times: np.ndarray, reach: float) -> np.ndarray:
    """(F,) rad: eyes rest and jump."""
    jumps = np.cumsum(random.exponential(0.9, 40))
    values = random.normal(0, reach, 41)
    return np.clip(values[np.searchsorted(jumps, times)], -0.45, 0.45)


def _upper_face(random: np.random.Generator, times: np.ndarray, gaze: np.ndarray) -> dict[str, np.ndarray]:
    """Blinks, brows, lids that follow the eyes."""
    blinks = np.cumsum(random.uniform(0.8, 5, 60)) - random.uniform(0, 3)
    nearest = np.abs(times[:, None] - blinks[None]).min(1)
    blink = np.clip(1.5 - nearest / 0.075, 0, 1)
    squint = random.uniform(0, 0.35) * (random.random() < 0.4)
    brow = random.normal(0, 0.12) + _waves(random, times, 0.30)
    outer = np.clip(brow + _waves(random, times, 0.15), 0, 1)
    down = np.clip(-gaze[:, 1] * 2.2, 0, 0.5) * (1 - blink)
    rows = {
        "eyeBlinkLeft": np.clip(blink + down * 0.5, 0, 1),
        "eyeBlinkRight": np.clip(blink + down * 0.5, 0, 1),
        "eyeSquintLeft": squint * (1 - blink),
        "eyeSquintRight": squint * (1 - blink),
        "eyeWideLeft": np.clip(brow, 0, 0.4) * (1 - blink),
        "eyeWideRight": np.clip(brow, 0, 0.4) * (1 - blink),
        "browInnerUp": np.clip(brow, 0, 0.8),
        "browOuterUpLeft": outer,
        "browOuterUpRight": outer,
        "browDownLeft": np.clip(-brow, 0, 0.8),
        "browDownRight": np.clip(-brow, 0, 0.8),
    }
    return {name: np.asarray(values + np.zeros(len(times)), np.float32) for name, values in rows.items()}


def _towards(azimuth: float, elevation: float) -> np.ndarray:
    """Unit vector: azimuth from the camera to the right, elevation upwards, rad."""
    return np.array((np.sin(azimuth) * np.cos(elevation), np.sin(elevation), np.cos(azimuth) * np.cos(elevation)))


def _warmth(random: np.random.Generator, spread: float) -> np.ndarray:
    """(3,) a light's colour of mean brightness 1, from candle to blue sky."""
    colour = np.exp(random.normal(0, 1) * np.array((0.28, 0.0, -0.42)) * spread + random.normal(0, 0.03, 3))
    return colour / colour.mean()


def _lights(random: np.random.Generator, held_out: bool) -> dict:
    """Three lights, light from everywhere, how soft the shadows are.

    Held-out shots are lit from below, or half in one colour and half in another; those of training never are.
    """
    directions, colours = [], []
    hard = random.random()
    key = _towards(random.uniform(-1.2, 1.2), random.uniform(-0.05, 1.05))
    if held_out:
        key = _towards(
            random.uniform(-1.4, 1.4), random.uniform(-0.7, -0.25) if random.random() < 0.5 else random.uniform(0, 0.6)
        )
    directions.append(key)
    colours.append(_warmth(random, 0.5) * random.uniform(0.5, 1.6))
    side = -np.sign(key[0]) or 1.0
    directions.append(_towards(side * random.uniform(0.2, 1.5), random.uniform(-0.2, 0.8)))
    colours.append(_warmth(random, 0.6) * random.choice((0.0, 0.25, 0.6)) * random.uniform(0.5, 1.3))
    directions.append(
        _towards(random.choice((-1, 1)) * random.uniform(1.9, 2.7), random.uniform(0.1, 0.9))
    )  # from behind
    colours.append(_warmth(random, 0.6) * random.choice((0.0, 0.5, 1.6)) * random.uniform(0.5, 1.2))
    if held_out and random.random() < 0.5:
        colours[0] = colours[0] * np.array((1.6, 0.7, 0.6))
        colours[1] = np.array((0.5, 0.7, 1.7)) * random.uniform(0.5, 1.2)
    around = random.uniform(0.12, 0.8) * (1.2 - 0.6 * hard)
    sky = _warmth(random, 0.4) * around
    up = random.normal((0, 0.9, 0.3), 0.5)
    return {
        "light_direction": np.array(directions, np.float32),
        "light_colour": np.array(colours, np.float32),
        "sky": sky.astype(np.float32),
        "ground": (sky * random.uniform(0.25, 0.8) * (1.0, 0.95, 0.9)).astype(np.float32),
        "sky_direction": (up / np.linalg.norm(up)).astype(np.float32),
        "shadow_blur": float(random.uniform(0.009, 0.030) * (1.15 - hard)),
    }


def background_picture(shot: Shot, size: int) -> np.ndarray:
    """What stands behind the person: (H, W, 3) float32 of 0..1 as seen (not linear), a tenth larger than the frame."""
    random = np.random.default_rng([shot.seed, 12])
    side = size + size // 10
    draw = {
        "plain": _plain,
        "gradient": _gradient,
        "paper": _paper,
        "room": _room,
        "bokeh": _bokeh,
        "garden": _garden,
        "stripes": _stripes,
        "patches": _patches,
    }[shot.background]
    picture = draw(random, side)
    blur = {"bokeh": 0.0, "plain": 0.0}.get(shot.background, random.uniform(0, 0.02))
    if blur * side > 0.4:
        picture = cv2.GaussianBlur(picture, (0, 0), blur * side)
    return np.clip(picture * random.uniform(0.45, 1.1), 0, 1).astype(np.float32)


def _colour(random: np.random.Generator) -> np.ndarray:
    """(3,) mostly quiet colours."""
    grey = random.uniform(0.05, 0.95)
    return np.clip(grey + random.normal(0, random.choice((0.03, 0.10, 0.25)), 3), 0, 1).astype(np.float32)


def _cloud(random: np.random.Generator, side: int, cells: int, channels: int = 1) -> np.ndarray:
    """(H, W, C) float32 about 0..1: smooth noise of several sizes."""
    total = np.zeros((side, side, channels), np.float32)
    for octave in range(4):
        count = min(cells * 2**octave + 2, side)
        grid = random.random((count, count, channels), np.float32)
        layer = cv2.resize(grid, (side, side), interpolation=cv2.INTER_CUBIC).reshape(side, side, channels)
        total += layer * 0.5 ** (octave + 1)
    return total / 0.94


def _plain(random, side):
    falloff = cv2.resize(random.uniform(0.8, 1.1, (2, 2, 1)).astype(np.float32), (side, side))[..., None]
    return _colour(random) * falloff


def _gradient(random, side):
    corners = np.stack([_colour(random) for _ in range(4)]).reshape(2, 2, 3)
    return cv2.resize(corners, (side, side), interpolation=cv2.INTER_LINEAR)


def _paper(random, side):
    return _colour(random) * (0.6 + 0.8 * _cloud(random, side, int(random.integers(2, 30)), 1)) + 0.15 * (
        _cloud(random, side, 4, 3) - 0.5
    )


def _patches(random, side):
    count = int(random.integers(2, 14))
    grid = np.stack([_colour(random) for _ in range(count * count)]).reshape(count, count, 3)
    way = random.choice((cv2.INTER_NEAREST, cv2.INTER_CUBIC))
    return cv2.resize(grid, (side, side), interpolation=int(way))


def _stripes(random, side):
    y, x = np.mgrid[:side, :side].astype(np.float32) / side
    angle = random.choice((0, np.pi / 2, random.uniform(0, np.pi)))
    wave = np.sin(2 * np.pi * random.uniform(3, 25) * (x * np.cos(angle) + y * np.sin(angle)) + random.uniform(0, 6))
    share = (np.clip(wave * random.uniform(0.5, 4), -1, 1) * 0.5 + 0.5)[..., None] * random.uniform(0.2, 1)
    folds = 0.8 + 0.4 * _cloud(random, side, 3)
    return (_colour(random) * (1 - share) + _colour(random) * share) * folds


def _room(random, side):
    """A wall, a floor, and things with straight edges: pictures, a window, a shelf, a door."""
    picture = _colour(random) * (0.85 + 0.3 * _cloud(random, side, 2))
    floor = int(side * random.uniform(0.65, 1.1))
    picture[floor:] = _colour(random)
    for _ in range(int(random.integers(2, 9))):
        x, y = random.uniform(-0.1, 1.0, 2) * side
        width, height = random.uniform(0.06, 0.45, 2) * side
        frame, inner = _colour(random), _colour(random) * (2.0 if random.random() < 0.25 else 1.0)
        corner, end = (int(x), int(y)), (int(x + width), int(y + height))
        cv2.rectangle(picture, corner, end, inner.tolist(), -1)
        cv2.rectangle(picture, corner, end, frame.tolist(), max(1, int(side * random.uniform(0.004, 0.02))))
        if random.random() < 0.4:
            for level in np.arange(y, y + height, side * random.uniform(0.05, 0.12)):
                cv2.line(picture, (int(x), int(level)), (int(x + width), int(level)), frame.tolist(), 2)
    return picture


def _bokeh(random, side):
    """Lights out of focus."""
    picture = _gradient(random, side) * random.uniform(0.1, 0.6)
    for _ in range(int(random.integers(10, 60))):
        layer, radius = np.zeros_like(picture), random.uniform(0.01, 0.08) * side
        place = tuple(int(v) for v in random.uniform(0, side, 2))
        cv2.circle(
            layer, place, int(radius) + 1, (_colour(random) * random.uniform(0.1, 0.6)).tolist(), -1, cv2.LINE_AA
        )
        picture += layer
    return cv2.GaussianBlur(picture, (0, 0), side * 0.004)


def _garden(random, side):
    """Sky, leaves, a ground."""
    sky = np.array((0.75, 0.85, 0.95), np.float32) * random.uniform(0.6, 1.1)
    leaf = np.array((random.uniform(0.1, 0.4), random.uniform(0.25, 0.5), random.uniform(0.05, 0.25)), np.float32)
    noise = _cloud(random, side, int(random.integers(4, 16)), 1)
    cover = np.clip((noise - random.uniform(0.3, 0.6)) * random.uniform(3, 12) + 0.5, 0, 1)
    picture = sky * (1 - cover) + leaf * (0.4 + 1.0 * _cloud(random, side, 30, 1)) * cover
    ground = int(side * random.uniform(0.6, 1.2))
    picture[ground:] = _colour(random) * (0.7 + 0.5 * _cloud(random, side, 20, 1))[ground:]
    return picture
