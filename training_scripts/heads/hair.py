"""Hair of the head as ribbons of strands; where on the skin hair, beard and clothes are."""

from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

from .people import Person
from .solids import HAIR, SKULL, Solid

HAIRLINE = np.array(  # degrees from the front to the back, height of the hairline in the template, m
    (
        (0, 0.802),
        (25, 0.800),
        (42, 0.788),
        (55, 0.772),
        (70, 0.742),
        (85, 0.712),
        (100, 0.705),
        (125, 0.672),
        (180, 0.664),
    )
)
FACE_EDGE = 0.064  # m from the middle: hair that hangs stays outside of it


@dataclass(frozen=True)
class Cut:
    """How hair grows and falls: see hair_solid."""

    ribbons: int
    length: tuple[float, float]  # m, from .. to, by person
    lift: float  # how much it stands off the skin, 0..1
    weight: float  # how soon it falls
    body: float  # m between the skin and the outermost hair
    comb: str  # where it is combed: "forward", "back", "aside", "down", "out"
    curl: float = 0.0  # m
    width: float = 0.009  # m of a ribbon
    steps: int = 7


CUTS = {
    "short": Cut(520, (0.016, 0.030), 0.55, 0.1, 0.008, "forward"),
    "swept": Cut(560, (0.05, 0.09), 0.3, 0.35, 0.014, "back"),
    "parted": Cut(560, (0.05, 0.10), 0.45, 0.4, 0.014, "aside"),
    "fringe": Cut(620, (0.06, 0.15), 0.3, 0.7, 0.012, "forward"),
    "bob": Cut(640, (0.14, 0.22), 0.25, 0.9, 0.014, "aside", width=0.011, steps=9),
    "long": Cut(640, (0.24, 0.36), 0.25, 0.9, 0.014, "aside", width=0.012, steps=12),
    "tied": Cut(560, (0.10, 0.14), 0.1, 0.0, 0.006, "back", steps=8),
    "curly": Cut(620, (0.05, 0.13), 0.7, 0.4, 0.03, "out", curl=0.006, width=0.008, steps=10),
    "afro": Cut(760, (0.03, 0.065), 1.0, 0.0, 0.06, "out", curl=0.005, width=0.010, steps=6),
}


def _step(start: float, end: float, value: np.ndarray) -> np.ndarray:
    """0 at `start`, 1 at `end`, smooth between."""
    share = np.clip((value - start) / (end - start), 0, 1)
    return share * share * (3 - 2 * share)


def scalp_zone(template: np.ndarray, hairline: float) -> np.ndarray:
    """(N,) float32 0..1: where hair grows on the head; `hairline` about -1 low .. 1.6 receding."""
    x, y, z = np.abs(template[:, 0]), template[:, 1], template[:, 2]
    turn = np.degrees(np.arctan2(x, z - 0.045))
    line = np.interp(turn, HAIRLINE[:, 0], HAIRLINE[:, 1])
    line = line + 0.012 * np.clip(hairline, -1, 1.6) * np.clip(1 - turn / 57, 0, 1)
    ear = (x > 0.0745) & (y < 0.735)
    return (np.clip(0.5 + (y - line) / 0.010, 0, 1) * ~ear).astype(np.float32)


def beard_zone(template: np.ndarray, kind: str) -> np.ndarray:
    """(N,) float32 0..1: where a beard of this kind grows; for "none", where it is shaved."""
    x, y, z = np.abs(template[:, 0]), template[:, 1], template[:, 2]
    front = _step(0.09, 0.12, z)
    moustache = _step(0.6835, 0.6785, y - 0.12 * np.clip(x - 0.004, 0, 1)) * _step(0.036, 0.028, x) * front
    moustache *= _step(0.655, 0.662, y + 0.3 * np.clip(x - 0.02, 0, 1))
    goatee = (
        _step(0.026, 0.018, x - 0.2 * np.clip(0.650 - y, 0, 1)) * _step(0.652, 0.646, y) * _step(0.60, 0.612, y) * front
    )
    link = _step(0.024, 0.027, x) * _step(0.036, 0.031, x) * _step(0.682, 0.672, y) * _step(0.62, 0.64, y) * front
    top = 0.672 + np.clip(x - 0.03, 0, 1) * 0.85
    sides = _step(0.004, -0.006, y - top) * _step(0.028, 0.038, x) * _step(0.02, 0.04, z) * (x < 0.0735)
    sides *= _step(0.60, 0.616, y + 0.25 * np.clip(z - 0.05, 0, 1))
    jaw = _step(0.652, 0.640, y) * _step(0.604, 0.622, y + 0.10 * z) * _step(0.03, 0.05, z)
    if kind == "moustache":
        zone = moustache
    elif kind == "goatee":
        zone = np.maximum.reduce([moustache, goatee, link * 0.9])
    elif kind == "chinstrap":
        zone = np.maximum(jaw * _step(0.640, 0.630, y), sides * _step(0.05, 0.058, x))
    else:
        zone = np.maximum.reduce([moustache, goatee, link, sides, jaw])
    return zone.astype(np.float32)


def cloth_zone(template: np.ndarray) -> np.ndarray:
    """(N,) float32 0..1: what is dressed; the edge of the collar is at 0.5."""
    x, y, z = np.abs(template[:, 0]), template[:, 1], template[:, 2]
    neck = 0.578 + 0.06 * np.clip(x - 0.05, 0, 0.2) - 0.10 * np.clip(z, 0, 1)
    return np.clip(0.5 + (neck - y) / 0.012, 0, 1).astype(np.float32)


def _unit(vectors: np.ndarray) -> np.ndarray:
    """(N, 3) of length 1."""
    return vectors / (np.linalg.norm(vectors, axis=-1, keepdims=True) + 1e-9)


def _combed(kind: str, roots: np.ndarray, part: float, random: np.random.Generator) -> np.ndarray:
    """(N, 3) which way the hair is combed at each root."""
    away = np.sign(roots[:, 0] - part)
    away[away == 0] = 1
    zero = np.zeros(len(roots))
    if kind == "forward":
        aside = 0.35 * np.sign(part or 1)
        front = roots[:, 2] > -0.10
        way = np.stack([zero + aside, np.where(front, -0.15, -1.0), np.where(front, 1.0, -0.1)], 1)
    elif kind == "back":
        way = np.stack([0.25 * roots[:, 0] / 0.07, zero - 0.1, zero - 1], 1)
    elif kind == "aside":
        # Away from the parting and back, so that the face stays free.
        way = np.stack([away, zero - 0.35, np.where(roots[:, 2] > -0.08, -0.25, -0.8)], 1)
    elif kind == "out":
        way = random.normal(0, 0.5, (len(roots), 3))
    else:
        way = np.stack([zero, zero - 1, zero], 1)
    return _unit(way + random.normal(0, 0.12, way.shape))


def hair_solid(
    person: Person, places: np.ndarray, normals: np.ndarray, triangles: np.ndarray, scalp: np.ndarray
) -> list[Solid]:
    """The hair of a person's cut as ribbons; an empty list where only the skin is painted.

    places, normals  (N, 3) of the skin at rest, m, the eyes' middle at the origin
    triangles        (T, 3) of the skin
    scalp            (N,) 0..1 where hair grows
    """
    cut = CUTS.get(person.description["cut"])
    if cut is None:
        return []
    random = np.random.default_rng([person.identity, 4])
    corners = places[triangles]
    area = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1)
    area = area * (scalp[triangles].min(1) > 0.5)
    chosen = random.choice(len(triangles), cut.ribbons, p=area / area.sum())
    shares = random.dirichlet((1, 1, 1), cut.ribbons)[..., None]
    roots, outward = (corners[chosen] * shares).sum(1), _unit((normals[triangles[chosen]] * shares).sum(1))
    look = person.look
    part = random.choice((-1, 1)) * random.uniform(0.0, 0.03)
    way = _combed(cut.comb, roots, part, random)
    way = way - outward * (way * outward).sum(1, keepdims=True)  # along the skin
    lift = cut.lift * random.uniform(0.6, 1.3)
    lengths = random.uniform(*cut.length) * random.uniform(0.8, 1.1, cut.ribbons)
    if cut.comb == "forward":  # behind the ears and at the nape it is cut short
        lengths = np.where(roots[:, 2] < -0.10, np.minimum(lengths, 0.03 + 0.6 * np.clip(roots[:, 1], 0, 1)), lengths)
    clearance = 0.0015 + cut.body * look["thickness"] * random.random(cut.ribbons) ** 0.7
    head = (places[:, 1] > -0.14) & (scalp >= 0)
    tree, skin, skin_out = cKDTree(places[head]), places[head], normals[head]
    curtain = FACE_EDGE + random.uniform(0, 0.012, cut.ribbons)
    fringe = person.description["cut"] in ("fringe", "short")
    direction = _unit(_unit(way) + outward * lift)
    line = [roots - outward * 0.001]
    pace = lengths / (cut.steps - 1)
    curl, phase = cut.curl + 0.004 * look["wave"] * (cut.length[1] > 0.09), random.uniform(0, 6.3, cut.ribbons)
    for step in range(1, cut.steps):
        direction = _unit(direction + np.array((0, -cut.weight, 0)) * (0.35 + 0.1 * step) + 0.25 * way * (step < 4))
        place = line[-1] + direction * pace[:, None]
        share = step / cut.steps
        place = place + curl * share * np.stack(
            [np.cos(phase + 2.2 * step), 0.4 * np.sin(phase + 1.7 * step), np.sin(phase + 2.2 * step)], 1
        )
        _, near = tree.query(place)
        height = ((place - skin[near]) * skin_out[near]).sum(1)
        wanted = clearance * min(1, step / 2)
        # Hair that is tied lies on the head; other hair must only not go into it.
        off = wanted - height if person.description["cut"] == "tied" else np.clip(wanted - height, 0, None)
        place = place + skin_out[near] * off[:, None]
        if not fringe:  # hair that hangs frames the face
            low = (place[:, 1] < 0.045) & (place[:, 2] > -0.06)
            side = np.where(place[:, 0] < 0, -1, 1)
            place[:, 0] = np.where(low & (np.abs(place[:, 0]) < curtain), side * curtain, place[:, 0])
            place[:, 2] = np.where(low, np.minimum(place[:, 2], -0.015 - 0.03 * share), place[:, 2])
        elif step > 1:  # a fringe ends above the eyes
            eyes = (place[:, 2] > -0.02) & (place[:, 1] < 0.022)
            place = np.where(eyes[:, None], line[-1] + (0, 0, 0.0005), place)
        direction = _unit(place - line[-1])
        line.append(place)
    lines = np.stack(line, 1)
    order = np.argsort(-np.linalg.norm(lines[:, -1] - roots.mean(0), axis=1))  # the outermost first: they hide others
    solids = [
        _ribbons(
            lines[order], outward[order], cut.width * random.uniform(0.8, 1.2, cut.ribbons), tree, skin_out, random
        )
    ]
    if person.description["cut"] == "tied":
        solids.append(_knot(places, scalp, random))
    return solids


def _ribbons(
    lines: np.ndarray, outward: np.ndarray, widths: np.ndarray, tree: cKDTree, skin_out: np.ndarray, random
) -> Solid:
    """Ribbons along lines (R, P, 3), lying flat over the head."""
    count, steps, _ = lines.shape
    along = _unit(np.gradient(lines, axis=1))
    _, near = tree.query(lines.reshape(-1, 3))
    up = skin_out[near].reshape(count, steps, 3)
    side = _unit(np.cross(along, up))
    normal = _unit(np.cross(side, along))
    taper = np.interp(np.linspace(0, 1, steps), (0, 0.3, 1), (0.7, 1, 0.75))[None, :, None]
    reach = side * (widths[:, None, None] / 2 * taper)
    bulge = normal * (widths[:, None, None] * 0.12)
    places = np.stack([lines - reach, lines + bulge, lines + reach], 2)
    normals = np.stack([_unit(normal - 0.5 * side), normal, _unit(normal + 0.5 * side)], 2)
    across = np.broadcast_to(np.array((-1.0, 0.0, 1.0)), (count, steps, 3))
    down = np.broadcast_to(np.linspace(0, 1, steps)[None, :, None], (count, steps, 3))
    row = (np.arange(steps - 1) * 3)[:, None] + np.arange(2)
    quads = np.stack([row, row + 3, row + 4, row + 1], -1).reshape(-1, 4)
    one = np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]])
    triangles = (one[None] + (np.arange(count) * steps * 3)[:, None, None]).reshape(-1, 3)
    shade = np.broadcast_to(random.random((count, 1, 1)), (count, steps, 3))
    return Solid.of(
        places.reshape(-1, 3),
        triangles,
        np.stack([across, down], -1).reshape(-1, 2),
        HAIR,
        SKULL,
        shade.reshape(-1),
        normals.reshape(-1, 3),
        np.repeat(along[:, :, None], 3, 2).reshape(-1, 3),
    )


def _knot(places: np.ndarray, scalp: np.ndarray, random: np.random.Generator) -> Solid:
    """A bun at the back of the head."""
    hairy = places[scalp > 0.5]
    level = random.uniform(0.0, 0.07)
    band = hairy[np.abs(hairy[:, 1] - level) < 0.02]
    back = band[band[:, 2].argmin()]
    middle, radius = np.array((0, level, back[2] - 0.012)), random.uniform(0.024, 0.036)
    turns, steps = 70, 9
    start = random.uniform(0, 6.3, turns)[:, None]
    tilt = random.normal(0, 0.5, turns)[:, None]
    angle = start + np.linspace(0, 2.4, steps)[None]
    ring = np.stack(
        [np.cos(angle) * np.cos(tilt), np.sin(angle) * np.cos(tilt), np.broadcast_to(np.sin(tilt), angle.shape)], -1
    )
    lines = middle + ring * radius * np.array((1, 1, 0.8))
    sphere = _unit(ring.reshape(-1, 3))
    return _ribbons(lines, sphere, np.full(turns, 0.012), cKDTree(lines.reshape(-1, 3)), sphere, random)
