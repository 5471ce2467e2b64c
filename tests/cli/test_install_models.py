"""install.py --models as users run it: several processes, kills, licences, mirrors, what is told when offline."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from latentsync.download import DONE, FAILED, MISSING, WRONG_ARGUMENTS, download_models
from latentsync.transfer import Patience
from tests.unit.download_server import CONTENT, Behaviour, serving

ROOT = Path(__file__).parents[2]
SHA = hashlib.sha256(CONTENT).hexdigest()
QUICK = Patience(timeout=30, failures=3, pause=0.01, gain=10_000)
# Without site-packages: nothing but the standard library.
PROCESS = """
import pathlib, sys
sys.path.insert(0, {root!r})
from latentsync.download import download_models
manifest, folder, *names = sys.argv[1:]
sys.exit(download_models(names, pack=pathlib.Path(folder), checkpoints=folder, manifest=pathlib.Path(manifest)))
"""


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch):
    for name in ("LATENTSYNC_MIRROR", "HF_ENDPOINT", "LATENTSYNC_GITHUB_MIRROR", "HTTP_PROXY", "http_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")


def manifest_in(folder: Path, address: str = "https://huggingface.co", **changes) -> Path:
    """One model, "model", that needs another, "free", whose hash nobody published."""

    def model(name, needs, question, **file):
        entry = {"path": f"{name}/m.pt", "comfyui_path": f"latentsync/{name}.pt", "urls": [f"{address}/{name}.pt"]}
        licence = {"name": "L", "url": "https://licence", "question": question}
        known = {"title": name, "vendor": "V", "year": 2026, "licence": licence}
        return {**known, "needs": needs, "files": [{**entry, **file}]}

    known = {"size": len(CONTENT), "sha256": SHA, "describe": {"resolution": 256}, **changes}
    models = {
        "model": model("model", ["free"], None, **known),
        "free": model("free", [], None, size=None, sha256=None),
        "asking": model("asking", [], "Non-commercial only.", size=len(CONTENT), sha256=SHA),
    }
    (folder / "manifest.json").write_text(json.dumps({"models": models}))
    return folder / "manifest.json"


@pytest.fixture
def run(tmp_path):
    """Runs in this process; the folder is tmp_path/checkpoints."""

    def run(*names, address="https://huggingface.co", changes=None, **options):
        manifest = manifest_in(tmp_path, address, **(changes or {}))
        return download_models(names, pack=tmp_path, manifest=manifest, patience=QUICK, **options)

    return run


def start(manifest: Path, folder: Path, *names: str) -> subprocess.Popen:
    command = [sys.executable, "-S", "-I", "-c", PROCESS.format(root=str(ROOT)), str(manifest), str(folder), *names]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_model_comes_with_what_it_needs_and_stays(run, tmp_path, capsys):
    behaviour, folder = Behaviour(), tmp_path / "checkpoints"
    with serving(behaviour) as address:
        assert run("model", address=address) == DONE
        told = capsys.readouterr().out
        assert (folder / "model" / "m.pt").read_bytes() == (folder / "free" / "m.pt").read_bytes() == CONTENT
        assert "fetched and verified" in told
        assert f"NOT verified: no hash is published. Its own, {SHA}" in told
        assert run("model", address=address) == DONE
        assert len(behaviour.requests) == 2
    assert "checking" not in capsys.readouterr().out  # known by size and time
    left = {path.name for path in folder.rglob("*") if path.is_file()}
    assert left == {"m.pt", "m.json", "latentsync-downloads.json"}


def test_the_loader_reads_what_is_described(run, tmp_path):
    from latentsync.model.weights import read_sidecar

    with serving(Behaviour()) as address:
        run("model", address=address)
    assert read_sidecar(tmp_path / "checkpoints" / "model" / "m.pt")["resolution"] == 256


def test_a_file_without_a_published_hash_is_compared_with_the_first_one(run, tmp_path, capsys):
    behaviour, target = Behaviour(), tmp_path / "checkpoints" / "free" / "m.pt"
    with serving(behaviour) as address:
        assert run("free", address=address) == DONE
        target.unlink()
        behaviour.content = bytes(len(CONTENT))
        assert run("free", address=address) == FAILED
        assert "has changed since it was first fetched" in capsys.readouterr().err
        assert not target.exists()


@pytest.mark.parametrize("content", [CONTENT[:1000], bytes(len(CONTENT))])
def test_another_file_in_its_place_is_never_overwritten(run, tmp_path, capsys, content):
    target = tmp_path / "checkpoints" / "model" / "m.pt"
    target.parent.mkdir(parents=True)
    target.write_bytes(content)
    behaviour = Behaviour()
    with serving(behaviour) as address:
        assert run("model", address=address) == FAILED
    assert "Rename or delete it" in capsys.readouterr().err
    assert (target.read_bytes(), behaviour.requests) == (content, [])


def test_offline_tells_what_is_missing_and_where_to_put_it(run, tmp_path, capsys):
    folder = tmp_path / "checkpoints"
    assert run("model", offline=True) == MISSING
    told = capsys.readouterr().out
    for part in (
        f"{folder / 'model' / 'm.pt'}",
        "300,000 bytes",
        SHA,
        "https://huggingface.co/model.pt",
        "2 files are",
    ):
        assert part in told
    for name in ("model", "free"):
        (folder / name).mkdir(parents=True)
        (folder / name / "m.pt").write_bytes(CONTENT)
    assert run("model", offline=True) == DONE
    assert "not verified: no hash is published" in capsys.readouterr().out


def test_the_space_for_everything_is_looked_at_first(run, capsys):
    behaviour = Behaviour()
    with serving(behaviour) as address:
        assert run("model", address=address, changes={"size": 10**18}) == FAILED
    assert "Nothing was fetched" in capsys.readouterr().err
    assert behaviour.requests == []


def test_the_mirror_replaces_the_hub(run, tmp_path, monkeypatch, capsys):
    behaviour = Behaviour()
    with serving(behaviour) as address:
        monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
        monkeypatch.setenv("LATENTSYNC_MIRROR", f"{address}/hub/")
        assert run("model") == DONE
    assert [path for path, _ in behaviour.requests] == ["/hub/model.pt", "/hub/free.pt"]
    monkeypatch.setenv("LATENTSYNC_MIRROR", "somewhere")
    assert run("model") == WRONG_ARGUMENTS
    assert "LATENTSYNC_MIRROR is 'somewhere'" in capsys.readouterr().err


def test_a_proxy_is_used(run, monkeypatch):
    behaviour = Behaviour()
    with serving(behaviour) as address:
        monkeypatch.setenv("http_proxy", address)
        monkeypatch.setenv("LATENTSYNC_MIRROR", "http://hub.invalid")
        assert run("free") == DONE
    assert [path for path, _ in behaviour.requests] == ["http://hub.invalid/free.pt"]


def test_refusals_say_how_else_to_get_it(run, tmp_path, capsys):
    with serving(Behaviour(statuses=[404])) as address:
        assert run("free", address=address) == FAILED
    error = capsys.readouterr().err
    assert "HTTP 404" in error
    assert f"by hand into {tmp_path / 'checkpoints' / 'free' / 'm.pt'}" in error


@pytest.mark.parametrize("answer", ["no", "", "y", EOFError])
def test_without_a_yes_nothing_is_fetched(run, tmp_path, capsys, answer):
    def ask(_):
        if answer is EOFError:
            raise EOFError
        return answer

    behaviour = Behaviour()
    with serving(behaviour) as address:
        assert run("asking", address=address, ask=ask) == FAILED
    said = capsys.readouterr()
    assert "Non-commercial only." in said.out
    assert "--accept-licence asking" in said.err
    assert behaviour.requests == []


@pytest.mark.parametrize("options", [{"ask": lambda _: "yes"}, {"accepted": ["asking"]}, {"accepted": ["free,asking"]}])
def test_an_accepted_licence_is_remembered(run, tmp_path, options):
    with serving(Behaviour()) as address:
        assert run("asking", address=address, **options) == DONE
        (tmp_path / "checkpoints" / "asking" / "m.pt").unlink()
        assert run("asking", address=address, ask=None) == DONE


def test_killed_at_any_point_it_goes_on(tmp_path):
    """kill -9 after each block, on and on: the blocks before it are not fetched again."""
    rest = threading.Event()
    behaviour = Behaviour(before_block=lambda sent: sent and rest.wait(60))  # one block for each connection
    folder = tmp_path / "c"
    part = folder / "model" / "m.pt.part"
    with serving(behaviour) as address:
        manifest = manifest_in(tmp_path, address)
        for kept in (50_000, 100_000, 150_000):
            process = start(manifest, folder, "model")
            wait_for(lambda kept=kept: part.exists() and part.stat().st_size == kept)
            process.kill()
            process.communicate()
            assert not (folder / "model" / "m.pt").exists()
        rest.set()
        process = start(manifest, folder, "model")
        out, err = process.communicate(timeout=120)
        assert process.returncode == DONE, out + err
    wanted = [range_ for path, range_ in behaviour.requests if path == "/model.pt"]
    assert wanted == [None, "bytes=50000-", "bytes=100000-", "bytes=150000-"]
    assert (folder / "model" / "m.pt").read_bytes() == CONTENT
    assert not list(folder.rglob("*.part*"))


def test_two_processes_fetch_a_file_once(tmp_path):
    both = threading.Event()
    behaviour, folder = Behaviour(before_block=lambda sent: both.wait(60)), tmp_path / "c"
    with serving(behaviour) as address:
        manifest = manifest_in(tmp_path, address)
        first = start(manifest, folder, "model")
        wait_for(lambda: behaviour.requests)
        second = start(manifest, folder, "model")
        waiting = [second.stdout.readline() for _ in range(2)]
        both.set()
        ends = [process.communicate(timeout=120) for process in (first, second)]
    assert "waiting for that" in waiting[1]
    assert (first.returncode, second.returncode) == (DONE, DONE), ends
    assert [path for path, _ in behaviour.requests] == ["/model.pt", "/free.pt"]
    assert set(json.loads((folder / "latentsync-downloads.json").read_text())["files"]) == {"model/m.pt", "free/m.pt"}
    assert not [path.name for path in folder.rglob("*") if "part" in path.name or "lock" in path.name]


def wait_for(condition) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.01)


# install.py itself, on Python's standard library alone


def install(*arguments, script: Path = ROOT / "install.py", **options):
    command = [sys.executable, "-S", "-I", str(script), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd="/", stdin=subprocess.DEVNULL, **options)


def test_the_program_lists_models(tmp_path):
    done = install("--models", "--checkpoints", tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    for name in ("latentsync-1.6", "latentsync-1.5", "vae", "whisper", "gfpgan", "codeformer"):
        assert f"\n{name} " in f"\n{done.stdout}"


def test_the_program_tells_when_offline(tmp_path):
    done = install("--models", "latentsync-1.6", "gfpgan", "--offline", "--checkpoints", tmp_path)
    assert done.returncode == MISSING
    for file in ("latentsync_unet.pt", "vae/config.json", "whisper/tiny.pt", "auxiliary/GFPGANv1.4.pth"):
        assert str(tmp_path / file) in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_the_program_finds_the_host(tmp_path):
    pack = tmp_path / "ComfyUI" / "custom_nodes" / "pack"
    (tmp_path / "ComfyUI" / "models").mkdir(parents=True)
    pack.parent.mkdir()
    pack.symlink_to(ROOT, target_is_directory=True)
    done = install("--models", "latentsync-1.6", "gfpgan", "--offline", script=pack / "install.py")
    models = tmp_path / "ComfyUI" / "models"
    for file in ("latentsync/latentsync_unet.pt", "latentsync/vae/config.json", "facerestore_models/GFPGANv1.4.pth"):
        assert str(models / file) in done.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--models", "latentsync"], "Known are: latentsync-1.6"),
        (["--models", "gfpgan", "--models-dir", "/nowhere"], "not a folder"),
        (["--offline"], "belong to --models"),
        (["--demo", "--models", "gfpgan"], "goes alone or with --env"),
    ],
)
def test_the_program_refuses_wrong_arguments(arguments, words):
    done = install(*arguments)
    assert done.returncode == WRONG_ARGUMENTS
    assert words in done.stderr


def test_the_program_refuses_codeformer_without_an_answer(tmp_path):
    done = install("--models", "codeformer", "--checkpoints", tmp_path)
    assert done.returncode == FAILED
    assert "non-commercial purposes only" in done.stdout
    assert "--accept-licence codeformer" in done.stderr


@pytest.mark.skipif(os.name == "nt", reason="no pty there")
def test_the_question_is_asked_on_the_terminal(tmp_path):
    import pty

    behaviour = Behaviour(statuses=[404])
    with serving(behaviour) as address:
        terminal, theirs = pty.openpty()
        command = [sys.executable, "-S", "-I", str(ROOT / "install.py"), "--models", "codeformer"]
        environment = {**os.environ, "LATENTSYNC_GITHUB_MIRROR": address}
        streams = {"stdin": theirs, "stdout": theirs, "stderr": theirs, "env": environment}
        process = subprocess.Popen([*command, "--checkpoints", str(tmp_path)], **streams)
        os.close(theirs)
        said = b""
        while b"Type yes or no" not in said:
            said += os.read(terminal, 4096)
        os.write(terminal, b"yes\n")
        wait_for(lambda: behaviour.requests)
        assert process.wait(10) == FAILED  # the server does not have it
        os.close(terminal)
    assert behaviour.requests[0][0] == "/sczhou/CodeFormer/releases/download/v0.1.0/codeformer.pth"


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_setup_env_passes_models_on(tmp_path):
    """With a stand-in for install.py, which makes no environment here."""
    shutil.copy(ROOT / "setup_env.sh", tmp_path)
    (tmp_path / "install.py").write_text(
        "import pathlib, sys\nassert sys.argv[1:] == ['--env', '--cpu', '--models', 'latentsync-1.6'], sys.argv\n"
        "folder = pathlib.Path(__file__).parent / '.venv' / 'bin'\nfolder.mkdir(parents=True)\n"
        "(folder / 'activate').write_text('ACTIVATED=yes')\n"
    )
    script = "source ./setup_env.sh --cpu --models latentsync-1.6; echo code $? $ACTIVATED"
    environment = {**os.environ, "PYTHON": sys.executable}
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert done.stdout == "code 0 yes\n", done.stderr
