"""Cutting frames into pieces of one aligned face: what ends a piece, and what is told of the rest. Real faces found by
the real tracker; times and reasons are known from how the frames were put together."""

from dataclasses import replace
from itertools import chain

import cv2
import numpy as np
import pytest
import torch

from latentsync.faces.align import Aligner, warp_faces
from latentsync.faces.finder import FaceTracker
from latentsync.faces.place import smooth_points
from latentsync.synthetic.avatar import draw_frame
from latentsync.synthetic.clips import AvatarClip
from training_scripts.preparation.pieces import AHEAD, LookaheadAligner, Piece, PieceCutter, TimedFrame

SIDE, FACE, LEAST, MOST = 160, 64, 26, 52  # px of frames and faces; frames of a piece


@pytest.fixture(scope="module")
def tracker():
    torch.set_num_threads(1)
    return FaceTracker()


@pytest.fixture(scope="module")
def shots():
    """Two people, 60 frames each (160, 160, 3)."""
    clips = [AvatarClip(seed, seed, duration=2.4) for seed in (3, 5)]
    return [[clip.frame(i, SIDE, SIDE) for i in range(clip.num_frames)] for clip in clips]


def timed(pictures, start=0.0):
    return [TimedFrame(pixels, start + i / 25, i) for i, pixels in enumerate(pictures)]


def cut(tracker, frames, max_yaw=60.0):
    return list(PieceCutter(tracker, FACE, LEAST, MOST, max_yaw).cut(frames))


def outline(parts):
    """[(first frame, frames, reason or None), ...]"""
    facts = [(len(part), None) if isinstance(part, Piece) else (part.num_frames, part.reason) for part in parts]
    return [(round(part.time * 25), *rest) for part, rest in zip(parts, facts, strict=True)]


def test_an_unbroken_shot_is_cut_without_loss(tracker, shots):
    parts = cut(tracker, timed(shots[0], start=7.0))
    # at 52 frames the first 26 are given away, and the rest ends with the video
    assert outline(parts) == [(175, 26, None), (201, 34, None)]
    for part in parts:
        assert len(part.faces) == len(part.scales) == len(part.yaws) == len(part)
        assert part.faces[0].shape == (FACE, FACE, 3)
    assert np.ptp([opening for part in parts for opening in part.openings]) > 0.02  # it talks


def test_a_cut_ends_a_piece_and_begins_another(tracker, shots):
    parts = cut(tracker, timed([*shots[0][:40], *shots[1][:30], *shots[0][:10]]))
    assert outline(parts) == [(0, 40, None), (40, 30, None), (70, 10, "shorter than 1.04 s: 0.40 s until the end")]


def test_another_person_ends_a_piece_without_a_cut_of_the_picture(tracker):
    clips = [AvatarClip(seed, seed, duration=1.6) for seed in (3, 12)]
    ground = np.full((SIDE, 3 * SIDE, 3), 90, np.uint8)  # whose faces take 1/3 of it: too little for a cut

    def placed(picture):
        frame = ground.copy()
        frame[:, SIDE : 2 * SIDE] = picture
        return frame

    pictures = [placed(clip.frame(i, SIDE, SIDE)) for clip in clips for i in range(30)]
    assert [part[:2] for part in outline(cut(tracker, timed(pictures)))] == [(0, 30), (30, 30)]


def test_what_cannot_be_used_is_told_with_its_place(tracker, shots):
    talking = shots[0]
    empty = [np.full_like(talking[0], 90)] * 6
    parts = cut(tracker, timed([*talking[:30], *empty, *talking[30:]]))
    assert outline(parts) == [(0, 30, None), (30, 6, "no face"), (36, 30, None)]
    damaged = [replace(frame, is_damaged=i == 40) for i, frame in enumerate(timed(talking))]
    assert outline(cut(tracker, damaged)) == [
        (0, 40, None),
        (40, 1, "the picture is damaged"),
        (41, 19, "shorter than 1.04 s: 0.76 s until the end"),
    ]


def test_a_still_picture_ends_a_piece_but_a_doubled_frame_does_not(tracker, shots):
    doubled = [replace(frame, source=frame.source // 2 * 2) for frame in timed(shots[0][:40])]
    assert outline(cut(tracker, doubled)) == [(0, 40, None)]
    pictures = timed([*shots[0][:30], *[shots[0][29]] * 20])
    still = [replace(frame, source=min(i, 29)) for i, frame in enumerate(pictures)]
    # shown for 0.3 s (7 repeats) it may be a slow camera; from then on it is told
    assert outline(cut(tracker, still)) == [(0, 37, None), (37, 13, "the picture stands still")]


def test_faces_that_are_small_or_turned_are_told(tracker, shots):
    small = [cv2.copyMakeBorder(cv2.resize(p, (40, 40)), 30, 30, 30, 30, cv2.BORDER_REPLICATE) for p in shots[0][:8]]
    assert outline(cut(tracker, timed(small))) == [(0, 8, "the face is smaller than 32 px")]
    clip = AvatarClip(3, 3, duration=1.5)
    turned = [draw_frame(clip.identity, replace(clip.pose(i), yaw=0.5), SIDE, SIDE) for i in range(30)]  # 22 degrees
    assert outline(cut(tracker, timed(turned), max_yaw=30)) == [(0, 30, None)]
    told = (0, 30, "the face is turned by more than 15 degrees")
    assert outline(cut(tracker, timed(turned), max_yaw=15)) == [told]


def test_a_covered_mouth_is_told(tracker, shots):
    covered = [picture.copy() for picture in shots[0][:50]]
    centre = tracker(covered[0]).landmarks[13].astype(int)  # the upper lip
    for picture in covered[25:]:  # a bar lies over the mouth in half of the piece
        picture[centre[1] - 6 : centre[1] + 22, centre[0] - 40 : centre[0] + 40] = (20, 160, 40)
    parts = cut(tracker, timed(covered))
    reasons = [reason for _, _, reason in outline(parts) if reason]
    assert any("over the mouth" in reason or "not sure" in reason or "no face" in reason for reason in reasons), parts
    assert sum(len(part) for part in parts if isinstance(part, Piece)) <= 30


def test_faces_are_placed_as_the_product_places_them(tracker):
    """The smoothing looks both ways; it is done a second behind, and gives what it gives over the whole stretch."""
    clip = AvatarClip(4, 4, duration=3.0)
    frames = [clip.frame(i, SIDE, SIDE + 40) for i in range(clip.num_frames)]
    found, face = [], None
    for frame in frames:
        face = tracker(frame, face)
        found.append(face.points.astype(np.float64))
    smoothed = smooth_points(np.stack(found), np.arange(len(found)) / 25)
    aligner, expected = Aligner(FACE, "none"), []
    for frame, points in zip(frames, smoothed, strict=True):
        expected.append(warp_faces([frame], aligner(points)[None], FACE)[0])
    ahead, faces = LookaheadAligner(FACE), []
    for number, (frame, points) in enumerate(zip(frames, found, strict=True), 1):
        ahead.add(frame, points)
        if number % 30 == 0:
            faces += ahead.take()
            assert len(faces) == number - AHEAD
    faces += ahead.take(is_end=True)
    assert len(faces) == len(frames)
    difference = np.abs(np.stack([face for face, _ in faces]).astype(int) - np.stack(expected))
    print(f"largest difference {difference.max()} grey levels, mean {difference.mean():.2e}")
    assert difference.mean() < 0.02  # the head's speed is measured in face widths, of all of the stretch or of a part
    assert difference.max() <= 6
    assert list(chain(ahead.take(), ahead.take(is_end=True))) == []


def test_a_face_at_the_border_is_filled_with_grey(tracker, shots):
    picture = np.ascontiguousarray(shots[0][0][:, 30:])
    points = tracker(picture).points
    ahead = LookaheadAligner(FACE)
    ahead.add(picture, points)
    [(face, scale)] = ahead.take(is_end=True)
    expected = warp_faces([picture], Aligner(FACE, "none")(points)[None], FACE)[0]
    np.testing.assert_array_equal(face, expected)
    assert 0.5 < scale < 3
