"""Does it show where one chunk ends and the next begins? Overlaps of outputs, of latents at every step, and none.

    python -m eval.chunk_borders --output output/chunk_borders.json
    python -m eval.chunk_borders --video clip.mp4 --audio speech.wav

Avatars are given another speech. The measure is the difference of neighbouring frames inside what is generated, at the
borders of chunks, over that of the same frames in a run where they lie inside a chunk (chunks cut eight frames later):
1 is a border that cannot be told from the frames around it, and no movement of the lips counts. An overlap has as many
places to jump at as it has frames, so of each border the largest difference counts, in both runs. Cost is the number of
times a frame goes through the U-Net, for each step.

"every step" is the alternative: all chunks are denoised together and the predictions for shared frames are averaged at
each step (MultiDiffusion, Bar-Tal et al. 2023, along time), so that what is decoded never was two pictures. It needs
the latents of the whole clip at once. "reference" is the reference's way: chunks side by side, latents drawn from the
VAE's distribution.
"""

import argparse
import json
from dataclasses import dataclass, replace
from itertools import islice, pairwise
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from latentsync.chunks import ChunkGenerator, FaceFrame
from latentsync.faces.align import fit_matrices, warp_faces
from latentsync.faces.finder import FaceTracker
from latentsync.given_paths import given_path, path_or_word
from latentsync.media.audio_reader import read_audio
from latentsync.media.video_reader import probe_video, read_frames
from latentsync.model.diffusion import ddim_scheduler, predict_noise, shared_noise
from latentsync.model.loading import LipSyncModel, find_model, load_model
from latentsync.model.masks import generation_mask
from latentsync.options import LipSyncOptions
from latentsync.pipeline import condition, decode_faces
from latentsync.speech_features import encode_speech
from latentsync.synthetic.speech import SAMPLE_RATE

from .heldout_avatars import HeldOutClip, held_out_clips

OVERLAPS = (0, 2, 4, 8)
EVERY_STEP = (4, 8)
SHIFT = 8  # frames by which the run to compare with cuts later


@dataclass(frozen=True)
class Faces:
    """A clip on its way: aligned (F, S, S, 3) uint8 and tokens (F, K, D)."""

    aligned: np.ndarray
    tokens: Tensor

    def __len__(self) -> int:
        return len(self.aligned)


@dataclass(frozen=True)
class BorderScore:
    """ratio: differences at borders over those inside chunks; inside: the latter, grey levels; cost: of the U-Net."""

    way: str
    overlap: int
    ratio: float
    inside: float
    cost: float
    borders: int


def prepared(frames: list[np.ndarray], fps: float, waveform: np.ndarray, model: LipSyncModel, silence: str) -> Faces:
    """Frames (H, W, 3) uint8 with a face in each, and the speech for them, (T,) at 16 kHz."""
    tracker, seen, points = FaceTracker(), None, []
    for frame in frames:
        seen = tracker(frame, seen)
        points.append(seen.framed(model.framing))
    matrices = fit_matrices(points, model.resolution, "temporal", fps)
    heard = encode_speech(model, waveform, SAMPLE_RATE, fps, silence=silence)
    tokens = heard.tokens([index / fps for index in range(len(frames))])
    return Faces(warp_faces(frames, matrices, model.resolution), tokens)


def avatar(clip: HeldOutClip, num_frames: int) -> tuple[list[np.ndarray], float, np.ndarray]:
    return [clip.own.frame(i) for i in range(num_frames)], clip.own.fps, clip.new.speech.waveform


def own_video(video: Path, audio: Path, num_frames: int) -> tuple[list[np.ndarray], float, np.ndarray]:
    frames = [frame.pixels for frame in islice(read_frames(video), num_frames)]
    return frames, float(probe_video(video).fps), read_audio(audio)


def chunked(faces: Faces, model: LipSyncModel, options: LipSyncOptions, shift: int = 0) -> np.ndarray:
    """(F, 3, S, S) by the product's own way; with a shift, the first chunk is that short."""
    chunks, pairs = ChunkGenerator(model, options, torch.Generator().manual_seed(options.seed)), []
    for index, (aligned, heard) in enumerate(zip(faces.aligned, faces.tokens, strict=True)):
        if shift and index == shift:
            pairs.extend(chunks.flush())
        pairs.extend(chunks.push(FaceFrame(aligned, heard)))
    pairs.extend(chunks.flush())
    return np.stack([face.numpy() for _, face in pairs])


def overlapped_at_every_step(faces: Faces, model: LipSyncModel, options: LipSyncOptions) -> np.ndarray:
    """(F, 3, S, S): all chunks denoised together, the predictions of shared frames cross-faded at each step."""
    generator, side = torch.Generator().manual_seed(options.seed), model.resolution // model.latents.ratio
    noise = shared_noise((1, model.latents.channels, len(faces), side, side), generator)
    mask = generation_mask(model.resolution, options.mask)
    conditioning = condition(model, torch.from_numpy(faces.aligned), mask, generator=generator)
    conditioning = rearrange(conditioning, "f c h w -> 1 c f h w")
    starts = chunk_starts(len(faces), options)
    scheduler = ddim_scheduler(model.prediction_type)
    scheduler.set_timesteps(options.num_inference_steps)
    latents = noise * scheduler.init_noise_sigma
    for timestep in scheduler.timesteps:
        predicted = torch.zeros_like(latents)
        total = torch.zeros(len(faces))
        for start in starts:
            chunk = slice(start, start + options.chunk_frames)
            weight = fading(len(latents[0, 0, chunk]), options.chunk_overlap)
            part = latents[:, :, chunk], conditioning[:, :, chunk], timestep, faces.tokens[chunk]
            found = predict_noise(model.unet, *part, options.guidance_scale)
            predicted[:, :, chunk] += found * weight[:, None, None]
            total[chunk] += weight
        latents = scheduler.step(predicted / total[:, None, None], timestep, latents, return_dict=False)[0]
    return decode_faces(model, rearrange(latents, "1 c f h w -> f c h w")).numpy()


def chunk_starts(num_frames: int, options: LipSyncOptions) -> list[int]:
    return list(range(0, num_frames - options.chunk_overlap, options.chunk_frames - options.chunk_overlap))


def fading(num_frames: int, overlap: int) -> Tensor:
    """Weights (F,) of a chunk that rise and fall over the overlap."""
    ramp = (torch.arange(num_frames) + 1) / (overlap + 1)
    return torch.minimum(ramp, ramp.flip(0)).clamp(max=1)


def jumps(faces: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """(F - 1,) mean difference of neighbouring frames inside the hole, grey levels of 255."""
    return np.array([np.abs(after - before)[:, hole].mean() * 127.5 for before, after in pairwise(faces)])


def borders(num_frames: int, options: LipSyncOptions) -> list[np.ndarray]:
    """Of each border, the indices of the differences at which one chunk gives way to the next."""
    windows = [np.arange(start - 1, start + options.chunk_overlap) for start in chunk_starts(num_frames, options)[1:]]
    return [window for window in windows if window[-1] < num_frames - 1]


def inside(own: np.ndarray, shifted: np.ndarray, chunk_frames: int) -> np.ndarray:
    """(F - 1,) differences, each from the run in which it is farther from a border."""
    place = (np.arange(len(own)) + 1) % chunk_frames
    is_far = np.minimum(place, chunk_frames - place) >= chunk_frames // 4
    return np.where(is_far, own, shifted)


def scores_of(clips: list[Faces], model: LipSyncModel, options: LipSyncOptions) -> list[BorderScore]:
    name = model.blend_mask or options.mask
    hole = generation_mask(model.resolution, name).reshape(model.resolution, -1).numpy() < 0.5
    plain = replace(options, colour_match=False)  # only what the chunks make is looked at
    ways = [("outputs", replace(plain, chunk_overlap=overlap), chunked) for overlap in OVERLAPS]
    ways += [("every step", replace(plain, chunk_overlap=o), overlapped_at_every_step) for o in EVERY_STEP]
    ways.append(("reference", options.as_reference(), chunked))
    without: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}  # an overlap: as it is, and cut elsewhere
    scores = []
    for way, chosen, make in ways:
        kind = chosen.posterior
        if kind not in without:
            cut = replace(chosen, chunk_overlap=0)
            without[kind] = [
                tuple(jumps(chunked(faces, model, cut, shift), hole) for shift in (0, SHIFT)) for faces in clips
            ]
        at, within = [], []
        for faces, (own, shifted) in zip(clips, without[kind], strict=True):
            found = jumps(make(faces, model, chosen), hole) if chosen.chunk_overlap else own
            expected = inside(own, shifted, chosen.chunk_frames)
            for window in borders(len(faces), chosen):
                at.append(found[window].max())
                within.append(expected[window].max())
        cost = chosen.chunk_frames / (chosen.chunk_frames - chosen.chunk_overlap)
        ratio, level = float(np.sum(at) / np.sum(within)), float(np.mean(within))
        scores.append(BorderScore(way, chosen.chunk_overlap, ratio, level, cost, len(at)))
    return scores


def table(scores: list[BorderScore]) -> str:
    heads = ("overlap of", "frames", "border / inside", "above 1, of the reference's", "U-Net cost", "borders")
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    reference = next(score for score in scores if score.way == "reference").ratio - 1
    for score in scores:
        share = (score.ratio - 1) / reference if reference > 0 else float("nan")
        lines.append(
            f"| {score.way} | {score.overlap} | {score.ratio:.2f} | {share:.2f} | {score.cost:.2f} | {score.borders} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=path_or_word, default="tiny")
    parser.add_argument("--checkpoints", type=given_path, default=Path("checkpoints"))
    parser.add_argument("--output", type=given_path, help="scores as JSON")
    parser.add_argument("--clips", type=int, default=1, help="avatars")
    parser.add_argument("--video", type=given_path, help="a video of one's own, with a face in every frame")
    parser.add_argument("--audio", type=given_path, help="the speech for it")
    parser.add_argument("--frames", type=int, default=68, help="of each")
    parser.add_argument("--inference_steps", type=int, default=4)
    arguments = parser.parse_args()
    model = load_model(find_model(arguments.model, arguments.checkpoints))
    options = LipSyncOptions(num_inference_steps=arguments.inference_steps)
    with torch.inference_mode():
        if arguments.video:
            footages = [own_video(arguments.video, arguments.audio, arguments.frames)]
        else:
            footages = [avatar(clip, arguments.frames) for clip in held_out_clips()[0][: arguments.clips]]
        clips = [prepared(*footage, model, options.silence) for footage in footages]
        scores = scores_of(clips, model, options)
    print(table(scores))
    if arguments.output:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(json.dumps([vars(score) for score in scores], indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
