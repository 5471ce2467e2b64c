"""Film people in three dimensions who speak, find and align their faces as the product does, store what training reads.

Makes a store of clips (clip_store.py) in ``run_dir``: ``clips``, or ``heldout`` for people, voices, lights and codecs
that training never meets. Faces, the lips' true opening, spread and rounding, timed phones, the same words in several
rooms. Every clip follows from its number alone, is whole or not there, and is listed soon after: a run may be cut at
any moment, go on later, and be shared by processes with ranges of their own (data.first_clip, data.num_clips). Beside
the store lie a contact sheet and a report: people, voices, what was left out and why, costs.

In some clips (data.other_words) the lower face, as far as the U-Net paints it, says the clip's words while the rest of
the face was filmed saying others: what the product is asked for. Nothing around the hole tells the lips there.

``data.split=scenes`` makes whole videos with their truth instead, see heads/scenes.py.
"""

import argparse
import json
import logging
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import field
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Literal

import cv2
import numpy as np
import torch
from pydantic.dataclasses import dataclass

from latentsync.contact_sheet import evenly_spaced, labelled_sheet
from latentsync.errors import LatentSyncError, OptionError
from latentsync.faces.align import canvas_size, fit_matrices, warp_faces
from latentsync.faces.finder import FaceTracker
from latentsync.media.output_file import written_whole
from latentsync.model.loading import BUNDLED_WHISPER
from latentsync.model.masks import generation_mask
from latentsync.model.whisper import AudioEncoder, load_whisper
from latentsync.model_files import Framing

from .clip_store import FPS, ClipStore, ClipStoreWriter, encode_voices
from .config import CONFIGS, STRICT, Count, GivenPath, add_settings, load_settings
from .heads.cameras import Shot
from .heads.developing import Film, Recording
from .heads.drawing import Studio
from .heads.people import Person
from .heads.scenes import over, write_scene_video
from .heads.speech import Speech, speech
from .heads.voices import Voice, choose_voices, find_voices
from .preparation.cutting import AlignedVideoWriter

log = logging.getLogger(__name__)
HELD_OUT = 9_000_000  # seeds from here on: people, shots and speech of held-out clips
FIRST_SEEDS = {"train": 0, "scenes": 8_000_000, "heldout": HELD_OUT}
FOLDERS = {"train": "clips", "heldout": "heldout", "scenes": "scenes"}
COLUMNS = 8  # frames of a clip on the contact sheet
SIDE = 96  # px there
OTHER_WORDS = 4_000_000  # between the seeds of a clip's words and of those that the face around them says
SEAM = 10 / 256  # of the face's side: how far inside the hole both are mixed


@dataclass(config=STRICT)
class HeadsData:
    split: Literal["train", "heldout", "scenes"]
    num_clips: int
    first_clip: int
    num_voices: int
    duration: float
    frame_size: int
    other_words: float
    voices: list[str] = field(default_factory=list)


@dataclass(config=STRICT)
class HeadsConfig:
    FILE: ClassVar[Path] = CONFIGS / "heads.yaml"

    run_dir: GivenPath
    resolution: int
    framing: Framing
    mask: str
    crf: float
    log_every: Count
    sheet_clips: int
    data: HeadsData

    @property
    def folder(self) -> Path:
        """The store."""
        return Path(self.run_dir) / FOLDERS[self.data.split]

    @property
    def num_frames(self) -> int:
        return round(self.data.duration * FPS)

    def seed(self, index: int) -> int:
        """Of clip number `index`: its person, shot and speech."""
        return index + FIRST_SEEDS[self.data.split]


def load_heads_config(path: str | Path | None = None, overrides: list[str] | None = None) -> HeadsConfig:
    """Read a YAML file; ``overrides`` such as "data.num_clips=10" change single values. Raises OptionError."""
    config = load_settings(HeadsConfig, path, overrides)
    data = config.data
    if data.split == "train" and data.first_clip + data.num_clips > HELD_OUT:
        raise OptionError(f"clips from {HELD_OUT} on are held-out people; expected first_clip + num_clips up to that")
    if abs(config.num_frames - data.duration * FPS) > 1e-6 or config.num_frames < 1:
        raise OptionError(f"setting data.duration is {data.duration}; expected whole frames of 1/{FPS} s")
    if not 0 <= data.other_words <= 1:
        raise OptionError(f"setting data.other_words is {data.other_words}; expected a share of the clips, 0 to 1")
    if data.num_voices < 1 or data.num_clips < 1 or data.first_clip < 0:
        raise OptionError("settings data.num_voices and data.num_clips are at least 1, data.first_clip at least 0")
    return config


class HeadsMaker:
    """Makes clips of one configuration. Owns a `Studio`: one a process, used by the thread that made it.

    Raises VoicesMissingError where no voice is installed, HeadsUnavailableError where nothing can be drawn.
    """

    def __init__(self, config: HeadsConfig):
        self.config = config
        self.writer = ClipStoreWriter(config.folder)
        self.left_out = config.folder / "left_out"
        self.left_out.mkdir(exist_ok=True)
        self.voices: tuple[Voice, ...] = choose_voices(held_out=config.data.split == "heldout", only=config.data.voices)
        self.studio = Studio(config.data.frame_size, cache=Path(config.run_dir) / "cache")
        self.tracker = FaceTracker()

    @cached_property
    def whisper(self) -> AudioEncoder:
        return load_whisper(BUNDLED_WHISPER, device="cpu", dtype=torch.float32)

    def key(self, index: int) -> str:
        return f"{'scene' if self.config.data.split == 'scenes' else 'head'}{self.config.seed(index):07d}"

    def is_done(self, index: int) -> bool:
        """Whether it is in the store, or was found to be impossible."""
        return self.key(index) in self.writer or (self.left_out / f"{self.key(index)}.json").exists()

    def make(self, index: int) -> bool:
        """Add clip number `index` to the store; False, with the reason kept, where it is left out."""
        key, started = self.key(index), time.process_time()
        try:
            (self._make_scene if self.config.data.split == "scenes" else self._make_clip)(index, key, started)
        except (LatentSyncError, OSError) as error:
            log.warning("%s is left out: %s", key, error)
            with written_whole(self.left_out / f"{key}.json") as part:
                part.write_text(json.dumps({"key": key, "reason": str(error)}), encoding="utf-8")
            return False
        return True

    def _make_scene(self, index: int, key: str, started: float) -> None:
        data = self.config.data
        folder = self.writer.clips / key
        write_scene_video(folder, self.config.seed(index), self.studio, self.voices, duration=data.duration)

    def _make_clip(self, index: int, key: str, started: float) -> None:
        config, seed = self.config, self.config.seed(index)
        random = np.random.default_rng([seed, 31])
        recording = Recording.draw(random, held_out=config.data.split == "heldout")
        said = speech(seed, self.voices, duration=config.data.duration, num_voices=config.data.num_voices)
        person, shot = Person.from_seed(seed), Shot.from_seed(seed, config.num_frames)
        film = self._film(person, shot, said)
        share = config.data.other_words if config.data.split == "train" else 0.0
        if np.random.default_rng([seed, 37]).random() < share:
            others = speech(
                seed + OTHER_WORDS, self.voices, duration=config.data.duration, num_voices=1, manner=said.manner
            )
            around = list(self._film(person, shot, others).frames)
            points = self._points(around)
            frames = recording.frames(self._mixed(around, film.frames, points), random)
            points *= len(frames[0]) / len(around[0])
        else:
            others, frames = said, recording.frames(film.frames, random)
            points = self._points(frames)
        faces = warp_faces(frames, fit_matrices(points, config.resolution), config.resolution)
        sounds = encode_voices(said.waveforms, self.whisper, first_alone=False)
        self.writer.add_clip(
            key,
            identity=str(seed),
            lips=film.lips,
            phones=[(round(p.start, 4), round(p.end, 4), p.viseme, p.name) for p in said.phones],
            write_video=lambda path: self._write(path, faces),
            num_frames=len(faces),
            resolution=config.resolution,
            framing=config.framing,
            voice=said.voice,
            other_words=others is not said,
            mood=said.manner.mood,
            codec=f"{recording.codec[0]} {recording.quality}",
            frame_side=frames[0].shape[0],
            person=json.dumps(person.description, default=str, sort_keys=True),
            cpu_seconds=round(time.process_time() - started, 2),
            **sounds,
        )

    def _film(self, person: Person, shot: Shot, said: Speech) -> Film:
        return self.studio.film(person, shot, over(said.moves, shot.expressions), self.config.num_frames)

    def _points(self, frames: Sequence[np.ndarray]) -> np.ndarray:
        """What faces are aligned by, (F, N, 2) px. Raises LatentSyncError where a frame has no face."""
        observation, points = None, []
        for number, frame in enumerate(frames):
            observation = self.tracker(frame, observation)
            if observation is None:
                raise LatentSyncError(f"no face is found in frame {number}")
            points.append(observation.framed(self.config.framing))
        return np.stack(points)

    def _mixed(
        self, around: Sequence[np.ndarray], speaking: Iterable[np.ndarray], points: np.ndarray
    ) -> Iterator[np.ndarray]:
        """`around` (H, W, 3) uint8 with the holes of faces at `points` filled from `speaking`."""
        side = self.config.resolution
        hole = (generation_mask(side, self.config.mask).numpy() < 0.5).astype(np.uint8)
        inside = np.clip(cv2.distanceTransform(hole, cv2.DIST_L2, 5) / (SEAM * side), 0, 1)
        inside = cv2.resize(inside, canvas_size(side), interpolation=cv2.INTER_AREA)  # what matrices lead to
        for frame, mouth, matrix in zip(around, speaking, fit_matrices(points, side), strict=True):
            flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
            weight = cv2.warpAffine(inside, np.asarray(matrix, np.float64), frame.shape[1::-1], flags=flags)[..., None]
            yield (frame * (1 - weight) + mouth * weight + 0.5).astype(np.uint8)

    def _write(self, path: Path, faces: np.ndarray) -> None:
        side = self.config.resolution
        with AlignedVideoWriter(path, side, side, rate=FPS, crf=self.config.crf) as writer:
            for face in faces:
                writer.write(face)


def make_heads(config: HeadsConfig) -> Path:
    """Make what is missing of the range, then the sheet and the report; returns the store's folder."""
    maker = HeadsMaker(config)
    for line in find_voices()[1]:
        log.info("%s", line)
    indices = range(config.data.first_clip, config.data.first_clip + config.data.num_clips)
    missing = [index for index in indices if not maker.is_done(index)]
    log.info("%s: %d clips, %d of them are there", config.folder, len(indices), len(indices) - len(missing))
    started, cpu = time.monotonic(), time.process_time()
    for done, index in enumerate(missing, 1):
        if not maker.is_done(index):  # another process may have been faster
            maker.make(index)
        if done % config.log_every == 0 or done == len(missing):
            seconds = (time.monotonic() - started) / done
            log.info(
                "%d of %d, %.1f s and %.1f CPU-s a clip, %.0f min left",
                *(len(indices) - len(missing) + done, len(indices), seconds, (time.process_time() - cpu) / done),
                seconds * (len(missing) - done) / 60,
            )
            list_all(maker.writer)
    list_all(maker.writer)
    write_report(config)
    return config.folder


def list_all(writer: ClipStoreWriter) -> list[str]:
    """Write the manifest of all clips that are there, whoever made them; their keys."""
    keys = sorted(path.name for path in writer.clips.iterdir() if not path.name.startswith("."))
    if keys and not keys[0].startswith("scene"):
        writer.list_clips(keys)
    return keys


def write_report(config: HeadsConfig) -> dict:
    """Write report.json, report.txt and sheet.jpg beside the store's manifest; what the report says."""
    folder = config.folder
    writer = ClipStoreWriter(folder)
    keys = list_all(writer)
    if config.data.split == "scenes":
        return _report_scenes(writer, keys)
    rows = [writer.facts(key) for key in keys]
    left_out = [json.loads(path.read_text(encoding="utf-8")) for path in sorted((folder / "left_out").glob("*.json"))]
    people = [json.loads(row["person"]) for row in rows]
    report = {
        "clips": len(rows),
        "frames": sum(row["num_frames"] for row in rows),
        "left_out": {row["key"]: row["reason"] for row in left_out},
        "share_found": len(rows) / max(len(rows) + len(left_out), 1),
        "cpu_seconds_a_clip": float(np.mean([row["cpu_seconds"] for row in rows])) if rows else None,
        **{name: dict(Counter(row[name] for row in rows).most_common()) for name in ("voice", "mood", "codec")},
        "other_words_around": sum(row["other_words"] for row in rows),
        "people": {
            name: dict(Counter(str(person[name]) for person in people).most_common())
            for name in (people[0] if people else ())
            if isinstance(people[0][name], str)
        },
        "voices_missing": list(find_voices()[1]),
    }
    with written_whole(folder / "report.json") as part:
        part.write_text(json.dumps(report, indent=2, ensure_ascii=False), encoding="utf-8")
    with written_whole(folder / "report.txt") as part:
        part.write_text("\n".join(_lines(report)) + "\n", encoding="utf-8")
    if rows:
        _write_sheet(folder, keys, config.sheet_clips)
    return report


def _report_scenes(writer: ClipStoreWriter, keys: Sequence[str]) -> dict:
    """The same of scenes: what there is of each kind, and a sheet."""
    truths = {key: json.loads((writer.clips / key / "truth.json").read_text(encoding="utf-8")) for key in keys}
    kinds = Counter(truth["thing"] or f"{len(truth['people'])} people" for truth in truths.values())
    nobody = sum(truth["speaker"] is None for truth in truths.values())
    report = {"scenes": len(keys), "kinds": dict(kinds.most_common()), "nobody_speaks": nobody}
    with written_whole(writer.folder / "report.json") as part:
        part.write_text(json.dumps(report, indent=2), encoding="utf-8")
    for name, wide in (("people", True), ("things", False)):  # pictures of two shapes
        chosen = [key for key in keys if (truths[key]["thing"] is None) == wide][:12]
        rows = {
            f"{key}\n{truths[key]['thing'] or ''}": list(np.load(writer.clips / key / "strip.npy")) for key in chosen
        }
        if rows:
            _write_jpeg(writer.folder / f"sheet_{name}.jpg", labelled_sheet(rows, side=SIDE))
    return report


def _lines(report: dict) -> list[str]:
    """The report in words."""
    shown = [f"{report['clips']} clips, {report['frames']} frames, {len(report['left_out'])} left out."]
    shown += [f"Faces were found in {100 * report['share_found']:.1f} % of the clips."]
    if report["clips"]:
        shown += [f"{report['cpu_seconds_a_clip']:.1f} CPU-s a clip."]
    for title in ("voice", "mood", "codec"):
        shown.append(f"{title}: " + ", ".join(f"{name} {count}" for name, count in report[title].items()))
    for title, counts in report["people"].items():
        shown.append(f"{title}: " + ", ".join(f"{name} {count}" for name, count in counts.items()))
    return [*shown, *report["voices_missing"], *(f"{key}: {why}" for key, why in report["left_out"].items())]


def _write_sheet(folder: Path, keys: Sequence[str], count: int) -> None:
    """sheet.jpg: some clips in a row each, evenly over the store, with the voice and what is said."""
    store = ClipStore(folder)
    rows = {}
    for i in sorted(set(evenly_spaced(len(keys), min(count, len(keys))))):
        frames = store.frames(i)
        phones = store.phones(i) or []
        visemes = " ".join(viseme for _, _, viseme, _ in phones)
        label = f"{store.keys[i]}\n{store.rows[i]['voice'][:13]}\n{visemes[:12]}"
        rows[label] = [frames[k] for k in evenly_spaced(len(frames), COLUMNS)]
    _write_jpeg(folder / "sheet.jpg", labelled_sheet(rows, side=SIDE))


def _write_jpeg(path: Path, sheet: np.ndarray) -> None:
    with written_whole(path) as part:
        part.write_bytes(cv2.imencode(".jpg", sheet[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add_settings(parser, HeadsConfig, "data.num_clips=10")
    parser.add_argument("--report", action="store_true", help="only write report and contact sheet of what is there")
    arguments = parser.parse_args()
    config = load_heads_config(arguments.config, arguments.set)
    torch.set_num_threads(1)
    if arguments.report:
        write_report(config)
    else:
        make_heads(config)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    main()
