"""What the pack does with ComfyUI's objects, checked inside a process of ComfyUI's, never in pytest's own."""

import os
import subprocess
import sys
from pathlib import Path

from tests.comfy.setup_host import FOLDER, ROOT, comfy_of, packages_of

SCRIPT = Path(__file__).with_name("inside_host.py")


def test_files_sounds_and_devices(clips, tmp_path):
    for name in ("input", "output", "temp", "user", "models"):
        (tmp_path / name).mkdir()
    run = subprocess.run(
        [sys.executable, str(SCRIPT), str(ROOT), str(clips.folder / clips.talk), str(tmp_path)],
        cwd=comfy_of(FOLDER),
        env={**os.environ, "PYTHONPATH": str(packages_of(FOLDER)), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    assert run.stdout.splitlines()[-1] == "all right"
    assert list((tmp_path / "temp").iterdir()) == []
