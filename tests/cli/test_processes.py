"""The command line as its own process: what only a process can show."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from latentsync.media.video_reader import probe_video
from tests.cli.conftest import arguments, tree

ROOT = Path(__file__).parents[2]
posix = pytest.mark.skipif(sys.platform == "win32", reason="signals and limits of POSIX")


def start(*argv: str, **options) -> subprocess.Popen:
    environment = os.environ | options.pop("environment", {})
    return subprocess.Popen(
        [sys.executable, str(ROOT / "main.py"), *argv],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        env=environment,
        cwd=ROOT.anchor,  # it must not matter where it is started
        **options,
    )


@pytest.fixture
def command(avatar_video, speech, out, small_model_folder) -> list[str]:
    return arguments(avatar_video, speech(0.2), out, "--model", small_model_folder)


def test_a_path_that_the_terminal_cannot_show_is_no_reason_to_fail(command, tmp_path):
    out = tmp_path / "ünïcödé.mp4"
    command[5] = str(out)
    run = start(*command, environment={"PYTHONIOENCODING": "ascii"})
    stdout, stderr = run.communicate(timeout=120)
    assert run.returncode == 0, stderr
    assert stdout == f"{tmp_path / 'ünïcödé.mp4'}\n".encode("ascii", "backslashreplace").decode()
    assert probe_video(out).num_frames == 5
    for nuisance in ("Traceback", "Warning", "float32: []", "deprecated"):
        assert nuisance not in stderr


def test_help_and_typing_errors_need_no_heavy_package():
    source = "import sys, latentsync.cli.main as c\ntry: c.main(sys.argv[1:])\nexcept SystemExit: pass\n"
    source += "print(sorted({'torch', 'numpy', 'av', 'cv2', 'diffusers', 'PIL', 'tqdm'} & set(sys.modules)))"
    for given in (["--help"], ["--unknown"]):
        run = subprocess.run(
            [sys.executable, "-c", source, *given], cwd=ROOT, capture_output=True, text=True, check=True
        )
        assert run.stdout.splitlines()[-1] == "[]"


@posix
@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_stopped_in_the_middle_it_leaves_nothing(command, tmp_path, out, sent, code):
    # A shell starts what it puts in the background with SIGINT ignored, and main.py keeps to that: as from a terminal.
    run = start(*command, "--inference_steps", "999", preexec_fn=lambda: signal.signal(sent, signal.SIG_DFL))
    deadline = time.monotonic() + 60
    while not list(tmp_path.rglob("*.part*")):
        assert run.poll() is None, run.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(0.5)  # into the denoising
    run.send_signal(sent)
    try:
        stdout, stderr = run.communicate(timeout=60)
    finally:
        run.kill()
    assert run.returncode == code, stderr
    assert stdout == ""
    assert stderr.endswith("interrupted; no file was written\n")
    assert "Traceback" not in stderr
    assert tree(tmp_path) == set()


@posix
def test_a_full_disk_is_told_and_leaves_nothing(command, tmp_path):
    """A limit on the size of files stands for the disk."""
    import resource

    run = start(*command, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096)))
    stderr = run.communicate(timeout=120)[1]
    assert run.returncode == 1, stderr
    assert stderr.rstrip().endswith(
        "the disk is full or a size limit is reached. Free some space or choose another disk."
    )
    assert "Traceback" not in stderr
    assert tree(tmp_path) == set()


@posix
@pytest.mark.skipif(os.name == "posix" and os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_the_right_to_write(command, tmp_path):
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o500)
    command[5] = str(folder / "out.mp4")
    run = start(*command)
    stderr = run.communicate(timeout=120)[1]
    assert run.returncode == 1
    assert "permission denied. Choose a folder in which files can be made." in stderr
    assert list(folder.iterdir()) == []
