"""The evaluation's command line: what is compared with what, exit codes, tables, metrics whose network is missing."""

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from eval import eval_quality
from latentsync.metrics.evaluation import DEFAULT, LSE, METRICS, SYNC
from latentsync.metrics.picture_networks import FIDInception
from latentsync.model_files import INCEPTION, VARIABLE
from latentsync.synthetic.clips import AvatarClip
from latentsync.synthetic.files import write_clip as write_avatar
from latentsync.synthetic.files import write_speech
from tests.cli.conftest import Outcome, tree
from tests.unit.media_clips import write_clip

SIDE = 192
ROOT = Path(eval_quality.__file__).parents[1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, avatar_frames) -> Path:
    """reference.mp4; blurred.mp4 and worse.mp4, made of it; grey.mp4 with nobody."""
    folder = tmp_path_factory.mktemp("results")
    for name, sigma in (("reference", 0), ("blurred", 1.5), ("worse", 4)):
        frames = [cv2.GaussianBlur(frame, (0, 0), sigma) if sigma else frame for frame in avatar_frames]
        write_clip(folder / f"{name}.mp4", pictures=frames, size=(SIDE, SIDE), tone=300)
    write_clip(folder / "grey.mp4", pictures=[np.full((SIDE, SIDE, 3), 120, np.uint8)] * 12, size=(SIDE, SIDE))
    return folder


@pytest.fixture
def evaluate(capsys, monkeypatch, tmp_path):
    """Runs the command without any network of this machine."""
    monkeypatch.setenv(VARIABLE, "")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))

    def run(*argv: object) -> Outcome:
        code = eval_quality.main([*map(str, argv), "--checkpoints", str(tmp_path / "checkpoints")])
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    return run


def scores(folder: Path) -> dict:
    return json.loads((folder / "scores.json").read_text(encoding="utf-8"))


def test_as_asked_for_without_inception(evaluate, folder, tmp_path):
    """psnr and ssim are computed, fid is told as unavailable with the file to provide, exit code 3."""
    found = evaluate(
        "--video_path", folder / "blurred.mp4", "--metric", "psnr", "ssim", "fid",
        "--reference_path", folder / "reference.mp4", "--output", tmp_path / "scores",
    )  # fmt: skip
    assert found.code == 3
    assert "unavailable: fid" in found.out
    assert INCEPTION.names[0] in found.out
    assert "nothing is downloaded" in found.out
    assert "PSNR" in found.out
    told = scores(tmp_path / "scores")
    assert set(told["overall"]) == {"psnr", "ssim"}
    assert 20 < told["overall"]["psnr"]["score"] < 45
    assert 0.7 < told["overall"]["ssim"]["score"] < 1
    assert told["unavailable"].keys() == {"fid"}


def test_with_its_network_fid_is_computed(evaluate, folder, tmp_path):
    torch.manual_seed(0)
    (tmp_path / "networks").mkdir()
    torch.save(FIDInception().state_dict(), tmp_path / "networks" / INCEPTION.names[0])
    found = evaluate(
        "--video_path", folder / "blurred.mp4", "--metric", "fid", "--reference_path", folder / "reference.mp4",
        "--weights", tmp_path / "networks",
    )  # fmt: skip
    assert found.code == 0
    assert f"measured with: fid: {tmp_path / 'networks' / INCEPTION.names[0]}" in found.out


def test_a_damaged_network_is_told(evaluate, folder, tmp_path):
    (tmp_path / INCEPTION.names[0]).write_bytes(b"<!doctype html>")
    found = evaluate(
        "--video_path", folder / "blurred.mp4", "--metric", "psnr", "fid",
        "--reference_path", folder / "reference.mp4", "--weights", tmp_path,
    )  # fmt: skip
    assert found.code == 3
    assert "a web page, not a model" in found.out
    assert "PSNR" in found.out


def test_without_a_reference_nothing_is_done(evaluate, folder):
    before = tree(folder)
    found = evaluate("--video_path", folder / "blurred.mp4", "--metric", "psnr", "ssim", "fid")
    assert found.code == 2
    assert "--reference_path" in found.err
    assert "--report blurred.json" in found.err
    assert tree(folder) == before


def test_the_source_is_that_of_the_report_beside_the_video(evaluate, folder, tmp_path):
    (tmp_path / "sub").mkdir()
    shutil.copy(folder / "blurred.mp4", tmp_path / "sub" / "out.mp4")
    shutil.copy(folder / "reference.mp4", tmp_path / "talk.mp4")
    report = {"version": 2, "source": {"video": "../talk.mp4", "start": 0.0, "frames": [*range(6), *range(4, -1, -1)]}}
    (tmp_path / "sub" / "out.json").write_text(json.dumps(report), encoding="utf-8")
    arguments = ("--video_path", tmp_path / "sub" / "out.mp4", "--metric", "psnr")
    found = evaluate(*arguments)
    assert found.code == 0
    assert "compared until frame 6 of 11: it shows the source again" in found.out
    # The same reference named by hand is still compared as the report tells; another one by time.
    assert evaluate(*arguments, "--reference_path", tmp_path / "talk.mp4").out == found.out
    assert "shows the source" not in evaluate(*arguments, "--reference_path", folder / "worse.mp4").out
    (tmp_path / "talk.mp4").unlink()
    gone = evaluate(*arguments)
    assert (gone.code, "which is gone" in gone.err) == (2, True)


@pytest.mark.parametrize("content", ["no json", "[]", '{"source": {"video": 3}}', '{"source": {"video": "x.mp4"}}'])
def test_another_file_beside_the_video_is_told(evaluate, folder, tmp_path, content):
    shutil.copy(folder / "blurred.mp4", tmp_path / "out.mp4")
    (tmp_path / "out.json").write_text(content, encoding="utf-8")
    found = evaluate("--video_path", tmp_path / "out.mp4", "--metric", "psnr")
    assert found.code == 2
    assert "no report of main.py" in found.err


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--metric", "psnr", "beauty"], "unknown metric beauty"),
        (["--syncnet", "none.pt"], "--syncnet none.pt is not there"),
        (["--weights", "none"], "--weights none is not a folder"),
        (["--reference_path", "none.mp4"], "no reference at none.mp4"),
        (["--video_path", "none.mp4"], "no video and no folder of videos"),
        (["--resolution", "0"], "expected 32 to 4096 px"),
        (["--device", "toaster"], "the device 'toaster' cannot be used"),
        (["--min_track", "2"], "expected 6 frames"),
    ],
)
def test_wrong_arguments(evaluate, folder, options, told):
    files = ["--video_path", folder / "blurred.mp4", "--reference_path", folder / "reference.mp4"]
    found = evaluate(*files, *options)
    assert found.code == 2
    assert told in found.err
    assert "Traceback" not in found.err


def test_arguments_that_argparse_refuses(evaluate, capsys):
    for wrong in (["--video_path"], ["--region", "mouth", "--video_path", "a"], ["--mask", "mask9"], []):
        with pytest.raises(SystemExit) as stop:
            evaluate(*wrong)
        assert stop.value.code == 2


def test_more_damage_scores_worse_in_every_metric(evaluate, folder, tmp_path):
    """All that need no network, on blurred frames; a folder with a reference of one clip."""
    names = ["psnr", "ssim", "lmd", "mouth_sharpness", "outside_psnr", "flicker", "identity", "leakage"]
    results = tmp_path / "results"
    results.mkdir()
    for name in ("reference", "blurred", "worse"):
        shutil.copy(folder / f"{name}.mp4", results)
    sources = tmp_path / "sources"
    sources.mkdir()
    for name in ("reference", "blurred", "worse"):
        shutil.copy(folder / "reference.mp4", sources / f"{name}.mp4")
    found = evaluate(
        "--video_path", results, "--reference_path", sources, "--metric", *names, "--output", tmp_path / "scores"
    )
    assert found.code == 0, found
    assert "1/3 blurred.mp4" in found.err
    clips = {Path(clip["video"]).stem: clip["scores"] for clip in scores(tmp_path / "scores")["clips"]}
    for name in ("psnr", "ssim", "mouth_sharpness", "outside_psnr"):
        values = [float(clips[clip][name]) for clip in ("reference", "blurred", "worse")]
        assert values == sorted(values, reverse=True), (name, values)
        assert len(set(values)) == 3
    assert clips["reference"]["psnr"] == clips["reference"]["outside_psnr"] == "inf"
    assert clips["reference"]["ssim"] == clips["reference"]["mouth_sharpness"] == clips["reference"]["flicker"] == 1
    assert clips["reference"]["lmd"] == clips["reference"]["identity"] == 0
    assert clips["reference"]["lmd"] < clips["worse"]["lmd"]
    assert clips["reference"]["leakage"] == pytest.approx(1)


def test_a_folder_gives_tables_for_readers_and_programs(evaluate, folder, tmp_path):
    """Five clips, one of them without a face: the others are scored, and the exit code says so."""
    results = tmp_path / "results"
    results.mkdir()
    for place, name in enumerate(("blurred", "worse", "reference", "blurred")):
        shutil.copy(folder / f"{name}.mp4", results / f"{place}.mp4")
    shutil.copy(folder / "grey.mp4", results / "nobody.mp4")
    (results / "notes.txt").write_text("not a video", encoding="utf-8")
    sources = tmp_path / "sources"
    sources.mkdir()
    for place in range(4):
        shutil.copy(folder / "reference.mp4", sources / f"{place}.mp4")
    shutil.copy(folder / "grey.mp4", sources / "nobody.mp4")
    out = tmp_path / "scores"
    found = evaluate("--video_path", results, "--reference_path", sources, "--metric", "ssim", "lmd", "--output", out)
    assert found.code == 1
    assert "nobody.mp4: FAILED ssim, lmd: no face was found" in found.out
    told = scores(out)
    assert [Path(clip["video"]).name for clip in told["clips"]] == [*(f"{k}.mp4" for k in range(4)), "nobody.mp4"]
    values = [clip["scores"]["ssim"] for clip in told["clips"][:4]]
    overall = told["overall"]["ssim"]
    assert overall["score"] == pytest.approx(np.mean(values))
    assert overall["interval"][0] <= overall["score"] <= overall["interval"][1]
    assert (overall["over"], overall["clips"]) == ("clips", 4)
    with (out / "scores.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["ssim"]) for row in rows[:4]] == pytest.approx(values)
    assert rows[4]["ssim"] == ""
    assert "no face" in rows[4]["failures"]
    text = (out / "scores.md").read_text(encoding="utf-8")
    assert text.strip() == found.out.strip()
    assert "| SSIM (`ssim`) |" in text
    assert "4 of 5" in text
    with Image.open(out / "scores.png") as picture:
        assert min(picture.size) > 200
    assert {path.name for path in out.iterdir()} == {"scores.md", "scores.csv", "scores.json", "scores.png"}


def test_whole_frames_need_no_face(evaluate, folder):
    arguments = ("--video_path", folder / "grey.mp4", "--reference_path", folder / "grey.mp4", "--metric", "psnr")
    assert evaluate(*arguments).code == 1
    found = evaluate(*arguments, "--region", "frame")
    assert found.code == 0
    assert "inf" in found.out


def test_every_metric_is_in_the_help_and_in_the_docs(capsys):
    with pytest.raises(SystemExit):
        eval_quality.main(["--help"])
    text = " ".join(capsys.readouterr().out.split())
    page = (ROOT / "docs" / "evaluation.md").read_text(encoding="utf-8")
    for name, kind in METRICS.items():
        assert name in text
        assert f"`{name}`" in page
        if kind.network:
            assert all(f"`{file}`" in page for file in kind.network.names)
    assert set(DEFAULT) <= set(METRICS)


@pytest.fixture(scope="module")
def spoken(tmp_path_factory) -> Path:
    """A held-out avatar with its own sound: talk.mp4; late.mp4 with the sound 4 frames later."""
    folder = tmp_path_factory.mktemp("spoken")
    avatar = AvatarClip(identity_seed=1_000_003, speech_seed=2_000_003, duration=2.4)
    write_speech(avatar, folder / "own.wav")
    write_avatar(avatar, folder / "talk.mp4", side=SIDE, audio=folder / "own.wav")
    return folder


def test_sync_needs_no_reference(evaluate, spoken, tmp_path):
    """LSE is unavailable without its network, the bundled SyncNet is there."""
    found = evaluate(
        "--video_path", spoken / "talk.mp4", "--metric", *SYNC, *LSE, "--output", tmp_path / "scores"
    )  # fmt: skip
    assert found.code == 3
    assert "syncnet_v2.model" in found.out
    assert "drawn avatars only" in found.out
    (clip,) = scores(tmp_path / "scores")["clips"]
    assert clip["reference"] is None
    assert clip["scores"]["sync_offset"] == 0
    assert clip["scores"]["sync_accuracy"] > 0.9
    assert clip["scores"]["sync_score"] > 0.2


def test_a_silent_video_fails_in_what_needs_sound_alone(evaluate, spoken, tmp_path):
    avatar = AvatarClip(identity_seed=1_000_003, speech_seed=2_000_003, duration=1.0)
    write_avatar(avatar, tmp_path / "silent.mp4", side=SIDE)
    arguments = ("--video_path", tmp_path / "silent.mp4", "--reference_path", spoken / "talk.mp4")
    found = evaluate(*arguments, "--metric", "ssim", "sync_score", "--resolution", 64)
    assert found.code == 1
    assert "FAILED sync_score" in found.out
    assert "| SSIM" in found.out


def test_the_shell_script_is_the_same_command(folder, tmp_path):
    """Exactly as a user types it, from another folder."""
    if os.name == "nt":
        pytest.skip("a POSIX shell's script")
    environment = {**os.environ, "PYTHON": sys.executable}
    script = [str(ROOT / "eval" / "eval_quality.sh"), "--video_path", str(folder / "blurred.mp4")]
    done = subprocess.run(
        [*script, "--metric", "psnr"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "nothing to compare" in done.stderr
    assert os.access(script[0], os.X_OK)
