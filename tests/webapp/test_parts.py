"""The app's parts without its page."""

import asyncio
import os
import threading
import time
from concurrent.futures import CancelledError, ThreadPoolExecutor

import gradio as gr
import pytest

from latentsync.cli.arguments import parse
from latentsync.cli.run import options_of
from latentsync.errors import AudioError, Cancelled, MediaError, OptionError
from latentsync.faces.choice import choose
from latentsync.faces.finder import FaceTracker
from latentsync.faces.scan import scan_faces
from latentsync.faces.scan_cache import TrackCache
from latentsync.media.video_reader import read_frames
from latentsync.options import SETTINGS, LipSyncOptions, Setting
from latentsync.presets import PRESETS
from latentsync.session import Session
from webapp.command_line import WHO, build_parser, settings_of
from webapp.face_cards import face_cards
from webapp.lip_sync_run import RunState
from webapp.media_limits import check_speech, check_video
from webapp.messages import MEMORY, STOPPED, UNFORESEEN, visitor_message
from webapp.model_cache import ModelCache
from webapp.page import lay_out
from webapp.progress_panel import clock, working
from webapp.quality import chosen_options
from webapp.results import NAME, Results, remove_old
from webapp.run_queue import QueueFull, RunQueue
from webapp.settings import AppSettings, Limits

# ---- one after the other


@pytest.fixture
def desk():
    one = RunQueue(waiting=1)
    yield one
    one.close()


def at_work(desk: RunQueue, owner: str):
    """A job that works until it is stopped."""
    started = threading.Event()

    def work(job):
        started.set()
        while True:
            job.check()
            time.sleep(0.005)

    job = desk.submit(owner, work)
    assert started.wait(5)
    return job


def test_jobs_come_one_after_the_other(desk):
    first = at_work(desk, "a")
    second = desk.submit("b", lambda job: "made")
    assert (desk.ahead(first), desk.ahead(second)) == (0, 1)
    with pytest.raises(QueueFull, match=r"as may are waiting already \(1\)"):
        desk.submit("c", lambda job: None)
    desk.stop("a")
    assert second.future.result(5) == "made"
    with pytest.raises(Cancelled):
        first.future.result(5)


def test_a_visitor_has_one_job(desk):
    at_work(desk, "a")
    with pytest.raises(QueueFull, match="You have a run already"):
        desk.submit("a", lambda job: None)


def test_who_waits_is_stopped_at_once(desk):
    at_work(desk, "a")
    second = desk.submit("b", lambda job: "made")
    assert desk.stop("b")
    with pytest.raises(CancelledError):
        second.future.result(0)
    assert desk.submit("b", lambda job: None)  # there is room again


def test_a_failure_is_the_jobs_own(desk):
    failed = desk.submit("a", lambda job: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        failed.future.result(5)
    assert desk.submit("a", lambda job: "made").future.result(5) == "made"


def test_waiting_ends_with_the_job(desk):
    async def wait() -> int:
        job = desk.submit("a", lambda job: time.sleep(0.05))
        return len([None async for _ in job.until_done(every=60)])

    with ThreadPoolExecutor(1) as thread:  # this one may have the browser's loop
        assert thread.submit(asyncio.run, asyncio.wait_for(wait(), 5)).result() <= 1


# ---- files


def test_only_old_folders_of_runs_are_removed(tmp_path):
    results = Results(tmp_path / "results")
    old, new, others = results.new(), results.new(), tmp_path / "results" / "mine"
    others.mkdir()
    (old / "lip_synced.mp4").write_bytes(b"x")
    for folder in (old, others):
        os.utime(folder, (1e9, 1e9))
    remove_old(results.root, NAME, hours=1)
    assert not old.exists()
    assert new.is_dir()
    assert others.is_dir()


def test_a_run_keeps_its_own_source(tmp_path, avatar_video):
    results, upload = Results(tmp_path / "results"), tmp_path / "upload.mp4"
    upload.write_bytes(avatar_video.read_bytes())
    folder = results.new()
    kept = results.keep_source(folder, upload)
    upload.unlink()
    assert kept.read_bytes() == avatar_video.read_bytes()
    assert results.file(folder.name, "source.mp4") == kept


def test_a_link_leads_nowhere(tmp_path):
    results, secret = Results(tmp_path / "results"), tmp_path / "secret"
    secret.write_text("secret")
    folder = results.new()
    try:
        (folder / "lip_synced.mp4").symlink_to(secret)
    except OSError:
        pytest.skip("no links may be made here")
    assert results.file(folder.name, "lip_synced.mp4") is None


def test_limits(avatar_video, speech):
    assert check_video(avatar_video, Limits()).width == 192
    for limits, words in (
        (Limits(side=100), r"192 x 192 px; this page takes up to 100 px"),
        (Limits(seconds=0.2), r"video is 0 s long; this page takes up to 0 s"),
        (Limits(fps=20), r"25 frames a second; this page takes up to 20"),
        (Limits(upload_mb=0), r"up to 0 MB"),
    ):
        with pytest.raises(MediaError, match=words):
            check_video(avatar_video, limits)
    with pytest.raises(AudioError, match="speech is 2 s long"):
        check_speech(speech(2.0), Limits(seconds=1))


# ---- faces


def test_each_card_leads_to_its_own_face(two_people, tmp_path):
    finder = FaceTracker()
    cards = face_cards(two_people, tmp_path / "faces", finder, TrackCache(tmp_path / "cache"), lambda index: None)
    assert [card.label for card in cards] == ["Face 1", "Face 2"]
    clip = scan_faces(read_frames(two_people), finder)
    assert [choose(clip, card.choice, finder) for card in cards] == [[0], [1]]
    assert max(cards[0].picture.shape) <= 256
    assert list((tmp_path / "cache").iterdir())  # the run need not look again


# ---- settings and words


def test_what_a_visitor_changed_wins_over_the_preset():
    own = {"guidance_scale": 2.5}
    shown = chosen_options("draft", own, {})
    given = {"num_inference_steps": shown.num_inference_steps, "guidance_scale": shown.guidance_scale, "silence": "off"}
    options = chosen_options("draft", own, given)
    assert (options.silence, options.scheduler) == ("off", shown.scheduler)
    assert chosen_options("draft", own, given | {"num_inference_steps": 25}).num_inference_steps == 25


def test_the_reference_is_not_undone_by_what_the_page_shows():
    shown = chosen_options("reference", {}, {})
    given = {name: getattr(shown, name) for name in ("guidance_scale", "silence", "mask_smooth", "length", "tail")}
    assert chosen_options("reference", {}, given) == shown
    assert chosen_options("reference", {}, given | {"mask_smooth": 0.2}).blend == "mask"


def test_the_bundled_model_hears_the_speech_louder(tmp_path):
    own = ModelCache(AppSettings(checkpoints=tmp_path)).defaults("tiny")
    assert chosen_options("balanced", own, {}).guidance_scale == 2.5 > LipSyncOptions().guidance_scale
    assert chosen_options("balanced", own, {"guidance_scale": 1.5}).guidance_scale == 1.5


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_means_what_it_means_on_the_command_line(preset):
    argv = ["--video_path", "v", "--audio_path", "a", "--video_out_path", "o", "--preset", preset]
    own = {"guidance_scale": 2.5}
    expected = options_of(*parse(argv), own)
    shown = {name: getattr(chosen_options(preset, own, {}), name) for name, row in SETTINGS.items() if row.label}
    assert chosen_options(preset, own, shown) == chosen_options(preset, own, {}) == expected


def test_a_new_row_of_the_table_is_on_the_page(monkeypatch):
    row = Setting(1.5, label="Made up", info="For this.", name="made_up", kind=float, low=0, high=9, slider=(1, 3, 0.5))
    monkeypatch.setitem(SETTINGS, "made_up", row)
    with gr.Blocks():
        parts = lay_out([("Small", "tiny")], None, Limits(), LipSyncOptions())
    made = parts.settings["made_up"]
    assert (made.label, made.value, made.minimum, made.maximum, made.step) == ("Made up", 1.5, 1, 3, 0.5)
    assert {name for name, row in SETTINGS.items() if row.label} == set(parts.settings)


def test_one_model_is_in_memory(small_model_folder):
    cache = ModelCache(AppSettings(model=str(small_model_folder), checkpoints=small_model_folder / "none"))
    assert [key for _, key in cache.models] == ["--model", "tiny"]

    def session(*chosen: object) -> Session:
        return cache.session(cache.choice(*chosen))

    small = session("--model", "balanced").model
    assert session("--model", "fast").model is small
    assert session("tiny", "balanced").model.name == "tiny"
    assert session("--model", "balanced").model is not small
    assert session("--model", "balanced").restorer is None
    for chosen in ((str(small_model_folder), "balanced"), ("tiny", "balanced", "GFPGAN")):  # no file's name; not here
        with pytest.raises(OptionError, match="choose one of the list"):
            cache.choice(*chosen)


def test_messages_name_files_as_visitors_do(tmp_path, caplog):
    path = tmp_path / "abc" / "talk.mp4"
    assert visitor_message(MediaError(f"'{path}' is no video"), {path: "talk.mp4"}) == "'talk.mp4' is no video"
    assert visitor_message(Cancelled("x")) == visitor_message(CancelledError()) == STOPPED
    of_a_gpu = RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)")
    assert visitor_message(MemoryError()) == visitor_message(of_a_gpu) == MEMORY
    assert visitor_message(ValueError(f"at {path}")) == UNFORESEEN
    assert str(path) in caplog.text  # whoever runs it learns what it was


def test_progress_in_words():
    assert [clock(seconds) for seconds in (7.4, 65, 7380)] == ["7 s", "1:05 min", "2:03 h"]
    assert "<progress" in working(None)
    assert "<progress" in working(RunState())


def test_options_of_the_command_line(tmp_path):
    arguments = build_parser().parse_args(["--output", str(tmp_path), "--max_seconds", "30", "--enable_sr"])
    settings = settings_of(arguments)
    assert (settings.folder, settings.limits.seconds, settings.enable_sr) == (tmp_path, 30, True)
    assert (arguments.listen, arguments.share) == (None, False)
    assert build_parser().parse_args(["--listen"]).listen == "0.0.0.0"
    assert "no password" in WHO["listen"]
    with pytest.raises(SystemExit):
        build_parser().parse_args(["--keep_hours", "0"])
