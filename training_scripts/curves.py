"""Columns of a CSV file as curves in a picture."""

import csv
from pathlib import Path

from latentsync.errors import OptionError
from latentsync.media.output_file import written_whole


def draw_curves(table: Path, target: Path) -> None:
    """One plot for each column of `table` over its first column, as PNG. Raises OptionError without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise OptionError("curves need the package matplotlib, which is not there: pip install matplotlib") from error
    with table.open(newline="", encoding="utf-8") as file:
        names, *rows = csv.reader(file)
    columns = [[float(value) for value in column] for column in zip(*rows, strict=True)]
    figure = Figure(figsize=(6, 2.2 * (len(names) - 1)), layout="constrained")
    plots = figure.subplots(len(names) - 1, sharex=True, squeeze=False)[:, 0]
    for plot, name, column in zip(plots, names[1:], columns[1:], strict=True):
        plot.plot(columns[0], column, linewidth=1)
        plot.set_ylabel(name)
        plot.grid(alpha=0.3)
    plots[-1].set_xlabel(names[0])
    with written_whole(target) as part:
        figure.savefig(part, format="png", dpi=80)
