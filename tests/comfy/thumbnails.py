"""Pictures of what a workflow makes, for the template browser: the same face before and after, from its own files."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from tests.comfy.media import decoded

SIDE = 480  # px; the template browser shows squares
GAP = 4  # px, white
MOUTH = (slice(280, 400), slice(170, 340))  # of a sample frame: about where the mouth is
LARGEST = 58_000  # bytes


def encoded(picture: Image.Image, largest: int) -> bytes:
    """JPEG, as good as fits into ``largest`` bytes."""
    for quality in range(92, 20, -6):
        buffer = io.BytesIO()
        picture.convert("RGB").save(buffer, "JPEG", quality=quality, optimize=True, progressive=True)
        if buffer.tell() <= largest:
            break
    return buffer.getvalue()


def telling_frame(clips: Sequence[np.ndarray]) -> int:
    """Where the mouths of clips (F, H, W, 3) differ most from each other."""
    count = min(map(len, clips))
    mouths = [clip[(slice(count), *MOUTH)].astype(np.float32) for clip in clips]
    apart = sum(np.abs(a - b).mean((1, 2, 3)) for i, a in enumerate(mouths) for b in mouths[i + 1 :])
    return int(apart.argmax())


def fitted(picture: np.ndarray, width: int, height: int) -> np.ndarray:
    """(H, W, 3) uint8 scaled and cut around its centre to (height, width, 3)."""
    scale = max(width / picture.shape[1], height / picture.shape[0])
    size = (max(width, round(picture.shape[1] * scale)), max(height, round(picture.shape[0] * scale)))
    scaled = cv2.resize(picture, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    top, left = (scaled.shape[0] - height) // 2, (scaled.shape[1] - width) // 2
    return scaled[top : top + height, left : left + width]


def mosaic(rows: Sequence[tuple[int, Mapping[str, np.ndarray]]]) -> Image.Image:
    """Rows of pictures: (height px, {label: (H, W, 3) uint8}); a label that begins with a space is not shown."""
    sheet = Image.new("RGB", (SIDE, sum(height for height, _ in rows) + GAP * (len(rows) - 1)), "white")
    draw, letters, top = ImageDraw.Draw(sheet), ImageFont.load_default(size=20), 0
    for height, pictures in rows:
        edges = np.linspace(0, SIDE + GAP, len(pictures) + 1).round().astype(int)
        for left, right, (label, picture) in zip(edges, edges[1:], pictures.items(), strict=False):
            sheet.paste(Image.fromarray(fitted(picture, int(right - left - GAP), height)), (int(left), top))
            if not label.startswith(" "):
                draw.text((left + 10, top + height - 32), label, "white", letters, stroke_width=2, stroke_fill="black")
        top += height + GAP
    return sheet


def closer(frame: np.ndarray) -> np.ndarray:
    """The face and a little around it."""
    return frame[40:480, 76:436]


def before_and_after(source: Path, results: Mapping[str, Path]) -> dict[str, np.ndarray]:
    """The frame in which they differ most, of the source and of each result."""
    clips = {"source": decoded(source), **{name: decoded(path) for name, path in results.items()}}
    index = telling_frame(list(clips.values()))
    return {name: closer(clip[index]) for name, clip in clips.items()}


def pictures_of(files: Sequence[Path], count: int) -> dict[str, np.ndarray]:
    """The first pictures a preview wrote, without labels."""
    return {f" {path.name}": np.asarray(Image.open(path).convert("RGB")) for path in files[:count]}


def two_turns(source: Path, result: Path) -> list[tuple[int, dict[str, np.ndarray]]]:
    """Rows of source and result in the moment of the first and of the second half in which they differ most."""
    clips = [decoded(path) for path in (source, result)]
    count = min(map(len, clips))
    apart = np.abs(clips[0][:count].astype(np.float32) - clips[1][:count]).mean((1, 2, 3))
    moments = int(apart[: count // 2].argmax()), count // 2 + int(apart[count // 2 :].argmax())
    height = (SIDE - 3 * GAP) // 4
    labels = ("source", "result")
    return [(height, {label: clip[at]}) for at in moments for label, clip in zip(labels, clips, strict=True)]


def first_crops(outputs: Mapping[str, Sequence[Path]]) -> dict[str, list[np.ndarray]]:
    """Generated and restored faces of the workflow "restored"."""
    previews = {"generated": outputs["14"], "restored": outputs["16"]}
    return {
        label: [np.asarray(Image.open(file).convert("RGB")) for file in files[:1]] for label, files in previews.items()
    }


def thumbnail(name: str, source: Path, outputs: Mapping[str, Sequence[Path]]) -> bytes:
    """The picture of a workflow as JPEG. ``outputs``: node id -> the files that the node wrote or showed."""
    if name == "second_speech":
        faces = before_and_after(source, {"first speech": outputs["10"][0], "second speech": outputs["16"][0]})
        return encoded(mosaic([(SIDE, faces)]), LARGEST)
    if name == "two_speakers":
        return encoded(mosaic(two_turns(source, outputs["11"][0])), LARGEST)
    saved = {
        "quick_start": "5",
        "wireable_stages": "10",
        "image_route": "12",
        "report": "4",
        "restored": "12",
        "sync_score": "9",
    }
    faces = before_and_after(source, {"result": outputs[saved[name]][-1]})  # a report names its source before it
    if name == "wireable_stages":
        strips = [pictures_of(outputs[node], 4) for node in ("12", "14", "16")]
        below = [(96, strips[1]), (96, strips[2])]
    elif name == "restored":
        below = [(150, {label: pictures[0] for label, pictures in first_crops(outputs).items()})]
    elif name == "image_route":
        below = [(116, pictures_of(outputs["14"], 4))]
    elif name == "sync_score":
        below = [(118, pictures_of([*outputs["7"], *outputs["5"]], 2))]
    elif name == "report":
        below = [(135, pictures_of(outputs["6"], 1))]
    else:
        below = []
    height = SIDE - sum(height + GAP for height, _ in below)
    return encoded(mosaic([(height, faces), *below]), LARGEST)
