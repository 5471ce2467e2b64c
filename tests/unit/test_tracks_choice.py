"""Choosing among the faces of a clip."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from latentsync.errors import OptionError
from latentsync.faces.choice import choice_notice, choose, described, parse_choice
from latentsync.faces.finder import FaceTracker
from latentsync.faces.people import ClipFaces
from latentsync.run.stages import prepare_faces
from latentsync.synthetic.clips import AvatarClip
from latentsync.synthetic.scenes import scene_of_two
from tests.unit.test_tracks import scan_scene
from tests.unit.test_tracks_placement import path_of

WIDE, HIGH = 600, 200


def face_at(x, y, side, rows, look=0.0):
    box = np.tile(np.float32([x - side / 2, y - side / 2, x + side / 2, y + side / 2]), (len(rows), 1))
    side = np.full(len(rows), side, np.float32)
    return path_of(rows, side=side, box=box, look=np.full(4, look, np.float32))


@pytest.fixture
def clip():
    """0 in the middle, 1 at the right, 2 at the left, 3 further left but for a moment, and 1 leaves half way."""
    paths = (
        face_at(280, 100, 120, range(100)),
        face_at(500, 90, 100, range(50)),
        face_at(120, 110, 80, range(100)),
        face_at(30, 100, 60, range(60, 70)),
    )
    return ClipFaces(np.arange(100) / 25, np.zeros(100, int), (HIGH, WIDE), paths)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("largest", [0]),
        ("left", [2]),
        ("right", [1]),
        ("centre", [0]),
        ("CENTER", [0]),
        ("all", [0, 1, 2, 3]),
        ("0", [0]),
        (" 2 ", [2]),
        ("500,90", [1]),
        ("490, 60", [1]),
        ("0.2,0.5", [2]),
        ("30,100", [3]),
        ("1.0,0.5", None),
        ("1,0", None),
    ],
)
def test_choices(clip, text, expected):
    if expected is None:
        with pytest.raises(OptionError, match=r"no face comes to the point (600|1),.*4 faces"):
            choose(clip, text)
    else:
        assert choose(clip, text) == expected


def test_of_two_at_a_point_the_first_is_meant():
    paths = (face_at(100, 100, 80, range(50, 100)), face_at(110, 100, 60, range(10)))
    clip = ClipFaces(np.arange(100) / 25, np.zeros(100, int), (HIGH, WIDE), paths)
    assert choose(clip, "100,100") == [1]


def test_a_number_without_a_face_says_which_there_are(clip):
    with pytest.raises(OptionError, match=r"no face 4; the clip has 4 faces, largest first: 0 at 280,100 \(120 px"):
        choose(clip, "4")
    assert "2.0 s from 0.0 s" in described(clip)
    assert "3 at 30,100 (60 px, seen for 0.4 s from 2.4 s)" in described(clip)


@pytest.mark.parametrize("text", ["", "top", "1,2,3", "-1", "face.txt", "0.5"])
def test_other_texts_are_refused(text):
    with pytest.raises(OptionError, match="expected largest, left"):
        parse_choice(text)


def test_a_missing_picture_is_refused(tmp_path):
    with pytest.raises(OptionError, match="no picture of the person at"):
        parse_choice(str(tmp_path / "who.png"))


def test_no_faces_no_choice():
    empty = ClipFaces(np.zeros(3), np.zeros(3, int), (HIGH, WIDE), ())
    assert choose(empty, "largest") == choose(empty, "all") == choose(empty, "3") == []
    assert described(empty) == "no face"


def test_a_picture_chooses_who_looks_like_it(tmp_path):
    """Pictures of the two at another time, size and place than in the clip, and of a third person."""
    clip, finder = scan_scene(scene_of_two(duration=0.6)), FaceTracker()
    sides = [path.centres[0, 0] > 256 for path in clip.paths]
    for person, is_right in ((3, False), (4, True)):
        picture = tmp_path / f"{person}.png"
        Image.fromarray(AvatarClip(person, 99, duration=2.0).frame(40, 300, 400)).save(picture)
        assert choose(clip, str(picture), finder) == [sides.index(is_right)]
    with pytest.raises(OptionError, match="needs a detector"):
        choose(clip, str(picture))
    Image.fromarray(np.full((90, 90, 3), 128, np.uint8)).save(tmp_path / "grey.png")
    with pytest.raises(OptionError, match="no face seen from the front"):
        choose(clip, str(tmp_path / "grey.png"), finder)
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(OptionError, match="cannot be read as a picture"):
        choose(clip, str(tmp_path / "text.png"), finder)


def moving(path, sway):
    """The same path with a head that sways by that share of its side."""
    offset = np.sin(np.arange(len(path)) / 4).astype(np.float32) * path.side * sway / 2
    return replace(path, points=path.points + offset[:, None, None], opening=path.opening * 0)


def clip_of(*paths, frames=100):
    return ClipFaces(np.arange(frames) / 25, np.zeros(frames, int), (HIGH, WIDE), paths)


def test_the_largest_is_passed_over_where_it_never_moves_and_another_does():
    portrait = moving(face_at(120, 100, 120, range(100)), 0.001)
    person = moving(face_at(420, 100, 90, range(30, 100)), 0.05)
    assert choose(clip_of(portrait, person), "largest") == [1]
    assert choose(clip_of(portrait, person), "0") == [0]
    assert choose(clip_of(portrait, person), "left") == [0]
    poster = moving(face_at(420, 100, 90, range(100)), 0.0)
    assert choose(clip_of(portrait, poster), "largest") == [0]  # nobody moves: as it was
    assert choose(clip_of(portrait), "largest") == [0]
    assert choose(clip_of(moving(portrait, 0.05), person), "largest") == [0]
    speaks = replace(portrait, opening=np.linspace(0, 0.2, 100).astype(np.float32))  # with a still head
    assert choose(clip_of(speaks, person), "largest") == [0]
    briefly = moving(face_at(420, 100, 90, range(30, 45)), 0.05)  # too short to be anybody
    assert choose(clip_of(portrait, briefly), "largest") == [0]


def test_where_the_choice_was_left_open_one_line_tells_who_speaks_and_how_to_choose():
    portrait = moving(face_at(120, 100, 120, range(100)), 0.001)
    person, other = moving(face_at(420, 100, 90, range(100)), 0.05), moving(face_at(520, 50, 60, range(100)), 0.05)
    told = choice_notice(clip_of(portrait, person), "largest", 1)
    assert told.startswith("2 faces are in the clip; face 1 at 420,100 speaks, the largest one that moves")
    assert "face 0 at 120,100 never moves, like a picture" in told
    assert "--face" in told
    told = choice_notice(clip_of(person, other), "largest", 0)
    assert "2 faces are in the clip; face 0 at 420,100 speaks, the largest one, and not 1 at 520,50." in told
    assert choice_notice(clip_of(person, other), "left", 0) is None
    assert choice_notice(clip_of(person), "largest", 0) is None
    for passing in (face_at(520, 50, 60, range(15)), face_at(520, 50, 20, range(100))):  # for a moment; far away
        assert choice_notice(clip_of(person, passing), "largest", 0) is None


def test_a_person_goes_before_a_larger_picture_on_the_wall():
    large, small = AvatarClip(11, 11, 1.2), AvatarClip(12, 12, 1.2)
    wall = np.full((240, 420, 3), 120, np.uint8)
    wall[10:230, 10:230] = large.frame(0, 220, 220)
    frames = [wall.copy() for _ in range(26)]
    for index, frame in enumerate(frames):
        frame[60:210, 250:400] = small.frame(index, 150, 150)
        frame += np.random.default_rng(index).integers(0, 5, frame.shape, np.uint8)  # a camera's noise
    track = prepare_faces(frames, 64, finder=FaceTracker())
    assert (track.contours[:, :, 0].mean() > 240, len(track.notices)) == (True, 1)
    assert "never moves" in track.notices[0]
    chosen = prepare_faces(frames, 64, finder=FaceTracker(), face="0")
    assert (chosen.contours[:, :, 0].mean() < 240, chosen.notices) == (True, ())
