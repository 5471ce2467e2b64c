"""Histograms as SVG."""

import html
from collections.abc import Mapping, Sequence

import numpy as np

BINS = 20
WIDTH, HEIGHT, MARGIN, TITLE = 320, 150, 30, 22  # px


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
