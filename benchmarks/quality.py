"""Do the lips follow the speech, and is the picture right? What to measure again after a change of model or engine.

    python -m benchmarks.quality held_out --output output/held_out
    python -m benchmarks.quality real_clip --video talk.mp4 --output output/talk --speeches a.wav b.wav
    python -m benchmarks.quality presets --clips 0 --presets reference fast --seconds 1

Each says more with --help.
"""

import argparse
import json
import logging
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from latentsync.contact_sheet import evenly_spaced, strip
from latentsync.faces.blend import FaceBlender, FacePaster
from latentsync.faces.detect import mouth_opening
from latentsync.faces.finder import FaceTracker
from latentsync.faces.place import place
from latentsync.faces.scan import scan_faces
from latentsync.faces.scan_cache import TrackCache
from latentsync.given_paths import given_path, path_or_word
from latentsync.media.audio_reader import read_audio
from latentsync.media.video_reader import probe_video, read_frames
from latentsync.media.video_writer import write_wav
from latentsync.metrics.faces import OUTER_LIPS, correlation, opening_track
from latentsync.metrics.pictures import psnr_of
from latentsync.model.loading import LipSyncModel, bundled_model, choose_device, choose_dtype, find_model, load_model
from latentsync.model.masks import generation_mask, latent_mask
from latentsync.model.vae import encode, load_vae
from latentsync.options import LipSyncOptions
from latentsync.presets import PRESETS, apply_preset
from latentsync.run.engine import lip_sync
from latentsync.run.progress import as_picture
from latentsync.run.speech import Speaker, SpeechFeatures, encode_speech
from latentsync.run.stages import FaceTrack, sample_faces
from latentsync.run.steps import faces_at_once
from latentsync.sync.pairs import THRESHOLD, measure_pairs
from latentsync.sync.score import sync_score
from latentsync.sync.syncnet import BUNDLED_SYNCNET, load_syncnet
from latentsync.synthetic.clips import AvatarClip
from latentsync.synthetic.files import write_clip, write_speech
from latentsync.synthetic.scenes import scene_of_two, write_scene
from latentsync.synthetic.speech import SAMPLE_RATE

from . import pictures, run_command
from .measure import (
    FPS,
    HELD_OUT_SEED,
    HELD_OUT_SIDE,
    NUM_HELD_OUT,
    HeldOutClip,
    held_out_clip,
    held_out_footage,
    model_options,
    write_figures,
)
from .speed import APPS_INTERVAL, Table, measure_unet, print_full_calls

log = logging.getLogger(__name__)

# ---- people that the model never saw

SHEET_COLUMNS = 10


@dataclass(frozen=True)
class ClipScore:
    """r: Pearson correlations; psnr in dB and mean_difference in grey levels (R, G, B), inside the mask."""

    clip: int
    r_right: float
    r_wrong: float
    r_source: float
    r_ceiling: float  # the measure on the true frames of the new speech
    psnr: float
    mean_difference: list[float]
    psnr_pasted: float  # where the model's pixels are pasted in full


def pixels_of(path: Path) -> list[np.ndarray]:
    return [frame.pixels for frame in read_frames(path)]


def held_out_score(
    clip: HeldOutClip, model: LipSyncModel, options: LipSyncOptions, size: int, folder: Path
) -> tuple[ClipScore, np.ndarray]:
    """Scores, and a strip of pictures: source, output, the true frames of the new speech."""
    stem = folder / f"{clip.index:02d}"
    source, own_wav, new_wav = (stem.with_name(stem.name + end) for end in ("_source.mp4", "_own.wav", "_new.wav"))
    write_speech(clip.own, own_wav)
    write_speech(clip.new, new_wav)
    write_clip(clip.own, source, size, own_wav)
    spoken, redone = stem.with_name(stem.name + "_new.mp4"), stem.with_name(stem.name + "_own.mp4")
    lip_sync(source, new_wav, spoken, model, options)
    lip_sync(source, own_wav, redone, model, options)
    output, truth = pixels_of(spoken), [clip.new.frame(i, size, size) for i in range(clip.new.num_frames)]
    opening = opening_track(output)
    psnr, difference, psnr_pasted = picture_error(source, redone, clip.own, model, options)
    score = ClipScore(
        clip=clip.index,
        r_right=correlation(opening, clip.new.lips[:, 0]),
        r_wrong=correlation(opening, clip.mismatched.lips[:, 0]),
        r_source=correlation(opening, clip.own.lips[:, 0]),
        r_ceiling=correlation(opening_track(truth), clip.new.lips[:, 0]),
        psnr=psnr,
        mean_difference=difference,
        psnr_pasted=psnr_pasted,
    )
    return score, contact_strip(pixels_of(source), output, truth)


def picture_error(
    source: Path, output: Path, clip: AvatarClip, model: LipSyncModel, options: LipSyncOptions
) -> tuple[float, list[float], float]:
    """Against the true frames, inside the generation mask warped into each frame: PSNR and mean difference per channel;
    and the PSNR where the model's pixels were pasted in full, which is a part of it."""
    faces = scan_faces(read_frames(source), FaceTracker())
    placement = place(faces.paths[0], faces, model.resolution, options, model.framing)
    whole = FaceBlender(model.resolution, mask=generation_mask(model.resolution, options.mask), feather=0.0)
    pasted = FacePaster(model.resolution, options, model.blend_mask).blender
    differences, pasted_differences = [], []
    for before, after in zip(read_frames(source), pixels_of(output), strict=True):
        difference = after - clip.frame(before.index, *after.shape[:2]).astype(np.float64)
        matrix = placement.at(before.index).matrix
        for face_blender, collected in ((whole, differences), (pasted, pasted_differences)):
            region = face_blender.region(after.shape, matrix)
            collected.append(difference[region.slices][region.alpha > 0.99])
    difference, inner = np.concatenate(differences), np.concatenate(pasted_differences)
    mean = [round(float(v), 2) for v in difference.mean(0)]
    return psnr_of(float((difference**2).mean())), mean, psnr_of(float((inner**2).mean()))


def contact_strip(*rows: list[np.ndarray]) -> np.ndarray:
    """Rows of evenly spaced frames at a quarter of their size; (h, w, 3) uint8."""
    chosen = ([frames[i] for i in evenly_spaced(len(frames), SHEET_COLUMNS)] for frames in rows)
    return np.concatenate([strip(frames, 128) for frames in chosen])


def held_out_table(scores: list[ClipScore]) -> str:
    """A Markdown table and the figures that are asked for."""
    lines = [
        "| clip | r right | r wrong | r source | r ceiling | PSNR dB | of it pasted, dB | mean difference R, G, B |",
        "|" + "---|" * 8,
    ]
    for s in scores:
        difference = ", ".join(f"{v:+.1f}" for v in s.mean_difference)
        lines.append(
            f"| {s.clip} | {s.r_right:.2f} | {s.r_wrong:+.2f} | {s.r_source:+.2f} | {s.r_ceiling:.2f} | {s.psnr:.1f} "
            f"| {s.psnr_pasted:.1f} "
            f"| {difference} |"
        )
    right, wrong, own = (np.array([getattr(s, name) for s in scores]) for name in ("r_right", "r_wrong", "r_source"))
    worst = max(abs(v) for s in scores for v in s.mean_difference)
    lines += [
        "",
        f"Right speech: mean r {right.mean():.3f}, lowest {right.min():.2f}. "
        f"Mismatched speech: mean r {wrong.mean():+.3f}. The source's own lips: mean r {own.mean():+.3f}. "
        f"Right minus wrong: lowest {(right - wrong).min():.2f}. "
        f"Own speech: mean PSNR inside the mask {np.mean([s.psnr for s in scores]):.1f} dB, lowest "
        f"{min(s.psnr for s in scores):.1f} dB "
        f"(where pasted {np.mean([s.psnr_pasted for s in scores]):.1f} dB); "
        f"largest mean difference of a channel {worst:.2f} grey levels.",
    ]
    return "\n".join(lines)


def held_out_options(parser: argparse.ArgumentParser) -> None:
    model_options(parser, own_video=False)
    parser.add_argument("--output", type=given_path, default=Path("output/heldout"), help="folder for clips and scores")
    parser.add_argument("--sheet", type=given_path, help="contact sheet of all clips (.jpg)")
    parser.add_argument("--clips", type=int, nargs="*", help="numbers of the clips (default: all)")
    parser.add_argument("--inference_steps", type=int, default=LipSyncOptions().num_inference_steps)
    parser.add_argument("--guidance_scale", type=float, default=LipSyncOptions().guidance_scale)


def held_out(arguments: argparse.Namespace) -> None:
    """Whether the lips of people that the model never saw follow a new speech, and whether the picture is right.

    Every clip goes through the product from file to file. Two runs a clip: the person is given another speech
    (correlation of the mouth opening, measured by the face mesh, with the true opening of that speech, of a mismatched
    one and of the source's own), and the person's own speech (the picture against the true one, inside the generated
    region). Writes the clips, scores.json and scores.md.
    """
    options = LipSyncOptions(
        seed=HELD_OUT_SEED, num_inference_steps=arguments.inference_steps, guidance_scale=arguments.guidance_scale
    )
    model = load_model(find_model(arguments.model, arguments.checkpoints))
    arguments.output.mkdir(parents=True, exist_ok=True)
    scores, strips = [], []
    for index in range(NUM_HELD_OUT) if arguments.clips is None else arguments.clips:
        score, shown = held_out_score(held_out_clip(index), model, options, HELD_OUT_SIDE, arguments.output)
        log.info("%s", score)
        scores.append(score)
        strips.append(shown)
    write_figures(arguments.output / "scores.json", [asdict(s) for s in scores])
    table = held_out_table(scores)
    (arguments.output / "scores.md").write_text(table + "\n", encoding="utf-8")
    print(table)
    if arguments.sheet:
        arguments.sheet.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.concatenate(strips)).save(arguments.sheet, quality=85)


# ---- two people, each with a speech of their own

PEOPLE = (1_000_001, 1_000_002)  # identity seeds that no model was trained on; in the source they say other words
SPEECHES = (3_000_006, 3_000_004)  # whose lips have nothing in common, so that what is heard of the other shows
SIDES = ("left", "right")


@dataclass(frozen=True)
class SpeakerScore:
    """r_own, r_other: of the side's mouth in the result with the lips of its own speech and of the other's."""

    side: str
    r_own: float
    r_other: float


def speaker_scores(duration: float, options: LipSyncOptions) -> tuple[list[SpeakerScore], float]:
    """The scores, and how alike the true lips of the two speeches are (r)."""
    words = [AvatarClip(0, seed, duration) for seed in SPEECHES]
    lips = [clip.lips[:, 0] for clip in words]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_scene(scene_of_two(*PEOPLE, duration=duration), folder / "two.mp4")
        speakers = [Speaker(folder / f"{side}.wav", side) for side in SIDES]
        for clip, speaker in zip(words, speakers, strict=True):
            write_speech(clip, speaker.audio_path)
        model = load_model(bundled_model())
        report = lip_sync(folder / "two.mp4", speakers, folder / "out.mp4", model, options, measure_opening=True)
    scores = []
    for own, face in enumerate(report.faces):
        seen = np.array([np.nan if frame.opening is None else frame.opening for frame in face.frames])
        r = [correlation(seen, true) for true in lips]
        scores.append(SpeakerScore(SIDES[own], r[own], r[1 - own]))
    return scores, correlation(*lips)


def speakers_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--duration", type=float, default=4.0, help="s (default: 4)")
    parser.add_argument("--inference_steps", type=int, default=8)
    parser.add_argument("--output", type=given_path, default=Path("output/two_speakers.json"))


def speakers(arguments: argparse.Namespace) -> None:
    """Two people in one picture, each with a speech of their own, in one pass: who follows which speech.

    Pearson's r of each mouth's opening in the result, as the face mesh sees it, with the true lips of both speeches.
    """
    scores, likeness = speaker_scores(arguments.duration, LipSyncOptions(num_inference_steps=arguments.inference_steps))
    print("| face | r with its own speech | r with the other's |\n|---|---|---|")
    for one in scores:
        print(f"| {one.side} | {one.r_own:.2f} | {one.r_other:+.2f} |")
    print(f"r of the two speeches' true lips: {likeness:+.2f}")
    write_figures(arguments.output, {"scores": [asdict(one) for one in scores], "likeness": likeness})


# ---- a real person

AHEAD = 1.0  # s
AROUND = 0.3  # of the mouth's width, on every side of it: the box
SHOWN = 8  # frames of the sheet
FACE = 1.6  # side of what the sheet shows, in heights of the box of the whole mesh


@dataclass(frozen=True)
class RunScore:
    """r_sound: with the lips that belong to the sound, where the source has them; r_source: with those it shows."""

    run: str
    num_frames: int
    r_sound: float | None
    r_source: float
    opening: float  # beside the source's mean
    psnr: float | None  # dB, in the box around the mouth


@dataclass(frozen=True)
class Source:
    """What is known of the clip: F frames' lips, and of each the boxes (left, top, right, bottom) px of mouth, face."""

    video: Path
    fps: float
    opening: np.ndarray
    mouths: np.ndarray
    faces: np.ndarray

    @classmethod
    def of(cls, video: Path, duration: float) -> "Source":
        fps, tracker, found = float(probe_video(video).fps), FaceTracker(), None
        openings, mouths, faces = [], [], []
        for frame in islice(read_frames(video), round(duration * fps)):
            found = tracker(frame.pixels, found)
            openings.append(np.nan if found is None else mouth_opening(found.landmarks))
            mouths.append(np.full(4, np.nan) if found is None else _box(found.landmarks[list(OUTER_LIPS)], AROUND))
            faces.append(np.full(4, np.nan) if found is None else _box(found.landmarks, 0))
        return cls(video, fps, np.array(openings), np.array(mouths), np.array(faces))

    @property
    def num_frames(self) -> int:
        return len(self.opening)


def _box(points: np.ndarray, around: float) -> np.ndarray:
    low, high = points[:, :2].min(0), points[:, :2].max(0)
    reach = around * (high[0] - low[0])
    return np.concatenate([low - reach, high + reach])


def score_run(run: str, source: Source, result: Path, ahead: int = 0, speaks_own: bool = True) -> RunScore:
    """Scores of a finished video; ahead: frames by which its sound is early; speaks_own: whether it is the clip's."""
    opening = opening_track(frame.pixels for frame in read_frames(result))
    count = min(len(opening), source.num_frames - ahead)
    opening, shown = opening[:count], source.opening[:count]
    belongs = source.opening[ahead : ahead + count]
    known = np.isfinite(opening) & np.isfinite(belongs if speaks_own else shown)
    beside = (belongs if speaks_own else shown)[known]
    return RunScore(
        run=run,
        num_frames=count,
        r_sound=correlation(opening, belongs) if speaks_own else None,
        r_source=correlation(opening, shown),
        opening=float(opening[known].mean() / beside.mean()) if known.any() else float("nan"),
        psnr=mouth_psnr(source, result) if speaks_own and not ahead else None,
    )


def mouth_psnr(source: Source, result: Path) -> float:
    """In the boxes around the source's mouth, over all frames, dB."""
    errors, count = 0.0, 0
    for before, after, box in zip(read_frames(source.video), read_frames(result), source.mouths, strict=False):
        if np.isfinite(box).all():
            left, top, right, bottom = box.round().astype(int).clip(0)
            part = (slice(top, bottom), slice(left, right))
            difference = after.pixels[part].astype(np.float64) - before.pixels[part]
            errors, count = errors + float((difference**2).sum()), count + difference.size
    return psnr_of(errors / max(count, 1))


def score_clip(
    source: Source, waveform: np.ndarray, speeches: Sequence[Path], model: LipSyncModel, options: LipSyncOptions,
    output: Path,
) -> list[RunScore]:  # fmt: skip
    """waveform: (T,) at SAMPLE_RATE, the clip's own sound."""
    late, cache = round(AHEAD * source.fps), TrackCache(output / "tracks")
    own, ahead = output / "own.wav", output / "ahead.wav"
    whole = round(source.num_frames / source.fps * SAMPLE_RATE)
    write_wav(own, waveform[:whole], SAMPLE_RATE)
    write_wav(ahead, waveform[round(AHEAD * SAMPLE_RATE) : whole], SAMPLE_RATE)
    runs = [("own", own, 0, True), ("ahead", ahead, late, True)]
    runs += [(f"other {number + 1}", speech, 0, False) for number, speech in enumerate(speeches)]
    scores = []
    for run, speech, early, speaks_own in runs:
        result = output / f"{run.replace(' ', '_')}.mp4"
        lip_sync(source.video, speech, result, model, options, track_cache=cache)
        scores.append(score_run(run, source, result, early, speaks_own))
        log.info("%s", scores[-1])
    return scores


def real_clip_sheet(source: Source, videos: Sequence[Path]) -> np.ndarray:
    """Faces at the source's size, a row a video; (h, w, 3) uint8 RGB."""
    shown = {video: [frame.pixels for frame in read_frames(video)] for video in videos}
    chosen = evenly_spaced(min(source.num_frames, *map(len, shown.values())), SHOWN)
    side = int(FACE * np.nanmedian(source.faces[:, 3] - source.faces[:, 1]))
    rows = []
    for frames in shown.values():
        parts = []
        for index in chosen:
            centre = np.nan_to_num(source.faces[index].reshape(2, 2).mean(0))
            height, width = frames[index].shape[:2]
            left, top = (
                int(np.clip(c - side / 2, 0, max(0, n - side))) for c, n in zip(centre, (width, height), strict=True)
            )
            part = frames[index][top : top + side, left : left + side]
            parts.append(np.pad(part, ((0, side - part.shape[0]), (0, side - part.shape[1]), (0, 0))))
        rows.append(np.concatenate(parts, 1))
    return np.concatenate(rows)


def real_clip_table(scores: Sequence[RunScore]) -> str:
    def number(value: float | None, digits: int = 2) -> str:
        return "-" if value is None else f"{value:.{digits}f}"

    lines = ["| sound | r with the lips of the sound | r with the source's | opening | PSNR of the mouth, dB |"]
    lines.append("|---|---|---|---|---|")
    for s in scores:
        cells = number(s.r_sound), number(s.r_source), number(s.opening), number(s.psnr, 1)
        lines.append(f"| {s.run} | {' | '.join(cells)} |")
    others = np.array([s.r_source for s in scores if s.r_sound is None])
    if len(others):
        lines += ["", f"Others' speech: mean r with the source's lips {others.mean():.2f}, from {others.min():.2f} to "]
        lines[-1] += f"{others.max():.2f}."
    return "\n".join(lines)


def real_clip_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--video", type=given_path, required=True)
    parser.add_argument("--audio", type=given_path, help="the clip's own sound (default: that of the video)")
    parser.add_argument("--speeches", type=given_path, nargs="*", default=[], help="others' speech")
    parser.add_argument("--duration", type=float, default=8.0, help="s of the clip (default: %(default)s)")
    parser.add_argument("--model", type=path_or_word, default="tiny")
    parser.add_argument("--checkpoints", type=given_path, default=Path("checkpoints"))
    parser.add_argument("--preset", choices=sorted(PRESETS), default="balanced")
    parser.add_argument("--output", type=given_path, default=Path("output/real_clip"))


def real_clip(arguments: argparse.Namespace) -> None:
    """Whether the lips of a real person follow the sound and not the source.

    Every run goes through the product from file to file; the face mesh reads the lips of source and finished video.

    own    the clip's own sound: the picture beside the source, and whether the lips are the source's
    ahead  its sound one second ahead: the lips must be those the source has a second later, not those that it shows
    other  each of the speeches: the lips must not be the source's

    r is Pearson's; the opening of the lips is the mean beside the source's; PSNR in a box around the source's mouth.
    Writes scores.json, scores.md, the videos and sheet.png: eight frames of source, own and ahead at the source's size.
    """
    arguments.output.mkdir(parents=True, exist_ok=True)
    model = load_model(find_model(arguments.model, arguments.checkpoints), device=choose_device())
    source = Source.of(arguments.video, arguments.duration)
    options = apply_preset(LipSyncOptions(), arguments.preset)
    waveform = read_audio(arguments.audio or arguments.video)
    scores = score_clip(source, waveform, arguments.speeches, model, options, arguments.output)
    write_figures(arguments.output / "scores.json", [asdict(s) for s in scores])
    (arguments.output / "scores.md").write_text(real_clip_table(scores) + "\n", encoding="utf-8")
    videos = [arguments.video, *(arguments.output / f"{run}.mp4" for run in ("own", "ahead"))]
    Image.fromarray(real_clip_sheet(source, videos)).save(arguments.output / "sheet.png")
    print(real_clip_table(scores))


# ---- a SyncNet


def syncnet_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=given_path, required=True, help="folder of prepared clips")
    parser.add_argument("--syncnet", type=given_path, default=BUNDLED_SYNCNET, help="default: the small bundled one")
    parser.add_argument("--vae", type=given_path, help="folder of the VAE, for a latent SyncNet")
    parser.add_argument("--held_out", type=float, default=0.0, help="only the last share of the clips (default: all)")
    parser.add_argument("--num_pairs", type=int, default=2048)
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--min_negative_distance", type=int, default=8, help="frames; 1 for the reference's pairs")
    parser.add_argument(
        "--threshold", type=float, default=THRESHOLD, help="of the cosine (default: 0.5, the reference's)"
    )
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")


def syncnet(arguments: argparse.Namespace) -> None:
    """How often a SyncNet tells right pairs from wrong ones on a folder of clips.

    Half of the pairs are frames with their own sound, half with the sound of another time of the same clip, at least
    --min_negative_distance frames away. The pairs are the same at every call. A pair is called right over a cosine of
    --threshold; the best threshold of these pairs is told beside it, which flatters. Give the one that was best for
    other people: training writes it into the file's metadata as best_threshold.
    """
    from training_scripts.clip_store import ClipStore  # noqa: TID251 (the data sets that training makes)

    clips = ClipStore(arguments.data)
    judge = load_syncnet(arguments.syncnet, arguments.device)
    vae = arguments.vae and load_vae(arguments.vae, device=arguments.device)
    known, measured = clips.split(arguments.held_out)
    scores = measure_pairs(
        clips,
        measured or known,
        judge,
        num_pairs=arguments.num_pairs,
        min_negative_distance=arguments.min_negative_distance,
        seed=arguments.seed,
        batch_size=arguments.batch_size,
        vae=vae,
        threshold=arguments.threshold,
    )
    print(json.dumps(asdict(scores), indent=2))


# ---- distances of presets and seeds

REFERENCE, OTHER_SEED, DEEPCACHE = "reference", "reference, other seed", "reference, with DeepCache"


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


def generate(
    model: LipSyncModel,
    clip: tuple[FaceTrack, SpeechFeatures, np.ndarray],
    options: LipSyncOptions,
    syncnet,
    judge: LipSyncModel,
) -> Result:
    """The faces of a clip (a face, what it is to say, and that speech as (T,)); judge: whose VAE compares latents."""
    track, speech, waveform = clip
    before = time.process_time()
    faces = torch.from_numpy(sample_faces(model, track, speech, options).generated)
    cpu = time.process_time() - before
    latents = encode(judge.vae, faces.clamp(-1, 1), sample=False, batch_size=faces_at_once(judge)).float().cpu()
    score = sync_score(np.stack([as_picture(face) for face in faces]), waveform, syncnet)
    return Result(faces, latents, cpu, score.confidence)


def prepared(model: LipSyncModel, number: int, seconds: float) -> tuple[FaceTrack, SpeechFeatures, np.ndarray]:
    footage = held_out_footage(number, round(seconds * FPS))
    waveform = footage.speech[: round((seconds + 1) * SAMPLE_RATE)]
    speech = encode_speech(model, waveform, SAMPLE_RATE, footage.fps)
    return footage.track(model, LipSyncOptions()), speech, waveform


def presets_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--clips", type=int, nargs="+", default=[0, 2, 4], help="numbers of held-out people")
    parser.add_argument("--presets", nargs="+", choices=[*PRESETS], default=[*PRESETS])
    parser.add_argument("--seconds", type=float, default=1.6)
    parser.add_argument("--seed", type=int, default=LipSyncOptions().seed)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=1)


def presets(arguments: argparse.Namespace) -> None:
    """What each preset costs and how far its faces are from the reference's, and those of another seed.

    The faces of held-out people are found once; each preset then generates them, in turn, in one process, by the
    bundled model. CPU is the generation's own time of all threads (VAE and U-Net), as a share of the reference's.

    latent RMS  between the VAE's latents of the faces and of the reference's, inside the mask; their deviation is 1
    PSNR        between the faces and the reference's, where the model's part is pasted, dB
    sync        the bundled SyncNet's score of the faces with the speech; more is better
    flicker     mean absolute second difference over time where the model's part is pasted, over the reference's

    One row is the reference with DeepCache, as its scripts and pages run it; the last one the reference with another
    seed: what is below that is not a loss. Full calls count the U-Net's work alone, see `benchmarks.speed stages`.
    """
    torch.set_num_threads(arguments.threads)
    device, start = choose_device(arguments.device), LipSyncOptions(seed=arguments.seed)
    precise, usual = (
        load_model(bundled_model(), device=device, dtype=choose_dtype(name, device)) for name in ("float32", "auto")
    )
    judge, region, rows = load_syncnet(BUNDLED_SYNCNET, device), Region(precise, start), {}
    names = [REFERENCE, DEEPCACHE, *(name for name in arguments.presets if name != REFERENCE), OTHER_SEED]
    with torch.inference_mode():
        for number in arguments.clips:
            clip, reference = prepared(precise, number, arguments.seconds), None
            for name in names:
                preset = REFERENCE if name in (OTHER_SEED, DEEPCACHE) else name
                options = apply_preset(start, preset)
                if name == OTHER_SEED:
                    options = replace(options, seed=arguments.seed + 1)
                if name == DEEPCACHE:
                    options = replace(options, cache_interval=APPS_INTERVAL)
                model = precise if PRESETS[preset].full_precision else usual
                result = generate(model, clip, options, judge, precise)
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


COMMANDS = {
    "held_out": (held_out_options, held_out),
    "real_clip": (real_clip_options, real_clip),
    "speakers": (speakers_options, speakers),
    "syncnet": (syncnet_options, syncnet),
    "presets": (presets_options, presets),
    "borders": (pictures.borders_options, pictures.borders),
    "edges": (pictures.edges_options, pictures.edges),
    "flicker": (pictures.flicker_options, pictures.flicker),
}

if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    sys.exit(run_command(__doc__, COMMANDS))
