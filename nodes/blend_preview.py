"""What the front end needs to draw the edge of the blend while its width is being set."""

import math

import numpy as np

from . import host, media

SIDE = 512  # px, the longer side of the picture


def edge_preview(images, faces, mask_shape: str) -> dict:
    """UI payload: a frame from the middle of the clip, and the hole in it before any feathering.

    images: IMAGE (F, H, W, 3 or 4); faces: FaceTrack; mask_shape: see LipSyncOptions. `size` is that of both pictures
    in px; `side` that of the face's square in them, of which the feather is a fraction: mask_smooth * 0.1 * side px.
    `square` are the outer corners of that square in px of the pictures, clockwise from the face's top left: a frame
    shows it turned and stretched.
    """
    import cv2

    from ..latentsync.faces.align import canvas_size, square_to_canvas
    from ..latentsync.faces.blend import FacePaster
    from ..latentsync.options import LipSyncOptions

    found = np.flatnonzero(faces.detected)
    index = int(found[len(found) // 2])
    frame = media.as_bytes(images[index])
    height, width = frame.shape[:2]
    scale = min(1.0, SIDE / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    matrix = faces.matrices[index]
    hard = LipSyncOptions(mask=faces.mask, mask_smooth=0)
    contour = faces.contours[index] if mask_shape == "landmarks" and np.isfinite(faces.contours[index]).all() else None
    region = FacePaster(faces.resolution, hard, faces.blend_mask).blender.region(frame.shape, matrix, contour)
    hole = np.zeros((height, width), np.float32)
    hole[region.slices] = region.alpha
    hole = cv2.resize(hole, size, interpolation=cv2.INTER_AREA)
    face_area = math.prod(canvas_size(faces.resolution)) / abs(np.linalg.det(matrix[:, :2]))  # px of the frame
    to_frame = np.linalg.inv(np.vstack([matrix, [0, 0, 1]])) @ square_to_canvas(faces.resolution)
    low, high = -0.5, faces.resolution - 0.5  # pixel centres are whole numbers, the pictures' corners are not
    corners = np.array([[low, low, 1], [high, low, 1], [high, high, 1], [low, high, 1]]) @ to_frame[:2].T
    return {
        "latentsync_blend": [
            {
                "frame": _saved(cv2.resize(frame, size, interpolation=cv2.INTER_AREA), ".jpg"),
                "hole": _saved((hole >= 0.5).astype(np.uint8) * 255, ".png"),
                "size": list(size),
                "side": round(float(np.sqrt(face_area)) * scale, 2),
                "square": np.round((corners + 0.5) * scale, 2).tolist(),
            }
        ]
    }


def _saved(picture: np.ndarray, suffix: str) -> dict:
    from PIL import Image

    path = host.temp_path(suffix)
    Image.fromarray(picture).save(path, quality=90)
    return host.file_reference(path)
