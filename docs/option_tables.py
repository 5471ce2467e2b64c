"""Write the option tables of the documents from what the program knows.

    python -m docs.option_tables

docs/command_line.md has all options between two comments; in the tables of web/docs range and effect of every input
that is a setting come from the table of settings (latentsync/options.py). A test sees that both are up to date.
"""

import re
from pathlib import Path

from latentsync.cli.arguments import build_parser
from latentsync.options import SETTINGS, Setting

ROOT = Path(__file__).resolve().parents[1]
MARKS = "<!-- python -m docs.option_tables -->\n", "<!-- end of the options -->\n"
LINE = re.compile(r"^\| (\*\*(\w+)\*\*[^|]*) \|[^|]*\|[^|]*\|$", re.MULTILINE)  # | **input** | range | effect |


def command_line_page(text: str) -> str:
    """docs/command_line.md with its options as `--help` has them."""
    table = "| Option | What |\n|---|---|\n"
    _, general, *groups = build_parser()._action_groups
    for group in (*groups, general):
        for action in group._group_actions:
            if action.option_strings and action.dest != "help":
                values = action.metavar or "|".join(map(str, action.choices or ()))
                values = values if isinstance(values, str) else " ".join(values)
                name = f"{action.option_strings[-1]} {values}".strip().replace("|", "\\|")
                table += f"| `{name}` | {action.help} |\n"
    before, _, rest = text.partition(MARKS[0])
    return before + MARKS[0] + table + MARKS[1] + rest.partition(MARKS[1])[2]


def node_page(text: str) -> str:
    """A page of web/docs with range and effect of its settings."""
    rows = {row.widget: row for row in SETTINGS.values() if row.tooltip}

    def line(found: re.Match) -> str:
        row = rows.get(found[2])
        return found[0] if row is None else f"| {found[1]} | {in_words(row)} | {row.tooltip} |"

    return LINE.sub(line, text)


def in_words(row: Setting) -> str:
    """What a node's input can be."""
    if row.choices:
        return ", ".join(row.choices)
    if row.kind is bool:
        return "on, off"
    if row.kind is str:
        return "text"
    if row.name == "seed":
        return "whole number"
    low, high = row.range or (row.low, row.high)
    return f"{low:g} to {high:g} {row.unit}".strip()


def pages() -> dict[Path, str]:
    """All pages as they should be."""
    command_line = ROOT / "docs" / "command_line.md"
    nodes = (ROOT / "web" / "docs").glob("*.md")
    wanted = {page: node_page(page.read_text(encoding="utf-8")) for page in nodes}
    return {command_line: command_line_page(command_line.read_text(encoding="utf-8")), **wanted}


if __name__ == "__main__":
    for page, text in pages().items():
        page.write_text(text, encoding="utf-8", newline="\n")
