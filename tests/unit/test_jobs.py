"""Interrupted runs that go on: what is kept, when it is used, when it goes, and what damage does."""

import contextlib
import dataclasses
import logging
import os
import shutil
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from latentsync.errors import Cancelled
from latentsync.faces.scan_cache import TrackCache, cache_folder
from latentsync.files import locked
from latentsync.model.vae import LatentSpace
from latentsync.options import LipSyncOptions
from latentsync.run.engine import lip_sync
from latentsync.run.resume import ChunkJournal, JobFolder, Journal, default_job_folder, job_facts
from latentsync.run.speech import Speaker
from tests.small_model import small_unet, small_vae
from tests.unit.test_denoising import chunk

OPTIONS = LipSyncOptions(num_inference_steps=1, guidance_scale=1.0, chunk_frames=8, chunk_overlap=2)


def content(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Decoded frames and audio samples."""
    with av.open(str(path)) as container:
        frames = np.stack([frame.to_ndarray() for frame in container.decode(video=0)])
    with av.open(str(path)) as container:
        return frames, np.concatenate([frame.to_ndarray() for frame in container.decode(audio=0)], axis=1)


def same(one: Path, other: Path) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(content(one), content(other), strict=True))


class Cut(Exception):
    pass


@pytest.fixture(scope="module")
def make(small_model, avatar_video, speech):
    """`make(path, jobs, after=None)`: a run, cut off by an error once so many frames are generated."""

    def make(path, jobs, *, after=None, video=avatar_video, audio=None, **changes):
        def cut(progress) -> None:
            if after is not None and progress.frames_done >= after:
                raise Cut

        options, cache = dataclasses.replace(OPTIONS, **changes), TrackCache(cache_folder())
        audio = audio or speech(1.0)
        return lip_sync(video, audio, path, small_model, options, jobs=jobs, track_cache=cache, on_progress=cut)

    return make


@pytest.fixture(scope="module")
def uncut(make, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("uncut") / "out.mp4"
    make(path, None)
    return path


@pytest.fixture(scope="module")
def cut(make, tmp_path_factory) -> Path:
    """A folder with the journal of a run that was cut after the third of its four chunks."""
    folder = tmp_path_factory.mktemp("cut") / "jobs"
    with pytest.raises(Cut):
        make(folder.parent / "out.mp4", JobFolder(folder), after=17)
    return folder


@pytest.fixture
def folder(cut, tmp_path) -> Path:
    """The same, one's own."""
    return Path(shutil.copytree(cut, tmp_path / "jobs"))


@pytest.fixture
def steps(small_model):
    """The calls of the U-Net."""
    calls = []
    hook = small_model.unet.register_forward_hook(lambda *_: calls.append(1))
    yield calls
    hook.remove()


@pytest.fixture
def run(make, tmp_path, folder):
    """The run of the journal goes on, or another one begins."""

    def go_on(name="out.mp4", *, jobs=None, **changes):
        return make(tmp_path / name, jobs or JobFolder(folder), **changes)

    return go_on


def kept(folder: Path) -> list[str]:
    return sorted(path.suffix for path in folder.iterdir()) if folder.exists() else []


def test_a_run_that_was_cut_goes_on_and_is_as_one_that_was_not(run, uncut, folder, tmp_path, steps):
    assert kept(folder) == [".journal"]
    report = run()
    assert report.facts["resumed_frames"] == 8 * 3
    assert len(steps) == 1  # one chunk was left
    assert same(tmp_path / "out.mp4", uncut)
    assert [path.name for path in tmp_path.iterdir()] == ["out.mp4"]


@pytest.mark.parametrize("changes", [{"posterior": "sample"}, {"silence": "source", "length": "loop"}])
def test_draws_and_pauses_go_on_too(run, tmp_path, changes):
    run("uncut.mp4", **changes)
    with pytest.raises(Cut):
        run(after=14, **changes)
    assert run(**changes).facts["resumed_frames"] > 0
    assert same(tmp_path / "out.mp4", tmp_path / "uncut.mp4")


def test_two_people(two_people, speech, tmp_path, run):
    """Their chunks were made together, and so they are kept."""
    speakers = [Speaker(speech(0.5), "left"), Speaker(speech(0.4, 6), "right")]
    run("uncut.mp4", video=two_people, audio=speakers)
    with pytest.raises(Cut):
        run(after=6, video=two_people, audio=speakers)
    assert run(video=two_people, audio=speakers).facts["resumed_frames"] == 8
    assert same(tmp_path / "out.mp4", tmp_path / "uncut.mp4")


def test_nothing_is_kept_of_a_run_without_a_chunk(run, tmp_path):
    empty = JobFolder(tmp_path / "other" / "jobs")
    with pytest.raises(Cut):
        run(after=0, jobs=empty)
    assert not empty.folder.exists()


def test_a_run_that_fails_again_before_its_first_chunk_loses_nothing(cut, folder):
    (journal,) = folder.glob("*.journal")
    records = Journal(journal)
    facts = records.read()[0]["job"]
    records.close()
    facts.pop("version")
    with contextlib.suppress(Cut), JobFolder(folder).job(facts):
        raise Cut
    assert journal.read_bytes() == next(cut.glob("*.journal")).read_bytes()


def test_no_resume_makes_all_of_it_again(run, folder, uncut, tmp_path):
    assert run(jobs=JobFolder(folder, resume=False)).facts["resumed_frames"] == 0
    assert same(tmp_path / "out.mp4", uncut)
    assert kept(folder) == []


def test_the_content_counts_and_not_the_name(run, avatar_video, tmp_path):
    copy = tmp_path / "copy.mp4"
    shutil.copy(avatar_video, copy)
    assert run("other.mkv", video=copy).facts["resumed_frames"] == 8 * 3


def test_what_the_latents_depend_on_makes_another_job(small_model, avatar_video, two_people, speech):
    speakers, finder = [Speaker(speech(0.2), "left")], object()
    usual = avatar_video, speakers, small_model, OPTIONS, finder
    facts = job_facts(*usual)
    assert facts == job_facts(*usual)
    others = {
        0: [two_people],
        1: [[Speaker(speech(0.2, 6), "left")], [Speaker(speech(0.2), "right")], speakers * 2],
        2: [
            dataclasses.replace(small_model, vae=small_vae(gain=0.41)),
            dataclasses.replace(small_model, unet=small_unet().half()),
            dataclasses.replace(small_model, lora_path=speech(0.2)),
            dataclasses.replace(small_model, prediction_type="v_prediction"),
            dataclasses.replace(small_model, latents=LatentSpace(4, 8, 0.2)),
        ],
        3: [dataclasses.replace(OPTIONS, seed=1), dataclasses.replace(OPTIONS, clips_at_once=1)],
        4: ["another"],
    }
    for place, changes in others.items():
        for change in changes:
            assert job_facts(*usual[:place], change, *usual[place + 1 :]) != facts, change
    foreign = dataclasses.replace(small_model, vae=object())  # a host's, which shows no weights
    assert job_facts(avatar_video, speakers, foreign, OPTIONS, finder) is None


def test_other_settings_leave_the_job_alone(run, folder):
    (before,) = folder.glob("*.journal")
    content = before.read_bytes()
    assert run("second.mp4", seed=3).facts["resumed_frames"] == 0
    assert before.read_bytes() == content


CHUNKS = [[chunk(1), chunk(2)], [chunk(3)], [chunk(4, 3)]]
LATENTS = [
    [torch.full((len(one.conditioning), 4, 8, 8), 0.1 * place) for one in group] for place, group in enumerate(CHUNKS)
]


@pytest.fixture
def journal(tmp_path) -> Path:
    """A journal with three records of chunks."""
    path = tmp_path / "job.journal"
    memory = ChunkJournal(Journal(path), {"some": "job"})
    for chunks, latents in zip(CHUNKS, LATENTS, strict=True):
        memory.keep(chunks, latents)
    memory.close()
    return path


def recalled(path: Path, facts=None, **options) -> int:
    """How many records come back; the rest is made again, after which all are there."""
    memory, count = ChunkJournal(Journal(path), facts or {"some": "job"}, **options), 0
    for chunks, latents in zip(CHUNKS, LATENTS, strict=True):
        known = memory.recall(chunks)
        if known is None:
            memory.keep(chunks, latents)
        else:
            assert all(torch.equal(*pair) for pair in zip(known, latents, strict=True))
            count += 1
    memory.close()
    return count


@pytest.mark.parametrize(
    ("damage", "count"),
    [
        ("none", 3),
        ("cut off", 2),
        ("more behind it", 3),
        ("flipped in the second", 1),
        ("flipped at the beginning", 0),
        ("emptied", 0),
        ("text", 0),
        ("a length", 2),
    ],
)
def test_damage_costs_what_follows_it_only(journal, damage, count):
    whole = journal.read_bytes()
    last = whole.rindex(b"LSJ1")
    place = {"flipped in the second": 2 * len(whole) // 3, "flipped at the beginning": 40, "a length": last + 9}.get(
        damage
    )
    spoilt = bytearray(whole)
    if place:
        spoilt[place] ^= 0xFF
    others = {"cut off": whole[:-7], "more behind it": whole + b"LSJ1xyz", "emptied": b"", "text": b"no journal" * 999}
    journal.write_bytes(others.get(damage, spoilt))
    assert recalled(journal) == count
    assert journal.read_bytes()[: len(whole)] == whole
    assert recalled(journal) == 3


def test_another_job_or_none_to_resume_begins_anew(journal):
    assert recalled(journal, resume=False) == 0
    assert recalled(journal) == 3
    assert recalled(journal, {"another": "job"}) == 0


def test_a_record_cut_anywhere_is_no_record(journal):
    """As a crash leaves it: whatever of the last record had reached the disk."""
    whole = journal.read_bytes()
    last = whole.rindex(b"LSJ1")
    for length in (*range(last, last + 40), *range(last + 40, len(whole), 97), len(whole) - 1):
        journal.write_bytes(whole[:length])
        records = Journal(journal)
        count = 0
        while records.read() is not None:
            count += 1
        records.close()
        assert count == 3, length
        assert journal.stat().st_size == last


def test_other_faces_than_were_kept_are_made(run, folder, uncut, tmp_path, caplog):
    """As if the faces had been found elsewhere: chunks of another clip under this job's name."""
    (journal,) = folder.glob("*.journal")
    records = Journal(journal)
    job, (header, payload) = records.read(), records.read()
    records.take_back()
    records.append(job[0])
    records.append({**header, "faces": "0" * 64}, bytes(len(payload)))
    records.close()
    with caplog.at_level(logging.WARNING):
        assert run().facts["resumed_frames"] == 0
    assert "other faces" in caplog.text
    assert same(tmp_path / "out.mp4", uncut)


def test_a_job_in_work_is_left_alone(run, folder, uncut, tmp_path, caplog):
    (journal,) = folder.glob("*.journal")
    before = journal.read_bytes()
    with locked(journal.with_suffix(".lock")), caplog.at_level(logging.WARNING):
        run()
    assert "an equal run is in work" in caplog.text
    assert same(tmp_path / "out.mp4", uncut)
    assert journal.read_bytes() == before


def test_a_folder_that_cannot_be_used_is_no_reason_to_stop(run, uncut, tmp_path, caplog):
    (tmp_path / "file").write_text("in the way")
    with caplog.at_level(logging.WARNING):
        run(jobs=JobFolder(tmp_path / "file"))
    assert "cannot be used" in caplog.text
    assert same(tmp_path / "out.mp4", uncut)


@pytest.mark.skipif(os.name == "nt", reason="a limit of POSIX")
def test_a_disk_that_is_full_from_the_start_keeps_no_empty_journal(tmp_path, caplog):
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, hard))
    try:
        with JobFolder(tmp_path / "jobs").job({"some": "job"}) as job:
            assert job is None
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "cannot be used" in caplog.text
    assert not (tmp_path / "jobs").exists()


@pytest.mark.skipif(os.name == "nt", reason="a limit of POSIX")
def test_a_full_disk_ends_the_journal_and_not_the_run(small_model, tmp_path, caplog):
    """A limit on the size of files stands for the disk."""
    import resource

    journal = Journal(tmp_path / "job.journal")
    chunks, memory = [chunk(1), chunk(2)], ChunkJournal(journal, {"some": "job"})
    latents = [[torch.randn(5, 4, 8, 8)] for _ in chunks]
    memory.keep(chunks[:1], latents[0])
    size, (soft, hard) = journal.path.stat().st_size, resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 1000, hard))
    try:
        for _ in range(2):
            memory.keep(chunks[1:], latents[1])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    memory.keep(chunks[1:], latents[1])  # there is room again, but a gap as well
    memory.close()
    assert caplog.text.count("cannot be written") == 1
    assert journal.path.stat().st_size == size
    again = ChunkJournal(Journal(journal.path), {"some": "job"})
    assert torch.equal(again.recall(chunks[:1])[0], latents[0][0])
    assert again.recall(chunks[1:]) is None
    again.close()


def test_old_jobs_and_too_many_go(tmp_path):
    folder = tmp_path / "jobs"

    def leave(number: int, jobs: JobFolder) -> None:
        with contextlib.suppress(Cut), jobs.job({"number": number}) as job:
            job.chunks.keep([chunk(1)], [torch.zeros(5, 4, 8, 8)])
            raise Cut

    def left() -> set[int]:
        found = set()
        for path in folder.glob("*.journal"):
            journal = Journal(path)
            found.add(journal.read()[0]["job"]["number"])
            journal.close()
        return found

    for number in range(4):
        leave(number, JobFolder(folder))
        newest = max(folder.glob("*.journal"), key=lambda path: path.stat().st_mtime_ns)
        if number < 2:
            os.utime(newest, (1000 + number, 1000 + number))
    assert left() == {2, 3}
    leave(4, JobFolder(folder, max_bytes=int(1.5 * newest.stat().st_size)))
    assert left() == {3, 4}
    (three,) = [path for path in folder.glob("*.journal") if path == newest]
    with locked(three.with_suffix(".lock")):  # in work
        leave(5, JobFolder(folder, max_bytes=0))
    assert left() == {3, 5}


def test_stopping_keeps_the_job(small_model, avatar_video, speech, tmp_path):
    folder, seen = tmp_path / "stopped", []
    with pytest.raises(Cancelled):
        lip_sync(
            avatar_video,
            speech(1.2),
            tmp_path / "out.mp4",
            small_model,
            OPTIONS,
            jobs=JobFolder(folder),
            on_progress=lambda state: seen.append(state.frames_done),
            should_stop=lambda: bool(seen) and seen[-1] >= 10,
        )
    assert kept(folder) == [".journal"]
    assert not (tmp_path / "out.mp4").exists()


def test_the_usual_folder_is_beside_the_kept_faces(monkeypatch, tmp_path):
    monkeypatch.setenv("LATENTSYNC_CACHE", str(tmp_path))
    assert default_job_folder() == tmp_path / "jobs"
