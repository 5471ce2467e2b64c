"""Parts of a person as triangles: teeth, gums and tongue along the arches that the mesh gives, eyes, glasses."""

from dataclasses import dataclass

import numpy as np

TOOTH, GUM, TONGUE, EYE, HAIR, FRAME, LENS = range(7)  # materials, as prop.frag knows them
SKULL, JAW, TONGUE_BONE, LEFT_EYE, RIGHT_EYE = range(5)  # what a vertex moves with
UPPER_WIDTHS = (8.6, 6.7, 7.7, 7.0, 6.8, 9.8, 9.2)  # mm, from the middle outwards
LOWER_WIDTHS = (5.4, 5.9, 6.9, 7.0, 7.1, 10.6, 10.0)
UPPER_LENGTHS = (10.4, 9.0, 10.2, 8.6, 7.8, 7.2, 7.0)
LOWER_LENGTHS = (8.8, 9.0, 10.0, 8.4, 8.0, 7.4, 7.0)
AROUND, ALONG = 14, 9  # vertices of one tooth
ARCH_POINTS = 400
CORNEA = 0.475  # rad: how far from the axis of sight the iris ends


@dataclass(frozen=True)
class Solid:
    """Triangles with what the shader asks of each vertex.

    vertices   (N, 14) float32: place (3, m), normal (3), direction of strands (3), two places on the surface, material,
               bone, openness 0..1 to light
    triangles  (T, 3) int32
    """

    vertices: np.ndarray
    triangles: np.ndarray

    @classmethod
    def of(cls, places, triangles, surface, material, bone, openness=1.0, normals=None, along=None) -> "Solid":
        """A solid with smooth normals unless they are given; what is one number counts for all vertices."""
        count, triangles = len(places), np.asarray(triangles, np.int32)
        table = np.zeros((count, 14), np.float32)
        table[:, :3] = places
        faces = smooth_normals(places, triangles)
        outwards = places - places.mean(0) if normals is None else normals
        if (faces * outwards).sum() < 0:  # the front of every triangle is outside
            triangles, faces = triangles[:, ::-1], -faces
        table[:, 3:6] = faces if normals is None else normals
        if along is not None:
            table[:, 6:9] = along
        table[:, 9:11], table[:, 11], table[:, 12], table[:, 13] = surface, material, bone, openness
        return cls(table, np.ascontiguousarray(triangles))

    @classmethod
    def joined(cls, solids: list["Solid"]) -> "Solid":
        """Several as one."""
        starts = np.cumsum([0] + [len(solid.vertices) for solid in solids[:-1]])
        triangles = [solid.triangles + start for solid, start in zip(solids, starts, strict=True)]
        return cls(np.concatenate([solid.vertices for solid in solids]), np.concatenate(triangles).astype(np.int32))


def smooth_normals(places: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    """(N, 3) unit normals, weighted by area."""
    a, b, c = (places[triangles[:, i]] for i in range(3))
    faces, normals = np.cross(b - a, c - a), np.zeros((len(places), 3))
    for i in range(3):
        np.add.at(normals, triangles[:, i], faces)
    return (normals / (np.linalg.norm(normals, axis=1, keepdims=True) + 1e-12)).astype(np.float32)


def grid_triangles(rows: int, columns: int, closed: bool = False) -> np.ndarray:
    """Triangles of a grid of vertices, numbered row by row; `closed` joins the last column to the first."""
    row, column = np.meshgrid(np.arange(rows - 1), np.arange(columns if closed else columns - 1), indexing="ij")
    here, beside = row * columns + column, row * columns + (column + 1) % columns
    quads = np.stack([here, here + columns, beside + columns, beside], -1).reshape(-1, 4)
    return np.concatenate([quads[:, [0, 2, 1]], quads[:, [0, 3, 2]]])


@dataclass(frozen=True)
class Arch:
    """Half an ellipse, open to the back, by its length from the middle, m."""

    half_width: float
    front: float
    back: float
    y: float  # of the biting edges

    def at(self, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Places (N, 3) and outward directions (N, 3); negative lengths lie to the person's right."""
        angles = np.linspace(0, np.pi / 2 * 1.05, ARCH_POINTS)
        x, z = self.half_width * np.sin(angles) ** 0.92, self.back + (self.front - self.back) * np.cos(angles)
        walked = np.concatenate([[0], np.cumsum(np.hypot(np.diff(x), np.diff(z)))])
        side, size = np.where(lengths < 0, -1.0, 1.0), np.abs(lengths)
        px, pz = np.interp(size, walked, x), np.interp(size, walked, z)
        tx, tz = (np.interp(size, walked, np.gradient(values)) for values in (x, z))
        norm = np.hypot(tx, tz)
        places = np.stack([side * px, np.full_like(px, self.y), pz], 1)
        return places, np.stack([-side * tz / norm, np.zeros_like(px), tx / norm], 1)

    @property
    def length(self) -> float:
        """From the middle to one end."""
        angles = np.linspace(0, np.pi / 2, ARCH_POINTS)
        x, z = self.half_width * np.sin(angles) ** 0.92, (self.front - self.back) * np.cos(angles)
        return float(np.hypot(np.diff(x), np.diff(z)).sum())


def _tooth(width: float, length: float, number: int, upper: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A rounded tooth: x across, y from the edge (0) to the gum (`length`), z outwards; surface (across, up)."""
    theta = np.linspace(0, 2 * np.pi, AROUND, endpoint=False)
    phi = np.linspace(-np.pi / 2, np.pi / 2, ALONG)
    phi, theta = np.meshgrid(phi, theta, indexing="ij")

    def power(value: np.ndarray, exponent: float) -> np.ndarray:
        return np.sign(value) * np.abs(value) ** exponent

    flat = 0.5
    ring = power(np.cos(phi), flat)
    x, z = ring * power(np.cos(theta), 0.55), ring * power(np.sin(theta), 0.8 if number < 3 else 0.6)
    y = (power(np.sin(phi), 0.62) + 1) / 2  # 0 at the edge
    depth = (3.4, 3.4, 4.6, 6.5, 7.0, 9.0, 9.0)[number] * 1e-3
    thin = np.clip(0.35 + 0.9 * y, 0, 1) if number < 3 else np.ones_like(y)
    neck = 1 - (0.20 if number < 3 else 0.10) * y**2
    x, z = x * width / 2 * neck, z * depth / 2 * thin
    z = z + (0.0004 if upper else 0.0002) * np.sin(np.pi * y) + (z > 0) * 0.0004
    edge = 0.0
    if number == 2:  # the canine comes to a point
        edge = 0.0012 * (np.abs(x) / (width / 2)) * (1 - y) ** 2
    if number > 2:  # a groove between the cusps
        edge = 0.0007 * (1 - y) ** 3 * np.exp(-((z / (0.25 * depth)) ** 2))
    if number < 2:  # corners rounded towards the side
        edge = 0.0007 * (np.clip(np.abs(x) / (width / 2), 0, 1) ** 4) * (1 - y)
    places = np.stack([x, y * length + edge, z], -1).reshape(-1, 3)
    surface = np.stack([np.abs(x) / (width / 2), y], -1).reshape(-1, 2)
    return places, grid_triangles(ALONG, AROUND, closed=True), surface


def _row(arch: Arch, upper: bool, random: np.random.Generator, traits: dict) -> list[Solid]:
    """One row of teeth and its gum."""
    widths, lengths = (UPPER_WIDTHS, UPPER_LENGTHS) if upper else (LOWER_WIDTHS, LOWER_LENGTHS)
    scale = arch.length * 0.98 / sum(widths)
    up, bone = (1.0, SKULL) if upper else (-1.0, JAW)
    solids, middles, tops = [], [], []
    for side in (-1, 1):
        walked = traits["gap"] / 2 if upper else 0.0
        for number, (width, length) in enumerate(zip(widths, lengths, strict=True)):
            width, length = width * scale, length * 1e-3 * traits["length"]
            middle = side * (walked + width / 2)
            walked += width
            place, outward = (values[0] for values in arch.at(np.array([middle])))
            if random.random() < traits["missing"] and number > 2:
                continue
            tooth, triangles, surface = _tooth(width * random.uniform(0.955, 0.99), length, number, upper)
            turn, tilt = random.normal(0, traits["crooked"], 2) * (0.22, 0.1)
            across = np.array((outward[2], 0, -outward[0]))
            across, outward = (
                across * np.cos(turn) + outward * np.sin(turn),
                outward * np.cos(turn) - across * np.sin(turn),
            )
            vertical = np.array((0, up, 0)) + across * tilt - outward * (0.16 if upper else 0.10)
            place[1] += up * (random.normal(0, 0.00025) + (0.0007 if number == 1 and upper else 0))
            place = place + outward * random.normal(0, traits["crooked"]) * 0.0007
            places = place + tooth[:, :1] * across + tooth[:, 1:2] * vertical + tooth[:, 2:] * outward
            shade = np.clip(1.15 - 0.62 * surface[:, 0] ** 5, 0.3, 1) * random.uniform(0.94, 1.0)
            solid = Solid.of(places, triangles, surface, TOOTH, bone, shade * (1 - 0.05 * number))
            solids.append(solid)
            middles.append(middle)
            tops.append(length)
    for inner in (False, True):
        solids.append(_gum(arch, up, bone, np.array(middles), np.array(tops), traits, inner))
    return solids


def _gum(arch: Arch, up: float, bone: int, middles: np.ndarray, tops: np.ndarray, traits: dict, inner: bool) -> Solid:
    """The gum before or (`inner`) behind the roots: its edge rises over every tooth and comes down between them."""
    lengths = np.linspace(-arch.length * 0.95, arch.length * 0.95, 97)
    nearest = np.abs(lengths[:, None] - middles[None]).argmin(1)
    spacing = np.abs(np.diff(np.sort(middles))).mean()
    between = np.clip(np.abs(lengths - middles[nearest]) / (spacing / 2), 0, 1)
    margin = (
        np.interp(lengths, np.sort(middles), tops[np.argsort(middles)]) * (0.86 - 0.30 * between**3) * traits["gum"]
    )
    places, outward = arch.at(lengths)
    profile = ((0.0, -0.9), (0.0006, 1.3), (0.0022, 2.0), (0.006, 2.4), (0.011, 2.0), (0.014, 0.5))  # up m, out mm
    rows = []
    behind = np.interp(np.abs(lengths) / arch.length, (0, 0.45, 1), (0.0045, 0.0075, 0.0095))[:, None]
    for rise, out in profile:
        reach = out * 1e-3 + 0.8e-3 - 0.9e-3 * between[:, None] ** 2
        row = places - outward * (behind / 2 + reach) if inner else places + outward * reach
        row = row - outward * 0.14 * (margin + rise)[:, None]
        rows.append(row + np.stack([np.zeros_like(margin), up * (margin + rise), np.zeros_like(margin)], 1))
    surface = np.stack(
        [np.broadcast_to(lengths / arch.length, (6, 97)), np.broadcast_to(np.linspace(0, 1, 6)[:, None], (6, 97))], -1
    )
    solid = Solid.of(np.concatenate(rows), grid_triangles(6, 97), surface.reshape(-1, 2), GUM, bone, 0.95)
    if not inner:
        return solid
    turned = solid.vertices.copy()  # seen from within
    turned[:, 3:6] *= -1
    return Solid(turned, np.ascontiguousarray(solid.triangles[:, ::-1]))


def _tongue(arch: Arch) -> Solid:
    """A tongue that lies within the lower row; surface: (across -1..1, along 0 root .. 1 tip)."""
    rows, around = 24, 20
    along = np.linspace(0, 1, rows)[:, None]
    angle = np.linspace(0, 2 * np.pi, around, endpoint=False)[None]
    round_off = np.sqrt(np.clip(1 - np.clip((along - 0.62) / 0.385, 0, 1) ** 2, 0, 1))
    half_width = arch.half_width * (0.93 - 0.14 * along) * round_off + 1e-5
    half_height = 0.0085 * (1 - 0.45 * along) * round_off + 1e-5
    x = half_width * np.cos(angle)
    arched = 0.0045 * np.sin(np.pi * np.clip(along * 0.85 + 0.1, 0, 1)) - 0.003
    y = half_height * np.sin(angle) + arched
    y = y - 0.0017 * np.exp(-((np.cos(angle) / 0.16) ** 2)) * (np.sin(angle) > 0) * round_off  # the furrow
    z = arch.back - 0.004 + (arch.front - 0.0085 - arch.back + 0.004) * along + 0 * angle
    places = np.stack([x, arch.y - 0.0052 + y, z], -1).reshape(-1, 3)
    surface = np.stack([np.cos(angle) + 0 * along, along + 0 * angle], -1).reshape(-1, 2)
    return Solid.of(places, grid_triangles(rows, around, closed=True), surface, TONGUE, TONGUE_BONE, 0.9)


def mouth_solids(upper: np.ndarray, lower: np.ndarray, lip_line: float, seed: int) -> Solid:
    """Teeth, gums and tongue of one person.

    upper, lower  (N, 3) m: the mesh's own rows of teeth of this person at rest, which say how wide the arches are
    lip_line      m: height at which the lips meet
    seed          of the person: gaps, crooked and missing teeth, gums
    """
    random = np.random.default_rng([seed, 3])
    traits = {
        "gap": random.uniform(0.3e-3, 2.2e-3) if random.random() < 0.15 else 0.1e-3,
        "crooked": random.uniform(0, 1) ** 2 * 1.2,
        "missing": 0.25 if random.random() < 0.05 else 0.0,
        "length": random.uniform(0.85, 1.1),
        "gum": random.uniform(0.88, 1.06),
    }
    half_width, front, back = np.abs(upper[:, 0]).max(), upper[:, 2].max(), upper[:, 2].min()
    edge = lip_line - random.uniform(0.0016, 0.0042)
    above = Arch(half_width * 0.86, front - 0.0040, back, edge)
    overbite = random.uniform(0.0002, 0.0018)
    below = Arch(half_width * 0.80, front - 0.0070 - random.uniform(0, 0.0012), back, edge + overbite)
    return Solid.joined([*_row(above, True, random, traits), *_row(below, False, random, traits), _tongue(below)])


def eye_solids(centres: np.ndarray, radii: np.ndarray) -> Solid:
    """Both eyeballs, looking straight ahead; the surface is (angle from the axis of sight, angle around it), rad.

    centres  (2, 3) m, left then right
    radii    (2,) m
    """
    rows, around = 22, 24
    angle = np.pi * 0.62 * np.linspace(0, 1, rows) ** 1.15
    turn = np.linspace(-np.pi, np.pi, around + 1)
    angle, turn = np.meshgrid(angle, turn, indexing="ij")
    unit = np.stack([np.sin(angle) * np.cos(turn), np.sin(angle) * np.sin(turn), np.cos(angle)], -1).reshape(-1, 3)
    angle, turn = angle.reshape(-1), turn.reshape(-1)
    rise = 0.055 * np.clip(1 - (angle / CORNEA) ** 2, 0, 1)  # the cornea stands out
    lean = np.where(angle < CORNEA, 0.10 * np.sin(np.pi * angle / CORNEA), 0)
    normals = unit + lean[:, None] * np.stack([np.cos(turn), np.sin(turn), np.zeros_like(turn)], -1)
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    solids = []
    for centre, radius, bone in zip(centres, radii, (LEFT_EYE, RIGHT_EYE), strict=True):
        places = centre + unit * (radius * (1 + rise))[:, None]
        surface = np.stack([angle, turn], 1)
        lid_shadow = np.clip(1.1 - 0.9 * np.clip(unit[:, 1] - 0.05, 0, 1) * 1.6, 0.25, 1)
        solids.append(Solid.of(places, grid_triangles(rows, around + 1), surface, EYE, bone, lid_shadow, normals))
    return Solid.joined(solids)


def tube(
    line: np.ndarray, radius: float | np.ndarray, closed: bool, sides: int = 6
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Places, normals and triangles of a tube along a line (N, 3)."""
    ahead = np.roll(line, -1, 0) - np.roll(line, 1, 0) if closed else np.gradient(line, axis=0)
    ahead /= np.linalg.norm(ahead, axis=1, keepdims=True) + 1e-9
    help_ = np.where(np.abs(ahead[:, 2:]) > 0.9, (0, 1.0, 0), (0, 0, 1.0))
    first = np.cross(ahead, help_)
    first /= np.linalg.norm(first, axis=1, keepdims=True) + 1e-9
    second = np.cross(ahead, first)
    angle = np.linspace(0, 2 * np.pi, sides, endpoint=False)[None, :, None]
    normals = np.cos(angle) * first[:, None] + np.sin(angle) * second[:, None]
    places = line[:, None] + normals * np.broadcast_to(radius, len(line))[:, None, None]
    if closed:
        places, normals = (np.concatenate([values, values[:1]]) for values in (places, normals))
    return places.reshape(-1, 3), normals.reshape(-1, 3), grid_triangles(len(places), sides, closed=True)


def glasses_solid(kind: str, size: float, centres: np.ndarray, front: np.ndarray, ears: np.ndarray) -> Solid:
    """Glasses of a kind ("round", "square", "rimless").

    size     1 is usual
    centres  (2, 3) m of the eyes, left then right
    front    (2,) m: the plane of the lenses' z, and the bridge of the nose's y
    ears     (2, 3) m: where the temples end
    """
    angle = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    power = {"round": 1.0, "square": 0.42, "rimless": 0.6}[kind]
    shape = np.stack(
        [
            np.sign(np.cos(angle)) * np.abs(np.cos(angle)) ** power,
            np.sign(np.sin(angle)) * np.abs(np.sin(angle)) ** power,
        ],
        1,
    )
    half = np.array((0.0235, 0.0205 if kind == "round" else 0.0175)) * size
    thick = 0.0004 if kind == "rimless" else 0.0013
    solids = []
    for centre, side, ear in zip(centres, (1, -1), ears, strict=True):
        middle = np.array((centre[0] + side * 0.0015, centre[1] - 0.003, front[0]))
        rim = np.zeros((len(angle), 3))
        rim[:, :2] = shape * half
        rim[:, 2] = -0.10 * np.abs(rim[:, 0]) * (rim[:, 0] * side > 0)  # the frame follows the face
        rim += middle
        places, normals, triangles = tube(rim, thick, closed=True)
        solids.append(Solid.of(places, triangles, 0, FRAME, SKULL, 1, normals))
        fan = np.concatenate([[middle + np.array((0, 0, 0.0006))], rim])
        outer = np.arange(len(angle))
        triangles = np.stack([np.zeros_like(outer), outer + 1, (outer + 1) % len(angle) + 1], 1)
        bulge = np.concatenate([[[0, 0, 1.0]], np.concatenate([shape * 0.14, np.ones((len(angle), 1))], 1)])
        bulge /= np.linalg.norm(bulge, axis=1, keepdims=True)
        solids.append(Solid.of(fan, triangles, 0, LENS, SKULL, 1, bulge))
        hinge = middle + np.array((side * half[0], half[1] * 0.45, -0.0023))
        temple = np.linspace(hinge, ear, 12)
        temple[:, 0] += side * 0.006 * np.sin(np.linspace(0, np.pi, 12))
        places, normals, triangles = tube(temple, max(thick, 0.001), closed=False)
        solids.append(Solid.of(places, triangles, 0, FRAME, SKULL, 1, normals))
    inner = [
        np.array((centre[0] + side * 0.0015 - side * half[0], front[1], front[0]))
        for centre, side in zip(centres, (1, -1), strict=True)
    ]
    bridge = np.linspace(inner[0], inner[1], 10)
    bridge[:, 1] += 0.004 * np.sin(np.linspace(0, np.pi, 10))
    places, normals, triangles = tube(bridge, max(thick, 0.001), closed=False)
    solids.append(Solid.of(places, triangles, 0, FRAME, SKULL, 1, normals))
    return Solid.joined(solids)
