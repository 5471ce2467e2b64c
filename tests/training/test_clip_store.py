"""The store of clips: what is written is read, whole or not at all, and damage is reported with its path."""

import pickle
from functools import partial
from multiprocessing.pool import ThreadPool

import numpy as np
import pytest

from latentsync.errors import MediaError, OptionError
from latentsync.media.video_writer import VideoWriter
from training_scripts.clip_store import ClipStore, ClipStoreWriter, read_table, write_table

FRAMES, SIDE, VOICES = 12, 32, 2


def arrays(seed: int) -> dict:
    rng = np.random.default_rng(seed)
    return {
        "faces": rng.integers(0, 255, (FRAMES, SIDE, SIDE, 3), dtype=np.uint8),
        "features": rng.normal(size=(VOICES, 24, 5, 8)).astype(np.float16),
        "mel": rng.normal(size=(VOICES, 80, 39)).astype(np.float32),
        "audio": rng.uniform(-1, 1, (VOICES, 7680)).astype(np.float32),
    }


@pytest.fixture
def folder(tmp_path):
    writer = ClipStoreWriter(tmp_path / "store")
    for seed, identity in enumerate("aabbc"):
        lips = {"lips": np.full((FRAMES, 2), seed, np.float32)} if seed else {}
        writer.add_clip(f"clip{seed}", identity=identity, source=f"{seed}.mp4", **arrays(seed), **lips)
    writer.finish([f"clip{seed}" for seed in range(5)])
    return tmp_path / "store"


def test_what_is_written_is_read(folder):
    store = pickle.loads(pickle.dumps(ClipStore(folder)))  # as a worker gets it
    assert (len(store), store.keys[3], store.resolution, store.fps) == (5, "clip3", SIDE, 25)
    assert (store.num_frames(3), store.num_voices(3), store.rows[3]["source"]) == (FRAMES, VOICES, "3.mp4")
    written = arrays(3)
    np.testing.assert_array_equal(store.frames(3, 4, 5), written["faces"][4:9])
    assert store.frames(3).flags.writeable  # a copy: nobody changes the file
    for voice in range(VOICES):
        features, mel = store.features(3, voice), store.mel(3, voice)
        assert isinstance(features, np.memmap)
        assert isinstance(mel, np.memmap)
        np.testing.assert_array_equal(features, written["features"][voice])
        np.testing.assert_array_equal(mel, written["mel"][voice])
        np.testing.assert_allclose(store.waveform(3, voice), written["audio"][voice], atol=0.51 / 32767)
    assert store.lips(0) is None
    np.testing.assert_array_equal(store.lips(3), np.full((FRAMES, 2), 3))


def test_faces_may_lie_in_a_video(tmp_path):
    ramp = np.linspace(20, 230, 30).astype(np.uint8)

    def write_video(path):
        with VideoWriter(path, SIDE, SIDE, rate=25) as writer:
            for level in ramp:
                writer.write(np.full((SIDE, SIDE, 3), level, np.uint8))

    writer, parts = ClipStoreWriter(tmp_path), arrays(0)
    del parts["faces"]
    writer.add_clip("clip", **parts, write_video=write_video, num_frames=30, resolution=SIDE)
    writer.finish(["clip"])
    store = ClipStore(tmp_path)
    for start, count in ((0, 30), (0, 1), (7, 16), (29, 1)):
        levels = store.frames(0, start, count).mean((1, 2, 3))
        np.testing.assert_allclose(levels, ramp[start : start + count], atol=2)
    with pytest.raises(OptionError, match=r"frames 0\.\.29"):
        store.frames(0, 20, 11)


def test_whole_persons_are_held_out(folder):
    store = ClipStore(folder)
    assert store.split(0) == ([0, 1, 2, 3, 4], [])
    assert store.split(0.2) == ([0, 1, 2, 3], [4])
    assert store.split(0.3) == ([0, 1], [2, 3, 4])
    assert store.split(0.99) == ([0, 1], [2, 3, 4])  # somebody is left to learn from
    with pytest.raises(OptionError, match="held out"):
        store.split(1)


def test_a_clip_is_added_once_and_whole(folder):
    writer = ClipStoreWriter(folder)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.npy")}
    writer.add_clip("clip3", **arrays(99))  # it is there
    assert before == {path: path.stat().st_mtime_ns for path in folder.rglob("*.npy")}

    def cut(path):
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    parts = arrays(5)
    del parts["faces"]
    with pytest.raises(KeyboardInterrupt):
        writer.add_clip("clip5", **parts, write_video=cut, num_frames=1, resolution=SIDE)
    assert "clip5" not in writer
    assert not list((folder / "clips").glob(".*"))


def test_of_several_writers_of_one_clip_one_succeeds_and_none_fails(tmp_path):
    with ThreadPool(8) as pool:
        pool.map(lambda seed: ClipStoreWriter(tmp_path).add_clip("same", **arrays(seed)), range(8))
    assert [path.name for path in (tmp_path / "clips").iterdir()] == ["same"]
    ClipStoreWriter(tmp_path).finish(["same"])
    assert any((ClipStore(tmp_path).frames(0) == arrays(seed)["faces"]).all() for seed in range(8))


def test_what_a_killed_run_left_is_removed(folder):
    left = folder / "clips" / ".clip9-0123abcd.part"
    left.mkdir()
    (left / "faces.npy").write_bytes(b"half")
    ClipStoreWriter(folder).finish(["clip0"])
    assert not left.exists()
    assert ClipStore(folder).keys == ["clip0"]


@pytest.mark.parametrize("content", [None, b"", b"nothing", b"\x93NUMPY\x01\x00"])
@pytest.mark.parametrize("name", ["faces", "features", "mel", "audio"])
def test_damage_is_reported_with_its_path(folder, name, content):
    path = folder / "clips" / "clip2" / f"{name}.npy"
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    store = ClipStore(folder)
    read = {"faces": store.frames, "features": store.features, "mel": store.mel, "audio": store.waveform}[name]
    expected = path.with_name("video.mp4") if name == "faces" and content is None else path
    with pytest.raises(MediaError, match=str(expected)):
        read(2)
    read(1)  # others are not affected


def test_faces_of_another_number_or_size_are_reported(folder):
    path = folder / "clips" / "clip2" / "faces.npy"
    np.save(path, np.zeros((FRAMES - 1, SIDE, SIDE, 3), np.uint8))
    with pytest.raises(MediaError, match=str(path)):
        ClipStore(folder).frames(2)


def test_what_is_no_store_is_refused(tmp_path, folder):
    with pytest.raises(OptionError, match=r"no manifest\.parquet"):
        ClipStore(tmp_path)
    rows = read_table(folder / "manifest.parquet")
    write = partial(write_table, tmp_path / "manifest.parquet")
    for bad, message in (
        ([], "no clips"),
        ([{"key": "a"}], "no column identity"),
        ([rows[0], {**rows[1], "resolution": 64}], "expected one size"),
    ):
        write(bad)
        with pytest.raises(OptionError, match=message):
            ClipStore(tmp_path)
    (tmp_path / "manifest.parquet").write_bytes(b"PAR1")
    with pytest.raises(MediaError, match=r"manifest\.parquet"):
        ClipStore(tmp_path)


def test_voices_that_are_not_there_are_refused(folder):
    with pytest.raises(OptionError, match=r"voices 0\.\.1; asked for 2"):
        ClipStore(folder).mel(0, 2)
    parts = arrays(0)
    parts["mel"] = parts["mel"][:1]
    with pytest.raises(OptionError, match="1 of mel"):
        ClipStoreWriter(folder).add_clip("new", **parts)
