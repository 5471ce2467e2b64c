"""Speech for people in three dimensions: phones at their times, lips that fit them, rooms, codecs, the command."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from latentsync.errors import LatentSyncError, OptionError
from latentsync.faces.align import fit_matrices, warp_faces
from latentsync.media.video_reader import probe_video, read_frames
from latentsync.model.masks import generation_mask
from training_scripts.clip_store import ClipStore
from training_scripts.heads import rooms
from training_scripts.heads.developing import HELD_OUT_CODECS, TRAINING_CODECS, Recording
from training_scripts.heads.drawing import Studio
from training_scripts.heads.head_mesh import HeadsUnavailableError
from training_scripts.heads.speech import speech
from training_scripts.heads.texts import SOUNDS, sentence
from training_scripts.heads.visemes import SHAPES, VOWELS, Manner, expressions
from training_scripts.heads.voices import (
    SAMPLE_RATE,
    VOICES,
    Phone,
    VoicesMissingError,
    choose_voices,
    find_voices,
    utterance,
)
from training_scripts.make_heads import HELD_OUT, HeadsMaker, load_heads_config, make_heads
from training_scripts.train_unet import train_unet

from .small_parts import small_config

ROOT = Path(__file__).parents[2]
FPS = 25
CALM = Manner(jaw=1.0, lips=1.0, left=0.0, mood="calm", strength=0.0, parted=0.0, loudness=0.0)


def times(seconds: float, rate: float = FPS) -> np.ndarray:
    return (np.arange(round(seconds * rate)) + 0.5) / rate


def said(*visemes: tuple[str, float]) -> list[Phone]:
    """Phones of these lengths, one after the other."""
    phones, at = [], 0.0
    for viseme, length in visemes:
        phones.append(Phone(at, at + length, viseme, "m" if viseme == "p" else viseme))
        at += length
    return phones


def faces(phones, seconds: float, rate: float = FPS, manner: Manner = CALM) -> dict[str, np.ndarray]:
    voice = np.full(round(seconds * SAMPLE_RATE), 0.1, np.float32)
    return expressions(phones, voice, times(seconds, rate), manner, np.random.default_rng(0))


# Faces


def test_lips_meet_for_p_b_m_in_some_frame_whatever_the_mood():
    phones = said(("rest", 0.21), *[("aa", 0.13), ("p", 0.07)] * 6, ("rest", 0.3))
    for mood in ("calm", "laugh", "disgusted"):
        manner = Manner(jaw=1.5, lips=1.2, left=0.2, mood=mood, strength=1.0, parted=0.05, loudness=0.3)
        moves = faces(phones, 1.7, manner=manner)
        for phone in (phone for phone in phones if phone.viseme == "p"):
            near = np.flatnonzero(np.abs(times(1.7) - (phone.start + phone.end) / 2) < 0.05)
            gap = moves["jawOpen"] - moves["mouthClose"]
            bared = moves["mouthLowerDownLeft"] + moves["mouthUpperUpLeft"] + moves["mouthFunnel"]
            assert min(gap[near] + bared[near]) < 0.01, mood


def test_vowels_open_the_jaw_and_f_brings_the_lip_under_the_teeth():
    moves = faces(said(("rest", 0.2), ("aa", 0.25), ("f", 0.15), ("uw", 0.25), ("iy", 0.25), ("rest", 0.2)), 1.3)
    aa, f, uw, iy = (int(moment * FPS) for moment in (0.30, 0.50, 0.70, 0.95))
    assert moves["jawOpen"][aa] > 0.3 > 2 * moves["jawOpen"][f]
    assert moves["mouthRollLower"][f] > 0.4 > 4 * moves["mouthRollLower"][aa]
    assert moves["mouthPucker"][uw] > 0.5 > 4 * moves["mouthPucker"][iy]
    assert moves["mouthStretchLeft"][iy] > 0.2 > 3 * moves["mouthStretchLeft"][uw]


def test_rounding_begins_in_the_sounds_before_a_rounded_vowel():
    """Who says "stew" has round lips at the s."""
    rounded = faces(said(("rest", 0.2), ("s", 0.12), ("t", 0.08), ("uw", 0.3)), 0.7)["mouthPucker"]
    spread = faces(said(("rest", 0.2), ("s", 0.12), ("t", 0.08), ("iy", 0.3)), 0.7)["mouthPucker"]
    at_t = int(0.36 * FPS)
    assert rounded[at_t] > 0.3 > 5 * spread[at_t]


def test_lips_lead_the_sound_by_some_tens_of_milliseconds():
    """The middle of an opening between two closed states comes before that of its vowel."""
    rate = 500
    jaw = faces(said(("rest", 0.5), ("aa", 0.2), ("rest", 0.5)), 1.2, rate)["jawOpen"]
    middle = (times(1.2, rate) * jaw).sum() / jaw.sum()
    assert 0.60 - 0.07 < middle < 0.60 - 0.02


def test_silence_gives_rest():
    moves = faces([Phone(0.0, 2.0, "rest", "pau")], 2.0)
    assert max(float(np.abs(values).max()) for values in moves.values()) < 1e-3
    after = faces(said(("aa", 0.3), ("rest", 1.0)), 1.3)
    assert after["jawOpen"][int(0.7 * FPS) :].max() < 0.02


def test_louder_vowels_are_more_open():
    phones = said(("rest", 0.2), ("aa", 0.3), ("rest", 0.4), ("aa", 0.3), ("rest", 0.2))
    voice = np.full(round(1.4 * SAMPLE_RATE), 0.02, np.float32)
    voice[round(0.8 * SAMPLE_RATE) :] = 0.3
    manner = Manner(jaw=1.0, lips=1.0, left=0.0, mood="calm", strength=0.0, parted=0.0, loudness=0.3)
    jaw = expressions(phones, voice, times(1.4), manner, np.random.default_rng(0))["jawOpen"]
    assert jaw[int(1.04 * FPS)] > 1.2 * jaw[int(0.34 * FPS)]


def test_every_phone_of_every_voice_has_a_shape():
    for voice in VOICES.values():
        for entry in voice.names.values():
            assert set((entry,) if isinstance(entry, str) else entry) <= set(SHAPES), voice.name
        assert voice.language in SOUNDS
    assert set(SHAPES) > VOWELS
    held_out = [voice.name for voice in VOICES.values() if voice.held_out]
    assert len(held_out) == 3


def test_sentences_are_not_the_same_and_can_be_quoted():
    random = np.random.default_rng(1)
    for language in SOUNDS:
        texts = [sentence(language, random) for _ in range(20)]
        assert len(set(texts)) == 20
        assert all(text.replace(" ", "").replace(",", "").isalpha() and '"' not in text for text in texts)


# Voices


def voice_of(engine: str):
    found = [voice for voice in find_voices()[0] if voice.engine == engine]
    if not found:
        pytest.skip("; ".join(line for line in find_voices()[1] if line.startswith(engine)))
    return found[0]


@pytest.mark.parametrize("engine", ["flite", "festival", "espeak", "hibari"])
def test_phones_are_in_order_and_where_they_are_heard(engine):
    voice = voice_of(engine)
    loud = dict.fromkeys(VOWELS, 1.0) | {"rest": -3.0, "p": -0.5, "t": -0.3, "k": -0.3, "s": -0.2}
    shifts = np.arange(-10, 11)  # of 10 ms
    agreement = np.zeros(len(shifts))
    for seed in range(6):
        spoken = utterance(voice, np.random.default_rng(seed))
        ends = [0.0, *(phone.end for phone in spoken.phones)]
        assert [phone.start for phone in spoken.phones] == pytest.approx(ends[:-1])
        assert all(phone.end > phone.start and phone.viseme in SHAPES for phone in spoken.phones)
        assert ends[-1] == pytest.approx(len(spoken.waveform) / SAMPLE_RATE, abs=1e-3)
        assert np.abs(spoken.waveform).max() == pytest.approx(1)
        steps = len(spoken.waveform) // 160
        level = np.log(np.sqrt((spoken.waveform[: steps * 160].reshape(steps, 160) ** 2).mean(1)) + 3e-3)
        expected = np.zeros(steps)
        for phone in spoken.phones:
            expected[round(phone.start * 100) : round(phone.end * 100)] = loud.get(phone.viseme, 0.0)
        inner = slice(15, steps - 15)
        agreement += [np.corrcoef(np.roll(expected, shift)[inner], level[inner])[0, 1] for shift in shifts]
    assert abs(shifts[agreement.argmax()]) <= 2, "phones are not when they are heard"
    again = utterance(voice, np.random.default_rng(5))
    assert np.array_equal(again.waveform, spoken.waveform)
    assert again.phones == spoken.phones


def test_a_voice_that_is_missing_is_named_with_what_brings_it(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    find_voices.cache_clear()
    try:
        assert "flite-awb is left out: flite is not installed (apt: flite)" in find_voices()[1]
        assert not any(voice.engine in ("flite", "festival") for voice in find_voices()[0])
        with pytest.raises(VoicesMissingError, match="apt-get install flite"):
            choose_voices(held_out=False, only=["flite-awb"])
    finally:
        find_voices.cache_clear()
    with pytest.raises(OptionError, match="There is no voice 'flite-bob'"):
        choose_voices(held_out=False, only=["flite-bob"])


def test_the_speech_of_a_seed_is_whole_and_repeats():
    voices = [voice_of("flite")]
    for seed in range(4):
        one, again = (speech(seed, voices, duration=1.6, num_voices=2) for _ in range(2))
        assert [waveform.shape for waveform in one.waveforms] == [(25_600,)] * 2
        assert all(np.array_equal(a, b) for a, b in zip(one.waveforms, again.waveforms, strict=True))
        assert all(np.array_equal(one.moves[name], again.moves[name]) for name in one.moves)
        assert not np.array_equal(*one.waveforms)
        assert one.phones[0].start == 0
        assert one.phones[-1].end == pytest.approx(1.6)
        assert {values.shape for values in one.moves.values()} == {(40,)}


# Rooms and cameras


def test_rooms_and_throats_change_the_sound_but_not_its_time():
    random = np.random.default_rng(2)
    bursts = np.zeros(16_000)
    bursts[[3_000, 7_000, 12_000]] = 1
    voice = np.convolve(bursts, np.random.default_rng(1).normal(0, 1, 800) * np.hanning(800), "same").astype(np.float32)
    envelope = np.sqrt((voice.reshape(200, 80) ** 2).mean(1))
    for spoiled in (0.2, 1.0, 1.0, 1.0):
        for sound in (rooms.recorded(voice, random, spoiled=spoiled), rooms.other_size(voice, 0.87)):
            assert sound.shape == voice.shape
            assert np.abs(sound).max() <= 1
            other = np.sqrt((sound.reshape(200, 80) ** 2).mean(1))
            shifts = range(-6, 7)
            fit = [np.corrcoef(np.roll(envelope, shift), other)[0, 1] for shift in shifts]
            assert abs(shifts[int(np.argmax(fit))]) <= 1  # of 5 ms


def test_codecs_give_every_frame_back_and_the_same_ones_again():
    y, x = np.mgrid[:96, :96]
    pictures = [np.stack([x * 2, y * 2, (x + y + 4 * k) % 200], 2).astype(np.uint8) for k in range(6)]
    used = set()
    for seed in range(40):
        recording = Recording.draw(np.random.default_rng(seed), held_out=seed % 4 > 0)
        if recording.codec in used:
            continue
        used.add(recording.codec)
        first, again = (recording.frames(iter(pictures), np.random.default_rng(seed)) for _ in range(2))
        assert len(first) == len(pictures)
        assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True)), recording.codec
        assert first[0].shape[0] == 2 * round(96 * recording.scale / 2)
        if recording.scale == 1:
            assert np.abs(first[3].astype(int) - pictures[3]).mean() < 20
    assert used == {*TRAINING_CODECS, *HELD_OUT_CODECS}
    assert not set(TRAINING_CODECS) & set(HELD_OUT_CODECS)


# The command


def settings(run_dir: Path, *more: str) -> list[str]:
    small = ("resolution=64", "data.num_clips=2", "data.duration=0.32", "data.frame_size=128", "log_every=1")
    return [f"run_dir={run_dir}", *small, *more]


@pytest.fixture(scope="module")
def cut_run(tmp_path_factory):
    """A run that was killed after its first clip, and gone on with: its configuration and that clip's time."""
    run_dir = tmp_path_factory.mktemp("heads")
    try:
        Studio(size=32, cache=run_dir / "cache")
        choose_voices(held_out=False)
    except (HeadsUnavailableError, VoicesMissingError) as error:
        pytest.skip(str(error))
    overrides = settings(run_dir)
    command = [sys.executable, "-m", "training_scripts.make_heads"]
    command += [part for setting in overrides for part in ("--set", setting)]
    with (run_dir / "log.txt").open("w") as log:
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=log, stderr=log, env={**os.environ, "OMP_NUM_THREADS": "1"}
        )
        first = run_dir / "clips" / "clips" / "head0000000"
        deadline = time.monotonic() + 300
        while not first.exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert first.exists(), (run_dir / "log.txt").read_text()[-2000:]
    made = (first / "lips.npy").stat().st_mtime_ns
    config = load_heads_config(overrides=overrides)
    make_heads(config)
    return config, made


def test_a_killed_run_goes_on_and_leaves_a_whole_store(cut_run):
    config, made = cut_run
    store = ClipStore(config.folder)
    assert store.keys == ["head0000000", "head0000001"]
    assert (store.path(0) / "lips.npy").stat().st_mtime_ns == made, "what was there is not made again"
    assert store.framing == "insightface"
    for i in range(2):
        assert store.frames(i).shape == (8, 64, 64, 3)
        assert store.lips(i).shape == (8, 3)
        phones = store.phones(i)
        assert phones[0][0] == 0
        assert phones[-1][1] == pytest.approx(0.32, abs=1e-3)
        assert store.num_voices(i) == 2
        assert store.waveform(i, 1).shape == (5_120,)
        assert store.rows[i]["voice"] in (*VOICES, "nobody")
        assert json.loads(store.rows[i]["person"])["sex"] in ("female", "male")
    report = json.loads((config.folder / "report.json").read_text(encoding="utf-8"))
    assert report["clips"] == 2
    assert report["left_out"] == {}
    assert (config.folder / "sheet.jpg").stat().st_size > 3_000
    assert "2 clips" in (config.folder / "report.txt").read_text(encoding="utf-8")


def test_equal_numbers_give_equal_clips(cut_run, tmp_path):
    config, _ = cut_run
    other = load_heads_config(overrides=settings(tmp_path, "data.first_clip=1", "data.num_clips=1"))
    (tmp_path / "cache").symlink_to(Path(config.run_dir) / "cache")
    maker = HeadsMaker(other)
    assert maker.make(1)
    one, two = config.folder / "clips" / "head0000001", other.folder / "clips" / "head0000001"
    for name in ("video.mp4", "lips.npy", "audio.npy", "phones.json", "mel.npy", "features.npy"):
        assert (one / name).read_bytes() == (two / name).read_bytes(), name


def test_the_face_around_what_is_painted_can_say_other_words(cut_run, tmp_path):
    (tmp_path / "cache").symlink_to(Path(cut_run[0].run_dir) / "cache")
    maker = HeadsMaker(load_heads_config(overrides=settings(tmp_path, "data.other_words=1")))
    assert maker.make(1)
    own = load_heads_config(overrides=settings(tmp_path / "own", "data.other_words=0"))
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "cache").symlink_to(Path(cut_run[0].run_dir) / "cache")
    assert HeadsMaker(own).make(1)
    mixed, plain = (folder / "clips" / "head0000001" for folder in (maker.config.folder, own.folder))
    for name in ("lips.npy", "audio.npy", "phones.json"):  # the clip's words are what the lips say
        assert (mixed / name).read_bytes() == (plain / name).read_bytes(), name
    assert maker.writer.facts("head0000001")["other_words"]
    assert not HeadsMaker(own).writer.facts("head0000001")["other_words"]
    # Just the hole is filled, softly at its rim.
    store = ClipStore(cut_run[0].folder)
    frame = cv2.resize(store.frames(0)[0], (256, 256))
    points = maker._points([frame])
    around, speaking = np.zeros_like(frame), np.full_like(frame, 200)
    filled = [around, speaking, *maker._mixed([around], [speaking], points)]
    blank, full, face = warp_faces(filled, fit_matrices(np.repeat(points, 3, 0), 64), 64).max(-1)
    known = (blank == 0) & (full == 200)  # the rest lies outside the frame
    hole = generation_mask(64).numpy() < 0.5
    well_outside = cv2.erode((~hole).astype(np.uint8), np.ones((3, 3))) > 0
    well_inside = cv2.erode(hole.astype(np.uint8), np.ones((9, 9))) > 0
    assert face[well_outside & known].max() < 40
    assert face[well_inside & known].min() > 190


def test_a_clip_without_a_face_is_left_out_once_with_its_reason(cut_run, tmp_path):
    config = load_heads_config(overrides=settings(tmp_path))
    (tmp_path / "cache").symlink_to(Path(cut_run[0].run_dir) / "cache")
    maker = HeadsMaker(config)
    maker.tracker.min_confidence = 2.0  # nothing is a face
    assert not maker.make(0)
    assert maker.is_done(0)
    kept = json.loads((config.folder / "left_out" / "head0000000.json").read_text(encoding="utf-8"))
    assert kept["reason"] == "no face is found in frame 0"


def test_scenes_come_with_the_truth_about_them(cut_run, tmp_path):
    config = load_heads_config(overrides=settings(tmp_path, "data.split=scenes", "data.duration=0.2"))
    (tmp_path / "cache").symlink_to(Path(cut_run[0].run_dir) / "cache")
    make_heads(config)
    folders = sorted((config.folder / "clips").iterdir())
    assert [folder.name for folder in folders] == ["scene8000000", "scene8000001"]
    for folder, kind in zip(folders, ("people", "thing"), strict=True):
        truth = json.loads((folder / "truth.json").read_text(encoding="utf-8"))
        facts = probe_video(folder / "video.mp4")
        assert [facts.height, facts.width] == truth["size"]
        assert len(list(read_frames(folder / "video.mp4"))) == 5
        assert facts.has_audio
        assert truth["speaker"] in (None, *range(len(truth["people"])))
        assert all(0 <= start < end <= 0.2001 for start, end in truth["turns"])
        assert {np.shape(person["lips"]) for person in truth["people"]} == {(5, 3)}
        if kind == "people":
            boxes = np.array([person["box"] for person in truth["people"]])
            assert boxes.shape == (len(truth["people"]), 5, 4)
            assert (boxes[..., 2:] > boxes[..., :2]).all()
            assert (np.diff(boxes[:, 0, 0]) > 0).all(), "from left to right"
        else:
            outlines = np.load(folder / "outlines.npz")["outlines"]
            assert outlines.shape == (5, *truth["size"])
            assert truth["thing"]
    assert json.loads((config.folder / "report.json").read_text())["scenes"] == 2


def test_the_unet_trains_on_it(cut_run, parts, tmp_path):
    more = (
        "model.cross_attention_dim=384",
        "data.latents=encoded",
        "optimizer.steps=1",
    )  # 384 wide are Whisper's features
    config = small_config(parts, tmp_path / "run", f"data.clips={cut_run[0].folder}", *more)
    train_unet(config)
    assert (config.output / "unet.safetensors").is_file()


def test_held_out_people_are_of_other_seeds_and_refused_in_training():
    held_out = load_heads_config(overrides=["data.split=heldout"])
    assert held_out.seed(3) == HELD_OUT + 3
    assert held_out.folder.name == "heldout"
    with pytest.raises(OptionError, match="held-out people"):
        load_heads_config(overrides=[f"data.first_clip={HELD_OUT}"])
    with pytest.raises(OptionError, match="whole frames"):
        load_heads_config(overrides=["data.duration=1.61"])
    assert issubclass(VoicesMissingError, LatentSyncError)
