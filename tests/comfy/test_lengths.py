"""Video and sound of different lengths, in the host: the node that matches them, and the all-in-one node's modes."""

import math
from fractions import Fraction

import numpy as np
import pytest

from latentsync.media.length_modes import source_indices
from latentsync.media.video_writer import write_wav
from latentsync.synthetic.speech import SAMPLE_RATE
from tests.comfy import media
from tests.comfy.graphs import all_in_one, node, speech, write
from tests.comfy.media import FPS, Streams

FRAMES, MIX_RATE = 12, 44_100
SHORT, LONG = 0.3, 0.8  # s of speech beside FRAMES / FPS = 0.48 s of video


@pytest.fixture(scope="module")
def sounds(server, clips, tmp_path_factory):
    """short.wav and long.wav, the beginning of the speech, and mix.wav, a tone of another rate."""
    folder = tmp_path_factory.mktemp("sounds")
    for name, seconds in (("short", SHORT), ("long", LONG)):
        waveform = clips.speech_of.speech.waveform[: round(seconds * SAMPLE_RATE)]
        write_wav(folder / f"{name}.wav", waveform, SAMPLE_RATE)
    times = np.arange(MIX_RATE) / MIX_RATE
    write_wav(folder / "mix.wav", np.stack([0.3 * np.sin(2 * np.pi * 440 * times)] * 2), MIX_RATE)
    for file in folder.iterdir():
        server.add_input(file)


def matched(frames: list, sound: str, mode: str, tail: str = "cut", fps: float = FPS) -> dict:
    return node("LatentSyncMatchLength", frames=frames, audio=[sound, 0], mode=mode, tail=tail, fps=fps)


CASES = {
    "bounce": ("long", "bounce", "cut", ["cut", 0]),
    "loop": ("long", "loop", "cut", ["cut", 0]),
    "trim": ("long", "trim", "cut", ["cut", 0]),
    "speed": ("short", "speed", "cut", ["cut", 0]),
    "keep": ("short", "hold", "keep", ["cut", 0]),
    "video": ("short", "bounce", "cut", ["clip", 0]),
}


@pytest.fixture(scope="module")
def run(server, clips, sounds):
    graph = {
        "clip": node("LoadVideo", file=clips.talk),
        "parts": node("GetVideoComponents", video=["clip", 0]),
        "cut": node("ImageFromBatch", image=["parts", 0], batch_index=0, length=FRAMES),
        "short": speech("short.wav"),
        "long": speech("long.wav"),
        "source": write("source", images=["cut", 0]),
        "refused": matched(["cut", 0], "short", "trim", "keep"),
        "refused_too": write("refused", images=["refused", 0]),
    }
    for name, (sound, mode, tail, frames) in CASES.items():
        graph[name] = matched(frames, sound, mode, tail, fps=1.0 if name == "video" else FPS)  # a video has its own
        outputs = {"images": [name, 0], "audio": [name, 1], "number": [name, 2]}
        graph[f"{name}_written"] = write(name, **outputs)
    good = {key: value for key, value in graph.items() if not key.startswith("refused")}
    return server.run(good), server.run(
        {key: graph[key] for key in ("clip", "parts", "cut", "short")}
        | {key: graph[key] for key in ("refused", "refused_too")}
    )


@pytest.mark.parametrize("name", CASES)
def test_frames_are_those_of_the_rule_and_no_bit_is_changed(server, run, clips, name):
    assert run[0].status == "success", run[0].message
    source, result = (np.load(server.base / "output" / f"{file}.npz") for file in ("source", name))
    sound, mode, tail, _ = CASES[name]
    seconds = {"short": SHORT, "long": LONG}[sound]
    exact = Fraction(round(seconds * 1000) * FPS, 1000)
    expected = source_indices(FRAMES, math.ceil(exact), mode, tail, exact=exact)
    if name == "speed":
        assert len(expected) == 8
    assert np.array_equal(result["images"], source["images"][expected])
    assert (result["number"], result["sample_rate"]) == (FPS, SAMPLE_RATE)
    lasts = len(expected) / FPS if name in ("trim", "keep") else seconds
    waveform = result["waveform"][0, 0]
    assert len(waveform) == round(lasts * SAMPLE_RATE)
    spoken = round(min(lasts, seconds) * SAMPLE_RATE)
    assert np.abs(waveform[:spoken] - clips.speech_of.speech.waveform[:spoken]).max() < 1e-4
    assert not waveform[spoken:].any()


def test_modes_that_contradict_each_other_are_told(run):
    assert run[1].status == "error"
    assert "trim leaves out what the longer one has more and keep shows it" in run[1].message


def test_the_whole_run_with_its_own_sound_and_pace(server, clips, sounds):
    """2 s of video made to last as long as 0.8 s of speech, the mix heard instead of it."""
    graph = all_in_one(clips.talk, "long.wav", steps=1, length="speed", audio_offset_ms=40.0, output_audio=["mix", 0])
    done = server.run({**graph, "mix": speech("mix.wav")})
    assert done.status == "success", done.message
    result = next(file for file in done.files if file.name.startswith("synced") and file.parent.name == "output")
    streams = Streams.of(result)
    assert (streams.num_frames, streams.fps) == (round(LONG * FPS), FPS)
    assert (streams.sample_rate, streams.channels) == (MIX_RATE, 2)
    assert streams.sound_duration == pytest.approx(LONG, abs=0.07)
    source, shown = clips.frames(clips.talk)[:, :64], media.decoded(result)[:, :64]
    for index, expected in enumerate(source_indices(len(source), streams.num_frames, "speed")):
        distance = np.abs(source.astype(int) - shown[index]).mean(axis=(1, 2, 3))
        assert distance[expected] <= distance.min() + 0.3  # coded twice
    (payload,) = done.outputs["sync"]["latentsync_report"]
    assert (payload["length"], payload["pace"]) == ("speed", pytest.approx(2.5, abs=0.01))
    assert [warning for warning in payload["warnings"] if "runs 2.50 times as fast" in warning]
    assert [warning for warning in payload["warnings"] if "its rest is cut off" in warning]
