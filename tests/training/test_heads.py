"""People in three dimensions: they differ, they repeat, and what is said of their lips is what is seen."""

import numpy as np
import pytest

from latentsync.errors import OptionError
from latentsync.faces.finder import FaceTracker
from training_scripts.heads.cameras import MAX_YAW, Shot
from training_scripts.heads.drawing import Studio
from training_scripts.heads.head_mesh import HeadsUnavailableError
from training_scripts.heads.people import HELD_OUT, Person
from training_scripts.heads.scenes import Scene, film_scene
from training_scripts.heads.things import KINDS, Thing

FRAMES = 12


@pytest.fixture(scope="module")
def studio(tmp_path_factory):
    try:
        return Studio(size=192, cache=tmp_path_factory.mktemp("heads"))
    except HeadsUnavailableError as error:
        pytest.skip(str(error))


def speech(num_frames=FRAMES):
    """Expressions of a jaw that opens and closes twice."""
    return {"jawOpen": np.clip(0.35 * np.sin(np.linspace(0, 4 * np.pi, num_frames)), 0, 1).astype(np.float32)}


def frontal(seed=3, num_frames=FRAMES):
    """A shot of a still head, seen from the front."""
    shot = Shot.from_seed(seed, num_frames)
    shot.turn[:] = 0
    shot.move[:] = 0
    return shot


def test_people_differ_and_repeat_by_seed():
    one, again, other = Person.from_seed(7), Person.from_seed(7), Person.from_seed(8)
    assert one.description == again.description
    assert one.description != other.description
    names = ["nose-hump-incr", "nose-hump-decr", "chin-width-incr", "chin-width-decr", "asym-eye-1-l"]
    assert one.weights(names) == again.weights(names) != other.weights(names)
    assert len({str(Person.from_seed(seed).description) for seed in range(300)}) == 300
    assert {Person.from_seed(seed).description["cut"] for seed in range(300)} > {"bald", "long", "afro"}
    assert all(Person.from_seed(seed).held_out for seed in HELD_OUT)
    assert not one.held_out


def test_shots_repeat_and_stay_within_their_limits():
    shots = [Shot.from_seed(seed, 40) for seed in range(60)]
    assert np.array_equal(shots[5].turn, Shot.from_seed(5, 40).turn)
    yaws = np.stack([shot.turn[:, 0] for shot in shots])
    assert np.abs(yaws).max() <= MAX_YAW + 1e-6
    assert np.abs(yaws).max() > np.radians(35)
    assert len({shot.background for shot in shots}) > 4
    things = [Thing.from_seed(seed, 40) for seed in range(40)]
    assert {thing.kind for thing in things} == set(KINDS)
    assert np.array_equal(things[5].path, Thing.from_seed(5, 40).path)


def test_the_same_film_is_the_same_to_the_bit(studio):
    person, shot = Person.from_seed(11), Shot.from_seed(12, 3)
    first, second = (list(studio.film(person, shot, speech(3), 3).frames) for _ in range(2))
    assert first[0].shape == (192, 192, 3)
    assert first[0].dtype == np.uint8
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
    other = next(studio.film(Person.from_seed(13), shot, speech(3), 3).frames)
    assert np.abs(other.astype(int) - first[0]).mean() > 5


def test_lips_are_measured_on_the_mesh(studio):
    person, shot = Person.from_seed(20), Shot.from_seed(21, 5)
    values = np.array((0, 0.2, 0.4, 0.6, 0.8), np.float32)

    def lips(**expressions):
        return studio.film(person, shot, expressions, 5).lips

    opening, _spread, _rounding = lips(jawOpen=values).T
    assert opening[0] == 0  # closed
    assert np.all(np.diff(opening) > 0.05)
    closed = lips(jawOpen=0 * values, mouthPressLeft=values, mouthPressRight=values)
    assert closed[:, 0].max() < 0.01
    wide = lips(mouthStretchLeft=values, mouthStretchRight=values)
    assert wide[0, 1] == 1
    assert np.all(np.diff(wide[:, 1]) > 0)
    round_ = lips(mouthPucker=values)
    assert round_[0, 2] == 0
    assert np.all(np.diff(round_[:, 2]) > 0)
    # The camera changes nothing.
    turned = Shot.from_seed(21, 5)
    turned.turn[:, 0] = 0.7
    assert np.array_equal(studio.film(person, turned, {"jawOpen": values}, 5).lips[:, 0], opening)


def test_face_mesh_finds_them_and_sees_the_opening(studio):
    tracker, known, seen, found = FaceTracker(), [], [], 0
    for seed in (30, 31):
        film = studio.film(Person.from_seed(seed), frontal(seed), speech(), FRAMES)
        observation = None
        for frame, lips in zip(film.frames, film.lips, strict=True):
            observation = tracker(frame, observation)
            if observation is None:
                continue
            found += 1
            marks = observation.landmarks
            eyes = np.linalg.norm(marks[33] - marks[263])
            seen.append(np.linalg.norm(marks[13] - marks[14]) / eyes)
            known.append(lips[0])
    assert found >= 0.97 * 2 * FRAMES
    assert np.corrcoef(seen, known)[0, 1] > 0.8


def test_unknown_expressions_are_named(studio):
    with pytest.raises(OptionError, match="jawWide"):
        studio.film(Person.from_seed(1), Shot.from_seed(1, 2), {"jawWide": np.zeros(2)}, 2)
    with pytest.raises(OptionError, match="1 frames"):
        studio.film(Person.from_seed(1), Shot.from_seed(1, 2), {"jawOpen": np.zeros(1)}, 2)


@pytest.mark.parametrize("kind", KINDS)
def test_the_outline_of_a_thing_is_where_it_covers_the_person(studio, kind):
    person, shot = Person.from_seed(41), frontal(41, 1)
    before_the_lips = np.eye(4)
    before_the_lips[2, 3] = 0.02
    near = Thing(kind, 41, before_the_lips[None])
    still = {"jawOpen": np.zeros(1, np.float32)}
    bare, outline = next(studio.film(person, shot, still, 1).outlined)
    assert outline is None
    frame, outline = next(studio.film(person, shot, still, 1, near).outlined)
    assert outline.shape == frame.shape[:2]
    assert outline.min() >= 0
    assert outline.max() <= 1.001
    assert 0.01 < (outline > 0.5).mean() < 0.6
    change = np.abs(frame.astype(int) - bare).mean(2)
    assert change[outline > 0.99].mean() > 12
    # Beyond it there are only its shadow and, at its edge, a share of it.
    assert np.median(change[outline == 0]) == 0


def test_a_scene_has_everybody_where_it_says(studio):
    scene = Scene.from_seed(73, 2, size=(180, 320))
    speaking = {scene.speaker: {"jawOpen": np.array((0, 0.5), np.float32)}}
    film = film_scene(studio, scene, speaking, 2)
    frames = list(film.frames)
    assert frames[0].shape == (180, 320, 3)
    assert film.lips.shape == (len(scene.people), 2, 3)
    openings = film.lips[:, 1, 0]
    assert openings.argmax() == scene.speaker
    assert openings.max() > 0.15
    found = FaceTracker().detect(frames[0])
    middles = sorted((face.box[0] + face.box[2]) / 2 for face in found)
    assert np.allclose(middles, (film.boxes[:, 0, 0] + film.boxes[:, 0, 2]) / 2, atol=12)
    with pytest.raises(OptionError, match="people"):
        film_scene(studio, scene, {9: {}}, 2)
