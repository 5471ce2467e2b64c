"""What a person types or pastes for a file, wherever a path is taken: ~, quotes, addresses."""

import os
import re
from pathlib import Path

import pytest

from latentsync.cli.arguments import build_parser, check_inputs
from latentsync.cli.job_file import read_rows
from latentsync.errors import OptionError
from latentsync.faces.scan_cache import cache_folder
from latentsync.given_paths import given_path, path_or_word
from latentsync.model_files import choose_place
from training_scripts.config import TrainingConfig, load_settings

ROOT = Path(__file__).parents[2]
WORDS = ("left", "0", "400,300", "tiny", "auto", "latentsync-1.6", "")


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))  # Windows
    return tmp_path


def test_the_home_folder_is_found_everywhere(home, monkeypatch):
    """As an option of its own, behind an equals sign, in a table, in settings and in variables."""
    for text in ("~/talk.mp4", "'~/talk.mp4'", " ~/talk.mp4 ", (home / "talk.mp4").as_uri()):
        assert given_path(text) == home / "talk.mp4"
    given = build_parser().parse_args(
        ["--video_path=~/v.mp4", "--video_out_path=~/o.mp4", "--track=left=~/a.wav", "--face=~/me.png", "--model=~/m/"]
    )
    assert (given.video_path, given.video_out_path) == (home / "v.mp4", home / "o.mp4")
    assert given.track == [("left", home / "a.wav")]
    assert [given.face, given.model] == [str(home / "me.png"), str(home / "m")]

    table = home / "tables" / "jobs.csv"
    table.parent.mkdir()
    table.write_text("video_path,track,video_out_path,face\n~/v.mp4,left=~/a.wav|right=b.wav,~/res/out.mp4,~/me.png\n")
    row = read_rows(table, build_parser().parse_args([]), set())[0].arguments
    assert (row.video_path, row.video_out_path) == (home / "v.mp4", home / "res" / "out.mp4")
    assert row.track == [("left", home / "a.wav"), ("right", table.parent / "b.wav")]
    assert row.face == str(home / "me.png")

    assert load_settings(TrainingConfig, overrides=["run_dir=~/run"]).run_dir == home / "run"
    assert choose_place(ROOT, "~/models").root == home / "models"
    monkeypatch.setenv("LATENTSYNC_CACHE", "~/cache")
    assert cache_folder() == home / "cache" / "tracks"


def test_all_path_options_take_it():
    """Of every program: an option that makes a Path by itself would make a folder named ~."""
    for folder in ("latentsync", "webapp", "eval", "training_scripts", "benchmarks"):
        for file in (ROOT / folder).rglob("*.py"):
            assert not re.search(r"\btype=Path\b", file.read_text(encoding="utf-8")), file


@pytest.mark.parametrize("word", WORDS)
def test_words_stay(word):
    assert path_or_word(word) == word


def test_a_file_of_that_very_name_wins(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ('"a.mp4"' if os.name != "nt" else "'a.mp4'", "~a.mp4"):
        Path(name).touch()
        assert given_path(name) == Path(name)
    assert given_path('"b.mp4"') == Path("b.mp4")
    assert given_path('"b.mp4') == Path('"b.mp4')


@pytest.mark.parametrize(
    "text", ["https://example.com/a.mp4", "'HTTP://x/a.mp4'", "s3://bucket/a.mp4", "https:/x/a.mp4"]
)
def test_addresses_are_refused(text):
    with pytest.raises(OptionError, match=r"is a web address.*Download it first"):
        given_path(text)


def test_drives_and_colons_are_no_addresses():
    for text in ("C:/talk.mp4", "take 1: smile.mp4", "a:b"):
        assert given_path(text) == Path(text)


def test_a_user_who_is_not_there_makes_no_folder():
    with pytest.raises(OptionError, match="no home folder ~nobody-by-that-name"):
        given_path("~nobody-by-that-name/out.mp4")


def test_inputs_are_looked_at_by_kind(tmp_path, avatar_video):
    parse = build_parser().parse_args
    with pytest.raises(ValueError, match="is a folder"):
        check_inputs(parse([f"--video_path={tmp_path}", f"--audio_path={avatar_video}"]))
    with pytest.raises(ValueError, match=r"No such file: .*gone\.wav"):
        check_inputs(parse([f"--video_path={avatar_video}", f"--track=0={tmp_path / 'gone.wav'}"]))
    check_inputs(parse([f"--video_path={avatar_video}", f"--audio_path={avatar_video}"]))
