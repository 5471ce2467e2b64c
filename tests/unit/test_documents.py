"""The documents: links lead somewhere, and the files, tests and commands that they name exist."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PARTS = ("benchmarks", "docs", "eval", "latentsync", "nodes", "tests", "training_scripts", "web", "webapp", "workflows")
LINK = re.compile(r"\]\(([^)\s]+)\)")
CODE = re.compile(r"```.*?```", re.DOTALL)
MODULE = re.compile(r"python -m ((?:benchmarks|docs|eval|latentsync|tests|training_scripts)[\w.]*)(?: ([a-z_]+))?")
FILE = re.compile(
    r"`((?:benchmarks|docs|eval|latentsync|tests|training_scripts)/[\w./-]+\.(?:py|md|yaml|jpg))(?:::(\w+))?`"
)
PAGE = re.compile(r"(?<![\w/])docs/[\w/]+\.(?:md|jpg|webp)\b")
REMOVED = {"eval.tracking", "eval.pauses", "eval.frame_rates", "eval.ablation"}  # with the revision that has them


def files(ending: str) -> list[Path]:
    return [*ROOT.glob(f"*{ending}"), *(file for part in PARTS for file in (ROOT / part).rglob(f"*{ending}"))]


PAGES = [page for page in files(".md") if page.name != "CHANGELOG.md"]  # which tells of states that were


def anchors(page: Path) -> set[str]:
    """Of its headings, as GitHub makes them."""
    text = CODE.sub("", page.read_text(encoding="utf-8"))
    headings = (line.lstrip("#").strip() for line in text.splitlines() if re.match(r"#+ ", line))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_and_names_lead_somewhere(page):
    text, wrong = page.read_text(encoding="utf-8"), []
    for target in LINK.findall(CODE.sub("", text)):
        path, _, anchor = target.partition("#")
        if re.match(r"[a-z]+:", target) or path.startswith("/"):
            continue
        file = (page.parent / path).resolve() if path else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            wrong.append(target)
    for path, test in FILE.findall(text):
        file = ROOT / path
        if not file.exists() or (test and f"def {test}(" not in file.read_text(encoding="utf-8")):
            wrong.append(path + (f"::{test}" if test else ""))
    assert not wrong


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_commands_exist(page):
    wrong = []
    for module, command in MODULE.findall(page.read_text(encoding="utf-8")):
        file = ROOT / module.replace(".", "/")
        source = file.with_suffix(".py") if file.with_suffix(".py").is_file() else file / "__main__.py"
        if module in REMOVED and "revision" in page.read_text(encoding="utf-8"):
            continue
        if not source.is_file():
            wrong.append(module)
        elif "COMMANDS = {" in (text := source.read_text(encoding="utf-8")) and f'"{command}": (' not in text:
            wrong.append(f"{module} {command}")
    assert not wrong


def test_the_program_names_pages_that_exist():
    wrong = []
    for file in (file for ending in (".py", ".yaml", ".js", "downloads.json") for file in files(ending)):
        for page in PAGE.findall(file.read_text(encoding="utf-8")):
            if not (ROOT / page).is_file():
                wrong.append(f"{file.relative_to(ROOT)}: {page}")
    assert not wrong
