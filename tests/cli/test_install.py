"""install.py and setup_env.sh, without installing anything: what is decided, remembered, said and left alone."""

import functools
import http.server
import importlib.util
import json
import os
import shutil
import struct
import subprocess
import sys
import threading
import time
import venv
import zipfile
from pathlib import Path

import pytest

from latentsync.model_files import damaged_files

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def install():
    specification = importlib.util.spec_from_file_location("latentsync_install", ROOT / "install.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.fixture
def environment(install, tmp_path):
    """A real environment, except that pip is a folder by that name: making the real one takes seconds."""
    made = install.Environment(tmp_path / ".venv")
    venv.create(made.folder, symlinks=os.name != "nt")
    packages = next(made.folder.rglob("site-packages"))
    (packages / "pip").mkdir()
    (packages / "pip" / "__init__.py").touch()
    return made


@pytest.fixture
def pip_calls(install, monkeypatch):
    """What pip was asked for; nothing is installed."""
    calls = []
    monkeypatch.setattr(install.Environment, "_pip", lambda self, arguments: calls.append(arguments))
    return calls


def test_plain_run_is_quick_and_says_nothing():
    for _ in range(2):
        before = time.process_time(), os.times().children_user
        run = subprocess.run([sys.executable, "-I", ROOT / "install.py"], capture_output=True, text=True, cwd="/")
        assert (run.returncode, run.stdout, run.stderr) == (0, "", "")
        assert os.times().children_user - before[1] < 5  # s of CPU; measured 0.1


def test_plain_run_needs_no_package():
    """Only the standard library: -S leaves site-packages out."""
    run = subprocess.run([sys.executable, "-S", "-I", ROOT / "install.py"], capture_output=True, text=True)
    assert (run.returncode, run.stderr) == (0, "")


def test_cut_weights_are_found(install, tmp_path):
    whole = ROOT / "latentsync" / "assets" / "face" / "blazeface_full192.safetensors"
    (tmp_path / "face").mkdir()
    shutil.copy(whole, tmp_path / "face")
    assert damaged_files(tmp_path) == []
    copy = tmp_path / "face" / whole.name
    copy.write_bytes(whole.read_bytes()[:-1])
    (fault,) = damaged_files(tmp_path)
    assert str(copy) in fault
    assert str(whole.stat().st_size) in fault


@pytest.mark.parametrize(
    "content", [b"", b"version https://git-lfs.github.com/spec/v1\n", struct.pack("<Q", 2) + b"{}", b"\0" * 40]
)
def test_what_is_no_safetensors_file_is_found(install, tmp_path, content):
    (tmp_path / "x.safetensors").write_bytes(content)
    assert len(damaged_files(tmp_path)) == 1


def test_a_described_file_that_is_missing_is_found(install, tmp_path):
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "config.json").write_text(
        json.dumps({"unet": "u.safetensors", "vae": "vae", "whisper": "w.pt"})
    )
    (tmp_path / "tiny" / "vae").mkdir()
    (tmp_path / "tiny" / "w.pt").write_bytes(b"cut off")
    (tmp_path / "syncnet").mkdir()
    (tmp_path / "syncnet" / "config.json").write_text(json.dumps({"syncnet": "tiny.safetensors"}))
    assert sorted(fault.split(": ")[1].split(",")[0] for fault in damaged_files(tmp_path)) == [
        "damaged",
        "missing",
        "missing",
    ]


def test_damage_fails_the_plain_run(install, tmp_path, monkeypatch, capsys):
    (tmp_path / "latentsync" / "assets").mkdir(parents=True)
    (tmp_path / "latentsync" / "assets" / "x.safetensors").write_bytes(b"cut")
    monkeypatch.setattr(install, "ROOT", tmp_path)
    assert install.main([]) == 1
    assert "x.safetensors" in capsys.readouterr().err


def test_an_old_python_is_told_what_it_needs(install):
    with pytest.raises(install.InstallError, match=r"Python 3\.9\.18 .*3\.10 or newer is needed"):
        install.check_python((3, 9, 18))
    install.check_python((3, 10, 0))


def test_a_python_without_venv_names_the_package(install):
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}-venv"
    with pytest.raises(install.InstallError, match=version.replace(".", r"\.")):
        install.check_venv_module(lambda name: None if name == "ensurepip" else object())
    install.check_venv_module()


def test_optional_lists_are_read_as_toml_reads_them(install):
    tomllib = pytest.importorskip("tomllib", reason="needs Python 3.11")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for extra, lines in project["optional-dependencies"].items():
        assert install.extra_requirements(ROOT / "pyproject.toml", extra) == lines
    with pytest.raises(install.InstallError, match="no list 'absent'"):
        install.extra_requirements(ROOT / "pyproject.toml", "absent")


def test_linux_gets_the_opencv_that_needs_no_system_libraries(install):
    linux, windows = (install.requirements_of(ROOT, False, platform) for platform in ("linux", "win32"))
    assert "opencv-python-headless" in linux
    assert "opencv-python" not in linux
    assert "opencv-python" in windows
    assert set(linux) - set(windows) == {"opencv-python-headless"}
    tests = install.requirements_of(ROOT, True, "linux")
    assert set(linux) < set(tests)
    assert len(tests) == len(set(tests))


def test_pip_runs_once_for_the_same_lists(install, environment, pip_calls):
    version = environment.ensure()
    for _ in range(2):
        environment.install(["a", "b"], version, cpu=False, covers=[["a"]])
    environment.install(["a"], version, cpu=False, covers=[])
    assert pip_calls == [["a", "b"]]
    environment.install(["a", "b>=2"], version, cpu=False, covers=[])
    environment.install(["a", "b>=2"], "3.99.0", cpu=False, covers=[])
    assert pip_calls == [["a", "b"], ["a", "b>=2"], ["a", "b>=2"]]


def test_packages_to_compare_with_come_alone(install, environment, pip_calls):
    version = environment.ensure()
    for _ in range(2):
        environment.install(["a", "b"], version, cpu=False, covers=[["a"]], alone=["c"])
    environment.install(["a"], version, cpu=False, covers=[])
    assert pip_calls == [["a", "b"], ["--no-deps", "c"]]
    environment.install(["a", "b"], version, cpu=False, covers=[])  # another list: without c
    assert pip_calls[2:] == [["a", "b"]]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere PyPI's PyTorch is small")
def test_cpu_takes_only_torch_from_its_index(install, environment, pip_calls, monkeypatch):
    monkeypatch.setattr(install, "can_reach", lambda index: True)
    monkeypatch.setattr(install.Environment, "fault", lambda self, names: "")
    environment.install(["torch", "torchvision", "torchmetrics", "numpy"], "3.11.0", cpu=True, covers=[])
    assert pip_calls[0] == ["--index-url", install.CPU_INDEX, "torch", "torchvision"]
    assert pip_calls[1] == ["torch", "torchvision", "torchmetrics", "numpy"]


def write_wheel(folder: Path, name: str, version: str, body: str, requires: str = "") -> None:
    """A package of one module, as pip takes it."""
    folder.mkdir(exist_ok=True)
    information = f"{name}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    files = {
        f"{name}/__init__.py": body,
        f"{name}/ops.py": "",
        f"{information}/METADATA": metadata + (f"Requires-Dist: {requires}\n" if requires else ""),
        f"{information}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{path},,\n" for path in [*files, f"{information}/RECORD"])
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
        for path, text in {**files, f"{information}/RECORD": record}.items():
            wheel.writestr(path, text)


def write_pair(folder: Path, build: str, torch: str = "", torchvision: str = "") -> None:
    """Stand-ins of one build: a torchvision of the other does not load, as the real one's operators do not."""
    if torch:
        write_wheel(folder, "torch", torch, f"build = {build!r}")
    if torchvision:
        wrong = "raise RuntimeError('operator torchvision::nms does not exist')"
        body = f"import torch\nif torch.build != {build!r}:\n    {wrong}\n"
        write_wheel(folder, "torchvision", torchvision, body, requires="torch==2.13.0")


@pytest.fixture
def pip_environment(environment, monkeypatch):
    """With the real pip, which has no index but what a test gives it."""
    packages = next(environment.folder.rglob("site-packages"))
    shutil.rmtree(packages / "pip")
    shutil.copytree(importlib.util.find_spec("pip").submodule_search_locations[0], packages / "pip")
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    return environment


def test_a_pair_that_does_not_load_is_replaced(install, pip_environment, tmp_path, monkeypatch, capsys):
    """A folder on pip's way has torch without CUDA, the index torchvision for CUDA: both satisfy the requirements."""
    write_pair(tmp_path / "wheels", "cpu", torch="2.13.0+cpu")
    write_pair(tmp_path / "wheels", "cuda", torch="2.13.0", torchvision="0.28.0")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    pip_environment.install(["torch", "torchvision"], "3.11.0", cpu=False, covers=[])
    assert "operator torchvision::nms does not exist" in capsys.readouterr().out
    assert pip_environment.releases(["torch", "torchvision"]) == ["torch 2.13.0", "torchvision 0.28.0"]
    assert pip_environment.fault(["torch", "torchvision"]) == ""

    # Seen once, it is asked again only when other releases are there, whatever was installed in between.
    asked = []
    monkeypatch.setattr(install.Environment, "fault", lambda self, names: asked.append(names) or "")
    pip_environment.install(["torch", "torchvision"], "3.11.0", cpu=False, covers=[])
    assert asked == []
    pip_environment._pip(["torch==2.13.0+cpu"])
    pip_environment.install(["torch", "torchvision"], "3.11.0", cpu=False, covers=[])
    assert len(asked) == 1


def test_what_cannot_be_replaced_is_not_recorded(pip_environment, tmp_path, monkeypatch, install):
    write_pair(tmp_path / "wheels", "cpu", torch="2.13.0+cpu")
    write_pair(tmp_path / "wheels", "cuda", torchvision="0.28.0")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    with pytest.raises(
        install.InstallError, match=r"torchvision::nms.*torch 2\.13\.0\+cpu, torchvision 0.28.0"
    ) as told:
        pip_environment.install(["torch", "torchvision"], "3.11.0", cpu=False, covers=[])
    assert "PIP_FIND_LINKS" in str(told.value)
    assert "keys" not in pip_environment.state()
    assert pip_environment.state()["busy"] is False  # what is there is whole


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere PyPI's PyTorch is small")
def test_cpu_takes_the_pair_from_its_index_alone(pip_environment, tmp_path, monkeypatch, install):
    """Where a torchvision of another build lies on pip's way and would be preferred."""
    index = tmp_path / "index"
    index.mkdir()
    for name, release in (("torch", "2.13.0+cpu"), ("torchvision", "0.28.0+cpu")):
        write_pair(index / name, "cpu", **{name: release})
    write_pair(tmp_path / "wheels", "cuda", torchvision="0.28.0+else")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    monkeypatch.setenv("PIP_INDEX_URL", index.as_uri())
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    handler = functools.partial(QuietHandler, directory=str(index))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(install, "CPU_INDEX", f"http://127.0.0.1:{server.server_port}")
        pip_environment.install(["torch", "torchvision"], "3.11.0", cpu=True, covers=[])
        server.shutdown()
    assert pip_environment.releases(["torch", "torchvision"]) == ["torch 2.13.0+cpu", "torchvision 0.28.0+cpu"]
    assert pip_environment.state()["keys"]


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


def test_an_index_out_of_reach_is_told_at_once(install, capsys):
    started = time.monotonic()
    assert install.can_reach("http://127.0.0.1:9/whl/cpu") is False
    assert install.can_reach("https://no-such-host.invalid/whl/cpu") is False
    assert time.monotonic() - started < 20
    told = capsys.readouterr().out.splitlines()
    assert len(told) == 2
    assert all("cannot be reached" in line and "7 GB" in line for line in told)


def test_a_failed_pip_is_not_remembered(install, environment, monkeypatch):
    def fail(self, arguments):
        raise install.InstallError("no network")

    with monkeypatch.context() as patch:
        patch.setattr(install.Environment, "_pip", fail)
        with pytest.raises(install.InstallError, match="no network"):
            environment.install(["a"], "3.11.0", cpu=False, covers=[])
    assert environment.state() == {"busy": True}


def test_a_working_environment_is_kept(install, environment):
    (environment.folder / "mine.txt").touch()
    expected = ".".join(map(str, sys.version_info[:3]))
    assert environment.ensure() == environment.ensure() == expected
    assert (environment.folder / "mine.txt").exists()


def test_a_foreign_folder_is_never_thrown_away(install, tmp_path):
    folder = tmp_path / ".venv"
    folder.mkdir()
    (folder / "precious.txt").touch()
    with pytest.raises(install.InstallError, match="was not made by this program"):
        install.Environment(folder).ensure()
    assert (folder / "precious.txt").exists()


@pytest.mark.parametrize("state", [{"made": True, "busy": True}, {"made": True, "busy": False}])
def test_an_interrupted_environment_is_made_anew(install, tmp_path, monkeypatch, state):
    """Cut while venv or pip was at work: the rests are cleared, whatever they are."""
    environment = install.Environment(tmp_path / ".venv")
    environment.folder.mkdir()
    environment.remember(**state)
    (environment.folder / "half-written").touch()

    def make(command, **_):
        venv.create(command[-1], symlinks=os.name != "nt")
        (next(Path(command[-1]).rglob("site-packages")) / "pip").mkdir()
        return subprocess.CompletedProcess(command, 0, "", "")

    real = subprocess.run
    monkeypatch.setattr(install.subprocess, "run", lambda c, **k: make(c) if "venv" in c else real(c, **k))
    assert environment.ensure()
    assert not (environment.folder / "half-written").exists()
    assert environment.state() == {"made": True, "busy": False}


@pytest.mark.parametrize(
    ("line", "advice"),
    [
        ("OSError: [Errno 28] No space left on device", "disk is full"),
        ("Failed to establish a new connection: Temporary failure in name resolution", "PIP_FIND_LINKS"),
        ("ERROR: No matching distribution found for torch", "try Python 3.11"),
        ("error: subprocess-exited-with-error", "Run the same command again"),
    ],
)
def test_pip_failures_come_with_advice(install, line, advice):
    text = install.pip_advice(["Collecting torch", line])
    assert line in text
    assert advice in text


def test_a_failing_pip_is_reported_with_its_last_lines(install, tmp_path):
    """A real pip, asked for what cannot be."""
    environment = install.Environment(tmp_path)
    environment.python = Path(sys.executable)
    with pytest.raises(install.InstallError, match=r"pip failed:[\s\S]*no-such-package[\s\S]*index has nothing"):
        environment._pip(["--no-index", "no-such-package-at-all"])


def test_two_installations_do_not_meet(install, tmp_path):
    lock = tmp_path / "lock"
    with (
        install.only_one(lock),
        pytest.raises(install.InstallError, match="Another installation"),
        install.only_one(lock),
    ):
        pass
    with install.only_one(lock):
        pass


def test_arguments_of_pytest_pass_through_in_order(install, monkeypatch, tmp_path):
    seen = []
    monkeypatch.setattr(install, "prepare", lambda with_tests, cpu: tmp_path / "python")
    monkeypatch.setattr(install, "test", lambda python, others: seen.append(others) or 5)
    assert install.main(["--test", "-q", "-k", "dependencies or masks", "tests/unit"]) == 5
    assert seen == [["-q", "-k", "dependencies or masks", "tests/unit"]]
    with pytest.raises(SystemExit) as stop:
        install.main(["--demo", "-q"])
    assert stop.value.code == 2


def test_an_interruption_is_told(install, monkeypatch, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(install, "prepare", interrupted)
    assert install.main(["--env"]) == 130
    assert "run the same command again" in capsys.readouterr().err


bash = pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")


@bash
@pytest.mark.parametrize("script", ["setup_env.sh", ".ci/run"])
def test_scripts_are_whole_and_executable(script):
    assert subprocess.run(["bash", "-n", ROOT / script]).returncode == 0
    assert os.access(ROOT / script, os.X_OK)


@bash
@pytest.mark.parametrize(("python", "code"), [("false", 1), ("/nowhere/python", 1)])
def test_a_failure_does_not_end_the_sourcing_shell(python, code, tmp_path):
    script = f"source '{ROOT}/setup_env.sh'; echo code $? in $PWD; set | grep -c ^_latentsync || true"
    run = subprocess.run(
        ["bash", "-c", script], capture_output=True, text=True, cwd=tmp_path, env={**os.environ, "PYTHON": python}
    )
    assert run.stdout.split("\n")[:2] == [f"code {code} in {tmp_path}", "0"]


@bash
def test_sourcing_activates_what_was_made(tmp_path):
    """With a stand-in for install.py, which has its own tests."""
    shutil.copy(ROOT / "setup_env.sh", tmp_path)
    (tmp_path / "install.py").write_text(
        "import pathlib, sys\n"
        "assert sys.argv[1:] == ['--env', '--cpu'], sys.argv\n"
        "folder = pathlib.Path(__file__).parent / '.venv' / 'bin'\n"
        "folder.mkdir(parents=True)\n"
        "(folder / 'activate').write_text('ACTIVATED=yes')\n"
    )
    script = "source ./setup_env.sh --cpu; echo code $? $ACTIVATED"
    run = subprocess.run(
        ["bash", "-c", script],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHON": sys.executable},
    )
    *told, last = run.stdout.splitlines()
    assert last == "code 0 yes", run.stderr
    assert told == ["Models for real faces are fetched by: source setup_env.sh --models latentsync-1.6"]
