"""Raw videos through the whole preparation: what is kept is right, what is rejected is told with its reason, and the
originals stay as they are. The truth is the drawn avatars' own: who speaks, what, and how far the sound was moved."""

import hashlib
import json
import re
import shutil
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from latentsync.faces.align import Aligner, warp_faces
from latentsync.faces.finder import FaceTracker
from latentsync.faces.place import smooth_points
from latentsync.media.audio_reader import read_audio
from latentsync.media.video_reader import probe_video, read_frames, video_length
from latentsync.media.video_writer import AudioSource, VideoWriter, write_wav
from latentsync.model.loading import BUNDLED_WHISPER
from latentsync.sync.score import sync_score
from latentsync.sync.syncnet import sync_mel
from latentsync.synthetic.clips import AvatarClip
from training_scripts.clip_store import ClipStore, read_table
from training_scripts.make_synthetic_videos import RawVideo, write_video
from training_scripts.preparation import cutting, probing
from training_scripts.preparation.syncing import stable_syncnet
from training_scripts.prepare_data import SYNCNET, main

from .prepared_stores import SHORT, fingerprints, short_settings

SIZE, SECONDS = 128, 2.4
LATE, EARLY, APART = 4, -3, 10  # frames by which the sound was moved
OPTIONS = (*SHORT, "--max_seconds", "3", "--min_face", "60", "--workers", "1")


def speaker(name: str, seed: int, **facts) -> RawVideo:
    return RawVideo(name, (seed,), **{"rate": Fraction(25), "width": SIZE, "height": SIZE, "seconds": SECONDS, **facts})


@pytest.fixture(scope="module")
def raw(tmp_path_factory) -> Path:
    """One video for each thing that may be the matter."""
    folder = tmp_path_factory.mktemp("footage")
    for video in (
        speaker("good", 41),
        speaker("late", 42, delay=LATE / 25),
        speaker("early", 43, delay=EARLY / 25),
        speaker("apart", 44, delay=APART / 25),
        speaker("wide", 45, rate=Fraction(30000, 1001), width=228),
        RawVideo("two_shots", (46, 47), Fraction(24), SIZE, SIZE, 1.2),
        speaker("blurred", 48, blur=2.0, seconds=1.2),
        speaker("small", 49, height=80, width=80, seconds=1.2),
        speaker("deaf", 50, has_sound=False, seconds=0.4),
        speaker("slow", 51, rate=Fraction(5), seconds=0.8),
        speaker("brief", 52, seconds=0.8),
    ):
        write_video(video, folder)
    clip = AvatarClip(53, 53, 1.2)
    wav = folder / "still.wav"  # not a video: it is not looked at
    write_wav(wav, np.zeros(19200, np.float32), 16_000)
    with VideoWriter(folder / "mute.mp4", SIZE, SIZE, rate=25, audio=AudioSource(wav)) as writer:
        for index in range(clip.num_frames):
            writer.write(clip.frame(index, SIZE, SIZE))
    good = (folder / "good.mp4").read_bytes()
    (folder / "broken.mp4").write_bytes(b"this is no video" * 64)
    (folder / "empty.mp4").touch()
    (folder / "cut_off.mp4").write_bytes(good[: len(good) * 3 // 4])
    (folder / "more").mkdir()
    shutil.copyfile(folder / "good.mp4", folder / "more" / "it's odd; name & all.MP4")
    return folder


@pytest.fixture(scope="module")
def prepared(raw, tmp_path_factory) -> Path:
    """The store of `raw`, whose files are checked to be untouched."""
    before = state(raw)
    output = tmp_path_factory.mktemp("prepared") / "store"
    assert main(["--input", str(raw), "--output", str(output), *OPTIONS]) == 0
    assert state(raw) == before
    return output


@pytest.fixture(scope="module")
def rows(prepared) -> dict[str, list[dict]]:
    """Of metadata.parquet, by the source's name."""
    found = {}
    for row in read_table(prepared / "metadata.parquet"):
        found.setdefault(Path(row["source"]).stem, []).append(row)
    return found


def state(folder: Path) -> dict:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {path: (path.stat().st_mtime_ns, hashlib.sha256(path.read_bytes()).hexdigest()) for path in files}


def clip_of(store: ClipStore, name: str) -> int:
    [index] = [i for i, row in enumerate(store.rows) if Path(row["source"]).stem == name]
    return index


def lag(sound: np.ndarray, truth: np.ndarray) -> int:
    """Samples by which `sound` comes later than `truth`, both (T,) at 16 kHz."""
    size = 1 << (len(sound) + len(truth)).bit_length()
    product = np.fft.irfft(np.fft.rfft(sound, size) * np.conj(np.fft.rfft(truth, size)))
    best = int(product.argmax())
    return best - size if best > size // 2 else best


@pytest.mark.parametrize(
    ("name", "stage", "reason"),
    [
        ("broken", "probe", "is not a video or audio file"),
        ("empty", "probe", "is empty"),
        ("deaf", "probe", "has no sound"),
        ("slow", "probe", "has 5 pictures a second; expected 10 or more"),
        ("it's odd; name & all", "probe", "the same content as "),
        ("cut_off", "probe", "s of 2.40 s are there"),
        ("brief", "cut", "shorter than 1 s: 0.80 s until the end"),
        ("small", "quality", "px large in the source; expected 60 or more"),
        ("blurred", "quality", "the face is blurred: sharpness 0."),
        ("mute", "sync", "silence"),
        ("apart", "sync", "lips and sound lie -10 frames apart; expected 6 at most"),
    ],
)
def test_every_rejection_has_its_stage_and_reason(rows, name, stage, reason):
    [row] = [row for row in rows[name] if row["status"] == "rejected"]
    assert row["stage"] == stage
    assert reason in row["reason"]
    assert row["key"] is None


def test_what_is_good_is_kept(rows, prepared):
    kept = {name for name, found in rows.items() if any(row["status"] == "kept" for row in found)}
    assert kept == {"good", "late", "early", "wide", "two_shots", "cut_off"}
    assert [row["start"] for row in rows["two_shots"]] == [0, pytest.approx(28 / 24, abs=0.04)]
    store = ClipStore(prepared)
    assert store.keys == [row["key"] for found in rows.values() for row in found if row["status"] == "kept"]
    names = [Path(row["source"]).stem for row in store.rows]
    frames = dict(zip(names, (row["num_frames"] for row in store.rows), strict=True))
    assert (frames["good"], frames["late"], frames["wide"]) == (60, 60, 59)  # 71 frames of 29.97 a second
    for i, row in enumerate(store.rows):
        video = probe_video(store.path(i) / "video.mp4")
        assert (video.fps, video.width, video.height, video.num_frames) == (25, 96, 96, row["num_frames"])
        assert len(store.waveform(i)) == row["num_frames"] * 640
        assert store.features(i).shape == (row["num_frames"] * 2, 5, 384)
        np.testing.assert_array_equal(
            store.mel(i), sync_mel(np.load(store.path(i) / "audio.npy")[0] / np.float32(32767))
        )
    assert len({store.identity(i) for i in range(len(store))}) == len(kept)


def test_every_moment_of_a_source_is_accounted_for(rows, raw):
    for name in ("good", "wide", "two_shots", "blurred", "apart", "brief"):
        end = 0.0
        for row in sorted(rows[name], key=lambda row: row["start"]):
            assert row["start"] == pytest.approx(end, abs=0.05)
            end = row["start"] + row["seconds"]
        assert end == pytest.approx(video_length(raw / f"{name}.mp4"), abs=0.05)


@pytest.mark.parametrize(("name", "seed", "moved"), [("good", 41, 0), ("late", 42, LATE), ("early", 43, EARLY)])
def test_sound_that_was_off_comes_out_where_it_belongs(prepared, raw, name, seed, moved):
    store = ClipStore(prepared)
    i = clip_of(store, name)
    assert store.rows[i]["offset"] == -moved  # lips earlier than the sound where the sound came late
    sound = store.waveform(i)
    truth = AvatarClip(seed, seed, SECONDS).speech.waveform
    assert abs(lag(sound, truth[: len(sound)])) <= 16  # 1 ms; what the compression of the source does
    own = read_audio(raw / f"{name}.mp4")
    first, last = max(0, -moved * 640), min(len(sound), len(own) - moved * 640)
    np.testing.assert_allclose(sound[first:last], own[first + moved * 640 : last + moved * 640], atol=0.51 / 32767)
    assert not sound[:first].any()  # nothing lies there in the source
    again = sync_score(store.frames(i), sound, stable_syncnet(SYNCNET))
    assert again.offset_frames == 0


def test_faces_are_the_sources_decoded_and_encoded_once(prepared, raw):
    """Against faces aligned here, by the product's own parts, from the source's frames."""
    store, tracker, face, points = ClipStore(prepared), FaceTracker(), None, []
    frames = [frame.pixels for frame in read_frames(raw / "good.mp4")]
    for frame in frames:
        face = tracker(frame, face)
        points.append(face.framed("insightface").astype(np.float64))
    aligner = Aligner(96, "none")
    places = smooth_points(np.stack(points), np.arange(len(points)) / 25)
    expected = np.stack(
        [warp_faces([frame], aligner(place)[None], 96)[0] for frame, place in zip(frames, places, strict=True)]
    )
    assert store.framing == "insightface"
    stored = store.frames(clip_of(store, "good"))
    error = ((stored.astype(float) - expected) ** 2).mean((1, 2, 3))
    psnr = 10 * np.log10(255**2 / error)
    print(f"PSNR {psnr.mean():.1f} dB, least {psnr.min():.1f} dB")
    assert psnr.min() > 38


def test_metadata_tells_what_was_measured(rows):
    [good] = rows["good"]
    assert good["sha256"]
    assert good["confidence"] > 0.06
    assert 60 < good["face_side"] < 120
    assert good["sharpness"] > 0.2
    assert good["iqa"] is None
    assert 0 < good["yaw"] < 45
    assert [row["confidence"] is None for row in rows["blurred"]] == [True]  # rejected before


def test_report_tells_counts_durations_and_reasons(prepared, rows):
    facts = json.loads((prepared / "report.json").read_text(encoding="utf-8"))
    every = [row for found in rows.values() for row in found]
    assert facts["sources"] == 17 - 1
    assert facts["clips"] == sum(row["status"] == "kept" for row in every) == 7
    assert facts["kept_seconds"] == pytest.approx(
        sum(row["seconds"] for row in every if row["status"] == "kept"), abs=0.1
    )
    assert sum(reason["parts"] for reason in facts["rejected"].values()) == sum(r["status"] != "kept" for r in every)
    assert list(facts["stages"]) == ["probe", "cut", "sync", "store"]
    for stage in facts["stages"].values():
        assert stage["clips_per_core_hour"] > 0
        assert stage["cpu"] > 0
        assert stage["stretch"] < 1.5
    page = (prepared / "report.html").read_text(encoding="utf-8")
    assert page.count("<svg") == 6
    assert "data:image/jpeg;base64," in page
    for reason in ("the face is blurred: sharpness N; expected N or more", "has no sound", "silence"):
        assert reason in page
    assert "it&#x27;s odd; name &amp; all.MP4" in page


def test_a_second_run_does_nothing(prepared, raw, capsys):
    stored, before = fingerprints(prepared), state(prepared)
    facts = json.loads((prepared / "report.json").read_text(encoding="utf-8"))
    assert main(["--input", str(raw), "--output", str(prepared), *OPTIONS]) == 0
    told = capsys.readouterr().out
    assert told.count(" 0 to do") == 4
    assert fingerprints(prepared) == stored
    after = state(prepared)
    written = {path.name for path in after if after[path] != before.get(path)}
    assert written <= {"manifest.parquet", "metadata.parquet", "report.html", "report.json"}
    assert json.loads((prepared / "report.json").read_text(encoding="utf-8"))["stages"] == facts["stages"]


def test_work_may_be_deleted_and_the_store_stays_the_same(prepared, raw, tmp_path):
    few, output = tmp_path / "raw", tmp_path / "store"
    few.mkdir()
    shutil.copy2(raw / "two_shots.mp4", few)
    arguments = ["--input", str(few), "--output", str(output), *OPTIONS, "--sync", "off"]
    assert main(arguments) == 0
    stored = fingerprints(output)
    shutil.rmtree(output / "work")
    assert main(arguments) == 0
    assert fingerprints(output) == stored
    assert ClipStore(output).rows[0]["confidence"] is None


@pytest.mark.parametrize(
    ("options", "message", "code"),
    [
        (["--input", "nowhere"], "is not a folder; expected one with videos", 2),
        (["--output", "{raw}/store"], "lies in --input, which is never changed", 2),
        (["--workers", "0"], "--workers is 0", 2),
        (["--resolution", "100"], "multiple of 8", 2),
        (["--min_seconds", "4", "--max_seconds", "5"], "at least twice", 2),
        (["--sync", "syncnet_v2"], "needs its file", 2),
        (["--sync", "loudness", "--syncnet", "{raw}/good.mp4"], "is not used by --sync loudness", 2),
        (["--s3fd", "{raw}/good.mp4"], "is not used by --sync syncnet", 2),
        (["--det_model", "{raw}/good.mp4"], "go together", 2),
        (["--hyperiqa", "koniq_pretrained.pkl"], "--hyperiqa names .*koniq_pretrained.pkl, where no file is", 2),
        (["--hyperiqa", "{whisper}"], "is no HyperIQA: it has no tensor res.lda1_fc.weight", 1),
        (["--sync", "syncnet_v2", "--syncnet", "{whisper}"], "is no SyncNetV2", 1),
        (["--ray_address", "auto"], "goes with --engine ray", 2),
        (["--input", "{empty}"], "no video lies in", 1),
    ],
)
def test_what_cannot_be_done_is_refused_before_the_work(raw, tmp_path, capsys, options, message, code):
    empty = tmp_path / "empty"
    empty.mkdir()
    places = {"raw": raw, "empty": empty, "whisper": BUNDLED_WHISPER}
    given = ["--input", str(raw), "--output", str(tmp_path / "store")]
    assert main([*given, *(option.format(**places) for option in options)]) == code
    assert re.search(message, capsys.readouterr().err)
    assert not (tmp_path / "store").exists()


def test_nothing_kept_is_a_failure_with_a_report(raw, tmp_path, capsys):
    few, output = tmp_path / "raw", tmp_path / "store"
    few.mkdir()
    shutil.copy2(raw / "broken.mp4", few)
    assert main(["--input", str(few), "--output", str(output), *OPTIONS]) == 1
    assert "nothing was kept of 1 videos; see" in capsys.readouterr().err
    assert (output / "report.html").exists()


def test_a_source_that_cannot_be_read_now_is_tried_again(raw, tmp_path):
    """What a disk or a network does for a moment must not be held against a video for ever."""
    settings = short_settings(raw, tmp_path / "store")
    source = tmp_path / "footage.mp4"
    shutil.copyfile(raw / "brief.mp4", source)
    item = probing.probe_item(source, settings)
    (settings.work / "probe").mkdir(parents=True)
    source.rename(tmp_path / "away.mp4")
    assert "cannot be read: No such file" in probing.probe(item, settings)["rejected"]
    (tmp_path / "away.mp4").rename(source)
    found = probing.probe(item, settings)
    assert found["seconds"] == pytest.approx(0.8, abs=0.05)
    [part] = cutting.windows(found, settings)
    source.rename(tmp_path / "away.mp4")
    with pytest.raises(FileNotFoundError):
        cutting.cut(part, settings)
    assert not Path(part["record"]).exists()
