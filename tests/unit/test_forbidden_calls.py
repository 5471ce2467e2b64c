"""What the project never does with what it is given: run it, unpickle it, or hand it to a shell."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PARTS = ("latentsync", "nodes", "training_scripts", "eval", "benchmarks", "webapp")
BUILTINS = {"eval", "exec", "compile", "__import__"}
MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
CALLS = {"os.system", "os.popen", "os.startfile", "tempfile.mktemp", "torch.jit.load", "yaml.load", "yaml.unsafe_load"}
CALLS |= {"yaml.full_load", "torch.hub.load", "np.fromregex", "pandas.read_pickle", "pd.read_pickle"}
# A program in its published file, given by the user to the evaluation; its docstring says so.
EXCUSED = {("latentsync/metrics/picture_networks.py", "torch.jit.load")}
# For the name of the exception alone.
NAMES_ONLY = {("latentsync/model/weights.py", "pickle")}


def sources() -> list[Path]:
    files = [path for part in PARTS for path in (ROOT / part).rglob("*.py")]
    return sorted([*files, *ROOT.glob("*.py")])


def dotted(node: ast.AST) -> str:
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else "?"


def is_constant(call: ast.Call, keyword: str, value: object) -> bool:
    return any(k.arg == keyword and isinstance(k.value, ast.Constant) and k.value.value is value for k in call.keywords)


def forbidden(source: str, path: str = "") -> list[str]:
    """Names of what must not be there, with their lines."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [name.name for name in node.names]
            roots = [name.split(".")[0] for name in names]
            found += [(node.lineno, name) for name in roots if name in MODULES and (path, name) not in NAMES_ONLY]
        if not isinstance(node, ast.Call):
            continue
        name = dotted(node.func)
        if name.startswith("pickle.") or ((name in BUILTINS or name in CALLS) and (path, name) not in EXCUSED):
            found.append((node.lineno, name))
        if name == "torch.load" and not is_constant(node, "weights_only", True):
            found.append((node.lineno, "torch.load without weights_only=True"))
        given = {keyword.arg for keyword in node.keywords}
        if "allow_pickle" in given and not is_constant(node, "allow_pickle", False):
            found.append((node.lineno, "allow_pickle"))
        if "shell" in given and not is_constant(node, "shell", False):
            found.append((node.lineno, "shell"))
    return [f"{line}: {name}" for line, name in sorted(found)]


@pytest.mark.parametrize("path", sources(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_nothing_is_run_or_unpickled(path):
    assert forbidden(path.read_text(encoding="utf-8"), path.relative_to(ROOT).as_posix()) == []


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("eval('1')", "eval"),
        ("def f(x):\n    exec(x)", "exec"),
        ("import pickle", "pickle"),
        ("from pickle import loads", "pickle"),
        ("pickle.loads(x)", "pickle.loads"),
        ("import os\nos.system('ls')", "os.system"),
        ("subprocess.run(x, shell=True)", "shell"),
        ("subprocess.run(x, shell=y)", "shell"),
        ("torch.load(x)", "torch.load without weights_only=True"),
        ("torch.load(x, weights_only=False)", "torch.load without weights_only=True"),
        ("np.load(x, allow_pickle=True)", "allow_pickle"),
        ("yaml.load(x)", "yaml.load"),
        ("torch.jit.load(x)", "torch.jit.load"),
    ],
)
def test_the_search_finds_them(source, found):
    assert [entry.partition(": ")[2] for entry in forbidden(source)] == [found]


def test_the_search_leaves_the_harmless_alone():
    source = "model.eval()\nre.compile('x')\nsubprocess.run(x)\ntorch.load(x, weights_only=True)\nast.literal_eval('1')"
    assert forbidden(source + "\nnp.load(x, allow_pickle=False)\nnp.load(x)\nyaml.safe_load(x)") == []
