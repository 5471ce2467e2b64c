"""What may import what: floors of the library without a way up, and a ground floor that Python alone carries."""

import ast
import hashlib
import json
import os
import subprocess
import sys
import venv
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from latentsync.files import sha256_of
from tests.unit.download_server import CONTENT, Behaviour, serving

ROOT = Path(__file__).parents[2]
OUTSIDE = ("nodes", "webapp", "training_scripts", "eval", "benchmarks")
GROUND = (
    "errors",
    "files",
    "given_paths",
    "model_files",
    "options",
    "presets",
    "transfer",
    "download",
    "media.length_modes",
)
# The lowest first. What a run needs is not listed and stands on the floor of that name.
FLOORS = (
    GROUND,
    ("model", "media"),
    ("voice_activity", "synthetic"),
    ("faces",),
    ("restoration",),
    ("run",),
    ("sync",),
    ("metrics", "cli"),
)

IN_A_BARE_PYTHON = """
import json, pathlib, sys
before = set(sys.modules)
import install
import {modules}
from latentsync import download, files, model_files, presets, transfer
folder = pathlib.Path(sys.argv[1])
note = folder / "note.json"
note.write_text('{{"a": 1}}', encoding="utf-8")
with files.locked(folder / "lock"):
    read = files.read_json(note), files.sha256_of(note)
assert download.download_models([], pack=folder) == download.DONE
faults = model_files.damaged_files(model_files.ASSETS)
fetched = transfer.fetch(sys.argv[2], folder / "fetched")
options = presets.apply_preset(latentsync.options.LipSyncOptions(), "fast")
loaded = {{name.partition(".")[0] for name in set(sys.modules) - before}} - sys.stdlib_module_names
print(json.dumps([read, faults, fetched, options.num_inference_steps, sorted(loaded)]))
"""


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in sorted((ROOT / "latentsync").rglob("*.py"))}


def imports(name: str) -> Iterator[str]:
    """Every module that one of the library imports, within functions too; not what only type checkers read."""
    return imports_of(MODULES[name])


def imports_of(path: Path) -> Iterator[str]:
    name = name_of(path)
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    tree = ast.parse(path.read_text(encoding="utf-8"))
    guards = [node for node in ast.walk(tree) if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    unread = {id(node) for guard in guards for part in guard.body for node in ast.walk(part)}
    for node in ast.walk(tree):
        if id(node) in unread:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                whole = f"{source}.{alias.name}"
                yield whole if whole in MODULES else source


def floor(name: str) -> int:
    part = name.removeprefix("latentsync.")
    for number, parts in enumerate(FLOORS):
        if any(part == one or part.startswith(f"{one}.") for one in parts):
            return number
    return FLOORS.index(("run",))


def test_no_import_leads_up():
    found = {name: {other for other in imports(name) if other in MODULES} for name in MODULES if name != "latentsync"}
    up = {(name, other) for name, others in found.items() for other in others if floor(other) > floor(name)}
    assert up == set()
    assert not {name for name in MODULES for other in imports(name) if other.partition(".")[0] in OUTSIDE}


@pytest.mark.parametrize("folder", OUTSIDE)
def test_nothing_but_main_imports_the_command_line(folder):
    found = {path.name: set(imports_of(path)) for path in (ROOT / folder).rglob("*.py")}
    assert found
    assert not {
        (name, other) for name, others in found.items() for other in others if other.startswith("latentsync.cli")
    }


def test_there_is_no_circle():
    """The package itself is left out: what it offers it imports at the first use."""
    parts = set(MODULES) - {"latentsync"}
    TopologicalSorter({name: parts & set(imports(name)) for name in parts}).prepare()


@pytest.mark.parametrize("part", GROUND)
def test_the_ground_floor_imports_the_standard_library_alone(part):
    found = {other for other in imports(f"latentsync.{part}") if other not in MODULES}
    assert {other.partition(".")[0] for other in found} <= sys.stdlib_module_names


def test_the_ground_floor_runs_in_a_bare_python(tmp_path):
    """What install.py and the schemas of the nodes need: an environment without a single package."""
    venv.create(tmp_path / "venv", with_pip=False, symlinks=sys.platform != "win32")
    python = tmp_path / "venv" / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    program = IN_A_BARE_PYTHON.format(modules=", ".join(f"latentsync.{part}" for part in GROUND))
    with serving(Behaviour()) as address:
        words = [python, "-c", program, tmp_path, f"{address}/m.pt"]
        done = subprocess.run(
            words, capture_output=True, text=True, cwd=ROOT, env={**os.environ, "NO_PROXY": "127.0.0.1"}
        )
    assert done.returncode == 0, done.stderr
    read, faults, fetched, steps, loaded = json.loads(done.stdout.splitlines()[-1])
    assert read == [{"a": 1}, sha256_of(tmp_path / "note.json")]
    assert (faults, fetched, steps) == ([], hashlib.sha256(CONTENT).hexdigest(), 8)
    assert loaded == ["install", "latentsync"]
