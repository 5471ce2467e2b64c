"""A job file: a table of runs as CSV, a row a run, with columns named like the options of the command line."""

import argparse
import csv
from collections.abc import Iterator
from copy import copy
from dataclasses import dataclass
from pathlib import Path

from ..errors import LatentSyncError, OptionError
from ..given_paths import given_path
from .arguments import BATCH_OPTIONS, check_inputs, sparse_parser

REQUIRED = ("video_path", "audio_path", "video_out_path")
OF_THE_WHOLE = BATCH_OPTIONS | {"help", "quiet", "verbose"}  # not a single run's
FILE_OR_WORD = {"model", "face", "superres", "sync_score"}  # "tiny", "left", "none", or the path of a file
TRACKS_APART = "|"
YES, NO = ("yes", "true", "1", "on"), ("no", "false", "0", "off")


@dataclass(frozen=True)
class Row:
    """One run as the table has it. line: of the file, where the row begins; given: names of the explicit options."""

    line: int
    arguments: argparse.Namespace
    given: frozenset[str]


class BadRowsError(OptionError):
    """Rows of a job file cannot be done; the message lists all of them."""

    def __init__(self, path: Path, problems: dict[int, list[str]]):
        lines = [f"  line {line}: {reason}" for line, reasons in sorted(problems.items()) for reason in reasons]
        rows = f"{len(problems)} row{'s' * (len(problems) > 1)}"
        super().__init__("\n".join([f"{rows} of {path} cannot be done; nothing was started:", *lines]))


def read_rows(path: Path, arguments: argparse.Namespace, given: set[str]) -> list[Row]:
    """All rows: cells win over ``arguments``, an empty one leaves the option as it is there.

    Relative paths of the table start at its folder. Several speakers stand in one ``track`` cell, with | between them.
    Raises OptionError for a file that is no such table, BadRowsError for cells that cannot be read.
    """
    columns = _Columns(path.absolute().parent)
    rows, problems, names = [], {}, None
    for line, cells in _lines(path):
        if names is None:
            names = columns.names([cell.strip().removeprefix("--") for cell in cells], path)
            continue
        reasons = [] if len(cells) == len(names) else [f"{len(cells)} cells under {len(names)} columns"]
        row_arguments, row_given = copy(arguments), set(given)
        for name, text in zip(names, map(str.strip, cells), strict=False):
            if not text:
                continue
            try:
                setattr(row_arguments, name, columns.value(name, text))
                row_given.add(name)
            except OptionError as error:
                reasons.append(f"{name}: {error}")
        reasons += [
            f"{name} is empty" for name in ("video_path", "video_out_path") if getattr(row_arguments, name) is None
        ]
        if reasons:
            problems[line] = reasons
        rows.append(Row(line, row_arguments, frozenset(row_given)))
    if problems:
        raise BadRowsError(path, problems)
    if not rows:
        raise OptionError(f"the job file {path} holds no rows; expected one for each video, under the columns' names")
    return rows


def check_files(path: Path, rows: list[Row]) -> None:
    """See that the files of all rows are there, without torch. Raises BadRowsError with all that are not."""
    problems = {}
    for row in rows:
        try:
            check_inputs(row.arguments, row.given)
        except LatentSyncError as error:
            problems[row.line] = [str(error)]
    if problems:
        raise BadRowsError(path, problems)


def _lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Line number and cells of each row that is not blank; comma, semicolon or tab between them, as in the first."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            header = file.readline()
            file.seek(0)
            reader, line = csv.reader(file, delimiter=max(",;\t", key=header.count), strict=True), 1
            for cells in reader:
                if any(cell.strip() for cell in cells):
                    yield line, cells
                line = reader.line_num + 1
    except FileNotFoundError as error:
        raise OptionError(f"there is no job file {path}; give the path of a table (CSV)") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise OptionError(f"the job file {path} cannot be read ({error}); expected CSV in UTF-8") from error


class _Columns:
    """What the options of the command line are as columns."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._parser = sparse_parser()
        self._parser.error = _refuse
        self._actions = {action.dest: action for action in self._parser._actions if action.dest not in OF_THE_WHOLE}

    def names(self, names: list[str], path: Path) -> list[str]:
        """The header, checked. Raises OptionError."""
        known = f"The columns are the command line's options: {', '.join(self._actions)}"
        if unknown := [name for name in names if name not in self._actions]:
            shown = ", ".join(repr(name) for name in unknown)
            raise OptionError(f"unknown column{'s' * (len(unknown) > 1)} {shown} in {path}. {known}")
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise OptionError(f"the column {twice[0]!r} stands twice in {path}; expected it once")
        needed = [name for name in REQUIRED if name != "audio_path" or "track" not in names]
        if missing := [name for name in needed if name not in names]:
            raise OptionError(
                f"{path} has no column {' and no '.join(missing)}; expected {', '.join(REQUIRED)}. {known}"
            )
        return names

    def value(self, name: str, text: str) -> object:
        """Of a cell. Raises OptionError."""
        action = self._actions[name]
        if action.nargs == 0:
            if text.lower() in (*YES, *NO):
                return text.lower() in YES
            raise OptionError(f"expected yes or no, got {text!r}")
        if name == "track":
            parsed = self._parser.parse_args([f"--track={part.strip()}" for part in text.split(TRACKS_APART)])
            return [(self._placed_word(face), self._folder / file) for face, file in parsed.track]
        given = [f"--{name}={text}"] if action.nargs is None else [f"--{name}", *text.split()]
        value = getattr(self._parser.parse_args(given), name)
        if action.type is given_path:
            return self._folder / value
        return self._placed_word(value) if name in FILE_OR_WORD else value

    def _placed_word(self, value: str) -> str:
        """A path, if it looks like one or a file of that name is there; else the word."""
        path = self._folder / value
        return str(path) if "/" in value or "\\" in value or path.is_file() else value


def _refuse(message: str) -> None:
    """In place of argparse's, which ends the program."""
    raise OptionError(message.partition(": ")[2] if message.startswith("argument ") else message)
