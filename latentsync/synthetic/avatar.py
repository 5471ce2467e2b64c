"""A drawn talking head: who it is (`Identity`), how it stands (`Pose`) and how the two become pixels (`draw`).

Head units: the origin lies between eyes and nose, x to the picture's right, y down; a face is about 0.52 wide and
0.7 high. Turning is drawn as parallax: each feature moves with its depth.
"""

from dataclasses import dataclass, field

import numpy as np

from .canvas import Canvas, between, ellipse

EYE_Y, MOUTH_Y, NOSE_Y = -0.055, 0.205, 0.115
DEPTH = {"ear": -0.25, "outline": 0.0, "hair": 0.0, "eye": 0.55, "brow": 0.6, "nose": 1.0, "mouth": 0.7, "jaw": 0.35}
MOUTH_GAIN = 0.085  # height of the open mouth in head units at opening 1
JAW_DROP = 0.045  # how far the chin sinks at opening 1


@dataclass(frozen=True)
class Pose:
    """One moment. Positions in units of the frame's height, angles in radians, the rest 0..1."""

    x: float = 0.5
    y: float = 0.5
    scale: float = 0.9
    roll: float = 0.0
    yaw: float = 0.0
    pitch: float = 0.0
    blink: float = 0.0
    gaze: tuple[float, float] = (0.0, 0.0)
    opening: float = 0.0
    spread: float = 1.0

    def head_from_frame(self) -> np.ndarray:
        """(2, 3) affine matrix: frame position (units of its height) -> head units."""
        c, s = np.cos(self.roll) / self.scale, np.sin(self.roll) / self.scale
        return np.array([[c, s, -c * self.x - s * self.y], [-s, c, s * self.x - c * self.y]])

    def parallax(self, part: str) -> tuple[float, float]:
        """How far a part of the face moves in head units when the head turns."""
        depth = DEPTH[part] * 0.28
        return float(np.sin(self.yaw)) * depth, float(np.sin(self.pitch)) * depth


@dataclass(frozen=True)
class Identity:
    """The constant looks of one avatar; colours are RGB 0..255, lengths are head units or factors around 1."""

    skin: np.ndarray
    hair: np.ndarray
    shirt: np.ndarray
    lips: np.ndarray
    iris: np.ndarray
    backdrop: np.ndarray = field(repr=False)  # (2, 3) upper and lower colour
    pattern: np.ndarray = field(repr=False)  # (n, 6): x, y, size, r, g, b of soft blobs behind the head
    light: np.ndarray = field(repr=False)  # (3,) direction towards the light
    tint: np.ndarray = field(repr=False)  # (3,) colour of the light
    ambient: float = 0.7
    half_width: float = 0.26
    half_height: float = 0.355
    jaw: float = 0.5
    eye_size: float = 1.0
    eye_distance: float = 0.5
    brow: float = 1.0
    brow_tilt: float = 0.0
    nose: float = 1.0
    mouth_width: float = 0.4
    lip_height: float = 1.0
    fringe: float = 0.5
    hair_length: float = 0.0
    bald: bool = False
    glasses: bool = False
    stubble: float = 0.0

    @staticmethod
    def random(rng: np.random.Generator) -> "Identity":
        """Draw an identity; the same generator state gives the same one."""
        tone = rng.uniform(0, 1)
        skin = np.array([92.0, 62, 45]) * (1 - tone) + np.array([242.0, 205, 180]) * tone
        skin = skin * rng.uniform(0.95, 1.04, 3)
        hair_tone = rng.uniform(0, 1) ** 1.5
        hair = np.array([28.0, 22, 18]) * (1 - hair_tone) + np.array([205.0, 170, 110]) * hair_tone
        hair = np.clip(hair * rng.uniform(0.8, 1.2, 3), 5, 240)
        blobs = rng.integers(0, 7)
        backdrop = rng.uniform(35, 225, 3)
        backdrop += (backdrop.mean() - backdrop) * rng.uniform(0.2, 0.9)
        pattern = np.column_stack(
            [
                rng.uniform(-0.2, 1.2, (blobs, 2)),
                rng.uniform(0.04, 0.35, (blobs, 1)),
                np.clip(backdrop + rng.uniform(-70, 70, (blobs, 3)), 0, 255),
            ]
        )
        redness = rng.uniform(0.35, 0.75)
        return Identity(
            skin=skin,
            hair=hair,
            shirt=rng.uniform(20, 225, 3),
            lips=skin * (1 - redness) + np.array([165.0, 62, 68]) * rng.uniform(0.75, 1.1) * redness,
            iris=rng.uniform([30, 40, 30], [120, 130, 150]),
            backdrop=np.clip(np.stack([backdrop, backdrop + rng.uniform(-45, 45, 3)]), 0, 255),
            pattern=pattern,
            light=np.array([rng.uniform(-0.8, 0.8), rng.uniform(-0.8, -0.1), rng.uniform(0.5, 1.0)]),
            tint=1 + rng.uniform(-0.05, 0.05, 3),
            ambient=rng.uniform(0.62, 0.8),
            half_width=rng.uniform(0.238, 0.285),
            half_height=rng.uniform(0.33, 0.378),
            jaw=rng.uniform(0.35, 0.62),
            eye_size=rng.uniform(0.88, 1.18),
            eye_distance=rng.uniform(0.46, 0.54),
            brow=rng.uniform(0.75, 1.3),
            brow_tilt=rng.uniform(-0.12, 0.12),
            nose=rng.uniform(0.8, 1.2),
            mouth_width=rng.uniform(0.35, 0.45),
            lip_height=rng.uniform(0.8, 1.25),
            fringe=rng.uniform(0.42, 0.6),
            hair_length=float(rng.choice([0.0, 0.12, 0.3])),
            bald=bool(rng.random() < 0.08),
            glasses=bool(rng.random() < 0.18),
            stubble=float(rng.uniform(0.1, 0.35)) if rng.random() < 0.2 else 0.0,
        )


def draw(identity: Identity, pose: Pose, frame_from_pixel: np.ndarray, height: int, width: int) -> np.ndarray:
    """Draw one frame, or any affine view of it.

    frame_from_pixel: (2, 3) affine matrix from pixel centres to frame positions in units of the frame's height.
    Returns (height, width, 3) uint8 RGB.
    """
    pixels = np.empty((height, width, 3), np.float32)
    scene = Canvas(pixels, frame_from_pixel)
    _draw_backdrop(scene, identity)
    head = pose.head_from_frame() @ np.vstack([frame_from_pixel, [0, 0, 1]])
    canvas = Canvas(pixels, head)
    _draw_body(canvas, identity)
    _draw_head(canvas, identity, pose)
    for side in (-1, 1):
        _draw_eye(canvas, identity, pose, side)
    _draw_nose(canvas, identity, pose)
    _draw_mouth(canvas, identity, pose)
    _draw_hair(canvas, identity, pose)
    if identity.glasses:
        _draw_glasses(canvas, identity, pose)
    return np.clip(pixels + 0.5, 0, 255).astype(np.uint8)


def draw_frame(identity: Identity, pose: Pose, height: int, width: int) -> np.ndarray:
    """Draw the whole frame; (height, width, 3) uint8 RGB. The head is placed relative to the frame's centre."""
    offset = (1 - width / height) / 2
    view = np.array([[1 / height, 0, 0.5 / height + offset], [0, 1 / height, 0.5 / height]])
    return draw(identity, pose, view, height, width)


def _draw_backdrop(scene: Canvas, identity: Identity) -> None:
    top, bottom = identity.backdrop
    scene.pixels[:] = top + np.clip(scene.y, -0.3, 1.3)[..., None] * (bottom - top)
    for x, y, size, *colour in identity.pattern:
        scene.paint(
            (x - size, y - size, x + size, y + size), ellipse(x, y, size * 0.8, size * 0.8), colour, size * 0.3, 0.8
        )


def _draw_body(canvas: Canvas, identity: Identity) -> None:
    skin, shirt = identity.skin * identity.tint, identity.shirt
    if identity.hair_length and not identity.bald:
        a, b = identity.half_width * 1.22, identity.half_height * 0.95 + identity.hair_length * 0.5
        y0 = identity.hair_length * 0.5 - 0.06
        canvas.paint((-a, y0 - b, a, y0 + b), ellipse(0, y0, a, b), identity.hair * 0.75, 0.012)
    canvas.paint((-0.7, 0.4, 0.7, 2), ellipse(0, 0.98, 0.56, 0.56), shirt, 0.006)
    neck = lambda x, y: np.maximum(np.abs(x) - 0.115 - 0.15 * np.maximum(y - 0.45, 0) ** 2, np.abs(y - 0.36) - 0.2)  # noqa: E731
    canvas.paint((-0.25, 0.1, 0.25, 0.6), neck, lambda x, y: skin * (0.66 + 0.14 * np.clip(y * 2, 0, 1))[..., None])
    canvas.paint((-0.14, 0.48, 0.14, 0.6), ellipse(0, 0.5, 0.115, 0.07), skin * 0.74, 0.006)


def _draw_head(canvas: Canvas, identity: Identity, pose: Pose) -> None:
    fw, fh = identity.half_width, identity.half_height
    skin = identity.skin * identity.tint
    turn, nod = pose.parallax("jaw")
    drop = pose.opening * JAW_DROP
    ear_x, ear_y = pose.parallax("ear")
    for side in (-1, 1):
        x0, y0 = side * fw * 0.99 + ear_x, 0.0 + ear_y
        canvas.paint((x0 - 0.05, y0 - 0.1, x0 + 0.05, y0 + 0.1), ellipse(x0, y0, 0.035, 0.068), skin * 0.78, 0.006)
        canvas.paint((x0 - 0.03, y0 - 0.06, x0 + 0.03, y0 + 0.06), ellipse(x0, y0, 0.016, 0.04), skin * 0.62, 0.012)
    if not identity.bald:
        canvas.paint((-0.4, -0.55, 0.4, 0.3), ellipse(0, -0.1, fw * 1.13, fh * 1.02), identity.hair * 0.85, 0.01)

    def outline(x, y):
        low = np.clip(y / fh, 0, 1.3)
        half = fw * (1 - identity.jaw * 0.42 * low * low)
        reach = np.where(y > 0, fh + drop, fh)
        u, v = (x - turn * low) / half, (y - nod * 0.3) / reach
        radius = np.sqrt(u * u + v * v) + 1e-6
        return (radius - 1) * radius / (np.sqrt((u / half) ** 2 + (v / reach) ** 2) + 1e-6)

    light = identity.light / np.linalg.norm(identity.light)

    def shaded(x, y):
        nx, ny = np.clip((x - turn) / fw, -1, 1), np.clip(y / fh, -1, 1)
        nz = np.sqrt(np.clip(1 - 0.8 * nx**2 - 0.6 * ny**2, 0, 1))
        shade = identity.ambient + 0.36 * np.clip(nx * light[0] + ny * light[1] + nz * light[2], -0.2, 1)
        colour = skin * shade[..., None]
        if identity.stubble:
            beard = np.clip((y - 0.1) / 0.12, 0, 1) * np.clip(np.abs(x) / 0.16 + (y - 0.2) * 3, 0.55, 1)
            colour = colour + (identity.hair * 0.8 - colour) * (identity.stubble * beard)[..., None]
        return colour

    canvas.paint((-fw * 1.2, -fh * 1.1, fw * 1.2, fh * 1.3), outline, shaded)
    for side in (-1, 1):  # cheeks
        x0 = side * fw * 0.58 + turn
        canvas.paint(
            (x0 - 0.1, 0.02, x0 + 0.1, 0.2),
            ellipse(x0, 0.11, 0.06, 0.05),
            skin * np.array([1.02, 0.86, 0.84]),
            0.07,
            0.25,
        )
    # the soft line from nose to mouth corner and the shade of the chin
    mx, my = pose.parallax("mouth")
    chin = MOUTH_Y + my + drop * 0.9 + 0.085
    canvas.paint(
        (-0.15, chin - 0.06, 0.15, chin + 0.06), ellipse(mx * 0.8, chin - 0.02, 0.06, 0.012), skin * 0.6, 0.03, 0.35
    )


def _draw_eye(canvas: Canvas, identity: Identity, pose: Pose, side: int) -> None:
    skin = identity.skin * identity.tint
    dx, dy = pose.parallax("eye")
    ex, ey = side * identity.half_width * identity.eye_distance + dx, EYE_Y + dy
    a, size = 0.054 * identity.eye_size, identity.eye_size
    box = (ex - 0.1, ey - 0.08, ex + 0.1, ey + 0.08)
    canvas.paint(box, ellipse(ex, ey - 0.004, 0.068 * size, 0.043), skin * 0.6, 0.035, 0.4)
    lid = (0.027 * (1 - pose.blink) + 0.0015) * size
    almond = ellipse(ex, ey, a, lid)
    if pose.blink < 0.9:
        gx, gy = ex + pose.gaze[0] * 0.014, ey + pose.gaze[1] * 0.006
        inside = lambda shape: lambda x, y: np.maximum(almond(x, y), shape(x, y))  # noqa: E731
        canvas.paint(box, almond, (236, 236, 234))
        canvas.paint(box, inside(ellipse(gx, gy, 0.0235, 0.0235)), identity.iris)
        canvas.paint(box, inside(ellipse(gx, gy, 0.0112, 0.0112)), (14, 13, 13))
        canvas.paint(box, inside(ellipse(gx + 0.008, gy - 0.008, 0.005, 0.005)), (250, 250, 250))
    else:
        canvas.paint(box, ellipse(ex, ey - 0.006, a * 1.02, 0.02), skin * 0.86, 0.01)
    sag = 0.012 * pose.blink
    upper = lambda x: ey + sag - lid * np.sqrt(np.clip(1 - ((x - ex) / a) ** 2, 0, 1)) * (1 - pose.blink)  # noqa: E731
    lashes = lambda x, y: np.maximum(np.abs(y - upper(x)) - 0.0045, np.abs(x - ex) - a)  # noqa: E731
    canvas.paint(box, lashes, identity.hair * 0.25 + 8)
    bx, by = pose.parallax("brow")
    bx, by = side * identity.half_width * identity.eye_distance * 1.03 + bx, EYE_Y - 0.068 + by

    def brow(x, y):
        u = (x - bx) / 0.078
        arch = by + 0.022 * u * u + identity.brow_tilt * side * (x - bx)
        return np.maximum(np.abs(y - arch) - 0.0125 * identity.brow * (1 - 0.45 * np.abs(u)), np.abs(x - bx) - 0.078)

    canvas.paint((bx - 0.09, by - 0.05, bx + 0.09, by + 0.06), brow, identity.hair * 0.65, 0.007, 0.9)


def _draw_nose(canvas: Canvas, identity: Identity, pose: Pose) -> None:
    skin, size = identity.skin * identity.tint, identity.nose
    dx, dy = pose.parallax("nose")
    bridge = ellipse(dx * 0.6, 0.05 + dy * 0.5, 0.024 * size, 0.085)
    canvas.paint((-0.15, -0.08, 0.15, 0.2), bridge, np.minimum(skin * 1.16, 255), 0.05, 0.4)
    lit = -np.sign(identity.light[0]) or 1.0
    side = ellipse(dx * 0.7 + lit * 0.03 * size, 0.06 + dy * 0.5, 0.014, 0.08)
    canvas.paint((-0.15, -0.08, 0.15, 0.2), side, skin * 0.68, 0.04, 0.35)
    y0 = NOSE_Y + dy * 0.6
    box = (dx - 0.12, y0 - 0.06, dx + 0.12, y0 + 0.06)
    canvas.paint(box, ellipse(dx, y0 + 0.006, 0.05 * size, 0.026), skin * 0.8, 0.025, 0.6)
    canvas.paint(box, ellipse(dx, y0 - 0.008, 0.03 * size, 0.02), np.minimum(skin * 1.12, 255), 0.025, 0.6)
    for sign in (-1, 1):
        canvas.paint(box, ellipse(dx + sign * 0.022 * size, y0 + 0.012, 0.0115, 0.0065), skin * 0.35, 0.007, 0.9)


def mouth_curves(identity: Identity, pose: Pose):
    """Four lip curves y(x) in head units (outer top, inner top, inner bottom, outer bottom), centre and half width."""
    mx, dy = pose.parallax("mouth")
    my = MOUTH_Y + dy + pose.opening * JAW_DROP * 0.25
    half = identity.half_width * identity.mouth_width * (0.55 + 0.45 * pose.spread)
    gap = MOUTH_GAIN * pose.opening
    lift, fall = gap * 0.25, gap * 0.75
    thick = 0.019 * identity.lip_height * (1 + 0.15 * (1 - pose.spread))

    def profile(x, power):
        return np.clip(1 - np.abs((x - mx) / half) ** power, 0, 1)

    corner = 0.008 * (pose.spread - 0.9)  # spread lips smile a little

    def line(x):
        return my - corner * ((x - mx) / half) ** 2 * 2

    def outer_top(x):
        bow = 0.25 * np.exp(-(((x - mx) / (0.2 * half)) ** 2))
        return line(x) - lift * profile(x, 2.2) - thick * (0.92 - bow) * profile(x, 1.7)

    return (
        outer_top,
        lambda x: line(x) - lift * profile(x, 2.2),
        lambda x: line(x) + fall * profile(x, 2.2),
        lambda x: line(x) + fall * profile(x, 2.2) + thick * 1.25 * profile(x, 1.9),
        (mx, my),
        half,
    )


def _draw_mouth(canvas: Canvas, identity: Identity, pose: Pose) -> None:
    outer_top, inner_top, inner_bottom, outer_bottom, (mx, my), half = mouth_curves(identity, pose)
    skin, lips = identity.skin * identity.tint, identity.lips * identity.tint
    fall = MOUTH_GAIN * pose.opening * 0.75
    within = lambda shape: lambda x, y: np.maximum(shape(x, y), np.abs(x - mx) - half)  # noqa: E731
    box = (mx - half - 0.03, my - 0.09, mx + half + 0.03, my + fall + 0.09)
    canvas.paint(box, ellipse(mx, my + fall + 0.052, half * 0.75, 0.016), skin * 0.62, 0.03, 0.3)
    canvas.paint(box, ellipse(mx, my - 0.05, 0.012, 0.022), skin * 0.72, 0.02, 0.25)
    canvas.paint(box, within(between(outer_top, inner_top)), lips * 0.86)
    canvas.paint(box, within(between(inner_bottom, outer_bottom)), lips)
    canvas.paint(box, ellipse(mx, my + fall + 0.014, half * 0.42, 0.006), np.minimum(lips * 1.25, 255), 0.012, 0.4)
    cavity = within(between(inner_top, inner_bottom))
    if pose.opening > 0.02:
        canvas.paint(box, cavity, (46, 16, 18))
        clipped = lambda shape: lambda x, y: np.maximum(cavity(x, y), shape(x, y))  # noqa: E731
        tongue = ellipse(mx, my + fall * 1.1, half * 0.6, 0.05 * pose.opening * 0.9 + 0.004)
        canvas.paint(box, clipped(tongue), (176, 84, 86), 0.008)
        edge = 0.016
        teeth = lambda x, y: np.maximum(y - inner_top(x) - edge, np.abs(x - mx) - half * 0.8)  # noqa: E731
        canvas.paint(box, clipped(teeth), (232, 227, 216), 0.004)
    line = lambda x, y: np.maximum(np.abs(y - inner_top(x)) - 0.0028, np.abs(x - mx) - half * 1.03)  # noqa: E731
    canvas.paint(box, line, lips * 0.38, 0.0, 0.85)


def _draw_hair(canvas: Canvas, identity: Identity, pose: Pose) -> None:
    if identity.bald:
        return
    fw, fh = identity.half_width, identity.half_height
    dx, dy = pose.parallax("outline")
    cap = ellipse(dx, -0.26, fw * 1.1, fh * identity.fringe * 1.02)
    forehead = ellipse(dx + pose.parallax("eye")[0] * 0.5, -0.03 + dy, fw * 1.0, fh * 0.76)
    top = lambda x, y: np.maximum(cap(x, y), -forehead(x, y))  # noqa: E731
    gloss = lambda x, y: identity.hair * (1.0 + 0.25 * np.exp(-(((y + 0.34) / 0.05) ** 2)))[..., None]  # noqa: E731
    canvas.paint((-0.4, -0.6, 0.4, 0.1), top, gloss, 0.012)


def _draw_glasses(canvas: Canvas, identity: Identity, pose: Pose) -> None:
    dx, dy = pose.parallax("brow")
    for side in (-1, 1):
        x0, y0 = side * identity.half_width * identity.eye_distance + dx, EYE_Y + 0.006 + dy
        lens = ellipse(x0, y0, 0.085, 0.062)
        ring = lambda x, y, lens=lens: np.abs(lens(x, y)) - 0.005  # noqa: E731
        canvas.paint((x0 - 0.11, y0 - 0.08, x0 + 0.11, y0 + 0.08), ring, identity.hair * 0.3 + 20)
    bridge = lambda x, y: np.maximum(np.abs(y - (EYE_Y + dy)) - 0.004, np.abs(x - dx) - 0.05)  # noqa: E731
    canvas.paint((dx - 0.06, -0.1, dx + 0.06, 0.05), bridge, identity.hair * 0.3 + 20)
