"""Turns and shifts of places in space, as (4, 4) matrices."""

import numpy as np


def rotation(axis: int, angle: float) -> np.ndarray:
    """(4, 4) turn about x, y or z by the right hand's rule."""
    matrix, (first, second) = np.eye(4), ((1, 2), (2, 0), (0, 1))[axis]
    cosine, sine = np.cos(angle), np.sin(angle)
    matrix[first, first] = matrix[second, second] = cosine
    matrix[first, second], matrix[second, first] = -sine, sine
    return matrix


def shift(vector) -> np.ndarray:
    """(4, 4) translation."""
    matrix = np.eye(4)
    matrix[:3, 3] = vector
    return matrix


def about(centre: np.ndarray, turn: np.ndarray) -> np.ndarray:
    """(4, 4) a turn about a place."""
    return shift(centre) @ turn @ shift(-centre)


def rigid(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """(4, 4) the turn and shift that take places (N, 3) nearest to others."""
    a, b = before.mean(0), after.mean(0)
    u, _, v = np.linalg.svd((after - b).T @ (before - a))
    turn = np.eye(4)
    turn[:3, :3] = u @ np.diag((1, 1, np.sign(np.linalg.det(u @ v)))) @ v
    return shift(b) @ turn @ shift(-a)


def light_matrices(directions: np.ndarray) -> list[np.ndarray]:
    """World to shadow map of the first two lights, which have one."""
    return [light_matrix(direction) for direction in directions[:2]]


def light_matrix(direction: np.ndarray) -> np.ndarray:
    """(4, 4) world to the shadow map of a light that far away."""
    side = np.cross((0, 1, 0) if abs(direction[1]) < 0.95 else (1, 0, 0), direction)
    side /= np.linalg.norm(side)
    view = np.eye(4)
    view[:3, :3] = np.stack([side, np.cross(direction, side), direction])
    return np.diag((1 / 0.24, 1 / 0.24, -1 / 0.35, 1.0)) @ view @ shift((0, 0.02, 0.06))
