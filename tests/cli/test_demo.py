"""The demo: what it says without a model, and the sheet it draws."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from latentsync import demo
from latentsync.contact_sheet import evenly_spaced, labelled_sheet
from latentsync.errors import ModelNotFoundError
from latentsync.media.video_reader import probe_video, read_frames
from latentsync.synthetic.clips import AvatarClip


def test_without_its_model_it_says_how_to_get_it(tmp_path, capsys):
    """Before anything is drawn."""
    assert demo.main(["--output", str(tmp_path / "out"), "--model", str(tmp_path / "absent")]) == 1
    assert "get it again with git" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_described_model_without_weights_is_named(tmp_path):
    names = {"name": "x", "unet": "u.safetensors", "vae": "vae", "whisper": "w.pt"}
    (tmp_path / "config.json").write_text(json.dumps(names))
    with pytest.raises(ModelNotFoundError, match=r"u\.safetensors"):
        demo.check_model(str(tmp_path))


def test_files_and_picture(tmp_path, monkeypatch, capsys):
    """The command line is replaced by one that copies the source: models have tests of their own."""
    copy = tmp_path / "copy.py"
    copy.write_text(
        "import shutil, sys\n"
        "value = lambda name: sys.argv[sys.argv.index(name) + 1]\n"
        "shutil.copy(value('--video_path'), value('--video_out_path'))\n"
    )
    monkeypatch.setattr(demo, "COMMAND_LINE", copy)
    monkeypatch.setattr(demo, "check_model", lambda model: None)
    monkeypatch.setattr(demo, "DURATION", 0.4)
    folder = tmp_path / "out"
    assert demo.main(["--output", str(folder), "--animation"]) == 0
    with Image.open(folder / "side_by_side.webp") as moving:
        assert (moving.n_frames, moving.size) == (5, (2 * demo.MOVING_SIDE, demo.MOVING_SIDE))
    told = [Path(line.split(": ", 1)[1].strip()) for line in capsys.readouterr().out.splitlines()[-2:]]
    assert told == [folder / "lip_synced.mp4", folder / "side_by_side.png"]
    assert all(path.is_file() for path in told)
    facts = probe_video(folder / "source.mp4")
    assert (facts.width, facts.height, facts.fps, facts.has_audio) == (512, 512, 25, True)
    drawn = AvatarClip(demo.IDENTITY, demo.OWN_SPEECH, 0.4)
    written = [frame.pixels for frame in read_frames(folder / "source.mp4")]
    assert len(written) == drawn.num_frames == 10
    assert np.abs(written[5].astype(int) - drawn.frame(5)).mean() < 2  # grey levels lost to the encoder


def test_a_failing_command_line_is_passed_on(tmp_path, monkeypatch):
    fail = tmp_path / "fail.py"
    fail.write_text("import sys; sys.exit(7)")
    monkeypatch.setattr(demo, "COMMAND_LINE", fail)
    monkeypatch.setattr(demo, "check_model", lambda model: None)
    monkeypatch.setattr(demo, "DURATION", 0.2)
    assert demo.main(["--output", str(tmp_path / "out")]) == 7


def test_sheet_shows_each_row_beside_its_label():
    rows = {"dark": [np.full((40, 60, 3), 10, np.uint8)] * 3, "light": [np.full((40, 60, 3), 200, np.uint8)] * 3}
    sheet = labelled_sheet(rows, side=20)
    assert sheet.shape == (44, 132 + 3 * 30, 3)
    assert (sheet[:20, 132:] == 10).all()
    assert (sheet[24:, 132:] == 200).all()
    assert (sheet[:20, :132] < 100).any()
    assert (sheet[24:, :132] < 100).any()


def test_evenly_spaced_frames_hold_both_ends():
    assert evenly_spaced(100, 4) == [0, 33, 66, 99]
    assert evenly_spaced(1, 3) == [0, 0, 0]
