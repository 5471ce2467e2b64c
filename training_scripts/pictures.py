"""Pictures that an autoencoder learns from: crops of faces, other colours, dead leaves, and what spoils pictures.

Arrays are (S, S, 3) float32 in [0, 1], RGB; everything drawn comes from the generator that is given.
"""

import cv2
import numpy as np

MOST_LEAVES = 60


def crop(face: np.ndarray, side: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A part of a face (S, S, 3) uint8 as (side, side, 3), and its (x, y, width) in shares of S.

    Half of them as they are, half of a larger part made smaller: so faces of every sharpness are met.
    """
    whole = len(face)
    width = side if random.random() < 0.5 else int(random.integers(side, whole + 1))
    x, y = random.integers(0, whole - width + 1, 2)
    part = face[y : y + width, x : x + width].astype(np.float32) / 255
    if width != side:
        part = cv2.resize(part, (side, side), interpolation=cv2.INTER_AREA)
    return part, np.array([x, y, width]) / whole


def recoloured(picture: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Other light, white balance, contrast and saturation; now and then mirrored."""
    if random.random() < 0.5:
        picture = picture[:, ::-1]
    if random.random() < 0.7:
        picture = picture * np.exp(random.normal(0, 0.18, 3)) + random.normal(0, 0.05)
        picture = picture.clip(0, 1) ** np.exp(random.normal(0, 0.25))
        grey = picture.mean(-1, keepdims=True)
        picture = (grey + (picture - grey) * random.uniform(0.4, 1.6)).clip(0, 1)
    return np.ascontiguousarray(picture, dtype=np.float32)


def dead_leaves(side: int, random: np.random.Generator) -> np.ndarray:
    """Discs of all sizes that hide each other, some soft, some with grain: the edges and colours of any picture."""
    picture = np.zeros((side, side, 3), np.float32) + random.uniform(0, 1, 3).astype(np.float32)
    base, spread = random.uniform(0, 1, 3), random.uniform(0.05, 0.6)
    for _ in range(int(random.integers(8, MOST_LEAVES))):
        radius = min(2 / random.uniform(0.01, 1) ** 0.5, 0.55 * side)
        colour = np.clip(base + random.normal(0, spread, 3), 0, 1)
        centre = random.uniform(-10, side + 10, 2)
        axes = radius, radius * random.uniform(0.25, 1)
        sixteenths = [tuple(int(16 * value) for value in pair) for pair in (centre, axes)]
        turn = float(random.uniform(0, 360))
        cv2.ellipse(picture, *sixteenths, turn, 0, 360, colour.tolist(), cv2.FILLED, cv2.LINE_AA, 4)
    light = cv2.resize(random.uniform(-0.25, 0.25, (3, 3, 3)), (side, side), interpolation=cv2.INTER_CUBIC)
    picture = picture * (1 + light)
    if random.random() < 0.6:
        picture = cv2.GaussianBlur(picture, (0, 0), random.uniform(0.3, 2.5))
    if random.random() < 0.5:
        grain = random.normal(0, random.uniform(0, 0.12), (side // int(random.integers(1, 5)),) * 2)
        picture = picture + cv2.resize(grain, (side, side))[..., None]
    return picture.clip(0, 1).astype(np.float32)


def spoiled(picture: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """With a camera's grain, and as JPEG of low or high quality."""
    grain = random.normal(0, random.uniform(0, 0.03), picture.shape)
    levels = ((picture + grain).clip(0, 1) * 255).round().astype(np.uint8)
    jpeg = cv2.imencode(".jpg", levels[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, int(random.integers(40, 96))])[1]
    return cv2.imdecode(jpeg, cv2.IMREAD_COLOR)[..., ::-1].astype(np.float32) / 255
