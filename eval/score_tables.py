"""Scores for reading and for other programs: Markdown, CSV, JSON, and plots."""

import csv
import io
import json
import math
from pathlib import Path

import numpy as np

from latentsync import __version__
from latentsync.media.output_file import written_whole
from latentsync.metrics.evaluation import ClipScores, Evaluation, pooled
from latentsync.metrics.measured import MeasuredClouds, clip_interval
from latentsync.metrics.metric_list import METRICS

BEST = {"high": "higher", "low": "lower", "one": "nearer to 1", "zero": "nearer to 0"}


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
