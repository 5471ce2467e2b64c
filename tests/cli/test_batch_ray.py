"""A batch on a real Ray of this machine."""

import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from latentsync.cli.arguments import parse
from latentsync.cli.batch import check_rows
from latentsync.cli.job_file import read_rows
from latentsync.cli.worker import Outcome, RayBatch, Worker
from latentsync.errors import Cancelled, OptionError
from latentsync.media.video_reader import probe_video

pytest.importorskip("ray")


class TellingWorker(Worker):
    """Tells in which process each run was made; dies where the output's name asks for it."""

    def do(self, job, outcome, should_stop=None):
        name = Path(outcome.video_out_path).stem
        if name == "dies":
            os._exit(7)
        if name == "waits":  # as a run does that is in the middle of its steps
            Path(outcome.video_out_path).with_name("waiting").touch()
            while not should_stop():
                time.sleep(0.05)
            Path(outcome.video_out_path).with_name("waiting").unlink()
            raise Cancelled("stopped")
        done = super().do(job, outcome, should_stop)
        return replace(done, warnings=(f"process {os.getpid()}",))


@pytest.fixture
def waiting(tmp_path, avatar_video, speech, small_model_folder):
    """`waiting(*names, options=())`: checked jobs with a result of that name each."""

    def make(*names: str, options=()) -> list:
        path = tmp_path / "jobs.csv"
        rows = "".join(f"{avatar_video},{speech(0.04)},{name}.mp4\n" for name in names)
        path.write_text(f"video_path,audio_path,video_out_path\n{rows}", encoding="utf-8")
        given = ["--batch", path, "--engine", "ray", "--model", small_model_folder, "--inference_steps", 1, *options]
        rows = read_rows(path, *parse([*map(str, given)]))
        jobs = check_rows(path, rows, [path])
        outcomes = [Outcome(row.line, str(avatar_video), str(row.arguments.video_out_path)) for row in rows]
        return list(zip(range(len(jobs)), jobs, outcomes, strict=True))

    return make


@pytest.fixture(autouse=True)
def found_by_workers(monkeypatch):
    """This module, in the workers' processes."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))


def test_workers_share_the_runs_and_one_that_dies_costs_its_run_only(waiting, tmp_path):
    done, said = {}, []
    jobs = waiting("a", "dies", "b", "c", "d")
    RayBatch(said.append, workers=2, make_worker=TellingWorker).work(jobs, done.__setitem__)
    statuses = [done[index].status for index in range(5)]
    assert statuses == ["done", "failed", "done", "done", "done"], done
    assert "the worker's process ended" in done[1].message
    processes = {done[index].warnings[0] for index in (0, 2, 3, 4)}
    assert str(os.getpid()) not in " ".join(processes)
    assert 2 <= len(processes) <= 3  # two, and one in the place of the one that died
    for name in "abcd":
        assert probe_video(tmp_path / f"{name}.mp4").num_frames == 1
    assert said[0] == "5 runs on 2 workers of Ray"
    assert not list(tmp_path.glob("*.part*"))


def test_an_interrupt_lets_the_workers_end_cleanly(waiting, tmp_path):
    mark = tmp_path / "waiting"

    def interrupt(index: int, _: Outcome) -> None:
        deadline = time.monotonic() + 60
        while not mark.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        assert mark.exists()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        RayBatch(lambda text: None, workers=2, make_worker=TellingWorker).work(waiting("waits", "a"), interrupt)
    assert not mark.exists()


@pytest.mark.parametrize(
    ("workers", "options", "message"),
    [(0, (), "--workers is 0; expected 1 or more"), (1, ("--device", "cuda:1"), "expected auto, cpu or cuda")],
)
def test_what_ray_cannot_do(waiting, workers, options, message):
    with pytest.raises(OptionError, match=message):
        RayBatch(print, workers=workers).work(waiting("a", options=options), print)


def test_a_cluster_that_is_not_there(waiting):
    with pytest.raises(OptionError, match="no Ray cluster answers at"):
        RayBatch(print, address="127.0.0.1:1").work(waiting("a"), print)
