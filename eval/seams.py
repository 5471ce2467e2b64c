"""Does the edge of a pasted face show? Every way of blending, with every mask, on generated faces.

    python -m eval.seams --output docs/seams [--video clip.mp4 --audio speech.wav]

The measure is the gradient across the mask's edge, in the result over the source's own at the same places: 1 is an edge
that cannot be told from the picture around it, less is a blur and no better. It is taken along the outer border of what
changes, along its middle and along the inner border, and the worst of the three counts, so a seam gains nothing by
being moved; gradients are those under a Gaussian of 0.006 sides, so that a camera's grain does not drown them. "flat"
is the same on the three quarters of the edge where the source is flattest, with 0.3 levels a px added to both: the
stricter view, as a drawn cheek has next to no gradient of its own. "ms" is the CPU time of a paste at 1080 x 1920.

Drawn avatars are given another speech by the bundled model; "drawn with the new lips" is what a perfect model and paste
would give. Half of them are square and clean, half tall 1080 x 1920 with a camera's grain. A real clip counts where one
is given: the bundled model knows drawn faces only, so there it is a test of faces that do not fit.
"""

import argparse
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice, product
from pathlib import Path

import cv2
import numpy as np
import torch

from benchmarks.measure import GRAIN, HEAD_UNIT, HEIGHT, WIDTH, Timing
from latentsync.chunks import ChunkGenerator, FaceFrame
from latentsync.faces.align import fit_matrices, warp_faces
from latentsync.faces.blend import BlendRegion, FacePaster
from latentsync.faces.detect import LOWER_FACE
from latentsync.faces.finder import FaceTracker
from latentsync.given_paths import given_path, path_or_word
from latentsync.media.audio_reader import read_audio
from latentsync.media.video_reader import read_frames
from latentsync.model.loading import LipSyncModel, find_model, load_model
from latentsync.model.whisper import SAMPLE_RATE
from latentsync.options import SETTINGS, LipSyncOptions
from latentsync.speech_features import encode_speech
from latentsync.synthetic.clips import AvatarClip

from .heldout_avatars import held_out_clips

LEVELS = (0.02, 0.5, 0.98)  # of alpha: outer border, middle and inner border of the edge
SCALE = 0.006  # sides: standard deviation of the Gaussian under which gradients are taken
NORMAL_SCALE = 0.03  # sides: the same for the direction of the edge
FLAT_SHARE = 0.75  # of the edge
FLOOR = 0.3  # levels a px: what is added to both gradients there
LIMIT = 1.2  # what the default must not exceed


@dataclass(frozen=True)
class Clip:
    """Frames with all that a paste needs; truth: the frames as they should become, where that is known."""

    name: str
    frames: list[np.ndarray]
    matrices: np.ndarray
    contours: np.ndarray
    aligned: np.ndarray
    generated: list[torch.Tensor]
    truth: list[np.ndarray] | None


@dataclass(frozen=True)
class SeamScore:
    """Gradient across the edge, result over source: of all of the edge, and of where the source is flattest."""

    ratio: float
    flat: float


def seam_score(source: np.ndarray, result: np.ndarray, region: BlendRegion, side: float) -> SeamScore:
    """The worst of the edge's lines; source, result: (H, W, 3) uint8; side: of the face's square, px of the frame."""
    alpha = np.pad(region.alpha, 2)
    box = np.add(region.box, (-2, -2, 2, 2))
    before, after = (_cropped(picture, box) for picture in (source, result))
    direction = cv2.GaussianBlur((alpha >= 0.5).astype(np.float32), (0, 0), NORMAL_SCALE * side)
    across = np.dstack([cv2.Sobel(direction, cv2.CV_32F, 1, 0), cv2.Sobel(direction, cv2.CV_32F, 0, 1)])
    across /= np.maximum(np.linalg.norm(across, axis=2, keepdims=True), 1e-9)
    slopes = [_slope_along(picture, across, max(SCALE * side, 1.0)) for picture in (before, after)]
    scores = []
    for level in LEVELS:
        part = (alpha >= level).astype(np.uint8)
        line = cv2.morphologyEx(part, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > 0
        own, now = (slope[line] for slope in slopes)
        flat = own <= np.quantile(own, FLAT_SHARE)
        scores.append(
            ((now.mean() + 1e-3) / (own.mean() + 1e-3), (now[flat].mean() + FLOOR) / (own[flat].mean() + FLOOR))
        )
    return SeamScore(*(float(max(column)) for column in zip(*scores, strict=True)))


def _cropped(picture: np.ndarray, box: np.ndarray) -> np.ndarray:
    """The box (x0, y0, x1, y1), which may reach 2 px outside the picture, as float32."""
    padded = cv2.copyMakeBorder(picture, 2, 2, 2, 2, cv2.BORDER_REPLICATE)
    return padded[box[1] + 2 : box[3] + 2, box[0] + 2 : box[2] + 2].astype(np.float32)


def _slope_along(picture: np.ndarray, direction: np.ndarray, sigma: float) -> np.ndarray:
    smooth = cv2.GaussianBlur(picture, (0, 0), sigma)
    slopes = [cv2.Sobel(smooth, cv2.CV_32F, dx, 1 - dx, ksize=1) for dx in (1, 0)]
    return np.abs(slopes[0] * direction[..., :1] + slopes[1] * direction[..., 1:]).mean(2)


def square_side(matrix: np.ndarray, resolution: int) -> float:
    """Side of a face's square in px of the frame (its mean: it is a rectangle there)."""
    return resolution / np.sqrt(abs(np.linalg.det(matrix[:, :2])))


def avatar_clips(model: LipSyncModel, options: LipSyncOptions, numbers: Iterable[int]) -> Iterator[Clip]:
    """Held-out avatars; those of odd numbers are tall."""
    clips, _ = held_out_clips()
    for number in numbers:
        clip, draw = clips[number], _portrait if number % 2 else AvatarClip.frame
        frames, truth = ([draw(part, i) for i in range(options.chunk_frames)] for part in (clip.own, clip.new))
        speech = clip.new.speech.waveform
        yield prepared(f"avatar {clip.index}", model, options, frames, speech, clip.own.fps, truth)


def _portrait(clip: AvatarClip, index: int) -> np.ndarray:
    """Tall, with a camera's grain: the same grain for the same index, so that truth and source differ by the lips."""
    view = np.array(
        [[1 / HEAD_UNIT, 0, 0.5 - WIDTH / 2 / HEAD_UNIT], [0, 1 / HEAD_UNIT, 0.5 - 0.4 * HEIGHT / HEAD_UNIT]]
    )
    grain = np.random.default_rng([clip.identity_seed, index]).normal(0, GRAIN, (HEIGHT, WIDTH, 1))
    return np.clip(np.rint(clip.view(index, view, HEIGHT, WIDTH) + grain), 0, 255).astype(np.uint8)


def real_clip(model: LipSyncModel, options: LipSyncOptions, video: Path, audio: Path) -> Clip:
    frames = list(islice(read_frames(video), options.chunk_frames))
    speech = read_audio(audio, sample_rate=SAMPLE_RATE, duration=4.0)
    fps = (len(frames) - 1) / frames[-1].time
    return prepared(video.stem, model, options, [frame.pixels for frame in frames], speech, fps, None)


def prepared(
    name: str,
    model: LipSyncModel,
    options: LipSyncOptions,
    frames: list[np.ndarray],
    speech: np.ndarray,
    fps: float,
    truth: list[np.ndarray] | None,
) -> Clip:
    tracker, seen, found = FaceTracker(), None, []
    for frame in frames:
        seen = tracker(frame, seen)
        if seen is None:
            raise SystemExit(f"no face in frame {len(found)} of {name}; choose a clip with a face in every frame")
        found.append(seen)
    matrices = fit_matrices([face.framed(model.framing) for face in found], model.resolution, "temporal", fps)
    aligned = warp_faces(frames, matrices, model.resolution)
    tokens = encode_speech(model, speech, SAMPLE_RATE, fps).tokens([i / fps for i in range(len(frames))])
    chunks = ChunkGenerator(model, options, torch.Generator().manual_seed(options.seed))
    pairs = []
    for face, heard in zip(aligned, tokens, strict=True):
        pairs.extend(chunks.push(FaceFrame(face, heard)))
    pairs.extend(chunks.flush())
    contours = np.stack([face.landmarks[list(LOWER_FACE)] for face in found])
    return Clip(name, frames, matrices, contours, aligned, [face for _, face in pairs], truth)


Paste = Callable[[Clip, int], np.ndarray]


def scores_of(
    clips: list[Clip], paster: FacePaster, every: int, paste: Paste | None = None
) -> tuple[list[SeamScore], list[float]]:
    """Of every n-th frame of all clips, at the edge of the paster's region, pasted by it or in another way.

    Also the CPU ms of each paste into a tall frame.
    """
    scores, cost = [], []
    for clip in clips:
        for i in range(0, len(clip.frames), every):
            frame, matrix = clip.frames[i], clip.matrices[i]
            contour = clip.contours[i] if paster.follows_landmarks else None
            region = paster.blender.region(frame.shape, matrix, contour)
            timing = Timing()
            with timing.measure():
                if paste is None:
                    result = paster(frame, clip.generated[i], clip.aligned[i], matrix, contour=contour)
                else:
                    result = paste(clip, i)
            if len(frame) == HEIGHT:
                cost.append(1000 * timing.cpu[0])
            scores.append(seam_score(frame, result, region, square_side(matrix, paster.blender.resolution)))
    return scores, cost


def _as_given(paster: FacePaster) -> Paste:
    """Without a look at the source's own face."""
    return lambda clip, i: paster.blender.paste(clip.frames[i], clip.generated[i], clip.matrices[i])


def table(clips: list[Clip], resolution: int, blend_mask: str, every: int = 1) -> list[dict]:
    """One row a way of blending: median and 90th percentile of the ratio over all frames, and medians of the rest."""
    default = LipSyncOptions()
    own = f"{blend_mask} (the model's)"
    masks = {own: {}, "mask": {"blend_mask": "mask"}, "landmarks": {"mask_shape": "landmarks"}}
    kinds = {"drawn": [clip for clip in clips if clip.truth], "real": [clip for clip in clips if not clip.truth]}

    def row(method: str, mask: str, choice: LipSyncOptions, paste: Paste | None = None) -> dict:
        paster = FacePaster(resolution, choice, blend_mask)
        scored = {kind: scores_of(part, paster, every, paste) for kind, part in kinds.items()}
        ratios = {kind: [score.ratio for score in scores] for kind, (scores, _) in scored.items()}
        every_ratio, cost = ratios["drawn"] + ratios["real"], scored["drawn"][1] + scored["real"][1]
        return {
            "method": method,
            "mask": mask,
            "edge match": "yes" if choice.edge_match else "no",
            "mask_smooth": choice.mask_smooth,
            "median": float(np.median(every_ratio)),
            "90 %": float(np.quantile(every_ratio, 0.9)),
            **{kind: float(np.median(part)) for kind, part in ratios.items() if part},
            "flat": float(np.median([score.flat for scores, _ in scored.values() for score in scores])),
            "ms": float(np.median(cost)) if cost and method[0] != "(" else "",
            "default": paste is None and choice == default,
        }

    rows = [
        row(method, mask, replace(default, blend_method=method, edge_match=match, **chosen))
        for (mask, chosen), method, match in product(masks.items(), SETTINGS["blend_method"].choices, (True, False))
    ]
    rows += [row("feather", own, replace(default, mask_smooth=smooth)) for smooth in (0.0, 0.25, 0.75, 1.0)]
    for smooth in (0.0, 0.5):
        choice = replace(default, mask_smooth=smooth, edge_match=False)
        rows.append(row("feather, source not used", own, choice, _as_given(FacePaster(resolution, choice, blend_mask))))
    rows.append(row("as the reference", "rectangle", default.as_reference()))
    kinds["real"] = []
    rows.append(
        row("(drawn with the new lips)", own, replace(default, edge_match=False), lambda clip, i: clip.truth[i])
    )
    return rows


def markdown(rows: list[dict]) -> str:
    columns = [name for name in rows[0] if name != "default"]
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    for row in rows:
        cells = [f"{v:.2f}" if isinstance(v, float) else v for v in (row.get(name, "") for name in columns)]
        lines.append("| " + " | ".join(f"**{c}**" if row["default"] else c for c in cells) + " |")
    return "\n".join(lines)


def summary(rows: list[dict]) -> str:
    default = next(row for row in rows if row["default"])
    like = [row for row in rows if all(row[key] == default[key] for key in ("mask", "mask_smooth")) and row["ms"]]
    lowest = min(row["median"] for row in like)
    verdict = default["median"] <= min(LIMIT, lowest + 0.005)
    return (
        f"The default's median is {default['median']:.2f}; the lowest with its mask and width is {lowest:.2f}, the "
        f"limit {LIMIT}: {'kept' if verdict else 'NOT kept'}."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=path_or_word, default="tiny")
    parser.add_argument("--checkpoints", type=given_path, default=Path("checkpoints"))
    parser.add_argument("--clips", type=int, default=8, help="avatars (default: 8)")
    parser.add_argument("--every", type=int, default=4, help="frames from one that is scored to the next (default: 4)")
    parser.add_argument("--video", type=given_path, help="a real clip with a face in every frame of its beginning")
    parser.add_argument("--audio", type=given_path, help="speech for it")
    parser.add_argument(
        "--output", type=given_path, help="without ending: the table is written to .md, figures to .json"
    )
    arguments = parser.parse_args()
    if (arguments.video is None) != (arguments.audio is None):
        parser.error("--video and --audio go together")
    model, options = load_model(find_model(arguments.model, arguments.checkpoints)), LipSyncOptions()
    with torch.inference_mode():
        clips = list(avatar_clips(model, options, range(arguments.clips)))
        if arguments.video:
            clips.append(real_clip(model, options, arguments.video, arguments.audio))
        rows = table(clips, model.resolution, model.blend_mask or "mask", arguments.every)
    text = f"{markdown(rows)}\n\n{summary(rows)}\n"
    print(text)
    if arguments.output:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.with_suffix(".md").write_text(f"# Seams\n\n{__doc__}\n{text}", encoding="utf-8")
        arguments.output.with_suffix(".json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
