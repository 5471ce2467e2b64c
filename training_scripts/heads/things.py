"""What comes before a mouth: hands, microphones, cups, masks, as triangles that move by themselves."""

from dataclasses import dataclass

import numpy as np

from .people import Person, linear
from .solids import JAW, SKULL, Solid, grid_triangles, tube

THING = 7  # the material: "along" is the colour, the surface (gloss, roughness)
THING_BONE = 5
KINDS = ("hand", "microphone", "cup", "mask")


@dataclass(frozen=True)
class Thing:
    """One thing for a shot.

    kind  one of KINDS
    seed  which of that kind
    path  (F, 4, 4) where it is, about the middle of the lips, m: x to the person's left, y up, z forward
    """

    kind: str
    seed: int
    path: np.ndarray

    @classmethod
    def from_seed(cls, seed: int, num_frames: int, kind: str | None = None, fps: float = 25.0) -> "Thing":
        """A thing that comes and goes, or stays; of a kind, or of any."""
        random = np.random.default_rng([seed, 21])
        kind = kind or str(random.choice(KINDS))
        times = np.arange(num_frames) / fps
        away = np.zeros(num_frames)
        if kind != "mask" and random.random() < 0.7:  # 1 is out of sight, below
            middle, half = random.uniform(0, max(times[-1], 0.4)), random.uniform(0.3, 1.2)
            away = np.clip((np.abs(times - middle) - half) / 0.35, 0, 1)
            away = away * away * (3 - 2 * away)
        near = {"hand": 0.012, "microphone": 0.030, "cup": 0.012, "mask": 0.0}[kind]
        place = np.array((random.normal(0, 0.008), random.normal(-0.004, 0.008), near + random.uniform(0, 0.012)))
        if kind == "microphone":
            place += (random.normal(0, 0.012), -0.012, 0)
        if kind == "mask":
            place[:] = 0
        turn = random.normal(0, 0.25, 3) * (kind != "mask")
        path = np.tile(np.eye(4), (num_frames, 1, 1))
        path[:, :3, :3] = _turn(turn)
        shake = (
            np.stack([np.sin(times * random.uniform(2, 6) + phase) for phase in random.uniform(0, 6, 3)], 1) * 0.0015
        )
        path[:, :3, 3] = (
            place + away[:, None] * np.array((0.03 * random.normal(), -0.26, 0.05)) + shake * (kind != "mask")
        )
        return cls(kind, seed, path)

    def solid(self, person: Person, places: np.ndarray, lips: np.ndarray, top: float) -> Solid:
        """Triangles about the middle of the lips; a mask fits the face.

        places  (N, 3) m of the person's skin at rest, head space
        lips    (3,) the middle of the lips there
        top     height there that a mask reaches, over the bridge of the nose
        """
        random = np.random.default_rng([self.seed, 22])
        if self.kind == "mask":
            return _mask(random, places, lips, top, 0.003 + 0.9 * person.beard_reach)
        parts = {"hand": _hand, "microphone": _microphone, "cup": _cup}[self.kind](random, person)
        return Solid.joined(parts)


def _turn(angles: np.ndarray) -> np.ndarray:
    """(3, 3) turns about x, y and z."""
    (a, b, c), (d, e, f) = np.cos(angles), np.sin(angles)
    x = np.array(((1, 0, 0), (0, a, -d), (0, d, a)))
    y = np.array(((b, 0, e), (0, 1, 0), (-e, 0, b)))
    z = np.array(((c, -f, 0), (f, c, 0), (0, 0, 1)))
    return z @ y @ x


def _painted(places, triangles, colour, gloss, roughness, bone=THING_BONE, normals=None) -> Solid:
    """A solid of one colour, or of one a vertex."""
    colours = np.broadcast_to(np.asarray(colour, np.float32), (len(places), 3))
    return Solid.of(places, triangles, np.array((gloss, roughness)), THING, bone, 1.0, normals, colours)


def _finger(points: np.ndarray, radius: float, colour: np.ndarray) -> Solid:
    """A finger along a bent line, round at its end; joints are redder."""
    steps = np.linspace(0, len(points) - 1, 16)
    line = np.stack([np.interp(steps, np.arange(len(points)), points[:, axis]) for axis in range(3)], 1)
    share = np.linspace(0, 1, 16)
    thick = radius * (1.05 - 0.22 * share) * np.sqrt(np.clip(1 - np.clip((share - 0.86) / 0.142, 0, 1) ** 2, 0.002, 1))
    thick = thick * (1 + 0.07 * np.cos(share * 2 * np.pi * 3))
    places, normals, triangles = tube(line, thick, closed=False, sides=12)
    red = np.repeat(0.5 + 0.5 * np.cos(share * 2 * np.pi * 3), 12)[:, None]
    nail = np.repeat(share > 0.85, 12) & (normals[:, 2] > 0.55)
    colours = colour * (1 - 0.18 * red * np.array((0.2, 1.0, 0.9)))
    colours = np.where(nail[:, None], colours * 0.6 + np.array((0.38, 0.26, 0.24)), colours)
    return _painted(places, triangles, colours, 0.6, 0.5, normals=normals)


def _hand(random: np.random.Generator, person: Person) -> list[Solid]:
    """A hand with its back to the camera: over the mouth, beside it, or as a fist at the chin."""
    colour, size = (
        person.look["skin"] * (0.97, 0.9, 0.88),
        random.uniform(0.88, 1.1) * (1.06 if person.look["male"] > 0.5 else 0.94),
    )
    side, curled = random.choice((-1, 1)), random.uniform(0.1, 0.9)
    spread, solids = random.uniform(0.85, 1.25), []
    for number, length in enumerate((0.066, 0.076, 0.072, 0.056)):
        x = (number - 1.5) * 0.0185 * spread
        bend = curled * random.uniform(0.8, 1.2)
        points, angle, place = [], 0.1, np.array((x, 0.0, 0.004))
        points.append(place)
        for bone, part in enumerate((0.45, 0.32, 0.23)):
            angle += bend * (0.5, 1.1, 0.9)[bone]
            place = place + length * part * np.array(
                (np.sin((number - 1.5) * 0.06 * spread), np.cos(angle), -np.sin(angle) * 0.55)
            )
            points.append(place)
        solids.append(_finger(np.stack(points), 0.0088 - 0.0006 * (number == 3), colour))
    thumb = np.array(((-0.028, -0.050, 0), (-0.046, -0.028, 0), (-0.048, -0.006, -0.004), (-0.040, 0.012, -0.012)))
    solids.append(_finger(thumb, 0.0105, colour))
    theta, phi = np.meshgrid(np.linspace(0, 2 * np.pi, 28, endpoint=False), np.linspace(-np.pi / 2, np.pi / 2, 16))
    ring = np.sign(np.cos(phi)) * np.abs(np.cos(phi)) ** 0.5
    palm = np.stack(
        [0.041 * ring * np.cos(theta), 0.048 * np.sin(phi) - 0.040, 0.0125 * ring * np.sin(theta)], -1
    ).reshape(-1, 3)
    veins = 1 - 0.10 * np.sin(palm[:, :1] * 330) ** 8
    solids.append(_painted(palm, grid_triangles(16, 28, closed=True), colour * veins, 0.5, 0.55))
    arm = np.array(((0.002, -0.075, -0.002), (0.004, -0.11, -0.002), (0.006, -0.26, 0.0)))
    places, normals, triangles = tube(arm, np.array((0.024, 0.026, 0.036)), closed=False, sides=16)
    solids.append(_painted(places, triangles, colour, 0.5, 0.55, normals=normals))
    turn = _turn(np.array((random.normal(0, 0.15), 0, side * random.uniform(0.0, 1.1))))
    down = np.array((0, random.uniform(-0.035, 0.005), 0))
    for solid in solids:
        solid.vertices[:, :3] = (solid.vertices[:, :3] * (side * size, size, size)) @ turn.T + down
        solid.vertices[:, 3:6] = (solid.vertices[:, 3:6] * (side, 1, 1)) @ turn.T
    if side < 0:
        solids = [Solid(solid.vertices, np.ascontiguousarray(solid.triangles[:, ::-1])) for solid in solids]
    return solids


def _turned(profile: np.ndarray, sides: int = 28) -> tuple[np.ndarray, np.ndarray]:
    """A body of revolution about y from (radius, y) of its outline."""
    angle = np.linspace(0, 2 * np.pi, sides, endpoint=False)
    places = np.stack(
        [
            profile[:, :1] * np.cos(angle),
            np.broadcast_to(profile[:, 1:], (len(profile), sides)),
            profile[:, :1] * np.sin(angle),
        ],
        -1,
    )
    return places.reshape(-1, 3), grid_triangles(len(profile), sides, closed=True)


def _microphone(random: np.random.Generator, person: Person) -> list[Solid]:
    """A ball of wire or of foam on a handle that leans away."""
    radius, foam = random.uniform(0.018, 0.027), random.random() < 0.4
    angle = np.linspace(np.pi / 2, -np.pi / 2 * 0.8, 26)
    places, triangles = _turned(np.stack([radius * np.cos(angle) + 1e-5, radius * np.sin(angle) * 1.15], 1), 40)
    grid = np.sin(np.arctan2(places[:, 2], places[:, 0]) * 20) * np.sin(places[:, 1] * 1400)
    shade = linear(random.uniform(15, 120, 3)) if foam else linear((120, 120, 124)) * (0.45 + 0.5 * (grid[:, None] > 0))
    solids = [_painted(places, triangles, shade, 0.1 if foam else 1.6, 0.9 if foam else 0.35)]
    profile = np.array(((0.016, -0.016), (0.0165, -0.022), (0.014, -0.028), (0.012, -0.09), (0.010, -0.22)))
    places, triangles = _turned(profile * (radius / 0.022, 1))
    solids.append(
        _painted(places, triangles, linear(random.choice(((18, 18, 20), (40, 40, 46), (150, 150, 155)))), 1.2, 0.4)
    )
    lean = _turn(np.array((random.uniform(0.1, 0.8), 0, random.normal(0, 0.3))))
    for solid in solids:
        solid.vertices[:, :3] = solid.vertices[:, :3] @ lean.T
        solid.vertices[:, 3:6] = solid.vertices[:, 3:6] @ lean.T
    return solids


def _cup(random: np.random.Generator, person: Person) -> list[Solid]:
    """A cup at the lips, with a hand's fingers round it now and then."""
    top, height, slope = random.uniform(0.032, 0.042), random.uniform(0.075, 0.11), random.uniform(0.65, 1.0)
    profile = np.array(
        (
            (top - 0.003, -0.012),
            (top, 0.0),
            (top * (1 + slope) / 2, -height / 2),
            (top * slope, -height),
            (1e-4, -height),
        )
    )
    steps = np.linspace(0, 4, 33)
    outline = np.stack([np.interp(steps, range(5), profile[:, axis]) for axis in range(2)], 1)
    places, triangles = _turned(outline, 40)
    one, other = (linear(random.uniform(20, 245, 3)) for _ in range(2))
    band = (
        np.sin(
            places[:, 1:2] * random.uniform(60, 400) + np.arctan2(places[:, 2:], places[:, :1]) * random.integers(0, 5)
        )
        > 0.3
    )
    colours = np.where(band, other, one) if random.random() < 0.5 else np.broadcast_to(one, places.shape)
    solids = [_painted(places, triangles, colours, 1.4, random.uniform(0.2, 0.6))]
    if random.random() < 0.7:
        colour = person.look["skin"] * (0.97, 0.9, 0.88)
        for number in range(4):
            angle = np.linspace(2.6, 0.6, 6)
            radius = np.interp(number, (0, 3), (top * 0.97, top * (0.5 + 0.5 * slope))) + 0.007
            line = np.stack([radius * np.cos(angle), np.full(6, -0.022 - 0.0165 * number), radius * np.sin(angle)], 1)
            solids.append(_finger(line, 0.0085, colour))
    tilt = _turn(np.array((-random.uniform(0.2, 1.0), 0, random.normal(0, 0.1))))
    for solid in solids:
        solid.vertices[:, :3] = (solid.vertices[:, :3] + (0, 0, top)) @ tilt.T
        solid.vertices[:, 3:6] = solid.vertices[:, 3:6] @ tilt.T
    return solids


def _mask(random: np.random.Generator, places: np.ndarray, lips: np.ndarray, top: float, room: float) -> Solid:
    """A mask of cloth over nose, mouth and chin: how far the face reaches, made smooth, and `room` (m) more."""
    rows, columns = 22, 33
    axis_z = -0.06
    heights = np.linspace(top, lips[1] - random.uniform(0.052, 0.062), rows)
    narrow = np.interp(np.linspace(0, 1, rows), (0, 0.55, 1), (1, 1, 0.5))[:, None]  # towards the chin
    angles = np.radians(np.linspace(-68, 68, columns))[None] * narrow
    turn, reach = np.arctan2(places[:, 0], places[:, 2] - axis_z), np.hypot(places[:, 0], places[:, 2] - axis_z)
    radius = np.zeros((rows, columns))
    for row, height in enumerate(heights):
        level = np.abs(places[:, 1] - height) < 0.009
        for column, angle in enumerate(angles[row]):
            near = level & (np.abs(turn - angle) < 0.08)
            radius[row, column] = reach[near].max() if near.any() else radius[max(row - 1, 0), column]
    hull = radius.copy()
    for _ in range(8):  # cloth spans what is hollow
        padded = np.pad(hull, 1, mode="edge")
        mean = (padded[:-2, 1:-1] + padded[2:, 1:-1] + padded[1:-1, :-2] + padded[1:-1, 2:]) / 4
        hull = np.maximum(radius, mean)
    hull = hull + room
    pleats = 0.0012 * np.sin((heights[:, None] - lips[1]) * random.uniform(300, 420)) * (random.random() < 0.6)
    hull = hull + pleats * np.cos(angles)
    x, z = hull * np.sin(angles), axis_z + hull * np.cos(angles)
    y = (
        np.broadcast_to(heights[:, None], hull.shape)
        - 0.012 * np.abs(np.sin(angles)) * np.linspace(1, -1.4, rows)[:, None]
    )
    grid = np.stack([x, y, z], -1).reshape(-1, 3)
    colour = linear(random.choice(((190, 215, 232), (240, 240, 240), (22, 22, 24), (150, 190, 170), (120, 60, 80))))
    weave = 0.94 + 0.06 * random.random((len(grid), 1))
    bone = np.repeat(np.where(heights < lips[1], JAW, SKULL), columns)
    solid = _painted(grid, grid_triangles(rows, columns), colour * weave, 0.15, 0.9, bone)
    if (solid.vertices[:, 3:6] * (grid - (0, 0, axis_z)))[:, [0, 2]].sum() < 0:
        solid.vertices[:, 3:6] *= -1
        return Solid(solid.vertices, np.ascontiguousarray(solid.triangles[:, ::-1]))
    return solid
