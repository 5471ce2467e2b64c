"""Reading and writing media with older releases of PyAV: the same tests, in a process that has another one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.comfy.setup_host import FOLDER, ROOT, older_of, oldest_of

FILES = ("test_video_reader.py", "test_video_writer.py", "test_audio_reader.py", "test_pyav_logging.py")


@pytest.mark.parametrize(("folder", "release"), [(oldest_of(FOLDER), "14.2.0"), (older_of(FOLDER), "16.1.0")])
def test_media_are_read_and_written(folder: Path, release: str):
    if not folder.is_dir() and not os.environ.get("LATENTSYNC_COMFY_REQUIRED"):
        pytest.skip("no other PyAV in .comfy; with a network: python tests/comfy/setup_host.py")
    env = {**os.environ, "PYTHONPATH": str(folder)}
    said = subprocess.run(
        [sys.executable, "-c", "import av; print(av.__version__)"], env=env, capture_output=True, text=True
    )
    assert said.stdout.strip() == release, said.stderr
    files = [str(Path(__file__).parent / name) for name in FILES]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *files],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-6000:]
    print(done.stdout.splitlines()[-1])
