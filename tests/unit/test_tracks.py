"""Scanning clips of several avatars: who is followed, who is who, where the shots are. The truth is the scenes' own."""

from dataclasses import replace
from itertools import islice

import cv2
import numpy as np
import pytest
import torch

from latentsync.errors import MediaError
from latentsync.faces.finder import FaceTracker
from latentsync.faces.people import Piece, link
from latentsync.faces.scan import ShotDetector, scan_faces
from latentsync.media.video_reader import VideoFrame, read_frames
from latentsync.synthetic.avatar import draw_frame
from latentsync.synthetic.clips import AvatarClip
from latentsync.synthetic.scenes import Actor, Scene, Shot, scene_of_everything
from tests.unit.media_clips import demo_video


class CountingFinder:
    """A FaceTracker that counts how often faces are looked for."""

    def __init__(self):
        self.tracker, self.detections, self.follows = FaceTracker(), 0, 0

    def detect(self, frame, known=()):
        self.detections += 1
        return self.tracker.detect(frame, known)

    def follow(self, frame, previous):
        self.follows += 1
        return self.tracker.follow(frame, previous)


def video_frames(pictures, fps=25.0):
    return [VideoFrame(pixels, index / fps, index, index, index) for index, pixels in enumerate(pictures)]


def scan_scene(scene, finder=None):
    frames = (VideoFrame(scene.frame(i), i / scene.fps, i, i, i) for i in range(scene.num_frames))
    return scan_faces(frames, finder or FaceTracker())


@pytest.fixture(scope="module")
def everything():
    torch.set_num_threads(1)
    scene = scene_of_everything()
    return scene, scan_scene(scene)


def person_at(scene, row, centre):
    return min(scene.faces(int(row)), key=lambda face: np.hypot(*(np.array(face.centre) - centre))).person


def test_cuts_are_found_where_they_are(everything):
    scene, clip = everything
    assert (np.flatnonzero(np.diff(clip.shots)) + 1).tolist() == scene.cuts


def test_each_person_is_one_path_over_losses_and_cuts(everything):
    """Person 3 is in three shots and turns to profile, 4 leaves and comes back, 7 follows 3 after a cut."""
    scene, clip = everything
    owners = [{person_at(scene, row, c) for row, c in zip(p.rows, p.centres, strict=True)} for p in clip.paths]
    assert sorted(owners, key=min) == [{3}, {4}, {7}]


def test_faces_are_followed_wherever_they_show(everything):
    scene, clip = everything
    seen = {(int(row), person_at(scene, row, c)) for p in clip.paths for row, c in zip(p.rows, p.centres, strict=True)}
    shown = {
        (row, face.person)
        for row in range(scene.num_frames)
        for face in scene.faces(row)
        if face.present and abs(face.yaw) < 45
    }
    assert len(shown - seen) <= 0.02 * len(shown)


def test_paths_are_ordered_by_what_they_fill_and_in_step(everything):
    _, clip = everything
    filled = [float((path.side.astype(float) ** 2).sum()) for path in clip.paths]
    assert filled == sorted(filled, reverse=True)
    for path in clip.paths:
        assert (np.diff(path.rows) > 0).all()
        columns = (path.points, path.confidence, path.opening, path.yaw, path.side, path.region, path.contour, path.box)
        assert {len(column) for column in columns} == {len(path)}
        assert path.points.shape[1:] == (3, 2)
        inside = (path.contour >= path.box[:, None, :2] - 0.01) & (path.contour <= path.box[:, None, 2:] + 0.01)
        assert inside.all()


def test_yaw_grows_with_the_turn(everything):
    scene, clip = everything
    path = clip.paths[[3 in {person_at(scene, p.rows[0], p.centres[0])} for p in clip.paths].index(True)]
    turning = [row for row in range(scene.cuts[0], scene.cuts[0] + 30) if row in path.rows]
    yaw = path.yaw[np.searchsorted(path.rows, turning)]
    truth = np.array([scene.faces(row)[0].yaw for row in turning])
    assert np.abs(yaw - truth).max() < 15
    assert yaw.max() > 35


def test_positions_are_those_of_the_truth():
    clip = AvatarClip(4, 4, duration=1.0)
    scene = Scene((Shot(1.0, (Actor(clip, shift=lambda time: (0.1 * time, 0.05 * time)),)),), 256, 256)
    path = scan_scene(scene).paths[0]
    truth = np.array([face.centre for row in path.rows for face in scene.faces(int(row))])
    offset = path.points.mean(1) - truth
    assert len(path) == scene.num_frames
    assert np.abs(offset - offset.mean(0)).max() < 3
    assert np.ptp(truth[:, 0]) > 20


def test_a_followed_face_is_seldom_detected():
    """One look for faces in half a second: the rest is following, once a frame."""
    clip = AvatarClip(3, 3, duration=2.0)
    finder = CountingFinder()
    found = scan_faces(video_frames(clip.frame(i, 192, 192) for i in range(50)), finder)
    assert len(found.paths) == 1
    assert finder.detections == 4
    assert finder.follows == 49


def test_an_empty_clip_is_searched_less_than_every_frame():
    finder = CountingFinder()
    found = scan_faces(video_frames([np.full((96, 96, 3), 90, np.uint8)] * 50), finder)
    assert found.paths == ()
    assert 10 <= finder.detections <= 20


def test_repeated_frames_are_not_read_again():
    clip, finder = AvatarClip(3, 3), CountingFinder()
    pictures = [clip.frame(i // 2, 192, 192) for i in range(8)]
    frames = [VideoFrame(pixels, i / 50, i, i, i // 2) for i, pixels in enumerate(pictures)]
    path = scan_faces(frames, finder).paths[0]
    assert finder.follows == 3
    assert path.rows.tolist() == list(range(8))
    assert all(np.array_equal(path.points[i], path.points[i + 1]) for i in (0, 2, 4, 6))


def test_a_face_that_comes_back_is_found_at_once_and_is_the_same():
    clip = AvatarClip(4, 4)
    pictures = [clip.frame(i, 192, 192) for i in range(30)]
    pictures[10:20] = [np.full((192, 192, 3), 128, np.uint8)] * 10
    found = scan_faces(video_frames(pictures), FaceTracker())
    assert len(found.paths) == 1
    assert found.paths[0].rows.tolist() == [*range(10), *range(20, 30)]


def test_another_person_in_the_same_place_is_another_path():
    first, second = AvatarClip(3, 3), AvatarClip(4, 4)
    pictures = [(first if i < 12 else second).frame(i, 192, 192) for i in range(24)]
    found = scan_faces(video_frames(pictures), FaceTracker())
    assert sorted(path.rows.tolist() for path in found.paths) == [list(range(12)), list(range(12, 24))]


def test_a_lone_speaker_in_every_shot_is_one_path():
    """Three sizes and places, before three backdrops and in three lights."""
    clip, pictures = AvatarClip(5, 5, duration=2.0), []
    for shot, (zoom, x, light) in enumerate(((0.8, -0.1, 1.0), (1.1, 0.0, 0.9), (0.7, 0.1, 1.1))):
        backdrop = AvatarClip(20 + shot, 0).identity
        identity = replace(clip.identity, backdrop=backdrop.backdrop, pattern=backdrop.pattern)
        actor = Actor(clip, zoom=zoom, shift=lambda time, x=x: (x, 0.0))
        poses = (actor.pose(shot * 12 + i, 0.0) for i in range(12))
        lit = (draw_frame(identity, pose, 240, 320).astype(np.float32) * light for pose in poses)
        pictures += [np.clip(picture, 0, 255).astype(np.uint8) for picture in lit]
    found = scan_faces(video_frames(pictures), FaceTracker())
    assert found.shots.max() == 2
    assert [len(path) for path in found.paths] == [36]


def test_noise_movement_and_light_are_no_cuts_but_cuts_are():
    clip = AvatarClip(3, 3)
    still = clip.frame(0, 180, 320)
    noise = np.random.default_rng(0)

    def cuts(pictures):
        detector = ShotDetector()
        return [index for index, picture in enumerate(pictures) if detector(picture)]

    noisy = [np.clip(still + noise.normal(0, 8, still.shape), 0, 255).astype(np.uint8) for _ in range(8)]
    panned = [np.roll(still, 12 * i, 1) for i in range(8)]
    darker = [(still * (1 - 0.03 * i)).astype(np.uint8) for i in range(8)]
    assert cuts(noisy) == cuts(panned) == cuts(darker) == []
    assert cuts([*noisy, *[AvatarClip(4, 4).frame(i, 180, 320) for i in range(4)]]) == [8]


def test_a_flash_is_no_shot_and_a_short_shot_is():
    clip = AvatarClip(3, 3)
    pictures = [clip.frame(i, 192, 192) for i in range(20)]
    flashed = [
        np.clip(p.astype(int) + 120, 0, 255).astype(np.uint8) if i in (8, 9) else p for i, p in enumerate(pictures)
    ]
    found = scan_faces(video_frames(flashed), FaceTracker())
    assert set(found.shots.tolist()) == {0}
    assert len(found.paths) == 1
    assert len(found.paths[0]) >= 18
    other = [AvatarClip(4, 4).frame(i, 192, 192) for i in range(12)]
    found = scan_faces(video_frames([*pictures[:8], *other[:2], *pictures[8:12]]), FaceTracker())
    assert set(found.shots.tolist()) == {0}  # two frames of something else
    found = scan_faces(video_frames([*pictures[:8], *other[:6], *pictures[8:12]]), FaceTracker())
    assert found.shots.tolist() == [0] * 8 + [1] * 6 + [2] * 4


def piece(rows, look, x=0.0, shot=0, **more):
    boxes = np.array([[x, 0, x + 100, 100]] * 2, np.float32)
    return Piece(shot, rows[0], rows[1], rows[0] / 25, rows[1] / 25, boxes, np.array(look, float), 10, **more)


def test_linking_joins_the_alike_and_never_the_simultaneous():
    alike = [piece((0, 9), [0, 0]), piece((0, 9), [0.05, 0], x=300), piece((20, 29), [0.04, 0], shot=1)]
    assert link(alike) == [[0], [1, 2]]  # the nearer in looks; 0 was seen together with 1
    assert link([]) == []
    assert link(alike[:1]) == [[0]]


def test_linking_lets_nearness_make_up_for_looks():
    before, after = piece((0, 9), [0, 0]), piece((12, 20), [0.35, 0])
    assert link([before, after]) == [[0, 1]]
    assert link([before, replace(after, boxes=after.boxes + 400)]) == [[0], [1]]  # elsewhere
    assert link([before, replace(after, shot=1)]) == [[0], [1]]  # after a cut
    assert link([before, replace(after, is_new=True)]) == [[0], [1]]  # it took another face's place
    unknown = replace(after, look=np.full(2, np.nan))
    assert link([before, unknown]) == [[0, 1]]
    assert link([before, replace(unknown, shot=1)]) == [[0], [1]]


def test_no_frames_are_refused():
    with pytest.raises(MediaError, match="expected at least one"):
        scan_faces([], FaceTracker())


def test_the_caller_may_stop_and_is_told_of_every_frame():
    told = []

    def stop(row):
        told.append(row)
        if row == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        scan_faces(video_frames([np.zeros((64, 64, 3), np.uint8)] * 9), FaceTracker(), on_frame=stop)
    assert told == [0, 1, 2]


def test_a_real_speaker_is_one_path_also_over_a_cut_to_a_close_up():
    pictures = [frame.pixels for frame in islice(read_frames(demo_video()), 24)]
    height, width = pictures[0].shape[:2]
    tracker = FaceTracker()
    x, y = tracker(pictures[12]).points.mean(0).astype(int)
    top, left = min(max(y - height // 4, 0), height // 2), min(max(x - width // 4, 0), width // 2)
    close = [p[top : top + height // 2, left : left + width // 2] for p in pictures[12:]]
    pictures[12:] = [cv2.resize(picture, (width, height)) for picture in close]
    found = scan_faces(video_frames(pictures), tracker)
    assert found.shots.tolist() == [0] * 12 + [1] * 12
    assert [path.rows.tolist() for path in found.paths] == [list(range(24))]
