"""Scenes of several avatars: their truth is the truth."""

from dataclasses import replace

import cv2
import numpy as np
import pytest

from latentsync.faces.detect import mouth_opening
from latentsync.faces.finder import FaceTracker
from latentsync.media.video_reader import probe_video, read_frames
from latentsync.metrics.faces import correlation
from latentsync.synthetic.clips import AvatarClip
from latentsync.synthetic.scenes import (
    Actor,
    Scene,
    Shot,
    scene_of_everything,
    scene_of_two,
    turned,
    write_scene,
)


@pytest.fixture(scope="module")
def tracker():
    return FaceTracker()


def test_every_face_is_where_the_truth_says(tracker):
    scene = scene_of_two()
    for index in (0, 30, 60):
        faces = sorted(tracker.detect(scene.frame(index)), key=lambda face: face.box[0])
        assert [face.person for face in scene.faces(index)] == [3, 4]
        for found, truth in zip(faces, scene.faces(index), strict=True):
            assert np.hypot(*(found.points.mean(0) - truth.centre)) < 0.12 * truth.unit


def test_lips_are_each_persons_own(tracker):
    """The left one's measured mouth follows the left one's truth, not the right one's."""
    scene = scene_of_two(duration=2.0)
    measured, left, right = [], [], []
    for index in range(scene.num_frames):
        face = min(tracker.detect(scene.frame(index)), key=lambda face: face.box[0])
        measured.append(mouth_opening(face.landmarks))
        left.append(scene.faces(index)[0].opening)
        right.append(scene.faces(index)[1].opening)
    assert correlation(np.array(measured), np.array(left)) > 0.8
    assert correlation(np.array(measured), np.array(right)) < 0.6


def test_shots_leaving_turning_and_covering_are_told():
    scene = scene_of_everything()
    assert scene.cuts == [90, 165, 240]
    assert scene.num_frames == 300
    people = [[face.person for face in scene.faces(row)] for row in (0, 89, 90, 165, 240, 299)]
    assert people == [[3, 4], [3, 4], [3], [7], [4, 3], [4, 3]]
    present = [scene.faces(row)[1].present for row in range(90)]
    assert present[0]
    assert present[-1]
    assert 20 < present.count(False) < 45
    assert max(abs(scene.faces(row)[0].yaw) for row in range(90, 165)) > 75
    assert [row for row in range(300) if any(face.covered for face in scene.faces(row))] == list(range(190, 210))


def test_cover_changes_the_mouth_alone():
    clip = AvatarClip(7, 7, duration=1.0)
    bare, covered = (
        Scene((Shot(1.0, (Actor(clip, covered=lambda time, covered=covered: covered),)),), 256, 256)
        for covered in (False, True)
    )
    truth = bare.faces(5)[0]
    rows = np.flatnonzero((bare.frame(5) != covered.frame(5)).any(2).any(1))
    height = (rows + 0.5 - truth.centre[1]) / truth.unit
    assert 0.1 < height.min() < 0.2 < height.max() < 0.4


def test_a_turn_moves_the_face_aside_and_leaves_the_rest():
    clip = AvatarClip(4, 4, duration=1.0)
    pose = replace(clip.motion.base, yaw=0.0)
    picture = clip.frame(0, 200, 200)
    assert turned(picture, pose, 0.0, clip.identity) is picture
    right, left = (turned(picture, pose, degrees, clip.identity) for degrees in (40.0, -40.0))
    changed = (right != picture).any(2)
    assert 0.05 < changed.mean() < 0.5
    assert not changed[-20:].any()
    assert np.abs(right.astype(int) - left).mean() > 1


def test_a_scene_becomes_a_file(tmp_path):
    scene = scene_of_two(duration=0.4)
    write_scene(scene, tmp_path / "two.mp4")
    facts = probe_video(tmp_path / "two.mp4")
    assert (facts.width, facts.height, facts.fps) == (512, 288, 25)
    frames = [frame.pixels for frame in read_frames(tmp_path / "two.mp4")]
    assert len(frames) == 10
    assert cv2.absdiff(frames[3], scene.frame(3)).mean() < 4
