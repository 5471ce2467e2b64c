"""Every import is declared, both lists of requirements agree, and the library knows no host."""

import ast
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DISTRIBUTION_OF = {
    "cv2": "opencv-python",
    "skimage": "scikit-image",
    "starlette": "gradio",  # whose server it is, and which brings it
    "yaml": "pyyaml",
    "hibari": "hibari-tts",
    "PIL": "pillow",
    "whisper": "openai-whisper",
    "codeformer": "codeformer-pip",
    "spandrel_extra_arches": "spandrel-extra-arches",
}
NAMED_BY_THE_USER = (
    "torch",
    "diffusers",
    "transformers",
    "openai-whisper",
    "comfyui-frontend-package",
    "gfpgan",
    "codeformer-pip",
    "opencv-python",
    "kornia",
    "lpips",
    "accelerate",
)
HOST = {"comfy", "comfy_api", "comfy_execution", "comfy_extras", "folder_paths", "nodes", "server"}
# Which optional lists a folder's modules may count on when they are imported; all else must be in the requirements.
EXTRAS_OF = {"tests": ("test",), "training_scripts": ("train",), "webapp": ("gradio",)}
OWN_VERSIONS = ("torch", "torchvision", "torchaudio", "numpy", "opencv-python", "av")


def name_of(requirement: str) -> str:
    return re.match(r"[\w.-]+", requirement)[0].lower().replace("_", "-")


def declared() -> tuple[list[str], dict[str, list[str]]]:
    """pyproject's dependencies and optional dependencies."""
    tomllib = pytest.importorskip("tomllib", reason="reading pyproject.toml needs Python 3.11")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return project["dependencies"], project["optional-dependencies"]


def sources() -> list[Path]:
    """All Python files of the project, not of environments and results beside it."""
    folders = ("latentsync", "nodes", "webapp", "training_scripts", "eval", "benchmarks", "tests")
    return [*ROOT.glob("*.py"), *(path for folder in folders for path in (ROOT / folder).rglob("*.py"))]


def imports_of(source: str, *, at_import: bool = False) -> list[tuple[str, int]]:
    """(module, level of relativeness) of all imports; ``at_import`` leaves out those inside functions."""
    found, waiting = [], [ast.parse(source)]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import):
            found += [(alias.name, 0) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found.append((node.module or "", node.level))
        if not (at_import and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)):
            waiting += ast.iter_child_nodes(node)
    return found


def foreign(source: str, *, at_import: bool = False) -> set[str]:
    """Names of the distributions that a source text imports."""
    own = {path.stem if path.suffix else path.name for path in ROOT.iterdir()} | {
        p.stem for p in ROOT.glob("tests/**/*.py")
    }
    tops = {module.split(".")[0] for module, level in imports_of(source, at_import=at_import) if level == 0}
    return {
        DISTRIBUTION_OF.get(top, top.lower().replace("_", "-"))
        for top in tops - own - HOST - set(sys.stdlib_module_names)
    }


def host_imports(source: str, depth: int) -> list[str]:
    """What a module of the library must not import: the host, the project's other parts, its own package by name.

    depth: of the module below the repository's root, 1 for latentsync/x.py: more dots lead out of the package.
    """
    banned = HOST | {"latentsync", "training_scripts", "eval", "main", "tests"}
    return [
        "." * level + module
        for module, level in imports_of(source)
        if (level == 0 and module.split(".")[0] in banned) or level > depth
    ]


def test_the_packages_named_by_the_user_are_declared():
    dependencies, extras = declared()
    names = {name_of(line) for lines in (dependencies, *extras.values()) for line in lines}
    assert set(NAMED_BY_THE_USER) <= names


def test_both_lists_of_requirements_agree():
    lines = (
        line.split("#")[0].strip() for line in (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    )
    assert [line for line in lines if line] == declared()[0]


def test_packages_of_the_host_are_not_pinned():
    for line in declared()[0]:
        assert name_of(line) not in OWN_VERSIONS or line == name_of(line)


@pytest.mark.parametrize("path", sources(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_import_is_declared(path):
    dependencies, extras = declared()
    required = {name_of(line) for line in dependencies}
    optional = {name_of(line) for lines in extras.values() for line in lines}
    source = path.read_text(encoding="utf-8")
    assert foreign(source) <= required | optional
    usable = (name_of(line) for extra in EXTRAS_OF.get(path.relative_to(ROOT).parts[0], ()) for line in extras[extra])
    assert foreign(source, at_import=True) <= required | set(usable), "needed at import, but only optional"


@pytest.mark.parametrize(
    "path", sorted((ROOT / "latentsync").rglob("*.py")), ids=lambda path: path.relative_to(ROOT).as_posix()
)
def test_the_library_imports_no_host(path):
    assert host_imports(path.read_text(encoding="utf-8"), len(path.relative_to(ROOT).parts) - 1) == []


@pytest.mark.parametrize(
    ("bad", "named"),
    [
        ("import folder_paths", "folder_paths"),
        ("def f():\n    import comfy.utils as u", "comfy.utils"),
        ("from comfy_api.latest import io", "comfy_api.latest"),
        ("from ..nodes import host", "..nodes"),
        ("from latentsync.errors import OptionError", "latentsync.errors"),
    ],
)
def test_the_check_for_hosts_finds_them(bad, named):
    assert host_imports(bad, depth=1) == [named]


def test_the_check_of_imports_finds_the_undeclared():
    assert foreign("import os, cv2\nfrom requests import get\nfrom . import x") == {"opencv-python", "requests"}
    assert foreign("def f():\n    import requests", at_import=True) == set()
