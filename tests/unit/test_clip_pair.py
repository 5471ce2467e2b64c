"""A result beside its reference: which frames belong together, and the same cut out of both."""

from fractions import Fraction

import numpy as np
import pytest

from latentsync.errors import FaceNotFoundError, MediaError
from latentsync.metrics.clip_pair import ClipPair
from tests.unit.media_clips import read_number, write_clip


def numbers(pair: ClipPair) -> list[tuple[int, int]]:
    return [(read_number(frame.output), read_number(frame.reference)) for frame in pair.frames(with_faces=False)]


@pytest.fixture(scope="module")
def numbered(tmp_path_factory):
    """`numbered(fps, count)`: a video whose pictures tell their number."""
    folder = tmp_path_factory.mktemp("numbered")

    def make(fps, count: int):
        path = folder / f"{count}-{float(fps):.3f}.mp4"
        if not path.exists():
            write_clip(path, pictures=count, fps=fps)
        return path

    return make


def test_frames_of_one_rate_go_by_pairs(numbered):
    pair = ClipPair(numbered(25, 12), numbered(25, 20))
    assert numbers(pair) == [(index, index) for index in range(12)]
    assert pair.notes == []


def test_other_rates_are_compared_by_time(numbered):
    """What is on the screen when the result's frame appears."""
    slow = numbers(ClipPair(numbered(25, 12), numbered(50, 24)))
    assert slow == [(index, 2 * index) for index in range(12)]
    doubled = numbers(ClipPair(numbered(50, 24), numbered(25, 12)))
    assert doubled == [(index, index // 2) for index in range(24)]
    ntsc = numbers(ClipPair(numbered(Fraction(30000, 1001), 12), numbered(25, 12)))
    assert ntsc == [(index, int(index * 25 * 1001 / 30000 + 1e-3)) for index in range(12)]


def test_a_start_moves_the_reference(numbered):
    assert numbers(ClipPair(numbered(25, 6), numbered(25, 20), start=0.4)) == [(k, k + 10) for k in range(6)]


def test_a_report_tells_which_frames_were_shown(numbered):
    pair = ClipPair(numbered(25, 12), numbered(25, 20), indices=(0, 0, 2, 3, 5, 6))
    assert numbers(pair) == list(enumerate((0, 0, 2, 3, 5, 6)))
    again = ClipPair(numbered(25, 12), numbered(25, 20), indices=(0, 1, 2, 3, 2, 1, 0))
    assert numbers(again) == [(k, k) for k in range(4)]
    assert "shows the source again" in again.notes[0]
    with pytest.raises(MediaError, match="ends before frame 40"):
        numbers(ClipPair(numbered(25, 12), numbered(25, 20), indices=(0, 40)))


def test_a_shorter_reference_is_told(numbered):
    pair = ClipPair(numbered(25, 20), numbered(25, 12))
    assert len(numbers(pair)) == 12
    assert any("reference ends" in note for note in pair.notes)
    with pytest.raises(MediaError):
        numbers(ClipPair(numbered(25, 12), numbered(25, 20), start=30.0))


def test_other_sizes_and_no_videos_are_refused(numbered, tmp_path):
    write_clip(tmp_path / "small.mp4", size=(80, 48))
    with pytest.raises(MediaError, match="80 x 48"):
        ClipPair(tmp_path / "small.mp4", numbered(25, 12)).check()
    (tmp_path / "no.mp4").write_bytes(b"no video")
    with pytest.raises(MediaError):
        ClipPair(tmp_path / "no.mp4", numbered(25, 12)).check()


def test_faces_are_cut_out_of_both_at_the_references_place(avatar_frames, avatar_video, tmp_path):
    """A result whose face moved is seen as moved: the cut is that of the reference."""
    moved = [np.roll(frame, 6, axis=1) for frame in avatar_frames]
    write_clip(tmp_path / "moved.mp4", pictures=moved, size=(192, 192))
    same = list(ClipPair(avatar_video, avatar_video, resolution=128).frames())
    assert [frame.restart for frame in same] == [True] + [False] * 11
    for frame in same:
        assert (frame.face == frame.reference_face).all()
        assert frame.landmarks == pytest.approx(frame.true_landmarks)
        assert frame.face.shape == (128, 128, 3)
        assert ((frame.landmarks > 0) & (frame.landmarks < 128)).mean() > 0.9  # the whole face
    for frame, before in zip(
        ClipPair(tmp_path / "moved.mp4", avatar_video, resolution=128).frames(), same, strict=True
    ):
        assert frame.placed.matrix == pytest.approx(before.placed.matrix)
        shift = (frame.landmarks - frame.true_landmarks).mean(0)
        assert 2 < shift[0] < 8  # six px of the frame, whose face is about as large as the square
        assert abs(shift[1]) < 1


def test_no_face_is_told(numbered):
    with pytest.raises(FaceNotFoundError, match="--region frame"):
        list(ClipPair(numbered(25, 12), numbered(25, 12)).frames())


def test_frames_without_a_face_are_counted(avatar_frames, tmp_path):
    """Grey at the end: whole frames are there, faces are not."""
    frames = [*avatar_frames, *[np.full_like(avatar_frames[0], 120)] * 6]
    write_clip(tmp_path / "lost.mp4", pictures=frames, size=(192, 192))
    pair = ClipPair(tmp_path / "lost.mp4", tmp_path / "lost.mp4", resolution=64)
    found = list(pair.frames())
    assert len(found) == 18
    assert sum(frame.face is None for frame in found) == pytest.approx(6, abs=1)
    assert "have no face" in pair.notes[0]
