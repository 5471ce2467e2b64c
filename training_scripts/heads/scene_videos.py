"""Whole videos with the truth about them: several people of whom one speaks or nobody does, things before a mouth."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from latentsync.contact_sheet import evenly_spaced
from latentsync.media.video_writer import AudioSource, VideoWriter, write_wav

from ..clip_store import FPS, folder_written_whole
from .cameras import Shot
from .drawing import Studio
from .people import Person
from .recording import Recording
from .scenes import Scene, film_scene
from .speech import Speech, speech
from .things import Thing
from .voices import SAMPLE_RATE, Voice

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
