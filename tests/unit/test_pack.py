"""The pack as ComfyUI finds it on disk, looked at without ComfyUI: tests/comfy has it run."""

import ast
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NODE_FILES = sorted((ROOT / "nodes").glob("*.py"))
LANGUAGES = sorted(folder.name for folder in (ROOT / "locales").iterdir())
HOST_MODULES = {"comfy", "comfy_api", "comfy_execution", "comfy_extras", "folder_paths", "server", "nodes"}
# What may be imported when ComfyUI starts: it has torch and numpy in memory by then. The rest waits for a node's turn.
LIGHT = {"torch", "numpy"}
LIGHT_PARTS = {"errors", "media.length_modes", "options", "presets"}  # of the library
LISTS = {"model_files"}  # of the library, imported when a schema lists what there is to choose from

IMPORT_ALONE = """
import asyncio, importlib.util, sys
spec = importlib.util.spec_from_file_location("pack", {path!r}, submodule_search_locations=[{root!r}])
pack = sys.modules["pack"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(pack)
assert asyncio.iscoroutinefunction(pack.comfy_entrypoint)
heavy = {{"torch", "numpy", "av", "cv2", "diffusers", "transformers", "comfy"}} & set(sys.modules)
assert not heavy, heavy
print(pack.WEB_DIRECTORY, *sorted(pack.__all__), hasattr(pack, "NODE_CLASS_MAPPINGS"))
"""


def test_the_root_imports_alone_and_light():
    script = IMPORT_ALONE.format(path=str(ROOT / "__init__.py"), root=str(ROOT))
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT.parent)
    assert run.stderr == ""
    assert run.stdout.split() == ["./web", "WEB_DIRECTORY", "comfy_entrypoint", "False"]


def test_pytest_collects_beside_the_root():
    """pytest imports the root __init__.py as it collects, without ComfyUI."""
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", str(Path(__file__).with_name("test_options.py"))]
    run = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.parametrize("file", NODE_FILES, ids=lambda file: file.name)
def test_only_the_host_file_knows_comfyui(file):
    foreign = HOST_MODULES & {name.split(".")[0] for name, level, _ in imports(file) if level == 0}
    assert not foreign or file.name == "host.py", foreign


@pytest.mark.parametrize("file", NODE_FILES, ids=lambda file: file.name)
def test_heavy_imports_wait_for_execution(file):
    standard = sys.stdlib_module_names
    for name, level, parents in imports(file):
        if any(isinstance(parent, ast.FunctionDef) or is_type_checking(parent) for parent in parents):
            continue
        if level == 0:
            assert name.split(".")[0] in LIGHT | HOST_MODULES | standard, name
        elif level == 2:  # ..latentsync.<part>
            assert name.removeprefix("latentsync.") in LIGHT_PARTS, name
        else:
            assert level == 1, name


@pytest.mark.parametrize("file", NODE_FILES, ids=lambda file: file.name)
def test_the_library_is_imported_relatively(file):
    """Two packs with a `latentsync` folder may lie beside each other."""
    absolute = {name for name, level, _ in imports(file) if level == 0}
    assert not {name for name in absolute if name.partition(".")[0] in ("latentsync", "nodes")}


def test_what_the_schemas_import_loads_nothing_heavy():
    """tests/comfy has the real schemas built while packages do not load; this is the part without ComfyUI."""
    names = ", ".join(f"latentsync.{part}" for part in sorted(LIGHT_PARTS | LISTS))
    script = f"import sys; before = set(sys.modules); import {names}; print(*(set(sys.modules) - before))"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT)
    assert run.stderr == ""
    loaded = {name.partition(".")[0] for name in run.stdout.split()}
    assert loaded - sys.stdlib_module_names == {"latentsync"}


def imports(file: Path) -> list[tuple[str, int, tuple[ast.AST, ...]]]:
    """(module, number of leading dots, the statements around it) of every import in a file."""
    found = []

    def walk(node: ast.AST, parents: tuple[ast.AST, ...]) -> None:
        if isinstance(node, ast.Import):
            found.extend((alias.name, 0, parents) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = [f".{alias.name}" for alias in node.names] if node.module == "latentsync" else [""]
            found.extend(((node.module or "") + part, node.level, parents) for part in parts)
        for child in ast.iter_child_nodes(node):
            walk(child, (*parents, node))

    walk(ast.parse(file.read_text(encoding="utf-8")), ())
    return found


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


# What a node's Schema accepts: of ComfyUI 0.3.75 (comfy_api/latest/_io.py), and what newer releases added, as their own
# sources have it; none of these is run here. An unknown keyword ends the loading of the whole pack.
SCHEMA = {
    *("node_id", "display_name", "category", "inputs", "outputs", "hidden", "description", "is_input_list"),
    *("is_output_node", "is_deprecated", "is_experimental", "is_api_node", "not_idempotent", "enable_expand"),
}
NEWER_SCHEMA = {
    *("search_aliases", "essentials_category", "is_dev_only", "price_badge", "accept_all_inputs"),
    "has_intermediate_output",
}
NEWER_VIDEO = {"get_active_trim_window", "has_pending_frame_edits", "as_trimmed", "as_cropped"}  # methods of VIDEO


def test_schemas_say_what_every_host_knows():
    calls = [
        (file.name, call)
        for file in NODE_FILES
        for call in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(call, ast.Call) and ast.unparse(call.func) == "io.Schema"
    ]
    assert len(calls) > 10
    for name, call in calls:
        named = {keyword.arg for keyword in call.keywords} - {None}  # None: ** of what the host was found to know
        assert named <= SCHEMA, (name, "newer hosts alone know", named & NEWER_SCHEMA)


def test_what_only_newer_hosts_have_is_looked_for_first():
    asked = set()
    for file in NODE_FILES:
        text = file.read_text(encoding="utf-8")
        for name in NEWER_VIDEO:
            if f".{name}(" in text:
                assert f'hasattr(video, "{name}")' in text, (file.name, name)
                asked.add(name)
    assert {"get_active_trim_window", "has_pending_frame_edits"} <= asked


def git(*arguments: str) -> set[str]:
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("asks git for the files that are published")
    run = subprocess.run(["git", "-C", ROOT, "ls-files", "-z", *arguments], capture_output=True, text=True, check=True)
    return set(filter(None, run.stdout.split("\0")))


def test_the_registrys_archive_is_small_and_whole():
    """Counted before it is compressed. git reads .comfyignore by the rules that the registry's own tool keeps to."""
    published = git() - git("--cached", "--ignored", "--exclude-from=.comfyignore")
    size = sum((ROOT / name).stat().st_size for name in published if (ROOT / name).is_file())
    assert size < 45_000_000, f"{size / 1e6:.1f} MB"
    assert not [name for name in published if name.startswith(("tests/", "docs/")) and not name.endswith(".md")]
    for folder in ("latentsync", "nodes", "web", "locales", "workflows", "webapp", "training_scripts", "eval"):
        assert {name for name in git() if name.startswith(f"{folder}/")} <= published
    files = {"__init__.py", "install.py", "main.py", "gradio_app.py", "pyproject.toml", "requirements.txt", "LICENSE"}
    assert files | {"NOTICE", "README.md", "docs/models.md"} <= published


def test_what_the_registry_asks_for_is_there():
    tomllib = pytest.importorskip("tomllib", reason="reading pyproject.toml needs Python 3.11")
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    comfy, repository = settings["tool"]["comfy"], settings["project"]["urls"]["Repository"]
    assert {"PublisherId", "DisplayName", "Icon", "Banner", "requires-comfyui"} <= set(comfy)
    assert repository.startswith("https://github.com/")
    owner = repository.removeprefix("https://github.com/")
    for name in ("Icon", "Banner"):
        address = comfy[name].removeprefix(f"https://raw.githubusercontent.com/{owner}/main/")
        width, height = re.search(
            r'width="(\d+)" height="(\d+)"', (ROOT / address).read_text(encoding="utf-8")
        ).groups()
        assert int(width) <= 800 if name == "Icon" else int(width) * 9 == int(height) * 21
    assert int(comfy["requires-comfyui"].removeprefix(">=").split(".")[0]) == 0


def test_there_are_imports_to_look_at():
    assert len(NODE_FILES) > 10
    assert {"comfy.utils", "folder_paths"} <= {name for name, _, _ in imports(ROOT / "nodes" / "host.py")}


@pytest.mark.parametrize("name", ["nodeDefs", "main"])
def test_every_language_says_the_same_things(name):
    assert {"en", "zh"} <= set(LANGUAGES)
    texts = {language: read_texts(language, name) for language in LANGUAGES}
    assert len(texts["en"]) > 5
    for language in LANGUAGES:
        assert texts[language].keys() == texts["en"].keys()
        assert all(text.strip() for text in texts[language].values())


def test_chinese_is_chinese():
    english, chinese = read_texts("en", "nodeDefs"), read_texts("zh", "nodeDefs")
    untranslated = {key for key in english if english[key] == chinese[key]}
    assert all(key.endswith(("vae.name", "whisper.name")) for key in untranslated), untranslated
    assert all(any("一" <= letter <= "鿿" for letter in chinese[key]) for key in chinese if key.endswith("tooltip"))


def read_texts(language: str, name: str) -> dict[str, str]:
    """The leaves of one language's file, by their path of keys."""
    content = json.loads((ROOT / "locales" / language / f"{name}.json").read_text(encoding="utf-8"))

    def leaves(part: dict, path: str) -> dict[str, str]:
        found = {}
        for key, value in part.items():
            below = f"{path}.{key}" if path else key
            found |= leaves(value, below) if isinstance(value, dict) else {below: value}
        return found

    return leaves(content, "")
