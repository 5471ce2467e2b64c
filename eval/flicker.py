"""What restoration does to sharpness and flicker, where the generated face is pasted.

    python -m eval.flicker --output output/flicker
    python -m eval.flicker --video clip.mp4 --audio speech.wav --output output/flicker_real

Held-out avatars say their own words, so the true frames are known: as drawn, with a camera's grain, and out of focus.
A video of one's own has no true frames: it is given another speech, and compared with the source's own face.

PSNR       dB, against the true frames
sharpness  mean gradient, in that of the source's frames
flicker    mean absolute difference of consecutive frames, grey levels; a speaking face has some of its own
error      the same of what differs from the true frames: what moves that should not
"""

import argparse
import json
import logging
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import torch

from latentsync.contact_sheet import labelled_sheet
from latentsync.face_track import FaceTrack
from latentsync.faces.align import frame_pixels_per_crop_pixel, resized_matrix, warp_faces
from latentsync.faces.blend import FaceBlender
from latentsync.faces.finder import FaceTracker
from latentsync.given_paths import given_path, path_or_word
from latentsync.media.audio_reader import read_audio
from latentsync.media.video_reader import read_frames
from latentsync.metrics.pictures import psnr_of
from latentsync.model.loading import LipSyncModel, find_model, load_model
from latentsync.model.masks import generation_mask
from latentsync.model.whisper import SAMPLE_RATE
from latentsync.options import LipSyncOptions
from latentsync.restoration.restore import FaceRestoration
from latentsync.restoration.restorers import Restorer, load_restorer
from latentsync.speech_features import encode_speech
from latentsync.stages import blend_faces, prepare_faces, sample_faces

from .heldout_avatars import held_out_clips

log = logging.getLogger(__name__)
SOURCES = ("drawn", "grain", "soft")
GRAIN = 3.0  # grey levels
SOFTNESS = 2.0  # px, sigma of the lens
VARIANTS = {  # settings of FaceRestoration
    "restored, each frame by itself": {"memory": 0.0, "matched": False},
    "+ steadied": {"matched": False},
    "+ matched to the source": {},
}
UNRESTORED = "not restored"


@dataclass(frozen=True)
class Footage:
    """Frames (H, W, 3) uint8 and the speech (T,) at 16 kHz; is_true: the speech is what these very frames say."""

    name: str
    frames: list[np.ndarray]
    speech: np.ndarray
    fps: float
    is_true: bool


@dataclass(frozen=True)
class Figures:
    footage: str
    variant: str
    psnr: float | None
    sharpness: float
    flicker: float
    source_flicker: float
    error: float | None
    scale: float  # px of the frame per px of the generated square


def avatars(numbers: list[int], sources: list[str], num_frames: int) -> Iterator[Footage]:
    clips, listed = held_out_clips()
    size, rng = listed["frame_size"], np.random.default_rng(0)
    for number in numbers:
        clip = clips[number].own
        drawn = [clip.frame(index, size, size) for index in range(num_frames)]
        speech = clip.speech.waveform[: int(num_frames / clip.fps * SAMPLE_RATE)]
        for source in sources:
            frames = drawn
            if source == "soft":
                frames = [cv2.GaussianBlur(frame, (0, 0), SOFTNESS) for frame in drawn]
            elif source == "grain":
                grain = (rng.normal(0, GRAIN, (size, size, 1)) for _ in drawn)
                frames = [np.clip(np.rint(f + g), 0, 255).astype(np.uint8) for f, g in zip(drawn, grain, strict=True)]
            yield Footage(f"{number} {source}", frames, speech, clip.fps, is_true=True)


def own_video(video: Path, audio: Path, num_frames: int) -> Footage:
    frames = list(islice(read_frames(video), num_frames))
    fps = (len(frames) - 1) / (frames[-1].time - frames[0].time)
    speech = read_audio(audio, sample_rate=SAMPLE_RATE, duration=num_frames / fps)
    return Footage(video.stem, [frame.pixels for frame in frames], speech, fps, is_true=False)


def restored(track: FaceTrack, footage: Footage, restoration: FaceRestoration) -> np.ndarray:
    """(F, S', S', 3) float32 in [0, 1]: the track's generated faces, restored."""
    matrices = np.stack([resized_matrix(matrix, track.resolution, restoration.side) for matrix in track.matrices])
    sources = warp_faces(footage.frames, matrices, restoration.side)
    scales = np.array([frame_pixels_per_crop_pixel(matrix, track.resolution) for matrix in track.matrices])
    faces, _ = restoration(torch.from_numpy(track.generated), sources, scales)
    return (faces.permute(0, 2, 3, 1) + 1).div(2).clamp(0, 1)


def measure(footage: Footage, variant: str, frames: list[np.ndarray], track: FaceTrack) -> Figures:
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
        float(psnr_of(float(np.mean(squared)))) if footage.is_true else None,
        float(np.mean(gradient) / np.mean(source_gradient)),
        float(np.mean(flicker)),
        float(np.mean(source_flicker)),
        float(np.mean(error)) if footage.is_true else None,
        float(np.mean(scales)),
    )


def _gradient(frame: np.ndarray) -> np.ndarray:
    luma = frame.mean(2)
    return np.abs(np.gradient(luma, axis=0)) + np.abs(np.gradient(luma, axis=1))


def compare(
    footage: Footage, model: LipSyncModel, restorer: Restorer, options: LipSyncOptions
) -> tuple[list[Figures], dict[str, list[np.ndarray]]]:
    """Figures of every variant, and close-ups of one frame each. Faces are generated once for all of them."""
    log.info("%s: generating", footage.name)
    speech = encode_speech(model, footage.speech, SAMPLE_RATE, footage.fps)
    track = prepare_faces(
        footage.frames,
        model.resolution,
        options,
        finder=FaceTracker(),
        fps=footage.fps,
        missing="error",
        blend_mask=model.blend_mask,
        framing=model.framing,
    )
    track = sample_faces(model, track, speech, options)
    results = {UNRESTORED: list(blend_faces(footage.frames, track, options=options))}
    for variant, settings in VARIANTS.items():
        crops = restored(
            track, footage, FaceRestoration(restorer, model.resolution, options, model.blend_mask, **settings)
        )
        results[variant] = list(blend_faces(footage.frames, track, options=options, crops=crops))
    figures = [measure(footage, variant, frames, track) for variant, frames in results.items()]
    middle = track.num_frames // 2
    close = {
        name: warp_faces([frames[middle]], resized_matrix(track.matrices[middle], track.resolution, 384)[None], 384)[0]
        for name, frames in {**results, "source": footage.frames}.items()
    }
    return figures, close


def table(figures: list[Figures]) -> str:
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=path_or_word, default="tiny")
    parser.add_argument("--checkpoints", type=given_path, default=Path("checkpoints"))
    parser.add_argument("--restorer", default="tiny")
    parser.add_argument("--output", type=given_path, default=Path("output/flicker"))
    parser.add_argument("--clips", type=int, nargs="*", default=[0, 5, 10])
    parser.add_argument("--sources", nargs="*", choices=SOURCES, default=list(SOURCES))
    parser.add_argument("--video", type=given_path, help="a video of one's own instead of the avatars")
    parser.add_argument("--audio", type=given_path, help="the speech for it")
    parser.add_argument("--frames", type=int, default=40)
    parser.add_argument("--inference_steps", type=int, default=8)
    parser.add_argument("--guidance_scale", type=float, default=1.0)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    options = LipSyncOptions(
        num_inference_steps=arguments.inference_steps, guidance_scale=arguments.guidance_scale, silence="off"
    )
    model = load_model(find_model(arguments.model, arguments.checkpoints))
    restorer = load_restorer(arguments.restorer, folders=[arguments.checkpoints])
    if arguments.video:
        footages = iter([own_video(arguments.video, arguments.audio, arguments.frames)])
    else:
        footages = avatars(arguments.clips, arguments.sources, arguments.frames)
    arguments.output.mkdir(parents=True, exist_ok=True)
    figures, rows = [], {}
    for footage in footages:
        measured, close = compare(footage, model, restorer, options)
        figures += measured
        rows[footage.name] = list(close.values())
        for row in measured:
            log.info("%s", row)
    text = table(figures)
    (arguments.output / "flicker.md").write_text(text + "\n", encoding="utf-8")
    (arguments.output / "flicker.json").write_text(json.dumps([asdict(f) for f in figures], indent=1), encoding="utf-8")
    cv2.imwrite(str(arguments.output / "flicker.jpg"), labelled_sheet(rows, side=384)[..., ::-1])
    print(text)


if __name__ == "__main__":
    main()
