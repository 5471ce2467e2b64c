"""The course of a training as a CSV table and as a picture."""

import csv
from pathlib import Path

from latentsync.media.output_file import written_whole

COLUMNS = ("step", "train_loss", "validation_loss", "validation_accuracy", "best_accuracy", "best_threshold")


class TrainingLog:
    """Rows of ``log.csv``; what a run cut later had written beyond `step` is dropped when it continues."""

    def __init__(self, folder: Path, step: int = 0):
        self.table, self.picture, self.rows = folder / "log.csv", folder / "curves.png", []
        if self.table.exists():
            with self.table.open(newline="", encoding="utf-8") as file:
                self.rows = [row for row in csv.DictReader(file) if int(row["step"]) <= step]

    def add(self, **values: float) -> None:
        """One row; columns not given stay empty."""
        self.rows.append({name: _text(values.get(name)) for name in COLUMNS})
        with written_whole(self.table) as part, part.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(self.rows)

    def draw(self) -> None:
        """The curves so far. Needs matplotlib."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(9, 4), layout="constrained")
        loss, accuracy = figure.subplots(1, 2)
        for axes, names in ((loss, COLUMNS[1:3]), (accuracy, COLUMNS[3:5])):
            for name in names:
                known = [(int(row["step"]), float(row[name])) for row in self.rows if row[name]]
                if known:
                    axes.plot(*zip(*known, strict=True), label=name.replace("_", " "))
            axes.set_xlabel("step")
            axes.grid(alpha=0.3)
            axes.legend()
        with written_whole(self.picture) as part:
            figure.savefig(part, dpi=100)


def _text(value: float | None) -> str:
    return "" if value is None else str(value) if isinstance(value, int) else f"{value:.6f}"
