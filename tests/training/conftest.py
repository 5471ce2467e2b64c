"""One run of all training steps on a micro configuration, made once for the tests of this folder."""

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest
from accelerate.state import AcceleratorState

from training_scripts.config import TrainingConfig, load_settings
from training_scripts.make_synthetic_videos import RawVideo, write_video

from .prepared_stores import prepare
from .small_parts import make_parts

MICRO = Path(__file__).parent / "micro.yaml"
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def micro_run(tmp_path_factory) -> TrainingConfig:
    """The configuration of a run that went through ``python -m training_scripts.train_tiny`` to its end."""
    run_dir = tmp_path_factory.mktemp("micro") / "run"
    # A process of its own: this one may have started threads, which do not survive the fork of the drawing workers.
    command = [sys.executable, "-m", "training_scripts.train_tiny", "--config", str(MICRO)]
    done = subprocess.run(
        [*command, "--set", f"run_dir={run_dir}"],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=1200,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return load_settings(TrainingConfig, MICRO, [f"run_dir={run_dir}"])


@pytest.fixture
def new_run(micro_run, tmp_path):
    """`new_run(name, *made)`: the configuration of another run, with these results of `micro_run` in place already."""

    def make(name: str, *made: str) -> TrainingConfig:
        run_dir = tmp_path / name
        run_dir.mkdir()
        for part in made:
            source = micro_run.run_dir / part
            (shutil.copytree if source.is_dir() else shutil.copy)(source, run_dir / part)
        return replace(micro_run, run_dir=run_dir)

    return make


@pytest.fixture(scope="session")
def parts(tmp_path_factory) -> Path:
    """A folder with what `small_config` names."""
    return make_parts(tmp_path_factory.mktemp("parts"))


@pytest.fixture(autouse=True)
def new_accelerator():
    """accelerate lets a process have one precision; each test is as a process of its own."""
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(scope="session")
def few_videos(tmp_path_factory) -> Path:
    """A folder with two short raw videos, one of two shots, and a broken one. Never to be written to."""
    folder = tmp_path_factory.mktemp("raw") / "few videos"  # a space in a name is no trouble
    folder.mkdir()
    for seeds, rate in (((31,), Fraction(30)), ((32, 33), Fraction(25))):
        write_video(RawVideo(f"speaker {seeds[0]}", seeds, rate, 128, 128, 1.2), folder)
    (folder / "broken.mp4").write_bytes(b"this is no video" * 64)
    return folder


@pytest.fixture(scope="session")
def few_store(few_videos, tmp_path_factory) -> Path:
    """What the command makes of `few_videos` by its process pool when nothing disturbs it. Never to be written to."""
    output = tmp_path_factory.mktemp("prepared") / "store"
    prepare(few_videos, output, "--workers", "1")
    return output
