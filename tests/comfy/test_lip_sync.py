"""The all-in-one node: from file to file, in the host."""

import json
import re
import time

import numpy as np
import pytest

from benchmarks.measure import HEIGHT, WIDTH, repeat_video, write_portrait, write_speech
from latentsync.metrics.faces import correlation, opening_track
from latentsync.metrics.pictures import region_psnr
from tests.comfy import graphs, media
from tests.comfy.graphs import all_in_one, node, write
from tests.comfy.media import FPS, SECONDS, SIDE, Streams
from tests.comfy.server import progress_of

NUM_FRAMES = round(SECONDS * FPS)


def synced(run, server) -> Streams:
    """Of the file that SaveVideo wrote."""
    assert (run.status, run.node_errors) == ("success", {}), run.message
    return Streams.of(saved_path(run))


def saved_path(run):
    return next(file for file in run.files if file.name.startswith("synced") and file.parent.name == "output")


@pytest.fixture(scope="module")
def run(server, clips):
    """The whole clip with as many steps as good lips need, and the report as picture and text."""
    return server.run(
        {
            **all_in_one(clips.talk, clips.speech, steps=6, guidance_scale=1.5),
            "report": node("LatentSyncReport", report=["sync", 1]),
            "write": write("report", images=["report", 0], text=["report", 1]),
            "json": write("report_json", text=["report", 2]),
        }
    )


def test_frames_rate_and_sound_are_kept(run, server):
    streams = synced(run, server)
    assert (streams.num_frames, streams.fps, streams.size) == (NUM_FRAMES, FPS, (SIDE, SIDE))
    assert streams.duration == pytest.approx(SECONDS, abs=0.02)
    assert (streams.sample_rate, streams.channels) == (16_000, 1)
    assert streams.sound_duration == pytest.approx(SECONDS, abs=0.15)


def test_lips_follow_the_speech(run, clips, spoken):
    assert run.status == "success", run.message
    opening = opening_track(media.decoded(saved_path(run)))
    right, own = correlation(opening, spoken.lips[:, 0]), correlation(opening, clips.avatar.lips[:, 0])
    print(f"correlation with the speech {right:.2f}, with the source's own {own:.2f}")
    assert right >= 0.6
    assert right - own >= 0.3


def test_outside_the_face_the_picture_is_the_sources(run, clips):
    """Encoded once: better than 35 dB where nothing was to change, while the mouth is another one."""
    source, result = clips.frames(clips.talk), media.decoded(saved_path(run))
    region = np.zeros((SIDE, SIDE), bool)
    region[: SIDE // 3] = True
    values = [region_psnr(picture, truth, region) for picture, truth in zip(result, source, strict=True)]
    assert min(values) > 35
    difference = np.abs(result.astype(int) - source).mean(axis=(0, 3))
    assert difference[SIDE // 2 :].max() > 10


def test_what_is_protected_keeps_the_sources_pixels(server, clips):
    """The right half, from the middle of the mouth: there the source, up to the encoder; beside it the new lips."""
    half = {"width": SIDE // 2, "height": SIDE}
    at = {"x": SIDE // 2, "y": 0, "operation": "add"}
    run = server.run(
        all_in_one(clips.talk, clips.speech, duration=0.4, steps=1, protect=["mask", 0])
        | {
            "nothing": node("SolidMask", value=0.0, width=SIDE, height=SIDE),
            "right": node("SolidMask", value=1.0, **half),
            "mask": node("MaskComposite", destination=["nothing", 0], source=["right", 0], **at),
        }
    )
    assert (run.status, run.node_errors) == ("success", {}), run.message
    result = media.decoded(saved_path(run))
    source = clips.frames(clips.talk)[: len(result)]
    is_right = np.zeros((SIDE, SIDE), bool)
    is_right[:, SIDE // 2 + 8 :] = True  # the encoder's blocks mix what is nearer
    values = [region_psnr(picture, truth, is_right) for picture, truth in zip(result, source, strict=True)]
    print(f"lowest PSNR of what is protected {min(values):.1f} dB")
    assert min(values) > 35
    difference = np.abs(result.astype(int) - source).mean(axis=(0, 3))
    assert difference[SIDE // 2 :, : SIDE // 2].max() > 10


def test_the_report_tells_every_frame(run, server):
    (payload,) = run.outputs["sync"]["latentsync_report"]
    (face,) = payload["faces"]
    frames = face["frames"]
    assert (payload["version"], face["index"], face["choice"]) == (2, 0, "largest")
    assert payload["model"]["name"] == "tiny"
    assert payload["num_frames"] == payload["num_faces"] == NUM_FRAMES
    assert payload["fps"] == FPS
    assert payload["duration"] == pytest.approx(SECONDS, abs=0.01)
    assert {len(column) for column in frames.values()} == {NUM_FRAMES}
    assert frames["time"] == pytest.approx([index / FPS for index in range(NUM_FRAMES)], abs=1e-3)
    assert all(frames["detected"])
    assert min(frames["confidence"]) > 0.5
    assert None not in frames["opening"]
    opening = np.array(frames["opening"])
    measured = opening_track(media.decoded(saved_path(run)))
    assert correlation(opening, measured) > 0.8  # what is told is what one sees; coding adds noise
    assert len(payload["waveform"]["peaks"]) == pytest.approx(SECONDS * payload["waveform"]["rate"], abs=1)
    for key in ("video", "source"):
        file = payload[key]
        assert (server.base / file["type"] / file["subfolder"] / file["filename"]).is_file(), key
    assert run.outputs["report"]["latentsync_report"] == [payload]
    written = np.load(server.base / "output" / "report.npz")
    assert written["images"].shape == (1, 360, 1280, 3)
    assert written["images"].std() > 0.05
    assert f"{NUM_FRAMES} frames" in str(written["text"])
    told = json.loads(str(np.load(server.base / "output" / "report_json.npz")["text"]))
    assert told["faces"] == payload["faces"]


def test_the_work_is_shown(run):
    assert [preview for preview in run.previews if preview.node == "sync"]
    values = run.progress("sync")
    assert values == sorted(values)
    assert len(set(values)) >= 6 * 4  # a step each of at least four chunks
    assert values[-1] == 1


def test_a_second_run_is_the_hosts_memory(server, clips):
    """Straight after the first: the host forgets what the graph before did not have."""
    graph = all_in_one(clips.talk, clips.speech, duration=0.2, steps=1)
    first, again = server.run(graph), server.run(graph)
    assert "sync" in first.executed
    assert again.status == "success"
    assert "sync" in again.cached


def test_other_frame_rates_stay(server, clips, tmp_path):
    video = media.draw_talk(tmp_path / "ntsc.mp4", seconds=0.7, fps=30000 / 1001)
    server.add_input(video)
    run = server.run(all_in_one("ntsc.mp4", clips.speech, duration=0.6))
    streams = synced(run, server)
    assert streams.fps.limit_denominator(1001) == media.Fraction(30000, 1001)
    assert streams.num_frames == 18


def test_part_of_a_clip(server, clips):
    run = server.run(all_in_one(clips.talk, clips.speech, start=0.5, duration=0.4))
    streams = synced(run, server)
    assert streams.num_frames == 10
    assert streams.sound_duration == pytest.approx(0.4, abs=0.15)


def test_a_video_of_frames_in_memory(server, clips):
    """What CreateVideo gives has no file."""
    graph = all_in_one(clips.talk, clips.speech, duration=0.4)
    graph |= {
        "parts": node("GetVideoComponents", video=["clip", 0]),
        "create": node("CreateVideo", images=["parts", 0], fps=["parts", 2]),
    }
    graph["sync"]["inputs"]["video"] = ["create", 0]
    streams = synced(server.run(graph), server)
    assert (streams.num_frames, streams.fps, streams.size) == (10, FPS, (SIDE, SIDE))


def test_the_sound_of_a_silent_clip_is_not_missed(server, clips):
    assert synced(server.run(all_in_one(clips.silent, clips.speech, duration=0.4)), server).num_frames == 10


def test_it_stops_when_told_and_works_again(server, clips):
    """Within one denoising step, without leavings in the temporary folder."""
    before = set((server.base / "temp").iterdir())
    told = []

    def at_work(kind, data) -> bool:
        told.extend([time.monotonic()] * (progress_of(kind, data, "sync") > 0))
        return bool(told)

    graph = all_in_one(clips.talk, clips.speech, steps=40, seed=77)
    run = server.run(graph, interrupt=at_work)
    assert run.status == "interrupted"
    assert time.monotonic() - told[0] < 30  # s; a step takes less than one, the whole run minutes
    assert "save" not in run.executed
    leavings = {path.name for path in set((server.base / "temp").iterdir()) - before}
    assert leavings == set()
    assert synced(server.run(all_in_one(clips.talk, clips.speech, duration=0.2, seed=77)), server).num_frames == 5


def test_the_sampler_stops_too(server, clips):
    graph = {**graphs.stages(clips.talk, clips.speech, steps=40, seed=78)}
    graph["write"] = write("never", images=["put", 0])
    run = server.run(graph, interrupt=lambda kind, data: progress_of(kind, data, "make") > 0)
    assert run.status == "interrupted"
    assert "put" not in run.executed


def test_memory_does_not_grow_with_the_clip(server, tmp_path):
    """Tall 1080p: the longer one has 60 frames more, 373 MB as bytes and 1.5 GB as IMAGE.

    In the shorter one the queues between the stages have filled; the encoder's look-ahead still does, at half a byte a
    colour. `benchmarks.memory host` measures a minute against ten seconds.
    """
    sample = write_portrait(tmp_path / "sample.mp4", 12)
    peaks = []
    for seconds in (2.4, 4.8):
        name = server.add_input(repeat_video(sample, tmp_path / f"tall_{seconds:g}.mp4", seconds))
        sound = server.add_input(write_speech(tmp_path / f"tall_{seconds:g}.wav", seconds))
        run = server.run(all_in_one(name, sound, steps=1), timeout=280)
        streams = synced(run, server)
        assert streams.size == (WIDTH, HEIGHT)
        assert streams.num_frames == round(seconds * FPS)
        if run.peak_rss is None:
            pytest.skip("this system does not tell the peak memory of a process")
        peaks.append(run.peak_rss)
    print(f"peak RSS {peaks[0]:.0f} MiB for 60 frames, {peaks[1]:.0f} MiB for 120")
    assert peaks[1] <= peaks[0] + 170


@pytest.mark.parametrize(("preset", "scheduler"), [({}, "ddim"), ({"preset": "draft"}, "dpmpp_2m")])
def test_a_preset_sets_what_was_left_at_its_default(server, clips, preset, scheduler):
    graph = all_in_one(clips.talk, clips.speech, duration=0.2, steps=1, **preset)
    graph |= {
        "report": node("LatentSyncReport", report=["sync", 1]),
        "json": write(f"preset_{scheduler}", text=["report", 2]),
    }
    run = server.run(graph)
    assert run.status == "success", run.message
    told = json.loads(str(np.load(server.base / "output" / f"preset_{scheduler}.npz")["text"]))
    settings = told["settings"]
    assert settings["scheduler"] == scheduler
    assert settings["num_inference_steps"] == 1  # changed from its default, so it wins


def test_the_node_says_what_it_is_at(server, clips, tmp_path):
    """On a clip of its own: where the faces are known from an earlier run, they are not looked for."""
    video = server.add_input(media.draw_talk(tmp_path / "unseen.mp4", seconds=0.4, fps=FPS))
    graph = all_in_one(video, clips.speech, duration=0.4, steps=2)
    lines = lines_of(server.run(graph))
    assert lines[:2] == ["listening", "looking for faces"]
    assert any(re.fullmatch(r"0 of about 10 frames made, step [12] of 2", line) for line in lines)
    graph["sync"]["inputs"]["seed"] += 1
    assert "looking for faces" not in lines_of(server.run(graph))


def lines_of(run) -> list[str]:
    """What the node said it was at."""
    assert run.status == "success", run.message
    return [text for node, text in run.texts if node == "sync"]
