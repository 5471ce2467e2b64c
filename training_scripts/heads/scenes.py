"""Several people in one picture, of whom one speaks or nobody does; whole videos of them with the truth about them."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np

from latentsync.contact_sheet import evenly_spaced
from latentsync.errors import OptionError
from latentsync.media.video_writer import AudioSource, VideoWriter, write_wav

from ..clip_store import FPS, folder_written_whole
from .cameras import Shot, background_picture
from .developing import Camera, Developer, Recording
from .drawing import Studio
from .people import HELD_OUT, Person
from .speech import Speech, speech
from .things import Thing
from .transforms import shift
from .voices import SAMPLE_RATE, Voice

BUST = 0.60  # m that the picture of one person shows: to the shoulders
LOW = -0.085  # m: how far a face lies below the middle of such a picture


@dataclass(frozen=True)
class Scene:
    """Two to four people beside each other, further and nearer.

    size     (height, width) px
    people   the persons, from left to right
    shots    how each is filmed; light, colour and background are the same for all
    sides    px: side of the square picture of each person
    middles  px: where the middle of each such picture lies, from the frame's left; they stand on its lower edge
    speaker  number of who speaks; None where the voice is nobody's
    """

    size: tuple[int, int]
    people: tuple[Person, ...]
    shots: tuple[Shot, ...]
    sides: tuple[int, ...]
    middles: tuple[int, ...]
    speaker: int | None

    @classmethod
    def from_seed(cls, seed: int, num_frames: int, size: tuple[int, int] = (360, 640)) -> "Scene":
        """The scene of a seed; from 9,000,000 on of held-out people in held-out light."""
        random = np.random.default_rng([seed, 31])
        height, width = size
        count = int(random.choice((2, 3, 4), p=(0.5, 0.3, 0.2)))
        identities = HELD_OUT if seed >= HELD_OUT.start else range(100_000)
        chosen = random.choice(len(identities), count, replace=False)
        people = [Person.from_seed(identities[number]) for number in chosen.tolist()]
        light = Shot.from_seed(seed, num_frames)
        own = [Shot.from_seed(int(random.integers(0, 2**31)), num_frames) for _ in range(count)]
        shots = tuple(_in_one_light(shot, light) for shot in own)
        slot = width / count
        sides = np.clip(slot * random.uniform(1.25, 1.7, count), height * 0.65, height * 1.1).astype(int).tolist()
        middles = tuple(int(slot * (number + 0.5) + random.normal(0, 0.05) * slot) for number in range(count))
        speaker = None if random.random() < 0.15 else int(random.integers(count))
        return cls(size, tuple(people), shots, tuple(sides), middles, speaker)


def _in_one_light(shot: Shot, light: Shot) -> Shot:
    """A shot with its own movement, in the light and the colours of another."""
    return replace(
        shot,
        seed=light.seed,
        distance=max(shot.distance, 1.0),
        height=BUST,
        offset=np.array((0, LOW), np.float32),
        light_direction=light.light_direction,
        light_colour=light.light_colour,
        sky=light.sky,
        ground=light.ground,
        sky_direction=light.sky_direction,
        shadow_blur=light.shadow_blur,
        exposure=light.exposure,
        white_balance=light.white_balance,
        contrast=light.contrast,
        saturation=light.saturation,
        background=light.background,
        shutter=light.shutter,
        defocus=light.defocus,
        sway=light.sway,
    )


def listening(seed: int, num_frames: int, fps: float = 25.0) -> dict[str, np.ndarray]:
    """Expressions {name: (F,) float32} of somebody who does not speak: still, smiling, or chewing."""
    random = np.random.default_rng([seed, 32])
    times = np.arange(num_frames) / fps
    smile = random.uniform(0, 0.6) * (random.random() < 0.5) * (0.6 + 0.4 * np.sin(times * random.uniform(0.3, 1.2)))
    moves = {"mouthSmileLeft": smile, "mouthSmileRight": smile * random.uniform(0.8, 1)}
    if random.random() < 0.35:  # lips stay shut over a jaw that goes round
        chew = random.uniform(0.06, 0.16) * (0.5 + 0.5 * np.sin(2 * np.pi * times * random.uniform(1.0, 1.7)))
        moves |= {"jawOpen": chew, "mouthClose": chew, "jawLeft": chew * random.uniform(-1, 1)}
    return {name: np.clip(values + np.zeros(num_frames), -1, 1).astype(np.float32) for name, values in moves.items()}


@dataclass(frozen=True)
class SceneFilm:
    """What a scene shows.

    lips   (P, F, 3) float32 of each person, see developing.Film
    boxes  (P, F, 4) float32 px: x0 y0 x1 y1 about each face, by where the head is
    """

    lips: np.ndarray
    boxes: np.ndarray
    _draw: Callable[[], Iterator[np.ndarray]]

    @property
    def frames(self) -> Iterator[np.ndarray]:
        """(H, W, 3) uint8 RGB; everybody is drawn before the first is there."""
        return self._draw()


def film_scene(
    studio: Studio, scene: Scene, expressions: Mapping[int, Mapping[str, np.ndarray]], num_frames: int
) -> SceneFilm:
    """Film a scene.

    expressions  {number of a person: what moves the face}; whoever is missing listens. Raises OptionError for a
                 number that nobody has.
    """
    unknown = set(expressions) - set(range(len(scene.people)))
    if unknown:
        raise OptionError(f"The scene has {len(scene.people)} people, from 0 on; there are expressions for {unknown}.")
    moves = [
        expressions.get(number) or listening(person.identity, num_frames) for number, person in enumerate(scene.people)
    ]
    films = [
        studio.film(person, shot, move, num_frames)
        for person, shot, move in zip(scene.people, scene.shots, moves, strict=True)
    ]
    boxes = np.stack([_boxes(scene, number, num_frames) for number in range(len(scene.people))])
    return SceneFilm(np.stack([film.lips for film in films]), boxes, lambda: _frames(studio, scene, moves, num_frames))


def _place(scene: Scene, number: int, size: int) -> np.ndarray:
    """(2, 3) from the pixels of a person's own picture to those of the frame."""
    side = scene.sides[number]
    scale = side / size
    return np.array(((scale, 0, scene.middles[number] - side / 2), (0, scale, scene.size[0] - side * 0.93)), np.float32)


def _boxes(scene: Scene, number: int, num_frames: int) -> np.ndarray:
    """(F, 4) float32 px about the face of one person."""
    camera = Camera(scene.shots[number], num_frames)
    boxes = []
    for index in range(num_frames):
        corners = [camera.project((camera.model(index) @ shift(place))[:3, 3]) for place in _FACE]
        boxes.append(np.concatenate([np.min(corners, 0), np.max(corners, 0)]))
    way = _place(scene, number, 1)
    boxes = np.array(boxes).reshape(-1, 2, 2) * way[[0, 1], [0, 1]] + way[:, 2]
    return boxes.reshape(-1, 4).astype(np.float32)


_FACE = np.array([(x, y, 0.0) for x in (-0.065, 0.065) for y in (0.045, -0.122)])  # m from the eyes' middle


def _frames(studio: Studio, scene: Scene, moves: list, num_frames: int) -> Iterator[np.ndarray]:
    """Draw everybody, then lay the pictures over each other, the smallest first."""
    height, width = scene.size
    light = np.zeros((num_frames, height, width, 4), np.float16)
    for number in np.argsort(scene.sides):
        film = studio.film(scene.people[number], scene.shots[number], moves[number], num_frames)
        way = _place(scene, number, studio.size)
        for index, (layer, _) in enumerate(film.layers):
            smaller = cv2.INTER_AREA if way[0, 0] < 0.7 else cv2.INTER_LINEAR
            over = cv2.warpAffine(layer, way, (width, height), flags=smaller)
            light[index] = over + light[index] * (1 - over[..., 3:])
    side = max(height, width)
    developer = Developer(scene.shots[0], background_picture(scene.shots[0], side), side)
    for index in range(num_frames):
        square = np.zeros((side, side, 4), np.float32)
        square[:height, :width] = light[index]
        yield developer.picture(square, index)[:height, :width]


# Whole videos


PAUSE = 0.2  # s: a longer one ends a turn of speaking
COLUMNS = 6  # frames kept for the contact sheet
SIDE = 96  # px there


def write_scene_video(folder: Path, seed: int, studio: Studio, voices: Sequence[Voice], *, duration: float) -> dict:
    """Make `folder` with video.mp4, sound.wav, truth.json, strip.npy for the sheet and, with a thing, outlines.npz.

    Even seeds are scenes of two to four people, odd ones one person with a thing. truth.json: size (height, width),
    fps, voice, phones (start, end, viseme, name), turns [start, end] s of speech, speaker (number of a person, or null:
    the voice is nobody's), people [{box (F, 4) px, lips (F, 3), description}] from left to right, thing (its kind, or
    null). outlines.npz: outlines (F, H, W) uint8, 255 where the thing covers. Returns the truth.
    Raises LatentSyncError, OSError.
    """
    num_frames = round(duration * FPS)
    said = speech(seed, voices, duration=duration, num_voices=1)
    random = np.random.default_rng([seed, 33])
    recording = replace(Recording.draw(random, held_out=False), scale=1.0)  # places are those of the drawing
    film = _people if seed % 2 == 0 else _thing
    truth, pictures = film(seed, studio, said, num_frames)
    truth |= {
        "seed": seed,
        "fps": FPS,
        "voice": said.voice,
        "phones": [(round(p.start, 4), round(p.end, 4), p.viseme, p.name) for p in said.phones],
        "turns": turns(said),
    }
    outlines, shown = [], []
    chosen = evenly_spaced(num_frames, COLUMNS)
    with folder_written_whole(folder) as part:
        write_wav(part / "sound.wav", said.waveforms[0], SAMPLE_RATE)
        sound = AudioSource(part / "sound.wav")
        height, width = truth["size"]
        with VideoWriter(part / "video.mp4", width, height, rate=FPS, audio=sound, crf=recording.quality) as writer:
            for index, (picture, outline) in enumerate(pictures):
                frame = recording.sensed(picture, random)
                writer.write(frame)
                if outline is not None:
                    outlines.append((np.clip(outline, 0, 1) * 255 + 0.5).astype(np.uint8))
                if index in chosen:
                    scale = SIDE / height
                    shown.append(cv2.resize(frame, (round(width * scale), SIDE), interpolation=cv2.INTER_AREA))
        if outlines:
            np.savez_compressed(part / "outlines.npz", outlines=np.stack(outlines))
        np.save(part / "strip.npy", np.stack(shown))
        (part / "truth.json").write_text(json.dumps(truth, ensure_ascii=False), encoding="utf-8")
    return truth


def turns(said: Speech) -> list[tuple[float, float]]:
    """[(start, end)] s of speech, shorter pauses than PAUSE included."""
    found: list[tuple[float, float]] = []
    for phone in said.phones:
        if phone.viseme in ("rest", "breath"):
            continue
        start, end = round(phone.start, 4), round(phone.end, 4)
        if found and start - found[-1][1] < PAUSE:
            found[-1] = (found[-1][0], end)
        else:
            found.append((start, end))
    return found


Pictures = Iterator[tuple[np.ndarray, np.ndarray | None]]


def _people(seed: int, studio: Studio, said: Speech, num_frames: int) -> tuple[dict, Pictures]:
    scene = Scene.from_seed(seed, num_frames)
    speaks = scene.speaker is not None and bool(turns(said))
    moves = {scene.speaker: over(said.moves, scene.shots[scene.speaker].expressions)} if speaks else {}
    film = film_scene(studio, scene, moves, num_frames)
    people = [
        {"box": np.round(box, 1).tolist(), "lips": np.round(lips, 4).tolist(), "description": person.description}
        for box, lips, person in zip(film.boxes, film.lips, scene.people, strict=True)
    ]
    truth = {"size": scene.size, "people": people, "speaker": scene.speaker if speaks else None, "thing": None}
    return truth, ((frame, None) for frame in film.frames)


def _thing(seed: int, studio: Studio, said: Speech, num_frames: int) -> tuple[dict, Pictures]:
    person, shot = Person.from_seed(seed), Shot.from_seed(seed, num_frames)
    thing = Thing.from_seed(seed, num_frames)
    film = studio.film(person, shot, over(said.moves, shot.expressions), num_frames, thing)
    people = [{"box": None, "lips": np.round(film.lips, 4).tolist(), "description": person.description}]
    speaker = 0 if turns(said) else None
    return {"size": (studio.size,) * 2, "people": people, "speaker": speaker, "thing": thing.kind}, film.outlined


def over(moves: dict[str, np.ndarray], others: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Expressions of speech and mood on top of those that a shot has."""
    return {name: np.clip(values + others.get(name, 0), 0, 1) for name, values in moves.items()}
