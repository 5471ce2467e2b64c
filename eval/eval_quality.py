"""Scores of a result, or of a folder of results: docs/evaluation.md tells what each metric is.

    ./eval/eval_quality.sh --video_path output.mp4 --metric psnr ssim fid
    python -m eval.eval_quality --video_path results/ --reference_path sources/ --metric all --output scores

A result is compared with --reference_path, else with the source named in the report beside it (main.py --report).

Exit codes: 0 all was computed; 1 something of a clip could not be measured, the rest was; 2 wrong arguments, or nothing
to compare with; 3 a metric lacks its network, the others were computed.
"""

import argparse
import csv
import io
import json
import math
import os
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from latentsync import __version__
from latentsync.commands import OptionParser
from latentsync.errors import LatentSyncError, OptionError
from latentsync.files import read_json
from latentsync.given_paths import given_path, path_or_word
from latentsync.media.output_file import written_whole
from latentsync.metrics.clip_pair import RESOLUTION, ClipPair
from latentsync.metrics.evaluation import DEFAULT, METRICS, ClipScores, Evaluation, EvaluationSettings, pooled
from latentsync.metrics.pictures import MeasuredClouds, clip_interval
from latentsync.model.masks import MASK_NAMES
from latentsync.model_files import VARIABLE, weight_folders

ROOT = Path(__file__).resolve().parents[1]
DONE, FAILED, WRONG_ARGUMENTS, UNAVAILABLE = 0, 1, 2, 3
VIDEOS = (".mp4", ".mov", ".mkv", ".webm", ".m4v", ".avi")
BEST = {"high": "higher", "low": "lower", "one": "nearer to 1", "zero": "nearer to 0"}
MAX_REPORT = 2**29  # bytes of a report: some hours of frames


def build_parser() -> argparse.ArgumentParser:
    parser = OptionParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--video_path", type=given_path, required=True, help="a result, or a folder of them")
    parser.add_argument(
        "--reference_path", type=given_path, help="what to compare with; for a folder one with videos of the same names"
    )
    parser.add_argument(
        "--metric", nargs="+", default=list(DEFAULT), metavar="NAME", help=f"all, or of: {', '.join(METRICS)}"
    )
    parser.add_argument("--output", type=given_path, help="folder for scores.json, .csv, .md and plots")
    parser.add_argument(
        "--weights",
        type=given_path,
        action="append",
        default=[],
        metavar="DIR",
        help=f"folder with the metrics' networks; also the environment's {VARIABLE}",
    )
    parser.add_argument("--checkpoints", type=given_path, default=ROOT / "checkpoints", help="of released models")
    parser.add_argument(
        "--syncnet", type=given_path, help="StableSyncNet (default: stable_syncnet.pt if there, else bundled)"
    )
    parser.add_argument(
        "--region", choices=["face", "frame"], default="face", help="aligned faces or whole frames (default: face)"
    )
    parser.add_argument("--resolution", type=int, default=RESOLUTION, help=f"px of a face (default: {RESOLUTION})")
    parser.add_argument("--face", type=path_or_word, default="largest", help="whose, as in main.py (default: largest)")
    parser.add_argument("--mask", choices=MASK_NAMES, default="mask", help="of the generated part (default: mask)")
    parser.add_argument("--fvd_reference", action="store_true", help="FVD in the reference's range and frames")
    parser.add_argument("--min_track", type=int, default=50, help="frames of a face for LSE (default: 50)")
    parser.add_argument("--min_face", type=float, default=100, help="px of a face for LSE (default: 100)")
    parser.add_argument("--device", default="cpu")
    return parser


def results_of(path: Path) -> list[Path]:
    """The videos there. Raises OptionError."""
    if path.is_file():
        return [path]
    found = sorted(file for file in path.glob("*") if file.suffix.lower() in VIDEOS) if path.is_dir() else []
    if not found:
        raise OptionError(f"--video_path {path} is no video and no folder of videos ({', '.join(VIDEOS)})")
    return found


def pair_of(video: Path, reference: Path | None) -> ClipPair:
    """The result with what it is compared with. Raises OptionError where there is nothing."""
    told = _report_beside(video)
    if reference is not None:
        file = reference if not reference.is_dir() else _same_name(video, reference)
        if not file.is_file():
            raise OptionError(f"no reference at {file}; expected a video, or a folder with one named as {video.name}")
        if told is None or not told.reference.exists() or not told.reference.samefile(file):
            return ClipPair(video, file)
        return told
    if told is None:
        raise OptionError(
            f"nothing to compare {video} with: give --reference_path, or make the result with main.py --report "
            f"{video.with_suffix('.json').name} beside it, which names its source"
        )
    if not told.reference.is_file():
        raise OptionError(f"{video.with_suffix('.json')} names {told.reference}, which is gone: give --reference_path")
    return told


def _report_beside(video: Path) -> ClipPair | None:
    file = video.with_suffix(".json")
    try:
        source = read_json(file, OptionError, max_bytes=MAX_REPORT).get("source") if file.is_file() else None
        if source is None:
            return None
        path = Path(os.path.normpath(file.absolute().parent / source["video"]))
        return ClipPair(video, path, float(source["start"]), tuple(map(int, source["frames"])))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise OptionError(f"{file} is no report of main.py ({error!r}): give --reference_path or remove it") from error


def _same_name(video: Path, folder: Path) -> Path:
    found = [file for file in folder.glob(f"{video.stem}.*") if file.suffix.lower() in VIDEOS]
    return found[0] if found else folder / video.name


def settings_of(arguments: argparse.Namespace) -> EvaluationSettings:
    if arguments.syncnet is not None and not arguments.syncnet.is_file():
        raise OptionError(f"--syncnet {arguments.syncnet} is not there; expected the file of a StableSyncNet")
    for folder in arguments.weights:
        if not folder.is_dir():
            raise OptionError(f"--weights {folder} is not a folder; expected the one with the metrics' networks")
    names = ("region", "resolution", "face", "mask", "syncnet", "fvd_reference", "min_track", "min_face", "device")
    given = {name: getattr(arguments, name) for name in names}
    return EvaluationSettings(folders=tuple(weight_folders(arguments.weights, arguments.checkpoints)), **given)


def run(arguments: argparse.Namespace) -> int:
    names = list(METRICS) if "all" in arguments.metric else arguments.metric
    settings = settings_of(arguments)
    videos = results_of(arguments.video_path)
    evaluation = Evaluation(names, settings)
    pairs = {}
    if any(METRICS[name].against for name in names):
        for video in videos:
            try:
                pairs[video] = replace(pair_of(video, arguments.reference_path), face=settings.face)
            except OptionError as error:
                if len(videos) == 1:
                    raise
                pairs[video] = error
    scores = []
    for number, video in enumerate(videos, 1):
        if len(videos) > 1:
            print(f"{number}/{len(videos)} {video.name}", file=sys.stderr)
        scores.append(scored(evaluation, video, pairs.get(video)))
    print(write_scores(evaluation, scores, arguments.output))
    if any(clip.failures for clip in scores):
        return FAILED
    return UNAVAILABLE if evaluation.unavailable else DONE


def scored(evaluation: Evaluation, video: Path, pair: ClipPair | OptionError | None) -> ClipScores:
    if not isinstance(pair, OptionError):
        resolution = evaluation.settings.resolution
        return evaluation.score(None if pair is None else replace(pair, resolution=resolution), video)
    found = evaluation.score(None, video)
    found.failures |= {name: str(pair) for name in found.failures}
    return found


def summary(evaluation: Evaluation, scores: list[ClipScores]) -> dict[str, dict]:
    """For each metric: score over all clips, 95 % interval or None, of how many clips, and what the interval is over.

    A mean over clips, but that the features of all clips make one FID and one FVD.
    """
    rows = {}
    for name in evaluation.available:
        found = [clip.measured[name] for clip in scores if name in clip.measured]
        if not found:
            continue
        if isinstance(found[0], MeasuredClouds):
            score, interval, over = pooled(found).score, None, None
        elif len(found) == 1:
            score, interval, over = found[0].score, found[0].interval(), "blocks of 25 frames"
        else:
            values = [one.score for one in found]
            score, interval, over = float(np.mean(values)), clip_interval(values), "clips"
        rows[name] = {"score": score, "interval": interval, "over": over if interval else None, "clips": len(found)}
    return rows


def markdown(evaluation: Evaluation, scores: list[ClipScores]) -> str:
    """Tables, what failed, what is unavailable and notes."""
    lines = ["| metric | score | 95 % interval | over | clips | better |", "|---|---|---|---|---|---|"]
    rows = summary(evaluation, scores)
    for name, row in rows.items():
        kind = METRICS[name]
        interval = "{} to {}".format(*map(_number, row["interval"])) if row["interval"] else "none"
        shown = f"{_number(row['score'])} {kind.unit}".strip()
        lines.append(
            f"| {kind.title} (`{name}`) | {shown} | {interval} | {row['over'] or ''} | {row['clips']} of {len(scores)} "
            f"| {BEST[kind.best]} |"
        )
    if len(scores) > 1:
        lines += ["", "| clip | " + " | ".join(rows) + " |", "|---" * (len(rows) + 1) + "|"]
        for clip in scores:
            values = clip.scores()
            shown = (_number(values[name]) if name in values else "failed" for name in rows)
            lines.append(f"| {clip.output.name} | " + " | ".join(shown) + " |")
    told = [f"unavailable: {', '.join(names)}: {why}" for why, names in _by_reason(evaluation.unavailable).items()]
    told += [f"measured with: {what}: {path}" for what, path in evaluation.networks.items()]
    for clip in scores:
        told += [f"{clip.output.name}: {note}" for note in clip.notes]
        failed = _by_reason(clip.failures).items()
        told += [f"{clip.output.name}: FAILED {', '.join(names)}: {why}" for why, names in failed]
    return "\n".join([*lines, "", *(f"- {line}" for line in told)]).rstrip()


def _by_reason(reasons: dict[str, str]) -> dict[str, list[str]]:
    """Metric -> reason, as reason -> metrics."""
    found: dict[str, list[str]] = {}
    for name, why in reasons.items():
        found.setdefault(why, []).append(name)
    return found


def _number(value: float) -> str:
    return f"{value:.4g}" if abs(value) < 1000 else f"{value:.1f}"


def as_json(evaluation: Evaluation, scores: list[ClipScores]) -> dict:
    """Plain values; what is infinite (PSNR of equal pictures) is the string "inf"."""
    settings = {
        name: [str(part) for part in value] if isinstance(value, tuple) else value if value is None else _plain(value)
        for name, value in vars(evaluation.settings).items()
    }
    clips = [
        {
            "video": str(clip.output),
            "reference": None if clip.reference is None else str(clip.reference),
            "scores": {name: _plain(score) for name, score in clip.scores().items()},
            "intervals": {name: _plain(one.interval()) for name, one in clip.measured.items()},
            "failures": clip.failures,
            "notes": clip.notes,
        }
        for clip in scores
    ]
    overall = {
        name: {key: _plain(value) for key, value in row.items()} for name, row in summary(evaluation, scores).items()
    }
    return {
        "version": __version__,
        "settings": settings,
        "networks": evaluation.networks,
        "unavailable": evaluation.unavailable,
        "overall": overall,
        "clips": clips,
    }


def _plain(value):
    if isinstance(value, tuple):
        return [_plain(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "inf" if value > 0 else "-inf"
    return str(value) if isinstance(value, Path) else value


def as_csv(evaluation: Evaluation, scores: list[ClipScores]) -> str:
    """A row a clip; an empty cell where a metric failed, and the reasons in the last column."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["video", "reference", *evaluation.available, "failures"])
    for clip in scores:
        values = clip.scores()
        failures = "; ".join(f"{name}: {why}" for name, why in clip.failures.items())
        row = [values.get(name, "") for name in evaluation.available]
        writer.writerow([clip.output, clip.reference or "", *row, failures])
    return text.getvalue()


def write_scores(evaluation: Evaluation, scores: list[ClipScores], folder: Path | None) -> str:
    """The Markdown text; into the folder also scores.md, .csv, .json and the plots. Raises OutputError."""
    text = markdown(evaluation, scores)
    if folder is not None:
        contents = {
            "scores.md": text + "\n",
            "scores.csv": as_csv(evaluation, scores),
            "scores.json": json.dumps(as_json(evaluation, scores), indent=1),
        }
        for name, content in contents.items():
            with written_whole(folder / name) as part:
                part.write_text(content, encoding="utf-8", newline="")
        if (problem := draw_scores(evaluation, scores, folder / "scores.png")) is not None:
            text += f"\n- {problem}"
    return text


def draw_scores(evaluation: Evaluation, scores: list[ClipScores], path: Path) -> str | None:
    """A panel a metric: its value in each frame of one clip, or the score of each clip with its interval.

    Returns what is missing for that, None where nothing is.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return "no plots: they need matplotlib (pip install matplotlib)"
    names = [name for name in evaluation.available if any(_drawable(clip, name) for clip in scores)]
    if not names:
        return None
    columns = min(3, len(names))
    rows = -(-len(names) // columns)
    figure = Figure(figsize=(4.2 * columns, 2.6 * rows), layout="constrained")
    for place, name in enumerate(names, 1):
        axes = figure.add_subplot(rows, columns, place)
        kind = METRICS[name]
        axes.set_title(f"{kind.title}{', ' + kind.unit if kind.unit else ''} ({BEST[kind.best]})", fontsize=9)
        if len(scores) == 1 and len(scores[0].measured[name].values) > 1 and scores[0].measured[name].values.ndim == 1:
            axes.plot(scores[0].measured[name].values, linewidth=1)
            axes.set_xlabel("frame, squared error" if name == "psnr" else "frame", fontsize=8)
        else:
            _draw_clips(axes, scores, name)
        axes.tick_params(labelsize=7)
    with written_whole(path) as part:
        figure.savefig(part, dpi=110, format="png")
    return None


def _drawable(clip: ClipScores, name: str) -> bool:
    found = clip.measured.get(name)
    return found is not None and not isinstance(found, MeasuredClouds) and math.isfinite(found.score)


def _draw_clips(axes, scores: list[ClipScores], name: str) -> None:
    known = [clip for clip in scores if _drawable(clip, name)]
    for place, clip in enumerate(known):
        found = clip.measured[name]
        if (interval := found.interval()) is not None:
            axes.plot([place, place], interval, color="0.6", linewidth=3)
        axes.plot(place, found.score, "o", color="C0", markersize=4)
    axes.set_xticks(range(len(known)), [clip.output.stem[:12] for clip in known], rotation=30)


def main(argv: list[str] | None = None) -> int:
    """Run and return the exit code; wrong arguments and --help exit at once, as argparse does."""
    arguments = build_parser().parse_args(argv)
    try:
        return run(arguments)
    except LatentSyncError as error:
        print(f"error: {error}", file=sys.stderr)
        return WRONG_ARGUMENTS if isinstance(error, OptionError) else FAILED


if __name__ == "__main__":
    sys.exit(main())
