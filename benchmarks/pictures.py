"""Is the picture right, however the lips move? Measurements of `benchmarks.quality`: borders, edges, flicker."""

import argparse
import logging
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from itertools import pairwise, product
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from latentsync.contact_sheet import labelled_sheet
from latentsync.faces.align import frame_pixels_per_crop_pixel, resized_matrix, warp_faces
from latentsync.faces.blend import BlendRegion, FaceBlender, FacePaster
from latentsync.given_paths import given_path
from latentsync.metrics.pictures import psnr_of
from latentsync.model.loading import LipSyncModel, find_model, load_model
from latentsync.model.masks import generation_mask
from latentsync.model.whisper import SAMPLE_RATE
from latentsync.options import SETTINGS, LipSyncOptions
from latentsync.restoration.restore import FaceRestoration
from latentsync.restoration.restorers import Restorer, load_restorer
from latentsync.run.chunks import ChunkGenerator, Denoiser, FaceFrame, generate_alone
from latentsync.run.speech import encode_speech
from latentsync.run.stages import FaceTrack, blend_faces, sample_faces
from latentsync.synthetic.clips import AvatarClip

from .measure import (
    FPS,
    GRAIN,
    HEAD_UNIT,
    HEIGHT,
    HELD_OUT_SIDE,
    WIDTH,
    Footage,
    Timing,
    held_out_clip,
    held_out_footage,
    model_options,
    own_footage,
    write_figures,
)

log = logging.getLogger(__name__)


# ---- borders of chunks

OVERLAPS = (0, 2, 4, 8)
SHIFT = 8  # frames by which the run to compare with cuts later


@dataclass(frozen=True)
class BorderScore:
    """ratio: differences at borders over those inside chunks; inside: the latter, grey levels; cost: of the U-Net."""

    way: str
    overlap: int
    ratio: float
    inside: float
    cost: float
    borders: int


def chunked(
    track: FaceTrack, tokens: Tensor, model: LipSyncModel, options: LipSyncOptions, shift: int = 0
) -> np.ndarray:
    """(F, 3, S, S) as the product makes them, tokens (F, K, D); with a shift, the first chunk is that short."""
    chunks = ChunkGenerator(model, options, torch.Generator().manual_seed(options.seed))
    frames: list[FaceFrame | None] = list(map(FaceFrame, track.aligned, tokens))
    if shift:
        frames.insert(shift, None)
    made = generate_alone(chunks, Denoiser(model, options), frames)
    pairs = [pair for final in made for pair in final]
    return np.stack([face.numpy() for _, face in pairs])


def jumps(faces: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """(F - 1,) mean difference of neighbouring frames inside the hole, grey levels of 255."""
    return np.array([np.abs(after - before)[:, hole].mean() * 127.5 for before, after in pairwise(faces)])


def border_windows(num_frames: int, options: LipSyncOptions) -> list[np.ndarray]:
    """Of each border, the indices of the differences at which one chunk gives way to the next."""
    starts = range(0, num_frames - options.chunk_overlap, options.chunk_frames - options.chunk_overlap)
    windows = [np.arange(start - 1, start + options.chunk_overlap) for start in starts[1:]]
    return [window for window in windows if window[-1] < num_frames - 1]


def inside(own: np.ndarray, shifted: np.ndarray, chunk_frames: int) -> np.ndarray:
    """(F - 1,) differences, each from the run in which it is farther from a border."""
    place = (np.arange(len(own)) + 1) % chunk_frames
    is_far = np.minimum(place, chunk_frames - place) >= chunk_frames // 4
    return np.where(is_far, own, shifted)


def border_scores(footages: list[Footage], model: LipSyncModel, options: LipSyncOptions) -> list[BorderScore]:
    hole = generation_mask(model.resolution, model.blend_mask or options.mask).squeeze().numpy() < 0.5
    clips = []
    for footage in footages:
        heard = encode_speech(model, footage.speech, SAMPLE_RATE, footage.fps, silence=options.silence)
        tokens = heard.tokens([index / footage.fps for index in range(len(footage.frames))])
        clips.append((footage.track(model, options), tokens))
    plain = replace(options, colour_match=False)  # only what the chunks make is looked at
    ways = [("outputs", replace(plain, chunk_overlap=overlap)) for overlap in OVERLAPS]
    ways.append(("reference", options.as_reference()))
    without: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}  # no overlap: as it is, and cut elsewhere
    scores = []
    for way, chosen in ways:
        kind = chosen.posterior
        if kind not in without:
            cut = replace(chosen, chunk_overlap=0)
            without[kind] = [
                tuple(jumps(chunked(*clip, model, cut, shift), hole) for shift in (0, SHIFT)) for clip in clips
            ]
        at, within = [], []
        for clip, (own, shifted) in zip(clips, without[kind], strict=True):
            found = jumps(chunked(*clip, model, chosen), hole) if chosen.chunk_overlap else own
            expected = inside(own, shifted, chosen.chunk_frames)
            for window in border_windows(len(found) + 1, chosen):
                at.append(found[window].max())
                within.append(expected[window].max())
        cost = chosen.chunk_frames / (chosen.chunk_frames - chosen.chunk_overlap)
        ratio, level = float(np.sum(at) / np.sum(within)), float(np.mean(within))
        scores.append(BorderScore(way, chosen.chunk_overlap, ratio, level, cost, len(at)))
    return scores


def border_table(scores: list[BorderScore]) -> str:
    heads = ("overlap of", "frames", "border / inside", "above 1, of the reference's", "U-Net cost", "borders")
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    reference = next(score for score in scores if score.way == "reference").ratio - 1
    for score in scores:
        share = (score.ratio - 1) / reference if reference > 0 else float("nan")
        lines.append(
            f"| {score.way} | {score.overlap} | {score.ratio:.2f} | {share:.2f} | {score.cost:.2f} | {score.borders} |"
        )
    return "\n".join(lines)


def borders_options(parser: argparse.ArgumentParser) -> None:
    model_options(parser)
    parser.add_argument("--output", type=given_path, help="scores as JSON")
    parser.add_argument("--clips", type=int, default=1, help="held-out people (default: 1)")
    parser.add_argument("--frames", type=int, default=68, help="of each (default: 68)")
    parser.add_argument("--inference_steps", type=int, default=4)


def borders(arguments: argparse.Namespace) -> None:
    """Whether it shows where one chunk ends and the next begins, by overlap.

    People are given another speech. The measure is the difference of neighbouring frames inside what is generated, at
    the borders of chunks, over that of the same frames in a run where they lie inside a chunk (chunks cut eight frames
    later): 1 is a border that cannot be told from the frames around it, and no movement of the lips counts. An overlap
    has as many places to jump at as it has frames, so of each border the largest difference counts, in both runs. Cost
    is the number of times a frame goes through the U-Net, for each step. "reference" is the reference's way: chunks
    side by side, latents drawn from the VAE's distribution.
    """
    model = load_model(find_model(arguments.model, arguments.checkpoints))
    options = LipSyncOptions(num_inference_steps=arguments.inference_steps)
    own = own_footage(arguments, arguments.frames)
    footages = [own] if own else [held_out_footage(index, arguments.frames) for index in range(arguments.clips)]
    with torch.inference_mode():
        scores = border_scores(footages, model, options)
    print(border_table(scores))
    write_figures(arguments.output, [asdict(score) for score in scores])


# ---- edges of the pasted part

LEVELS = (0.02, 0.5, 0.98)  # of alpha: outer border, middle and inner border of the edge
SCALE = 0.006  # sides: standard deviation of the Gaussian under which gradients are taken
NORMAL_SCALE = 0.03  # sides: the same for the direction of the edge
FLAT_SHARE = 0.75  # of the edge
FLOOR = 0.3  # levels a px: what is added to both gradients there
LIMIT = 1.2  # what the default must not exceed


@dataclass(frozen=True)
class Clip:
    """Footage with its generated faces."""

    footage: Footage
    track: FaceTrack

    def face(self, index: int) -> Tensor:
        return torch.from_numpy(self.track.generated[index])


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


def edge_footages(num_clips: int, num_frames: int) -> Iterator[Footage]:
    """Held-out people; those of odd numbers are tall."""
    for index in range(num_clips):
        if index % 2 == 0:
            yield held_out_footage(index, num_frames)
            continue
        clip = held_out_clip(index)
        frames, truth = ([_portrait(side, i) for i in range(num_frames)] for side in (clip.own, clip.new))
        yield Footage(f"tall avatar {index}", frames, clip.new.speech.waveform, FPS, truth)


def _portrait(clip: AvatarClip, index: int) -> np.ndarray:
    """Tall, with a camera's grain: the same grain for the same index, so that truth and source differ by the lips."""
    view = np.array(
        [[1 / HEAD_UNIT, 0, 0.5 - WIDTH / 2 / HEAD_UNIT], [0, 1 / HEAD_UNIT, 0.5 - 0.4 * HEIGHT / HEAD_UNIT]]
    )
    grain = np.random.default_rng([clip.identity_seed, index]).normal(0, GRAIN, (HEIGHT, WIDTH, 1))
    return np.clip(np.rint(clip.view(index, view, HEIGHT, WIDTH) + grain), 0, 255).astype(np.uint8)


Paste = Callable[[Clip, int], np.ndarray]


def edge_scores(
    clips: list[Clip], paster: FacePaster, every: int, paste: Paste | None = None
) -> tuple[list[SeamScore], list[float]]:
    """Of every n-th frame of all clips, at the edge of the paster's region, pasted by it or in another way.

    Also the CPU ms of each paste into a tall frame.
    """
    scores, cost = [], []
    for clip in clips:
        for i in range(0, len(clip.footage.frames), every):
            frame, matrix = clip.footage.frames[i], clip.track.matrices[i]
            contour = clip.track.contours[i] if paster.follows_landmarks else None
            region = paster.blender.region(frame.shape, matrix, contour)
            timing = Timing()
            with timing.measure():
                if paste is None:
                    result = paster(frame, clip.face(i), clip.track.aligned[i], matrix, contour=contour)
                else:
                    result = paste(clip, i)
            if len(frame) == HEIGHT:
                cost.append(1000 * timing.cpu[0])
            scores.append(seam_score(frame, result, region, square_side(matrix, paster.blender.resolution)))
    return scores, cost


def _as_given(paster: FacePaster) -> Paste:
    """Without a look at the source's own face."""
    return lambda clip, i: paster.blender.paste(clip.footage.frames[i], clip.face(i), clip.track.matrices[i])


def edge_rows(clips: list[Clip], resolution: int, blend_mask: str, every: int = 1) -> list[dict]:
    """One row a way of blending: median and 90th percentile of the ratio over all frames, and medians of the rest."""
    default = LipSyncOptions()
    own = f"{blend_mask} (the model's)"
    masks = {own: {}, "mask": {"blend_mask": "mask"}, "landmarks": {"mask_shape": "landmarks"}}
    kinds = {
        "drawn": [clip for clip in clips if clip.footage.truth],
        "real": [clip for clip in clips if not clip.footage.truth],
    }

    def row(method: str, mask: str, choice: LipSyncOptions, paste: Paste | None = None) -> dict:
        paster = FacePaster(resolution, choice, blend_mask)
        scored = {kind: edge_scores(part, paster, every, paste) for kind, part in kinds.items()}
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
        row("(drawn with the new lips)", own, replace(default, edge_match=False), lambda clip, i: clip.footage.truth[i])
    )
    return rows


def edge_table(rows: list[dict]) -> str:
    columns = [name for name in rows[0] if name != "default"]
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    for row in rows:
        cells = [f"{v:.2f}" if isinstance(v, float) else v for v in (row.get(name, "") for name in columns)]
        lines.append("| " + " | ".join(f"**{c}**" if row["default"] else c for c in cells) + " |")
    return "\n".join(lines)


def edge_verdict(rows: list[dict]) -> str:
    default = next(row for row in rows if row["default"])
    like = [row for row in rows if all(row[key] == default[key] for key in ("mask", "mask_smooth")) and row["ms"]]
    lowest = min(row["median"] for row in like)
    verdict = default["median"] <= min(LIMIT, lowest + 0.005)
    return (
        f"The default's median is {default['median']:.2f}; the lowest with its mask and width is {lowest:.2f}, the "
        f"limit {LIMIT}: {'kept' if verdict else 'NOT kept'}."
    )


def edges_options(parser: argparse.ArgumentParser) -> None:
    model_options(parser)
    parser.add_argument("--clips", type=int, default=8, help="held-out people (default: 8)")
    parser.add_argument("--every", type=int, default=4, help="frames from one that is scored to the next (default: 4)")
    parser.add_argument("--output", type=given_path, help="rows as JSON")


def edges(arguments: argparse.Namespace) -> None:
    """Whether the edge of a pasted face shows: every way of blending, with every mask, on generated faces.

    The measure is the gradient across the mask's edge, in the result over the source's own at the same places: 1 is an
    edge that cannot be told from the picture around it, less is a blur and no better. It is taken along the outer
    border of what changes, along its middle and along the inner border, and the worst of the three counts, so a seam
    gains nothing by being moved; gradients are those under a Gaussian of 0.006 sides, so that a camera's grain does not
    drown them. "flat" is the same on the three quarters of the edge where the source is flattest, with 0.3 levels a px
    added to both: the stricter view, as a drawn cheek has next to no gradient of its own. "ms" is the CPU time of a
    paste at 1080x1920.

    People are given another speech; "drawn with the new lips" is what a perfect model and paste would give. Half of
    them are square and clean, half tall 1080x1920 with a camera's grain. A real clip counts where one is given.
    """
    model, options = load_model(find_model(arguments.model, arguments.checkpoints)), LipSyncOptions()
    own = own_footage(arguments, options.chunk_frames)
    clips = []
    with torch.inference_mode():
        for footage in (*edge_footages(arguments.clips, options.chunk_frames), *([own] if own else [])):
            speech = encode_speech(model, footage.speech, SAMPLE_RATE, footage.fps)
            clips.append(Clip(footage, sample_faces(model, footage.track(model, options), speech, options)))
        rows = edge_rows(clips, model.resolution, model.blend_mask or "mask", arguments.every)
    print(f"{edge_table(rows)}\n\n{edge_verdict(rows)}")
    write_figures(arguments.output, rows)


# ---- flicker and sharpness of restored faces

SOURCES = ("drawn", "grain", "soft")
GRAIN_LEVELS = 3.0  # of the kind "grain"
SOFTNESS = 2.0  # px, sigma of the lens
VARIANTS = {  # settings of FaceRestoration
    "restored, each frame by itself": {"memory": 0.0, "matched": False},
    "+ steadied": {"matched": False},
    "+ matched to the source": {},
}
UNRESTORED = "not restored"


@dataclass(frozen=True)
class Figures:
    """Of a variant on a clip, where the face is pasted; see `flicker`."""

    footage: str
    variant: str
    psnr: float | None
    sharpness: float
    flicker: float
    source_flicker: float
    error: float | None
    scale: float  # px of the frame per px of the generated square


def true_footages(numbers: list[int], sources: list[str], num_frames: int) -> Iterator[Footage]:
    """Held-out people who say their own words, so that their frames are the true ones."""
    rng = np.random.default_rng(0)
    for number in numbers:
        clip, size = held_out_clip(number).own, HELD_OUT_SIDE
        drawn = [clip.frame(index, size, size) for index in range(num_frames)]
        speech = clip.speech.waveform[: int(num_frames / clip.fps * SAMPLE_RATE)]
        for source in sources:
            frames = drawn
            if source == "soft":
                frames = [cv2.GaussianBlur(frame, (0, 0), SOFTNESS) for frame in drawn]
            elif source == "grain":
                grain = (rng.normal(0, GRAIN_LEVELS, (size, size, 1)) for _ in drawn)
                frames = [np.clip(np.rint(f + g), 0, 255).astype(np.uint8) for f, g in zip(drawn, grain, strict=True)]
            yield Footage(f"{number} {source}", frames, speech, clip.fps, frames)


def restored(track: FaceTrack, footage: Footage, restoration: FaceRestoration) -> np.ndarray:
    """(F, S', S', 3) float32 in [0, 1]: the track's generated faces, restored."""
    matrices = np.stack([resized_matrix(matrix, track.resolution, restoration.side) for matrix in track.matrices])
    sources = warp_faces(footage.frames, matrices, restoration.side)
    scales = np.array([frame_pixels_per_crop_pixel(matrix, track.resolution) for matrix in track.matrices])
    faces, _ = restoration(torch.from_numpy(track.generated), sources, scales)
    return (faces.permute(0, 2, 3, 1) + 1).div(2).clamp(0, 1)


def flicker_figures(footage: Footage, variant: str, frames: list[np.ndarray], track: FaceTrack) -> Figures:
    pasted = generation_mask(track.resolution, track.blend_mask or track.mask)
    hole = FaceBlender(track.resolution, mask=pasted, feather=0.0)
    squared, gradient, source_gradient, flicker, source_flicker, error = ([] for _ in range(6))
    before = None
    for frame, source, matrix in zip(frames, footage.frames, track.matrices, strict=True):
        region = hole.region(frame.shape, matrix)
        inside = np.zeros(frame.shape[:2], bool)
        inside[region.slices] = region.alpha > 0.99
        now, true = frame.astype(np.float32), source.astype(np.float32)
        squared.append(((now - true)[inside] ** 2).mean())
        gradient.append(_gradient(now)[inside].mean())
        source_gradient.append(_gradient(true)[inside].mean())
        if before is not None:
            flicker.append(np.abs(now - before[0])[inside].mean())
            source_flicker.append(np.abs(true - before[1])[inside].mean())
            error.append(np.abs((now - true) - (before[0] - before[1]))[inside].mean())
        before = now, true
    scales = [frame_pixels_per_crop_pixel(matrix, track.resolution) for matrix in track.matrices]
    return Figures(
        footage.name,
        variant,
        float(psnr_of(float(np.mean(squared)))) if footage.truth else None,
        float(np.mean(gradient) / np.mean(source_gradient)),
        float(np.mean(flicker)),
        float(np.mean(source_flicker)),
        float(np.mean(error)) if footage.truth else None,
        float(np.mean(scales)),
    )


def _gradient(frame: np.ndarray) -> np.ndarray:
    luma = frame.mean(2)
    return np.abs(np.gradient(luma, axis=0)) + np.abs(np.gradient(luma, axis=1))


def compare_variants(
    footage: Footage, model: LipSyncModel, restorer: Restorer, options: LipSyncOptions
) -> tuple[list[Figures], dict[str, list[np.ndarray]]]:
    """Figures of every variant, and close-ups of one frame each. Faces are generated once for all of them."""
    log.info("%s: generating", footage.name)
    speech = encode_speech(model, footage.speech, SAMPLE_RATE, footage.fps)
    track = footage.track(model, options)
    track = sample_faces(model, track, speech, options)
    results = {UNRESTORED: list(blend_faces(footage.frames, track, options=options))}
    for variant, settings in VARIANTS.items():
        crops = restored(
            track, footage, FaceRestoration(restorer, model.resolution, options, model.blend_mask, **settings)
        )
        results[variant] = list(blend_faces(footage.frames, track, options=options, crops=crops))
    figures = [flicker_figures(footage, variant, frames, track) for variant, frames in results.items()]
    middle = track.num_frames // 2
    close = {
        name: warp_faces([frames[middle]], resized_matrix(track.matrices[middle], track.resolution, 384)[None], 384)[0]
        for name, frames in {**results, "source": footage.frames}.items()
    }
    return figures, close


def flicker_table(figures: list[Figures]) -> str:
    lines = [
        "| footage | variant | PSNR dB | sharpness | flicker | of the source | error |",
        "|" + "---|" * 7,
    ]
    for f in figures:
        psnr, error = ("" if value is None else f"{value:.2f}" for value in (f.psnr, f.error))
        lines.append(
            f"| {f.footage} ({f.scale:.1f}x) | {f.variant} | {psnr} | {f.sharpness:.2f} | {f.flicker:.2f} "
            f"| {f.source_flicker:.2f} | {error} |"
        )
    for variant in dict.fromkeys(f.variant for f in figures):
        chosen = [f for f in figures if f.variant == variant]
        psnr, error = (
            f"{np.mean([getattr(f, name) for f in chosen]):.2f}" if chosen[0].psnr is not None else ""
            for name in ("psnr", "error")
        )
        sharpness, flicker, source = (
            np.mean([getattr(f, name) for f in chosen]) for name in ("sharpness", "flicker", "source_flicker")
        )
        lines.append(f"| **mean** | {variant} | {psnr} | {sharpness:.2f} | {flicker:.2f} | {source:.2f} | {error} |")
    return "\n".join(lines)


def flicker_options(parser: argparse.ArgumentParser) -> None:
    model_options(parser)
    parser.add_argument("--restorer", default="tiny")
    parser.add_argument("--output", type=given_path, default=Path("output/flicker"))
    parser.add_argument("--clips", type=int, nargs="*", default=[0, 5, 10])
    parser.add_argument("--sources", nargs="*", choices=SOURCES, default=list(SOURCES))
    parser.add_argument("--frames", type=int, default=40)
    parser.add_argument("--inference_steps", type=int, default=8)
    parser.add_argument("--guidance_scale", type=float, default=1.0)


def flicker(arguments: argparse.Namespace) -> None:
    """What restoration does to sharpness and flicker, where the generated face is pasted.

    Held-out people say their own words, so the true frames are known: as drawn, with a camera's grain, and out of
    focus. A video of your own has no true frames: it is given another speech, and compared with the source's own face.

    PSNR       dB, against the true frames
    sharpness  mean gradient, in that of the source's frames
    flicker    mean absolute difference of consecutive frames, grey levels; a speaking face has some of its own
    error      the same of what differs from the true frames: what moves that should not
    """
    options = LipSyncOptions(
        num_inference_steps=arguments.inference_steps, guidance_scale=arguments.guidance_scale, silence="off"
    )
    model = load_model(find_model(arguments.model, arguments.checkpoints))
    restorer = load_restorer(arguments.restorer, folders=[arguments.checkpoints])
    own = own_footage(arguments, arguments.frames)
    footages = [own] if own else true_footages(arguments.clips, arguments.sources, arguments.frames)
    arguments.output.mkdir(parents=True, exist_ok=True)
    figures, rows = [], {}
    for footage in footages:
        of_variants, close = compare_variants(footage, model, restorer, options)
        figures += of_variants
        rows[footage.name] = list(close.values())
        for row in of_variants:
            log.info("%s", row)
    text = flicker_table(figures)
    (arguments.output / "flicker.md").write_text(text + "\n", encoding="utf-8")
    write_figures(arguments.output / "flicker.json", [asdict(f) for f in figures])
    cv2.imwrite(str(arguments.output / "flicker.jpg"), labelled_sheet(rows, side=384)[..., ::-1])
    print(text)
