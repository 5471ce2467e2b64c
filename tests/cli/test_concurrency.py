"""Processes that do the same at the same time, in one folder, with one cache and one job folder."""

import contextlib
import multiprocessing
import shutil
from pathlib import Path

import pytest

from latentsync.faces.scan_cache import TrackCache
from latentsync.media.output_file import PartFile
from latentsync.media.video_reader import probe_video
from latentsync.model.loading import described_model, load_model
from latentsync.options import LipSyncOptions
from latentsync.run.engine import lip_sync
from latentsync.run.resume import JobFolder

OPTIONS = LipSyncOptions(num_inference_steps=1, guidance_scale=1.0, chunk_frames=8, chunk_overlap=2)
METHOD = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
PATIENCE = 300  # s


def one_run(video: Path, speech: Path, out: Path, model: Path, folder: Path, seed: int | None, gate, results) -> None:
    """In a process of its own: waits for the others at the gate, then works."""
    loaded = load_model(described_model(model))
    gate.wait(PATIENCE)
    options = OPTIONS if seed is None else LipSyncOptions(num_inference_steps=1, guidance_scale=1.0, seed=seed)
    report = lip_sync(
        video,
        speech,
        out,
        loaded,
        options,
        jobs=JobFolder(folder / "jobs"),
        track_cache=TrackCache(folder / "tracks"),
    )
    results.put((report.num_frames, report.num_faces))


@pytest.fixture
def together(avatar_video, speech, small_model_folder, tmp_path):
    """`together(outs, seeds)`: runs at the same time, each in a process; their (frames, faces)."""
    context = multiprocessing.get_context(METHOD)
    if METHOD == "forkserver":
        context.set_forkserver_preload([__name__])

    def run(outs: list[Path], seeds: list[int | None]) -> list[tuple[int, int]]:
        gate, results = context.Barrier(len(outs)), context.Queue()
        video = Path(shutil.copy(avatar_video, tmp_path / "video.mp4"))
        processes = [
            context.Process(
                target=one_run, args=(video, speech(0.8), out, small_model_folder, tmp_path, seed, gate, results)
            )
            for out, seed in zip(outs, seeds, strict=True)
        ]
        try:
            for process in processes:
                process.start()
            for process in processes:
                process.join(PATIENCE)
            assert [process.exitcode for process in processes] == [0] * len(processes)
            return [results.get(timeout=60) for _ in processes]
        finally:
            for process in processes:
                process.kill()

    return run


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_one_name_one_job_one_cache(together, tmp_path):
    """Two equal runs and one with other settings write to the same name in a folder that is not there yet."""
    out = tmp_path / "new" / "result.mp4"
    assert together([out] * 3, [None, None, 3]) == [(20, 20)] * 3
    assert probe_video(out).num_frames == 20
    left = names(tmp_path)
    assert [name for name in left if not name.startswith("tracks/")] == ["new/result.mp4", "video.mp4"]
    assert [name[-4:] for name in left if name.startswith("tracks/")] == [".npz"]
    assert not (tmp_path / "jobs").exists()


def give_up(folder: str, times: int, gate) -> None:
    gate.wait(PATIENCE)
    for number in range(times):
        part = PartFile(Path(folder) / "deep" / "out.bin")
        if number % 3:
            part.path.write_bytes(b"half")
        part.discard()


def complete(folder: str, times: int, gate) -> None:
    gate.wait(PATIENCE)
    for number in range(times):
        part = PartFile(Path(folder) / "deep" / f"{number}.bin")
        part.path.write_bytes(b"whole")
        part.commit()
        if number % 2:
            with contextlib.suppress(OSError):
                part.target.unlink()
                part.target.parent.rmdir()


def test_a_folder_that_others_make_and_give_up(tmp_path):
    """Nobody's file is lost because another takes its new folder away again."""
    context = multiprocessing.get_context(METHOD)
    gate = context.Barrier(3)
    works = [(give_up, 300), (give_up, 300), (complete, 200)]
    processes = [context.Process(target=work, args=(str(tmp_path), times, gate)) for work, times in works]
    for process in processes:
        process.start()
    for process in processes:
        process.join(PATIENCE)
    assert [process.exitcode for process in processes] == [0] * 3
    assert names(tmp_path) == sorted(f"deep/{number}.bin" for number in range(0, 200, 2))
