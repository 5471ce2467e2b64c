"""Eyes and glasses of a person, as triangles."""

import numpy as np

from .mouth import EYE, FRAME, LEFT_EYE, LENS, RIGHT_EYE, SKULL, Solid, grid_triangles

CORNEA = 0.475  # rad: how far from the axis of sight the iris ends


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
