"""OpenGL in software: a context without a window, the pieces of the shaders, noise that looks like strands."""

import os
import re
from pathlib import Path

import cv2
import numpy as np

from .head_mesh import HeadsUnavailableError


def headless_context():
    """An OpenGL context without a window; HeadsUnavailableError says what is missing."""
    os.environ.setdefault("LP_NUM_THREADS", "1")  # the software renderer takes all cores otherwise
    try:
        import moderngl
    except ImportError as error:
        raise HeadsUnavailableError("Drawing people needs moderngl. Install it: pip install moderngl") from error
    try:
        return moderngl.create_standalone_context(backend="egl")
    except Exception as error:  # glcontext raises plain exceptions of several kinds
        raise HeadsUnavailableError(
            f"OpenGL without a window did not start ({error}). On Debian and Ubuntu install "
            "libegl1 libegl-mesa0 libgl1-mesa-dri, and set EGL_PLATFORM=surfaceless where there is no screen."
        ) from error


def shader_pieces() -> dict[str, str]:
    """The pieces of shaders.glsl by name, with what they share put in front or in its place."""
    text = (Path(__file__).parent / "shaders.glsl").read_text()
    pieces = dict(re.findall(r"^//// (\S+)\n(.*?)(?=^//// |\Z)", text, re.S | re.M))
    shared, light, hairs = (pieces.pop(name) for name in ("common", "light", "hairs"))
    lit = ("skin.frag", "cloth.frag", "fur.vert", "fur.frag", "hair.vert", "hair.frag", "solid.frag", "lash.frag")
    for name, code in pieces.items():
        code = pieces[name] = code.replace("#include hairs\n", hairs)
        if not code.startswith("#version"):
            pieces[name] = (
                "#version 330\n"
                + ("#define FRAGMENT\n" if name.endswith("frag") else "")
                + shared
                + (light if name in lit else "")
                + code
            )
    return pieces


def strand_noise() -> np.ndarray:
    """(256, 256) uint8 that repeats: noise drawn out upwards, as hairs are."""
    noise = np.random.default_rng(7).random((256, 256)).astype(np.float32)
    noise = np.concatenate([noise] * 3)
    noise = cv2.GaussianBlur(np.concatenate([noise] * 3, 1), (0, 0), sigmaX=0.8, sigmaY=2.2)[256:512, 256:512]
    ranks = noise.reshape(-1).argsort().argsort().reshape(noise.shape)  # every value as often as every other
    return (ranks * 255 / ranks.max()).astype(np.uint8)


def vertex_array(context, program, content: list, index):
    """A vertex array with those attributes that the driver left in a program.

    content  [(buffer, layout such as "3f 2f", names of its attributes, ...)]
    index    buffer of int32 triangles
    """
    kept = []
    for buffer, layout, *names in content:
        sizes = [
            f"{part[:-1]}f" if name in program else f"{4 * int(part[:-1])}x"
            for part, name in zip(layout.split(), names, strict=True)
        ]
        if any(name in program for name in names):
            kept.append((buffer, " ".join(sizes), *(name for name in names if name in program)))
    return context.vertex_array(program, kept, index)


def read(target, size: int) -> np.ndarray:
    """(size, size, 4) float32 of what was drawn into a target of any size."""
    side = target.width
    drawn = np.frombuffer(target.read(components=4, dtype="f2"), np.float16).reshape(side, side, 4)[::-1]
    return cv2.resize(drawn.astype(np.float32), (size, size), interpolation=cv2.INTER_AREA)
