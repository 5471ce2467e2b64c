"""Scans kept between runs: what is stored comes back, what is damaged does not."""

import os
import zipfile
from dataclasses import fields, replace
from fractions import Fraction

import numpy as np
import pytest

from latentsync.faces.people import ClipFaces, FacePath
from latentsync.faces.scan_cache import ScanSettings, TrackCache, cache_folder
from tests.unit.test_tracks_placement import path_of

SETTINGS = ScanSettings("mesh")


@pytest.fixture
def video(tmp_path):
    path = tmp_path / "clip.mp4"
    path.write_bytes(b"content of a video" * 100)
    return path


@pytest.fixture
def cache(tmp_path):
    return TrackCache(tmp_path / "kept" / "tracks")


def clip_of(num_frames=50, num_paths=2):
    paths = tuple(path_of(range(index, num_frames)) for index in range(num_paths))
    return ClipFaces(np.arange(num_frames) / 25, np.arange(num_frames) // 20, (240, 320), paths)


def same(one, other):
    assert (one.frame_size, len(one.paths)) == (other.frame_size, len(other.paths))
    assert np.array_equal(one.times, other.times)
    assert np.array_equal(one.shots, other.shots)
    for path, stored in zip(one.paths, other.paths, strict=True):
        for field in fields(FacePath):
            first, second = getattr(path, field.name), getattr(stored, field.name)
            assert first.dtype == second.dtype
            assert np.array_equal(first, second)


@pytest.mark.parametrize("num_paths", [0, 1, 3])
def test_what_is_stored_comes_back(video, cache, num_paths):
    clip = clip_of(num_paths=num_paths)
    assert cache.load(video, SETTINGS) is None
    cache.store(video, SETTINGS, clip, whole=True)
    same(cache.load(video, SETTINGS), clip)
    same(TrackCache(cache.folder).load(video, SETTINGS), clip)


def test_the_content_counts_and_not_the_name(video, cache, tmp_path):
    cache.store(video, SETTINGS, clip_of(), whole=True)
    copy = tmp_path / "copy.mov"
    copy.write_bytes(video.read_bytes())
    assert cache.load(copy, SETTINGS) is not None
    video.write_bytes(b"another clip, of the same name")
    assert cache.load(video, SETTINGS) is None


def test_other_settings_are_another_scan(video, cache):
    cache.store(video, SETTINGS, clip_of(), whole=True)
    for other in (replace(SETTINGS, start=1.0), replace(SETTINGS, fps=Fraction(25)), ScanSettings("onnx")):
        assert cache.load(video, other) is None


def test_a_part_serves_for_less_and_not_for_more(video, cache):
    cache.store(video, SETTINGS, clip_of(50), whole=False)  # two seconds
    assert cache.load(video, SETTINGS, 1.0).num_frames == 50
    assert cache.load(video, SETTINGS, 2.0) is not None
    assert cache.load(video, SETTINGS, 2.5) is None
    assert cache.load(video, SETTINGS) is None
    cache.store(video, SETTINGS, clip_of(100), whole=True)
    assert cache.load(video, SETTINGS).num_frames == 100
    assert cache.load(video, SETTINGS, 60.0).num_frames == 100  # the video is over
    assert len(list(cache.folder.iterdir())) == 1


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "flipped", "version", "missing"])
def test_a_damaged_file_is_ignored_and_replaced(video, cache, damage, caplog):
    cache.store(video, SETTINGS, clip_of(), whole=True)
    (file,) = cache.folder.iterdir()
    content = bytearray(file.read_bytes())
    if damage == "flipped":
        content[200:230] = bytes(30)
    replacement = {"cut": content[: len(content) // 2], "empty": b"", "text": b"no scan at all", "flipped": content}
    if damage in replacement:
        file.write_bytes(replacement[damage])
    else:
        with np.load(file) as stored:
            columns = dict(stored)
        if damage == "version":
            columns["version"] = np.array(0)
        else:
            del columns["0.yaw"]
        with file.open("wb") as target:
            np.savez(target, **columns)
    assert cache.load(video, SETTINGS) is None
    assert "damaged" in caplog.text
    cache.store(video, SETTINGS, clip_of(), whole=True)
    same(cache.load(video, SETTINGS), clip_of())


def test_nothing_is_run_from_a_file(video, cache):
    """A pickle in it is refused, not opened."""
    cache.store(video, SETTINGS, clip_of(), whole=True)
    (file,) = cache.folder.iterdir()
    with np.load(file) as stored:
        columns = dict(stored)
    columns["times"] = np.array([{"not": "numbers"}], dtype=object)
    with file.open("wb") as target:
        np.savez(target, **columns)
    assert cache.load(video, SETTINGS) is None


def test_the_least_recently_used_go_first(tmp_path, cache):
    videos = []
    for index in range(4):
        videos.append(tmp_path / f"{index}.mp4")
        videos[-1].write_bytes(bytes([index]) * 50)
        cache.store(videos[-1], SETTINGS, clip_of(), whole=True)
        newest = max(cache.folder.iterdir(), key=lambda path: path.stat().st_mtime_ns)
        os.utime(newest, (1000 + index, 1000 + index))
    size = newest.stat().st_size
    cache.load(videos[0], SETTINGS)  # used now
    small = TrackCache(cache.folder, max_bytes=int(2.5 * size))
    last = tmp_path / "last.mp4"
    last.write_bytes(b"last")
    small.store(last, SETTINGS, clip_of(), whole=True)
    assert [small.load(video, SETTINGS) is not None for video in [*videos, last]] == [True, False, False, False, True]


def test_a_folder_that_cannot_be_made_is_no_reason_to_stop(video, tmp_path, caplog):
    (tmp_path / "file").write_text("in the way")
    cache = TrackCache(tmp_path / "file" / "tracks")
    cache.store(video, SETTINGS, clip_of(), whole=True)
    assert "not kept" in caplog.text
    assert cache.load(video, SETTINGS) is None


def test_the_folder_is_the_systems_or_the_users(monkeypatch, tmp_path):
    monkeypatch.setenv("LATENTSYNC_CACHE", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own" / "tracks"
    monkeypatch.delenv("LATENTSYNC_CACHE")
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "latentsync" / "tracks"
    monkeypatch.setattr("sys.platform", "win32")
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "local"))
    assert cache_folder() == tmp_path / "local" / "latentsync" / "tracks"
    monkeypatch.setattr("sys.platform", "darwin")
    assert cache_folder().parts[-4:] == ("Library", "Caches", "latentsync", "tracks")


def changed(face: FacePath, **columns) -> ClipFaces:
    clip = clip_of(num_paths=0)
    return replace(clip, paths=(replace(face, **columns),))


@pytest.mark.parametrize(
    "clip",
    [
        replace(clip_of(), times=np.zeros(0), shots=np.zeros(0, int)),
        replace(clip_of(), times=np.zeros((50, 2))),
        replace(clip_of(), times=np.full(50, np.nan)),
        replace(clip_of(), times=np.zeros(50)),
        replace(clip_of(), shots=np.zeros(3, int)),
        replace(clip_of(), frame_size=(1.5, -2)),
        changed(path_of(range(50)), rows=np.arange(50) - 1),
        changed(path_of(range(50)), rows=np.arange(50) + 5),
        changed(path_of(range(50)), rows=np.arange(50)[::-1].copy()),
        changed(path_of(range(50)), rows=np.arange(50).astype(float)),
        changed(path_of(range(50)), points=np.zeros((50, 2, 2), np.float32)),
        changed(path_of(range(50)), points=np.full((50, 3, 2), np.inf, np.float32)),
        changed(path_of(range(50)), side=np.zeros((50, 1), np.float32)),
        changed(path_of(range(50)), box=np.zeros((49, 4), np.float32)),
        changed(path_of(range(50)), contour=np.zeros((50, 3, 2), np.float32)),
        changed(path_of(range(50)), look=np.zeros((2, 2), np.float32)),
        changed(path_of(range(50)), yaw=np.array(["x"] * 50)),
    ],
)
def test_columns_that_no_scan_gives_are_not_used(video, cache, caplog, clip):
    cache.store(video, SETTINGS, clip, whole=True)
    assert cache.load(video, SETTINGS) is None
    assert "damaged" in caplog.text


@pytest.mark.parametrize("bomb", ["pickle", "huge", "unpacked", "many"])
def test_bombs_are_not_used(video, cache, monkeypatch, bomb):
    cache.store(video, SETTINGS, clip_of(), whole=True)
    (kept,) = cache.folder.glob("*.npz")
    with np.load(kept) as file:
        columns = dict(file)
    if bomb == "pickle":
        columns["times"] = np.array([print] * 50, dtype=object)
    elif bomb == "many":
        columns["num_paths"] = np.array(2**62)
    elif bomb == "unpacked":
        monkeypatch.setattr("latentsync.faces.scan_cache.MAX_UNPACKED", 2**20)
        columns["more"] = np.zeros(2**20)
    np.savez_compressed(kept, **columns)
    if bomb == "huge":
        header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (1099511627776,), }".ljust(117)
        with zipfile.ZipFile(kept, "w") as file:
            file.writestr("version.npy", b"\x93NUMPY\x01\x00v\x00" + header + b"\n")
    assert cache.load(video, SETTINGS) is None
