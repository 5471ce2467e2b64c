"""A person with a mesh: places of skin, lips, teeth and eyes for every expression."""

import re
from dataclasses import dataclass

import numpy as np
from scipy import sparse

from .hair import beard_zone, cloth_zone, hair_solid, scalp_zone
from .head_mesh import LOWER_TEETH, UPPER_TEETH, HeadMesh
from .people import Person
from .solids import Solid, eye_solids, glasses_solid, mouth_solids
from .things import Thing
from .transforms import about, rigid, rotation

SCALP_FUR = {"buzz": 0.005}  # m: other cuts are ribbons


class Measures:
    """What is known of the mesh itself: its expressions, and which vertices are lips, eyes and teeth."""

    def __init__(self, mesh: HeadMesh, matrix):
        self.mesh, self.matrix = mesh, matrix
        self.expressions = sorted(
            name
            for name in mesh.shapes
            if re.fullmatch(r"(brow|cheek|eye|jaw|mouth|nose|tongue)[A-Z]\w*", name) or name == "tongueOut"
        )
        self.moves = np.stack([mesh.shapes[name] for name in self.expressions])
        vertices = mesh.vertices
        self.rest = matrix @ vertices
        self.upper_teeth, self.lower_teeth = mesh.of_part(UPPER_TEETH), mesh.of_part(LOWER_TEETH)
        triangles = mesh.corners[mesh.triangles[mesh.part == 1]]
        eyes = np.unique(triangles)
        self.eyes = [eyes[vertices[eyes, 0] > 0], eyes[vertices[eyes, 0] < 0]]
        # Lips on the fine skin: the red ones of the middle; the jaw takes the lower ones along.
        places = (mesh.uv * (len(mesh.masks) - 1)).astype(int)
        red = np.zeros(len(vertices))
        red[mesh.corners] = mesh.masks[places[:, 1].clip(0, 1023), places[:, 0].clip(0, 1023), 0] / 255
        red = matrix @ red
        falls = -(matrix @ mesh.shapes["jawOpen"])[:, 1]
        lips = np.flatnonzero(red > 0.5)
        middle = lips[np.abs(self.rest[lips, 0]) < 0.0015]
        lower, upper = (middle[falls[middle] > 0.012], middle[falls[middle] < 0.005])
        self.inner_lower = lower[self.rest[lower, 1].argmax()]
        self.inner_upper = upper[self.rest[upper, 1].argmin()]
        self.corners = [lips[self.rest[lips, 0].argmax()], lips[self.rest[lips, 0].argmin()]]
        self.lips = lips
        # Pairs of inner lips, from the middle to the side, by which a mouth is closed at rest.
        self.pairs = []
        for x in np.arange(0, 0.0205, 0.004):
            column = lips[np.abs(np.abs(self.rest[lips, 0]) - x) < 0.0018]
            drop = falls[column] / falls[column].max()
            upper, lower = column[drop < 0.35], column[drop > 0.65]
            if len(upper) and len(lower):
                pair = upper[self.rest[upper, 1].argmin()], lower[self.rest[lower, 1].argmax()]
                self.pairs.append((float(x), *pair))
        coarse_falls = -mesh.shapes["jawOpen"][:, 1]
        line = float(self.rest[[self.inner_upper, self.inner_lower], 1].mean())
        near = (
            np.exp(-(((vertices[:, 1] - line) / 0.007) ** 2))
            * (np.abs(vertices[:, 0]) < 0.024)
            * (vertices[:, 2] > 0.12)
        )
        share = np.clip(coarse_falls / 0.030, 0, 1)
        self.raises = near * share  # (V,) how far the lower lip's surroundings go along when it is raised
        self.lowers = near * np.clip(1 - coarse_falls / 0.008, 0, 1)
        self.followed = [self.inner_upper, self.inner_lower, *self.corners]
        rows = matrix[self.followed]
        self.lip_moves = np.stack([rows @ move for move in self.moves])  # (K, 4, 3)


@dataclass(frozen=True)
class Pose:
    """A person's mesh with one expression; see Dressed.pose."""

    mesh: np.ndarray
    places: np.ndarray
    normals: np.ndarray
    bones: list[np.ndarray]
    mouth_middle: np.ndarray
    mouth_size: np.ndarray
    tongue: np.ndarray


class Dressed:
    """A person with a mesh, solids and all that is worked out once.

    Head space: m, the middle between the eyes is the origin; x to the person's left, y up, z forward.
    """

    def __init__(self, person: Person, measures: Measures, template: np.ndarray, triangles: np.ndarray):
        self.person, self._measures = person, measures
        mesh = measures.mesh
        vertices = mesh.vertices.copy()
        for name, weight in person.weights(mesh.shapes.keys()).items():
            vertices += np.float32(weight) * mesh.shapes[name]
        vertices = _closed(vertices, measures)
        centres = [(vertices[eye].max(0) + vertices[eye].min(0)) / 2 for eye in measures.eyes]
        vertices -= (centres[0] + centres[1]) / 2
        self.vertices = vertices
        self.eyes = np.stack([(vertices[eye].max(0) + vertices[eye].min(0)) / 2 for eye in measures.eyes])
        radii = np.array([np.ptp(vertices[eye], 0)[:2].mean() / 2 for eye in measures.eyes])
        self.scale = float(np.linalg.norm(self.eyes[0] - self.eyes[1]))
        self._triangles = mesh.corners[mesh.triangles]
        self._adjacency = _adjacency(self._triangles, len(vertices))
        look = person.look
        self.scalp = scalp_zone(template, look["hairline"])
        self.beard = beard_zone(template, person.description["beard"])
        self.brow = (
            (np.abs(template[:, 1] - 0.7435) < 0.012) & (template[:, 2] > 0.09) & (np.abs(template[:, 0]) < 0.056)
        )
        self.cloth = cloth_zone(template)
        places = measures.matrix @ vertices
        normals = self._normals(vertices)
        self.rest_lips = places[measures.followed]
        self.fur_lengths = np.array(
            (
                SCALP_FUR.get(person.description["cut"], 0.0),
                0.0016,
                person.beard_reach,
            ),
            np.float32,
        )
        self._places = places
        self.openness = _openness(places, normals)
        lip_line = float(self.rest_lips[:2, 1].mean())
        front = places[:, 2][(np.abs(places[:, 0]) < 0.035) & (np.abs(places[:, 1] + 0.005) < 0.02)].max()
        solids = [
            eye_solids(self.eyes, radii),
            mouth_solids(vertices[measures.upper_teeth], vertices[measures.lower_teeth], lip_line, person.identity),
            *hair_solid(person, places, normals, triangles, self.scalp),
        ]
        if person.description["glasses"] != "none":
            ear = np.stack([places[np.abs(template - (side * 0.080, 0.722, 0.05)).sum(1).argmin()] for side in (1, -1)])
            plane = np.array((front + 0.004, self.eyes[:, 1].mean() + 0.002))
            solids.append(glasses_solid(person.description["glasses"], look["lens_size"], self.eyes, plane, ear))
        self.solid = Solid.joined(solids)

    def _normals(self, vertices: np.ndarray) -> np.ndarray:
        """(N, 3) unit normals of the fine skin."""
        a, b, c = (vertices[self._triangles[:, i]] for i in range(3))
        fine = self._measures.matrix @ (self._adjacency @ np.cross(b - a, c - a))
        return fine / (np.linalg.norm(fine, axis=1, keepdims=True) + 1e-12)

    def thing(self, thing: Thing) -> Solid:
        """A thing before this person's mouth."""
        top = float(self.eyes[:, 1].mean()) - 0.020
        return thing.solid(self.person, self._places, self.rest_lips.mean(0), top)

    def lips(self, weights: np.ndarray) -> np.ndarray:
        """(F, 3) float32 opening, spread, rounding; see Film."""
        moved = self.rest_lips + np.einsum("fk,kpc->fpc", weights, self._measures.lip_moves)
        upper, lower, left, right = moved.transpose(1, 0, 2)
        rest_upper, rest_lower, rest_left, rest_right = self.rest_lips
        gap = np.linalg.norm(upper - lower, axis=1) * np.sign(upper[:, 1] - lower[:, 1])
        opening = np.clip(gap - np.linalg.norm(rest_upper - rest_lower), 0, None) / self.scale
        spread = np.linalg.norm(left - right, axis=1) / np.linalg.norm(rest_left - rest_right)
        forward = (upper[:, 2] - rest_upper[2]) / self.scale
        rounding = np.clip(forward * 2 + np.clip(1 - spread, 0, None), 0, None)
        return np.stack([opening, spread, rounding], 1).astype(np.float32)

    def pose(self, weights: np.ndarray, gaze: np.ndarray) -> Pose:
        """The mesh with expressions of these weights (K,) and the eyes turned by `gaze` (2,) rad."""
        measures = self._measures
        used = np.flatnonzero(np.abs(weights) > 1e-4)
        moves = measures.moves.reshape(len(measures.moves), -1)
        vertices = self.vertices + (weights[used] @ moves[used]).reshape(-1, 3) if len(used) else self.vertices
        places = measures.matrix @ vertices
        normals = self._normals(vertices)
        places = places + normals * (self.cloth * 0.006)[:, None]
        jaw = rigid(self.vertices[measures.lower_teeth], vertices[measures.lower_teeth])
        upper, lower, left, right = places[measures.followed]
        middle = np.array(((left[0] + right[0]) / 2, (upper[1] + lower[1]) / 2, (upper[2] + lower[2]) / 2 - 0.004))
        rest_gap = np.linalg.norm(self.rest_lips[0] - self.rest_lips[1])
        height = max(np.linalg.norm(upper - lower) - rest_gap * 0.6, 0.0002) / 2
        size = np.array((np.linalg.norm(left - right) / 2 * 0.8, height))
        named = dict(zip(measures.expressions, weights, strict=True))
        out = named["tongueOut"]
        tongue = np.array(
            (0.016 * out, 0.008 * out - 0.002 * named["jawOpen"], 0.15 * named["mouthFunnel"] + 0.1 * out)
        )
        eyes = [about(centre, rotation(1, gaze[0]) @ rotation(0, -gaze[1])) for centre in self.eyes]
        return Pose(vertices, places, normals, [np.eye(4), jaw, jaw, *eyes], middle, size, tongue)


def _closed(vertices: np.ndarray, measures: Measures) -> np.ndarray:
    """The mesh (V, 3) with lips that touch: shapes of the lips may have left a gap."""
    x, gaps = [], []
    for place, upper, lower in measures.pairs:
        above, below = measures.matrix[[upper, lower]] @ vertices
        usual = measures.rest[upper, 1] - measures.rest[lower, 1]
        x.append(place)
        gaps.append(above[1] - below[1] - min(usual, 0.0002))
    gap = np.interp(np.abs(measures.mesh.vertices[:, 0]), [*x, 0.024], [*gaps, 0])
    gap = np.clip(gap, 0, 0.006).astype(np.float32)
    vertices = vertices.copy()
    vertices[:, 1] += gap * (0.65 * measures.raises - 0.35 * measures.lowers)
    return vertices


def _adjacency(triangles: np.ndarray, count: int):
    """(V, T) sparse: sums what belongs to the triangles about each vertex."""

    numbers = np.repeat(np.arange(len(triangles)), 3)
    return sparse.csr_matrix(
        (np.ones(3 * len(triangles), np.float32), (triangles.reshape(-1), numbers)), (count, len(triangles))
    )


def _openness(places: np.ndarray, normals: np.ndarray, directions: int = 48, cells: int = 96) -> np.ndarray:
    """(N,) 0..1: how much of the light from everywhere reaches each place, by grids of depths from many directions."""
    golden = np.arange(directions) + 0.5
    height, turn = 1 - 2 * golden / directions, golden * 2.399963
    rays = np.stack([np.sqrt(1 - height**2) * np.cos(turn), height, np.sqrt(1 - height**2) * np.sin(turn)], 1)
    total, free = np.zeros(len(places)), np.zeros(len(places))
    for ray in rays:
        side = np.cross(ray, (0.3, 1, 0.2))
        side /= np.linalg.norm(side)
        plane = places @ np.stack([side, np.cross(ray, side)], 1)
        depth, facing = places @ ray, np.clip(normals @ ray, 0, None)
        cell = ((plane + 0.25) / 0.5 * cells).astype(int).clip(0, cells - 1)
        cell = cell[:, 0] * cells + cell[:, 1]
        nearest = np.full(cells * cells, -1e9)
        np.maximum.at(nearest, cell, depth)
        hidden = np.clip((nearest[cell] - depth - 0.012) / 0.008, 0, 1)
        total += facing
        free += facing * (1 - hidden)
    return np.clip(free / (total + 1e-6), 0.08, 1)
