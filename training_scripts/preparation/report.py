"""The report of a preparation: report.json for programs, report.html, one file with all its pictures, for people."""

import base64
import html
import io
import json
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from latentsync.contact_sheet import evenly_spaced, labelled_sheet
from latentsync.media.output_file import written_whole

from ..clip_store import ClipStore
from .pipeline import Preparation

SHOWN = 8  # clips in the picture
COLUMNS, SIDE = 6, 96  # of the picture, px
BINS = 20  # of a histogram
WIDTH, HEIGHT, MARGIN, TITLE = 320, 150, 30, 22  # of a histogram, px
HISTOGRAMS = (
    ("seconds", "Length of the clips", "s"),
    ("offset", "Offset of lips and sound, put right", "frames"),
    ("confidence", "Confidence of the offset", ""),
    ("face_side", "Aligned square in the source", "px"),
    ("sharpness", "Sharpness", ""),
    ("iqa", "Quality by hyperIQA", ""),
    ("yaw", "Largest turn of the head", "degrees"),
)
STYLE = """body{font:15px/1.5 system-ui,sans-serif;max-width:1060px;margin:2em auto;padding:0 1em;color:#222}
h1{font-size:1.5em}h2{font-size:1.15em;margin-top:1.8em}table{border-collapse:collapse}
td,th{padding:.2em .9em .2em 0;text-align:left;vertical-align:top;border-bottom:1px solid #ddd}td.n{text-align:right}
.grid{display:flex;flex-wrap:wrap;gap:18px}.kept{fill:#3b7dd8}.rejected{fill:#e0a03a}svg text{font:11px system-ui}
img{max-width:100%}code{background:#f3f3f3}"""


def summary(preparation: Preparation) -> dict:
    """Counts and durations, and how fast and how evenly each stage worked."""
    rows = preparation.rows
    kept = [row for row in rows if row["status"] == "kept"]
    reasons: dict[str, dict] = defaultdict(lambda: {"parts": 0, "seconds": 0.0})
    for row in rows:
        if row["status"] == "rejected":
            about = reasons[f"{row['stage']}: {general(row['reason'])}"]
            about["parts"] += 1
            about["seconds"] = round(about["seconds"] + row["seconds"], 2)
    return {
        "sources": len({row["source"] for row in rows}),
        "clips": len(kept),
        "identities": len({row["sha256"] for row in kept}),
        "kept_seconds": round(sum(row["seconds"] for row in kept), 2),
        "rejected_seconds": round(sum(row["seconds"] for row in rows if row["status"] == "rejected"), 2),
        "rejected": dict(sorted(reasons.items(), key=lambda item: -item[1]["parts"])),
        "engine": preparation.engine.name,
        "workers": preparation.engine.workers,
        "wall_seconds": round(preparation.seconds, 2),
        "stages": preparation.stages,
        "settings": preparation.settings.as_dict(),
    }


def general(reason: str) -> str:
    """A reason without names and numbers of the single case, so that equal ones are counted together."""
    return re.sub(r"(?<![\w.])[-+]?\d+(\.\d+)?", "N", re.sub(r"'[^']*'", "a file", reason))


def write_report(preparation: Preparation) -> Path:
    """report.json and report.html in the output; returns the page's path."""
    output, facts = preparation.settings.output, summary(preparation)
    facts["stages"] = {name: _latest(output, name, figures) for name, figures in facts["stages"].items()}
    with written_whole(output / "report.json") as part:
        part.write_text(json.dumps(facts, indent=1), encoding="utf-8")
    page = output / "report.html"
    with written_whole(page) as part:
        part.write_text(_page(preparation, facts), encoding="utf-8")
    return page


def _latest(output: Path, stage: str, figures: dict) -> dict:
    """Figures of a stage's last run that had work to do: a run that finds all done must not wipe them out."""
    earlier = output / "report.json"
    if figures["items"] or not earlier.is_file():
        return figures
    return json.loads(earlier.read_text(encoding="utf-8"))["stages"].get(stage, figures)


def _page(preparation: Preparation, facts: dict) -> str:
    rows = preparation.rows
    parts = {status: [row for row in rows if row["status"] == status] for status in ("kept", "rejected")}
    charts = []
    for name, title, unit in HISTOGRAMS:
        values = {status: [r[name] for r in some if r.get(name) is not None] for status, some in parts.items()}
        if name == "seconds":
            values["rejected"] = []  # of which most are no clips but gaps
        if any(values.values()):
            charts.append(histogram(values, title, unit))
    sources = Counter(row["source"] for row in parts["kept"])
    lost = [[row["source"], row["stage"], row["reason"]] for row in parts["rejected"] if row["stage"] == "probe"]
    rejected = [[reason, about["parts"], _time(about["seconds"])] for reason, about in facts["rejected"].items()]
    stages = [
        [
            name,
            s["items"],
            s["clips"],
            s["clips_per_core_hour"],
            s["cpu"],
            _busy(s["busy"]),
            s["last_finish"],
            s["ideal"],
            s["stretch"],
        ]
        for name, s in facts["stages"].items()
    ]
    head = ["stage", "items", "clips", "clips per core-hour", "processor time, s", "busy time of each worker, s"]
    head += ["last finish, s"]
    clips = [f"{facts['clips']} clips", _time(facts["kept_seconds"]), f"{facts['identities']} files of origin"]
    per_source = [[source, count] for source, count in sources.most_common(50)]
    settings = [[name, value] for name, value in facts["settings"].items()]
    return "\n".join(
        [
            f"<!doctype html><html lang=en><meta charset=utf-8><title>Prepared data</title><style>{STYLE}</style>",
            f"<h1>Prepared data: {', '.join(clips)}</h1>",
            f"<p>{facts['sources']} videos; {_time(facts['rejected_seconds'])} of them rejected. Blue: kept; orange: "
            f"rejected. Every part and its reason: <code>metadata.parquet</code>.</p>",
            f"<div class=grid>{''.join(charts)}</div>",
            _picture(preparation),
            "<h2>Rejected</h2>",
            _table(["reason", "parts", "duration"], rejected),
            "<h2>Videos that were not read</h2>" + _table(["file", "stage", "reason"], lost) if lost else "",
            f"<h2>Work ({facts['engine']}, {facts['workers']} workers, {facts['wall_seconds']:.1f} s)</h2>",
            "<p>Of each stage's last run that had work, without what was done before it. A core-hour is an hour of "
            "processor time. Ideal: all workers busy to the end, or the one longest item.</p>",
            _table([*head, "ideal, s", "times ideal"], stages),
            "<h2>Clips of each video</h2>" + _table(["file", "clips"], per_source),
            "<h2>Settings</h2>" + _table(["name", "value"], settings),
            "</html>",
        ]
    )


def _busy(busy: dict[str, float]) -> str:
    return ", ".join(f"{seconds:.1f}" for seconds in busy.values())


def _time(seconds: float) -> str:
    hours, rest = divmod(round(seconds), 3600)
    return f"{hours}:{rest // 60:02}:{rest % 60:02}"


def _table(head: list[str], rows: list[list]) -> str:
    cells = "".join(f"<th>{html.escape(name)}</th>" for name in head)
    lines = [f"<tr>{''.join(_cell(value) for value in row)}</tr>" for row in rows]
    return f"<table><tr>{cells}</tr>{''.join(lines)}</table>" if rows else "<p>None.</p>"


def _cell(value: object) -> str:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return f"<td{' class=n' if is_number else ''}>{html.escape('' if value is None else str(value))}</td>"


def _picture(preparation: Preparation) -> str:
    """Some clips, as they are in the store."""
    if not any(row["status"] == "kept" for row in preparation.rows):
        return ""
    store = ClipStore(preparation.settings.output)
    rows = {}
    for i in sorted(set(evenly_spaced(len(store), min(SHOWN, len(store))))):
        frames = store.frames(i)
        label = f"{Path(store.rows[i]['source']).stem[:14]}\n{store.rows[i]['time']:.1f} s"
        rows[label if label not in rows else f"{label} ({i})"] = [
            frames[n] for n in evenly_spaced(len(frames), COLUMNS)
        ]
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(labelled_sheet(rows, side=SIDE))).save(file, "JPEG", quality=88)
    data = base64.b64encode(file.getvalue()).decode()
    return f'<h2>Some clips</h2><img alt="frames of clips" src="data:image/jpeg;base64,{data}">'


def histogram(values: Mapping[str, Sequence[float]], title: str, unit: str) -> str:
    """An SVG of stacked bars; each key is the CSS class of its bars. At least one value is needed."""
    whole = np.concatenate([np.asarray(list(v), float) for v in values.values()])
    low, high = float(whole.min()), float(whole.max())
    if np.array_equal(whole, np.round(whole)) and high - low < BINS:  # whole numbers get a bar each
        edges = np.arange(low - 0.5, high + 1)
    else:
        edges = np.linspace(low, high if high > low else low + 1, BINS + 1)
    counts = {name: np.histogram(list(v), edges)[0] for name, v in values.items()}
    top = max(1, int(sum(counts.values()).max()))
    wide, tall = (WIDTH - 2 * MARGIN) / (len(edges) - 1), HEIGHT - TITLE - MARGIN
    base = np.full(len(edges) - 1, float(HEIGHT - MARGIN))
    bars = []
    for name, count in counts.items():
        for i in np.flatnonzero(count):
            size = tall * count[i] / top
            base[i] -= size
            box = f'x="{MARGIN + i * wide:.1f}" y="{base[i]:.1f}" width="{wide * 0.9:.1f}" height="{size:.1f}"'
            bars.append(
                f'<rect class="{name}" {box}><title>{edges[i]:.3g} to {edges[i + 1]:.3g}: {count[i]}</title></rect>'
            )
    ends = f"{low:.4g} {unit}".strip(), f"{high:.4g} {unit}".strip()
    return (
        f'<svg width="{WIDTH}" height="{HEIGHT}" role="img"><text x="{MARGIN}" y="14" font-weight="bold">'
        f'{html.escape(title)}</text>{"".join(bars)}<line x1="{MARGIN}" x2="{WIDTH - MARGIN}" y1="{HEIGHT - MARGIN}" '
        f'y2="{HEIGHT - MARGIN}" stroke="#888"/><text x="{MARGIN}" y="{HEIGHT - 14}">{ends[0]}</text>'
        f'<text x="{WIDTH - MARGIN}" y="{HEIGHT - 14}" text-anchor="end">{ends[1]}</text>'
        f'<text x="{MARGIN - 4}" y="{TITLE + 10}" text-anchor="end">{top}</text></svg>'
    )
