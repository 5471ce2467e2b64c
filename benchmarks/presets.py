"""What each preset costs and how far its faces are from the reference's, on avatars the bundled model never saw.

    python -m benchmarks.presets                     # three clips of 1.6 s
    python -m benchmarks.presets --clips 0 --presets reference fast --seconds 1

The faces of a clip are found once; each preset then generates them, in turn, in one process. CPU is the generation's
own time of all threads (VAE and U-Net), as a share of the reference's.

latent RMS  between the VAE's latents of the faces and of the reference's, inside the mask; these have a deviation of 1
PSNR        between the faces and the reference's, where the model's part is pasted, dB
sync        the bundled SyncNet's score of the faces with the speech; more is better
flicker     mean absolute second difference over time where the model's part is pasted, over that of the reference

One row is the reference with DeepCache, as its scripts and pages run it; the last one the reference with another seed:
what is below that is not a loss. Full calls count the U-Net's work alone, see stages.py.
"""

import argparse
import time
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from eval.heldout_avatars import held_out_clips
from latentsync.face_track import FaceTrack
from latentsync.faces.finder import FaceTracker
from latentsync.metrics.pictures import psnr_of
from latentsync.model.loading import LipSyncModel, bundled_model, choose_device, choose_dtype, load_model
from latentsync.model.masks import generation_mask, latent_mask
from latentsync.model.vae import encode
from latentsync.options import LipSyncOptions
from latentsync.pipeline import faces_at_once
from latentsync.presets import PRESETS, apply_preset
from latentsync.previews import as_picture
from latentsync.speech_features import SpeechFeatures, encode_speech
from latentsync.stages import prepare_faces, sample_faces
from latentsync.sync.score import sync_score
from latentsync.sync.syncnet import BUNDLED_SYNCNET, load_syncnet
from latentsync.synthetic.speech import SAMPLE_RATE

from .stages import APPS_INTERVAL, Table, measure_unet, print_full_calls

REFERENCE, OTHER_SEED, DEEPCACHE = "reference", "reference, other seed", "reference, with DeepCache"


@dataclass(frozen=True)
class Clip:
    """A face and what it is to say."""

    track: FaceTrack
    speech: SpeechFeatures
    waveform: np.ndarray


@dataclass(frozen=True)
class Result:
    """faces: (F, 3, S, S) about [-1, 1]; latents: (F, C, h, w) of them."""

    faces: Tensor
    latents: Tensor
    cpu: float
    sync: float


class Region:
    """The pasted part of the face and the whole generated part of its latents, as masks."""

    def __init__(self, model: LipSyncModel, options: LipSyncOptions):
        side = model.resolution
        self.pixels = generation_mask(side, model.blend_mask or options.mask).squeeze() < 0.5
        latents = latent_mask(generation_mask(side, options.mask), side // model.latents.ratio)
        self.latents = latents.squeeze() < 0.5

    def latent_rms(self, result: Result, reference: Result) -> float:
        return (result.latents - reference.latents)[..., self.latents].square().mean().sqrt().item()

    def psnr(self, result: Result, reference: Result) -> float:
        difference = (result.faces - reference.faces)[..., self.pixels] * 127.5
        return psnr_of(difference.square().mean().item())

    def flicker(self, result: Result) -> float:
        inside = result.faces[..., self.pixels]
        return (inside[:-2] - 2 * inside[1:-1] + inside[2:]).abs().mean().item()


def prepare(model: LipSyncModel, number: int, seconds: float) -> Clip:
    clips, listed = held_out_clips()
    clip, count, size = clips[number], round(seconds * listed["fps"]), listed["frame_size"]
    frames = [clip.own.frame(index, size, size) for index in range(count)]
    track = prepare_faces(frames, model.resolution, finder=FaceTracker(), fps=listed["fps"], framing=model.framing)
    waveform = clip.new.speech.waveform[: round((seconds + 1) * SAMPLE_RATE)]
    return Clip(track, encode_speech(model, waveform, SAMPLE_RATE, listed["fps"]), waveform)


def generate(model: LipSyncModel, clip: Clip, options: LipSyncOptions, syncnet, judge: LipSyncModel) -> Result:
    """judge: whose VAE makes the latents that are compared."""
    before = time.process_time()
    faces = torch.from_numpy(sample_faces(model, clip.track, clip.speech, options).generated)
    cpu = time.process_time() - before
    latents = encode(judge.vae, faces.clamp(-1, 1), sample=False, batch_size=faces_at_once(judge)).float().cpu()
    score = sync_score(np.stack([as_picture(face) for face in faces]), clip.waveform, syncnet)
    return Result(faces, latents, cpu, score.confidence)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, nargs="+", default=[0, 2, 4], help="numbers in eval/heldout_avatars.yaml")
    parser.add_argument("--presets", nargs="+", choices=[*PRESETS], default=[*PRESETS])
    parser.add_argument("--seconds", type=float, default=1.6)
    parser.add_argument("--seed", type=int, default=LipSyncOptions().seed)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device, start = choose_device(arguments.device), LipSyncOptions(seed=arguments.seed)
    precise, usual = (
        load_model(bundled_model(), device=device, dtype=choose_dtype(name, device)) for name in ("float32", "auto")
    )
    syncnet, region, rows = load_syncnet(BUNDLED_SYNCNET, device), Region(precise, start), {}
    names = [REFERENCE, DEEPCACHE, *(name for name in arguments.presets if name != REFERENCE), OTHER_SEED]
    with torch.inference_mode():
        for number in arguments.clips:
            clip, reference = prepare(precise, number, arguments.seconds), None
            for name in names:
                preset = REFERENCE if name in (OTHER_SEED, DEEPCACHE) else name
                options = apply_preset(start, preset)
                if name == OTHER_SEED:
                    options = replace(options, seed=arguments.seed + 1)
                if name == DEEPCACHE:
                    options = replace(options, cache_interval=APPS_INTERVAL)
                model = precise if PRESETS[preset].full_precision else usual
                result = generate(model, clip, options, syncnet, precise)
                reference = reference or result
                measures = region.latent_rms(result, reference), region.psnr(result, reference)
                flicker = region.flicker(result) / region.flicker(reference)
                rows.setdefault(name, []).append((result.cpu / reference.cpu, *measures, result.sync, flicker))
                print(f"clip {number}, {name}: {result.cpu:.1f} CPU s", flush=True)
    print(f"\n{usual.name}, {len(arguments.clips)} clips of {arguments.seconds:g} s, {usual.dtype}, {device}\n")
    print("| preset | CPU of reference | latent RMS | PSNR | sync | flicker |\n|---|---|---|---|---|---|")
    for name, values in rows.items():
        cost, rms, psnr, sync, flicker = np.mean(values, axis=0)
        decibels = "" if np.isinf(psnr) else f"{psnr:.1f}"
        print(f"| {name} | {cost:.2f} | {rms:.3f} | {decibels} | {sync:.3f} | {flicker:.2f} |")
    print()
    with torch.inference_mode():
        table = Table(device, repeats=2)
        measure_unet(usual, table)
    print_full_calls(table.cpu)


if __name__ == "__main__":
    main()
