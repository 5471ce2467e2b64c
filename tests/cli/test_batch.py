"""Many runs from one job file."""

import csv
import json
import os
import shutil
import sys
from dataclasses import fields
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

import main
from latentsync.cli import worker
from latentsync.cli.arguments import parse
from latentsync.cli.job_file import read_rows
from latentsync.cli.worker import Outcome
from latentsync.files import locked
from latentsync.media.video_reader import probe_video
from latentsync.model import loading
from latentsync.model.loading import BUNDLED_WHISPER
from tests.cli.conftest import tree
from tests.unit.media_clips import write_clip

HEADER = ["video_path", "audio_path", "video_out_path"]


@pytest.fixture
def table(tmp_path):
    """`table(*rows, header=, apart=)`: path of a job file."""

    def write(*rows, header=HEADER, apart=",", encoding="utf-8") -> Path:
        path = tmp_path / "jobs.csv"
        with path.open("w", newline="", encoding=encoding) as file:
            csv.writer(file, delimiter=apart).writerows([header, *rows])
        return path

    return write


@pytest.fixture
def do(table, small_model_folder, capfd):
    """`do(*rows, header=, options=)`: exit code, standard output, standard error of the batch."""

    def run(*rows, header=HEADER, options=()):
        path = table(*rows, header=header)
        given = [
            "--batch",
            path,
            "--model",
            small_model_folder,
            "--inference_steps",
            1,
            "--guidance_scale",
            1,
            *options,
        ]
        capfd.readouterr()
        code = main.main([*map(str, given)])
        return (code, *capfd.readouterr())

    return run


def jobs_of(folder: Path) -> list[dict]:
    return json.loads((folder / "jobs.results.json").read_text(encoding="utf-8"))["jobs"]


def rows_of(path: Path, *options: object) -> list:
    return read_rows(path, *parse(["--batch", str(path), *map(str, options)]))


@pytest.mark.parametrize(("apart", "encoding"), [(",", "utf-8"), (";", "utf-8-sig"), ("\t", "utf-8")])
def test_cells_win_over_the_command_line_and_paths_go_by_the_table(table, tmp_path, apart, encoding):
    header = [*HEADER, "fps", "seed", "no_track_cache", "face", "--length", "protect"]
    (tmp_path / "who.png").touch()
    first = ["ü, v.mp4", str(tmp_path / "s.wav"), "out/a.mp4", "30000/1001", "", "yes", "who.png", "loop", "mask.png"]
    second = ["v.mp4", "s.wav", "b.mp4", " ", "7", "no", "left", "", ""]
    path = table(first, [], second, header=header, apart=apart, encoding=encoding)
    one, two = rows_of(path, "--seed", 5, "--no_track_cache", "--length", "hold", "--checkpoints", "models")
    assert (one.line, two.line) == (2, 4)
    assert one.arguments.video_path == tmp_path / "ü, v.mp4"
    assert one.arguments.audio_path == tmp_path / "s.wav"
    assert (one.arguments.fps, one.arguments.seed) == (Fraction(30000, 1001), 5)
    assert (one.arguments.length, two.arguments.length) == ("loop", "hold")
    assert (one.arguments.no_track_cache, two.arguments.no_track_cache) == (True, False)
    assert (one.arguments.face, two.arguments.face) == (str(tmp_path / "who.png"), "left")
    assert (one.arguments.protect, two.arguments.protect) == (tmp_path / "mask.png", None)
    assert (two.arguments.fps, two.arguments.seed) == (None, 7)
    assert one.arguments.checkpoints == Path("models")  # the command line's goes by where that is
    assert {"fps", "face", "seed", "length"} <= one.given
    assert "fps" not in two.given


def test_several_speakers_in_one_cell(table, tmp_path):
    path = table(["v.mp4", "left=a.wav|right=b.wav", "o.mp4"], header=["video_path", "track", "video_out_path"])
    assert rows_of(path)[0].arguments.track == [("left", tmp_path / "a.wav"), ("right", tmp_path / "b.wav")]


def test_options_of_two_values_have_them_in_one_cell(table):
    path = table(["v.mp4", "s.wav", "o.mp4", "0.2 0.8"], header=[*HEADER, "guidance_interval"])
    assert rows_of(path)[0].arguments.guidance_interval == [0.2, 0.8]
    with pytest.raises(ValueError, match="line 2: guidance_interval: expected 2 arguments"):
        rows_of(table(["v.mp4", "s.wav", "o.mp4", "0.2"], header=[*HEADER, "guidance_interval"]))


def test_every_option_of_a_run_is_a_column(table):
    path = table(["v.mp4", "s.wav", "o.mp4"], header=[*HEADER[:2], "result"])
    with pytest.raises(ValueError, match="unknown column 'result'") as told:
        rows_of(path)
    for name in ("video_path", "track", "report", "sr_ratio", "model", "device", "dtype", "preset"):
        assert f" {name}," in str(told.value)
    for name in ("batch", "engine", "quiet", "help"):
        assert f" {name}," not in str(told.value)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (["video_path", "audio_path"], "has no column video_out_path; expected video_path, audio_path, video_out_path"),
        (["video_path", "video_out_path"], "has no column audio_path"),
        ([*HEADER, "seed", "seed"], "the column 'seed' stands twice"),
        ([*HEADER, "fsp", "sede"], "unknown columns 'fsp', 'sede' in"),
        ([*HEADER, ""], "unknown column '' in"),
        (HEADER, "holds no rows"),
    ],
)
def test_a_table_with_other_columns_or_none(do, header, message):
    code, out, err = do(header=header)
    assert (code, out) == (2, "")
    assert message in err
    assert "Traceback" not in err


@pytest.mark.parametrize("content", [b"\xff\xfe\x00video", b'video_path,audio_path,video_out_path\n"a,b,c\n', None])
def test_a_file_that_is_no_table(tmp_path, capfd, content):
    path = tmp_path / "jobs.csv"
    if content is not None:
        path.write_bytes(content)
    assert main.main(["--batch", str(path)]) == 2
    assert "job file" in capfd.readouterr().err
    assert tree(tmp_path) == ({path} if content is not None else set())


def test_all_bad_cells_are_listed_at_once(do, tmp_path):
    header = [*HEADER, "seed", "no_track_cache", "fps"]
    rows = [["v", "s", "o.mp4", "x", "maybe", "0"], ["v", "s", "o.mp4", "", "", ""], ["v", "s", "", "1", "", "", "9"]]
    code, _, err = do(*rows, header=header)
    assert code == 2
    assert "2 rows of" in err
    assert "line 2: seed: invalid int value: 'x'" in err
    assert "line 2: no_track_cache: expected yes or no, got 'maybe'" in err
    assert "line 2: fps: expected more than 0 frames per second, got '0'" in err
    assert "line 4: 7 cells under 6 columns" in err
    assert "line 4: video_out_path is empty" in err


def test_all_rows_that_cannot_be_done_are_listed_before_any_is(do, avatar_video, speech, tmp_path):
    header = [*HEADER, "mask_smooth", "report", "model", "device"]
    good, broken = [avatar_video, speech(0.2)], tmp_path / "broken.mp4"
    broken.write_bytes(b"no video" * 100)
    (tmp_path / "none").mkdir()
    code, out, err = do(
        [*good, "good.mp4", "", "good.json", "", ""],
        [broken, good[1], "b.mp4", "", "", "", ""],
        [*good, "c.mp4", "2", "", "", ""],
        [*good, "good.mp4", "", "", "", ""],
        [*good, avatar_video, "", "", "", ""],
        [*good, "d.txt", "", "", "", ""],
        [*good, "e.mp4", "", "good.json", "", ""],
        [*good, "f.mp4", "", "jobs.results.json", "", ""],
        [*good, "g.mp4", "", "", "./none", ""],
        [*good, "h.mp4", "", "", "", "cuda:99"],
        header=header,
    )
    assert (code, out) == (2, "")
    expected = {
        3: "broken.mp4",
        4: "mask_smooth is 2;",
        5: "is written by line 2 too",
        6: "the input itself",
        7: "Cannot tell the format",
        8: "good.json is written by line 2 too",
        9: "is a file of the batch itself",
        10: "holds no model",
        11: "the device 'cuda:99' cannot be used here",
    }
    for line, reason in expected.items():
        assert any(text.startswith(f"  line {line}: ") and reason in text for text in err.splitlines()), (line, err)
    assert "line 2:" not in err
    assert not (tmp_path / "good.mp4").exists()
    assert tree(tmp_path) == {broken, tmp_path / "jobs.csv", tmp_path / "none"}


def test_what_one_reads_no_other_writes(do, avatar_video, speech, tmp_path):
    copy = tmp_path / "copy.mp4"
    copy.write_bytes(avatar_video.read_bytes())
    code, _, err = do([avatar_video, speech(0.2), "copy.mp4"], [copy, speech(0.2), "b.mp4"])
    assert code == 2
    assert f"line 2: {copy} is read by line 3, and inputs are never changed" in err


@pytest.fixture
def loads(monkeypatch) -> list:
    """What was loaded."""
    loaded, load = [], loading.load_model
    monkeypatch.setattr(loading, "load_model", lambda *given, **more: loaded.append(given) or load(*given, **more))
    return loaded


def test_failures_stay_alone_and_a_second_start_does_only_what_is_left(do, avatar_video, speech, tmp_path, loads):
    blank = tmp_path / "blank.mp4"
    write_clip(blank, pictures=[np.full((192, 192, 3), 90, np.uint8)] * 6, size=(192, 192))
    header = [*HEADER, "seed", "report", "resolution"]
    rows = [
        [avatar_video, speech(0.2), "out/a.mp4", "1", "", ""],
        [blank, speech(0.2), "out/b.mp4", "", "", ""],
        [avatar_video, speech(0.12, 6), "out/c.mp4", "", "out/c.json", ""],
    ]
    code, out, err = do(*rows, header=header)
    assert code == 1
    assert out == f"{tmp_path / 'jobs.results.json'}\n"
    assert len(loads) == 1
    assert "error: line 3" in err
    assert "2 of 3 done, 1 failed" in err
    assert "Traceback" not in err
    assert [job["status"] for job in jobs_of(tmp_path)] == ["done", "failed", "done"]
    assert "no face was found" in jobs_of(tmp_path)[1]["message"]
    assert [job["num_frames"] for job in jobs_of(tmp_path)] == [5, 0, 3]
    assert probe_video(tmp_path / "out" / "c.mp4").num_frames == 3
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"a.mp4", "c.mp4", "c.json", "c.png"}
    with (tmp_path / "jobs.results.csv").open(encoding="utf-8-sig", newline="") as file:
        listed = list(csv.DictReader(file))
    assert [row["status"] for row in listed] == ["done", "failed", "done"]
    assert set(listed[0]) == {field.name for field in fields(Outcome)}

    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    rows[1][0] = avatar_video  # mended
    rows.insert(0, [avatar_video, speech(0.04), "out/new.mp4", "", "", ""])
    code, _, err = do(*rows, header=header)
    assert code == 0
    assert "4 of 4 done (2 before), 0 failed" in err
    assert err.count("done before") == 2
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert [job["line"] for job in jobs_of(tmp_path)] == [2, 3, 4, 5]
    assert len(loads) == 2
    assert do(*rows, header=header)[0] == 0
    assert len(loads) == 2  # nothing to do, nothing loaded


@pytest.mark.parametrize("change", ["speech", "setting", "option", "output", "gone", "report", "model"])
def test_what_has_changed_is_done_again(do, avatar_video, speech, tmp_path, loads, change, small_model_folder):
    sound, header = tmp_path / "speech.wav", [*HEADER, "seed", "report"]
    sound.write_bytes(speech(0.08).read_bytes())
    row = [avatar_video, sound, "a.mp4", "1", "a.json"]
    assert do(row, header=header)[0] == 0
    os.utime(sound, (0, 0))  # times do not count
    assert do(row, header=header)[0] == 0
    assert len(loads) == 1
    options = []
    if change == "speech":
        sound.write_bytes(speech(0.08, 6).read_bytes())
    elif change == "setting":
        row[3] = "2"
    elif change == "option":
        options = ["--silence", "off"]
    elif change == "output":
        (tmp_path / "a.mp4").write_bytes(b"another")
    elif change == "gone":
        (tmp_path / "a.mp4").unlink()
    elif change == "report":
        (tmp_path / "a.json").unlink()
    else:
        other = shutil.copytree(small_model_folder, tmp_path / "model")
        described = json.loads((other / "config.json").read_text(encoding="utf-8"))
        described["whisper"] = str(BUNDLED_WHISPER)
        (other / "config.json").write_text(json.dumps(described), encoding="utf-8")
        options = ["--model", other]
        assert do(row, header=header, options=options)[0] == 0
        assert len(loads) == 1  # the same model at another place
        weights = bytearray((other / "unet.safetensors").read_bytes())
        weights[-2] ^= 1
        (other / "unet.safetensors").write_bytes(weights)
    assert do(row, header=header, options=options)[0] == 0
    assert len(loads) == 2
    assert probe_video(tmp_path / "a.mp4").num_frames == 2
    assert (tmp_path / "a.json").is_file()


def test_a_folder_that_was_moved_is_not_done_again(do, avatar_video, speech, tmp_path, loads, small_model_folder):
    (tmp_path / "v.mp4").write_bytes(avatar_video.read_bytes())
    (tmp_path / "s.wav").write_bytes(speech(0.04).read_bytes())
    assert do(["v.mp4", "s.wav", "a.mp4"])[0] == 0
    moved = tmp_path.with_name(f"{tmp_path.name}-moved")
    shutil.copytree(tmp_path, moved)
    given = ["--batch", moved / "jobs.csv", "--model", small_model_folder, "--inference_steps", 1]
    assert main.main([*map(str, given), "--guidance_scale", "1"]) == 0
    assert len(loads) == 1
    assert jobs_of(moved)[0]["video_out_path"] == str(moved / "a.mp4")


def test_models_are_loaded_once_each_and_one_that_cannot_be_fails_only_its_rows(
    do, avatar_video, speech, tmp_path, loads
):
    (tmp_path / "broken.pt").write_text("not a model")
    for name in ("vae", "whisper"):
        (tmp_path / name).mkdir()
    header, files = [*HEADER, "model", "dtype"], [avatar_video, speech(0.04)]
    rows = [
        [*files, "a.mp4", "", ""],
        [*files, "b.mp4", "broken.pt", ""],
        [*files, "c.mp4", "", "bfloat16"],
        [*files, "d.mp4", "", ""],
        [*files, "e.mp4", "broken.pt", ""],
    ]
    code, _, err = do(*rows, header=header)
    assert code == 1
    assert [job["status"] for job in jobs_of(tmp_path)] == ["done", "failed", "done", "done", "failed"]
    assert len(loads) == 3
    assert err.count("neither a torch nor a safetensors file") == 4  # of two jobs, when it happens and in the table


def test_an_interrupted_batch_tells_and_goes_on(do, avatar_video, speech, tmp_path, monkeypatch):
    rows = [[avatar_video, speech(0.04), f"{name}.mp4"] for name in "abc"]
    real, seen = worker.work, []

    def work(*given):
        seen.append(given)
        if len(seen) == 2:
            raise KeyboardInterrupt
        return real(*given)

    monkeypatch.setattr(worker, "work", work)
    code, _, err = do(*rows)
    assert code == 130
    assert "1 of 3 done, 0 failed" in err
    assert err.endswith("interrupted; the same command goes on\n")
    assert [job["status"] for job in jobs_of(tmp_path)] == ["done", "waiting", "waiting"]
    assert do(*rows)[0] == 0
    assert len(seen) == 4
    assert not list(tmp_path.glob("*.lock"))


def test_a_bug_in_one_run_is_traced_and_the_next_is_done(do, avatar_video, speech, tmp_path, monkeypatch):
    real = worker.work

    def work(job, *given):
        if job.request.video_out_path.name == "a.mp4":
            raise ZeroDivisionError("a bug")
        return real(job, *given)

    monkeypatch.setattr(worker, "work", work)
    code, _, err = do([avatar_video, speech(0.04), "a.mp4"], [avatar_video, speech(0.04), "b.mp4"], options=["--quiet"])
    assert code == 1
    assert "ZeroDivisionError: a bug" in err
    assert [job["status"] for job in jobs_of(tmp_path)] == ["failed", "done"]


def test_two_processes_do_not_share_results(do, avatar_video, speech, tmp_path):
    with locked(tmp_path / "jobs.results.json.lock"):
        code, _, err = do([avatar_video, speech(0.04), "a.mp4"])
    assert code == 2
    assert "another process is at work on" in err
    assert not (tmp_path / "a.mp4").exists()


def test_results_of_an_earlier_release_are_not_gone_on_from(do, avatar_video, speech, tmp_path, caplog):
    row = [avatar_video, speech(0.04), "a.mp4"]
    assert do(row)[0] == 0
    path = tmp_path / "jobs.results.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(content | {"version": 1}), encoding="utf-8")
    code, _, err = do(row)
    assert code == 0
    assert f"{path} is of an earlier release" in caplog.text
    assert "1 of 1 done, 0 failed" in err  # again
    assert json.loads(path.read_text(encoding="utf-8"))["version"] == content["version"] > 1


def test_results_elsewhere_and_other_files_in_their_place(do, avatar_video, speech, tmp_path):
    row = [avatar_video, speech(0.04), "a.mp4"]
    assert do(row, options=["--results", tmp_path / "new" / "r.json", "--quiet"]) == (0, "", "")
    assert {path.name for path in (tmp_path / "new").iterdir()} == {"r.json", "r.csv"}
    other = tmp_path / "other.json"
    other.write_text('{"mine": 1}')
    code, _, err = do(row, options=["--results", other])
    assert code == 2
    assert "does not hold the results of a batch" in err
    assert other.read_text() == '{"mine": 1}'


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--batch", "j.csv", "--video_path", "v.mp4"], "--video_path is of one run: with --batch it is a column"),
        (["--batch", "j.csv", "--track", "0=a.wav"], "--track is of one run"),
        (["--batch", "j.csv", "--workers", "2"], "--workers goes with --engine ray"),
        (["--engine", "ray"], "required: --video_path, --video_out_path"),
        (["--video_path", "v", "--video_out_path", "o", "--engine", "ray"], "--engine goes with --batch"),
    ],
)
def test_options_that_do_not_go_together(given, message, capsys):
    with pytest.raises(SystemExit) as stop:
        main.main(given)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_ray_that_is_not_installed(do, avatar_video, speech, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    code, _, err = do([avatar_video, speech(0.04), "a.mp4"], options=["--engine", "ray"])
    assert code == 1
    assert "--engine ray needs Ray. Install it: pip install 'ray[data]'" in err
