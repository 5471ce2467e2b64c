"""Score a model on avatars it never saw: do the lips follow the new speech, and is the picture right?

    python -m eval.heldout_avatars --output output/heldout --sheet docs/heldout.jpg

Every clip goes through the product from file to file. Two runs a clip: the avatar is given another speech (correlation
of the mouth opening, measured by the face mesh, with the true opening of that speech, of a mismatched one and of the
source's own), and its own speech (the picture against the true one, inside the generated region).
"""

import argparse
import json
import logging
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import yaml

from latentsync.contact_sheet import evenly_spaced, strip
from latentsync.engine import lip_sync
from latentsync.faces.blend import FaceBlender, FacePaster
from latentsync.faces.finder import FaceTracker
from latentsync.given_paths import given_path, path_or_word
from latentsync.media.video_reader import read_frames
from latentsync.metrics.faces import correlation, opening_track
from latentsync.metrics.pictures import psnr_of
from latentsync.model.loading import LipSyncModel, find_model, load_model
from latentsync.model.masks import generation_mask
from latentsync.options import LipSyncOptions
from latentsync.synthetic.clips import AvatarClip
from latentsync.synthetic.files import write_clip, write_speech
from latentsync.tracks.placement import place
from latentsync.tracks.scan import scan_faces

log = logging.getLogger(__name__)
LIST = Path(__file__).parent / "heldout_avatars.yaml"
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


@dataclass(frozen=True)
class HeldOutClip:
    """The avatar saying its own words, and the same avatar, moving the same, as it should look with the new words."""

    index: int
    own: AvatarClip
    new: AvatarClip
    mismatched: AvatarClip


def held_out_clips(path: Path = LIST) -> tuple[list[HeldOutClip], dict]:
    listed = yaml.safe_load(path.read_text(encoding="utf-8"))
    rows, offset = listed["clips"], listed["mismatch_offset"]

    def clip(row: dict, speech: int) -> AvatarClip:
        return AvatarClip(row["identity"], speech, listed["duration"], listed["fps"])

    clips = [
        HeldOutClip(
            index,
            clip(row, row["own_speech"]),
            clip(row, row["new_speech"]),
            clip(row, rows[(index + offset) % len(rows)]["new_speech"]),
        )
        for index, row in enumerate(rows)
    ]
    return clips, listed


def pixels_of(path: Path) -> list[np.ndarray]:
    return [frame.pixels for frame in read_frames(path)]


def score_clip(
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


def summary(scores: list[ClipScore]) -> str:
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=path_or_word, default="tiny")
    parser.add_argument("--checkpoints", type=given_path, default=Path("checkpoints"))
    parser.add_argument("--output", type=given_path, default=Path("output/heldout"), help="folder for clips and scores")
    parser.add_argument("--sheet", type=given_path, help="contact sheet of all clips (.jpg)")
    parser.add_argument("--clips", type=int, nargs="*", help="numbers of the clips (default: all)")
    parser.add_argument("--inference_steps", type=int, default=LipSyncOptions().num_inference_steps)
    parser.add_argument("--guidance_scale", type=float, default=LipSyncOptions().guidance_scale)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    clips, listed = held_out_clips()
    options = LipSyncOptions(
        seed=listed["seed"], num_inference_steps=arguments.inference_steps, guidance_scale=arguments.guidance_scale
    )
    model = load_model(find_model(arguments.model, arguments.checkpoints))
    arguments.output.mkdir(parents=True, exist_ok=True)
    scores, strips = [], []
    for clip in clips:
        if arguments.clips is None or clip.index in arguments.clips:
            score, strip = score_clip(clip, model, options, listed["frame_size"], arguments.output)
            log.info("%s", score)
            scores.append(score)
            strips.append(strip)
    (arguments.output / "scores.json").write_text(json.dumps([asdict(s) for s in scores], indent=1), encoding="utf-8")
    table = summary(scores)
    (arguments.output / "scores.md").write_text(table + "\n", encoding="utf-8")
    print(table)
    if arguments.sheet:
        from PIL import Image

        arguments.sheet.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.concatenate(strips)).save(arguments.sheet, quality=85)


if __name__ == "__main__":
    main()
