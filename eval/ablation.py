"""What the losses of pixels are worth: the bundled model fine-tuned with and without each, scored on held-out avatars.

    python -m eval.ablation --clips runs/tiny/clips --output runs/tiny/ablation

Every arm starts from the bundled model and makes the same number of steps with the same seed, so it sees the same clips
and the same noise. Rows beside the arms: the bundled model as it is, the avatar drawn with the right lips (the best a
measure can give), and the source's own lips (what doing nothing is worth). Finished arms and scores are not done again;
a run that is cut goes on. The perceptual and temporal losses are by small networks of our own: neither LPIPS nor
VideoMAE.
"""

import argparse
import json
import logging
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from latentsync.errors import LatentSyncError, OptionError
from latentsync.files import sha256_of
from latentsync.given_paths import given_path
from latentsync.media.output_file import written_whole
from latentsync.metrics.pictures import clip_interval
from latentsync.model.loading import BUNDLED
from latentsync.options import LipSyncOptions
from latentsync.sync.syncnet import load_syncnet
from latentsync.videomae import load_videomae

from .ablation_scores import MEASURES, ClipScores, HeldOutScores, as_rows

log = logging.getLogger(__name__)
ROOT = Path(__file__).parents[1]
CONFIG = ROOT / "training_scripts" / "configs" / "ablation.yaml"
WEIGHTS = {"sync": "loss.sync_weight", "perceptual": "loss.perceptual_weight", "temporal": "loss.temporal_weight"}
ARMS: dict[str, tuple[str, ...]] = {  # which losses are off
    "none": ("sync", "perceptual", "temporal"),
    "all": (),
    "no_sync": ("sync",),
    "no_perceptual": ("perceptual",),
    "no_temporal": ("temporal",),
}
NAMES = {
    "bundled": "bundled model, not fine-tuned",
    "none": "reconstruction only",
    "all": "all losses",
    "no_sync": "without sync loss",
    "no_perceptual": "without perceptual loss (`vae`)",
    "no_temporal": "without temporal loss (small encoder)",
    "truth": "the avatar drawn with the right lips",
    "source": "the source's own lips",
}
HEADINGS = {  # measure -> heading, digits, whether more is better (None: neither)
    "sync_confidence": ("sync confidence", 3, True),
    "sync_offset": ("offset, frames", 2, False),
    "r_opening": ("r of the opening", 3, True),
    "flicker": ("flicker / truth", 3, None),
    "temporal": ("temporal distance x 1000", 3, False),
    "psnr": ("PSNR dB", 2, True),
    "ssim": ("SSIM", 4, True),
    "vae": ("`vae` distance x 1000", 2, False),
}
SCALED = {"temporal": 1000, "vae": 1000}


def train_arm(name: str, folder: Path, settings: list[str], minutes: float) -> Path:
    """Fine-tune one arm in a process of its own, or go on with it; returns its weights.

    Its time, over all runs, stands in training.json. Raises LatentSyncError where the process fails, and where an arm
    has had its minutes: it may go on when the limit is raised.
    """
    target, clock = folder / "unet.safetensors", folder / "training.json"
    if target.exists():
        return target
    folder.mkdir(parents=True, exist_ok=True)
    spent = json.loads(clock.read_text(encoding="utf-8"))["seconds"] if clock.exists() else 0.0
    left = 60 * minutes - spent
    if left <= 0:
        raise LatentSyncError(f"the arm {name} has had its {minutes:g} minutes; raise --minutes or lower --steps")
    command = [sys.executable, "-m", "training_scripts.train_unet", "--config", str(CONFIG)]
    for setting in [*settings, f"output={folder}", *(f"{WEIGHTS[loss]}=0" for loss in ARMS[name])]:
        command += ["--set", setting]
    started = time.monotonic()
    try:
        with (folder / "training.log").open("a", encoding="utf-8") as file:
            subprocess.run(command, cwd=ROOT, stdout=file, stderr=file, timeout=left, check=True)
    except subprocess.TimeoutExpired as error:
        raise LatentSyncError(f"the arm {name} did not end in {minutes:g} minutes; lower --steps") from error
    except subprocess.CalledProcessError as error:
        raise LatentSyncError(f"the arm {name} failed; {folder / 'training.log'} tells why") from error
    finally:
        with written_whole(clock) as part:
            part.write_text(json.dumps({"seconds": spent + time.monotonic() - started, "command": command}))
    return target


def scored(file: Path, subject: str, conditions: dict, score: Callable[[], list[ClipScores]]) -> list[dict]:
    """The scores of a row, kept in `file` with what they were taken of and under which conditions."""
    taken = {"subject": subject, **conditions}
    if file.exists():
        kept = json.loads(file.read_text(encoding="utf-8"))
        if kept["taken"] == taken:
            return kept["clips"]
    rows = as_rows(score())
    file.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(file) as part:
        part.write_text(json.dumps({"taken": taken, "clips": rows}, indent=1), encoding="utf-8")
    return rows


def values_of(rows: list[dict], measure: str) -> np.ndarray:
    """(N,) in the table's unit; NaN where a clip has none."""
    found = np.array([np.nan if row[measure] is None else row[measure] for row in rows], np.float64)
    return found * SCALED.get(measure, 1)


def summary(results: dict[str, list[dict]], baseline: str = "all") -> dict:
    """Mean and 95 % interval of every measure of every row, and of its difference, clip by clip, from `baseline`."""
    table = {}
    for name, rows in results.items():
        table[name] = {}
        for measure in MEASURES:
            values = values_of(rows, measure)
            entry = {"mean": float(values.mean()), "interval": clip_interval(values)}
            if baseline in results and name != baseline:
                difference = values - values_of(results[baseline], measure)
                entry |= {"difference": float(difference.mean()), "difference_interval": clip_interval(difference)}
            table[name][measure] = entry
    return table


def markdown(table: dict, seconds: dict[str, float], baseline: str = "all") -> str:
    """Two tables: the scores, and how far the other rows are from the baseline."""
    lines = ["| | " + " | ".join(heading for heading, _, _ in HEADINGS.values()) + " | training, min |"]
    lines.append("|---|" + "---|" * (len(HEADINGS) + 1))
    for name, row in table.items():
        cells = [_cell(row[m]["mean"], row[m]["interval"], digits) for m, (_, digits, _) in HEADINGS.items()]
        spent = f"{seconds[name] / 60:.1f}" if name in seconds else ""
        lines.append(f"| {NAMES[name]} | " + " | ".join([*cells, spent]) + " |")
    if baseline in table:
        lines += ["", f"Difference from *{NAMES[baseline]}*, clip by clip (bold: the interval does not hold 0):", ""]
        lines.append("| | " + " | ".join(heading for heading, _, _ in HEADINGS.values()) + " |")
        lines.append("|---|" + "---|" * len(HEADINGS))
        for name, row in table.items():
            if name in ("truth", "source", baseline):
                continue
            cells = [_difference(row[m], digits) for m, (_, digits, _) in HEADINGS.items()]
            lines.append(f"| {NAMES[name]} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(mean: float, interval: tuple[float, float] | None, digits: int) -> str:
    if not np.isfinite(mean):
        return "-"
    bounds = "" if interval is None else f" ({interval[0]:.{digits}f} to {interval[1]:.{digits}f})"
    return f"{mean:.{digits}f}{bounds}"


def _difference(entry: dict, digits: int) -> str:
    interval = entry["difference_interval"]
    text = _cell(entry["difference"], interval, digits)
    clear = interval is not None and (interval[0] > 0 or interval[1] < 0)
    return f"**{text}**" if clear else text


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=given_path, default=Path("runs/tiny/clips"), help="store of training clips")
    parser.add_argument("--output", type=given_path, default=Path("runs/tiny/ablation"))
    parser.add_argument("--syncnet", type=given_path, default=ROOT / "latentsync/assets/syncnet/tiny.safetensors")
    parser.add_argument("--video_encoder", type=given_path, default=Path("runs/tiny/video_encoder.safetensors"))
    parser.add_argument("--arms", nargs="*", default=list(ARMS), choices=list(ARMS))
    parser.add_argument("--steps", type=int, default=200, help="of every arm (default: 200)")
    parser.add_argument("--minutes", type=float, default=15, help="that an arm may train (default: 15)")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a setting of all arms")
    parser.add_argument("--train_only", action="store_true", help="do not score")
    parser.add_argument("--heldout_clips", type=int, default=12, help="avatars to score on (default: 12, at most 16)")
    parser.add_argument("--frames", type=int, default=50, help="of each avatar (default: 50)")
    parser.add_argument("--inference_steps", type=int, default=8)
    parser.add_argument("--guidance_scale", type=float, default=2.5)
    return parser.parse_args()


def run(arguments: argparse.Namespace) -> None:
    for option in ("syncnet", "video_encoder"):
        if not getattr(arguments, option).is_file():
            raise OptionError(f"--{option} {getattr(arguments, option)} is not there; train it first")
    syncnet, video_encoder = arguments.syncnet.resolve(), arguments.video_encoder.resolve()
    settings = [
        f"data.clips={arguments.clips.resolve()}",
        f"loss.syncnet={syncnet}",
        f"loss.video_encoder={video_encoder}",
        f"optimizer.steps={arguments.steps}",
        *arguments.set,
    ]
    output = arguments.output.resolve()
    unets = {"bundled": BUNDLED / "unet.safetensors"}
    for name in arguments.arms:
        unets[name] = train_arm(name, output / name, settings, arguments.minutes)
        log.info("%s: trained", name)
    if arguments.train_only:
        return
    options = LipSyncOptions(num_inference_steps=arguments.inference_steps, guidance_scale=arguments.guidance_scale)
    conditions = {
        "syncnet": sha256_of(syncnet),
        "video_encoder": sha256_of(video_encoder),
        "clips": arguments.heldout_clips,
        "frames": arguments.frames,
        "inference_steps": arguments.inference_steps,
        "guidance_scale": arguments.guidance_scale,
        "seed": options.seed,
    }
    scores = HeldOutScores(
        load_syncnet(syncnet), load_videomae(video_encoder), arguments.heldout_clips, arguments.frames, options
    )
    results = {}
    for name, unet in unets.items():
        of_unet = lambda unet=unet: scores.of_unet(unet)  # noqa: E731
        results[name] = scored(output / "scores" / f"{name}.json", sha256_of(unet), conditions, of_unet)
        log.info("%s: scored", name)
    for name, score in (("truth", scores.of_truth), ("source", scores.of_source)):
        results[name] = scored(output / "scores" / f"{name}.json", name, conditions, score)
    clocks = {name: output / name / "training.json" for name in arguments.arms}
    seconds = {n: json.loads(c.read_text(encoding="utf-8"))["seconds"] for n, c in clocks.items() if c.exists()}
    table = summary(results)
    report = {"conditions": conditions, "steps": arguments.steps, "seconds": seconds, "rows": table, "clips": results}
    with written_whole(output / "ablation.json") as part:
        part.write_text(json.dumps(report, indent=1), encoding="utf-8")
    text = markdown(table, seconds)
    with written_whole(output / "ablation.md") as part:
        part.write_text(text + "\n", encoding="utf-8")
    print(text)


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    try:
        run(parse())
    except LatentSyncError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
