"""The nodes one by one, wired as a user wires them, on the bundled model."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from tests.comfy import graphs
from tests.comfy.graphs import FRAMES, node, stages, write
from tests.comfy.media import FPS, SIDE, Streams

FACE = 128  # px, of the bundled model


@pytest.fixture(scope="module")
def graph(clips) -> dict:
    """All stages with everything written down, and a video of the result with the new sound."""
    return {
        **stages(clips.talk, clips.speech),
        "source": write("source", images=["cut", 0], number=["parts", 2]),
        "faces": write("faces", images=["find", 1], masks=["find", 3]),
        "masked": write("masked", images=["find", 2]),
        "crops": write("crops", images=["make", 1]),
        "result": write("result", images=["put", 0]),
        "create": node("CreateVideo", images=["put", 0], fps=["parts", 2], audio=["speech", 0]),
        "save": graphs.save_video(["create", 0], "stages"),
    }


@pytest.fixture(scope="module")
def first(server, graph):
    run = server.run(graph)
    assert (run.status, run.node_errors) == ("success", {}), run.message
    return run


@pytest.fixture(scope="module")
def arrays(first, server):
    """`arrays(name)`: what was written under that name in the first run."""
    return lambda name, key="images": np.load(server.base / "output" / f"{name}.npz")[key]


def test_faces_are_cut_out_upright(arrays):
    aligned, masked, hole = arrays("faces"), arrays("masked"), arrays("faces", "masks")
    assert aligned.shape == masked.shape == (FRAMES, FACE, FACE, 3)
    assert aligned.dtype == masked.dtype == np.float32
    assert 0 <= aligned.min() < 0.2 < 0.8 < aligned.max() <= 1
    assert hole.shape == (1, FACE, FACE)
    keep = hole[0] == 0
    assert 0.2 < keep.mean() < 0.8
    assert np.array_equal(masked[:, keep], aligned[:, keep])
    inside = masked[:, hole[0] == 1]
    assert inside.std() < 1e-3
    assert inside.mean() == pytest.approx(0.5, abs=0.01)


def test_a_model_for_drawn_faces_says_so_on_the_sampler(first):
    (line,) = (text for node, text in first.texts if node == "make")
    assert "made for drawn faces" in line


def test_crops_are_new_faces(arrays):
    crops, aligned, hole = arrays("crops"), arrays("faces"), arrays("faces", "masks")[0] == 1
    assert crops.shape == (FRAMES, FACE, FACE, 3)
    assert crops.dtype == np.float32
    assert 0 <= crops.min() < crops.max() <= 1
    difference = np.abs(crops - aligned)[:, hole].mean(axis=(1, 2))
    assert (difference > 0.01).all()  # made anew, in every frame
    assert (difference < 0.25).all()  # but still a face


def test_only_the_mouth_changes(first, arrays, server):
    source, result = arrays("source"), arrays("result")
    assert result.shape == source.shape == (FRAMES, SIDE, SIDE, 3)
    assert result.dtype == np.float32
    changed = (source != result).any(axis=3)
    assert (changed.mean(axis=(1, 2)) > 0.005).all()
    assert (changed.mean(axis=(1, 2)) < 0.3).all()
    assert not changed[:, : SIDE // 3].any()  # hair and eyes keep their very bits
    (told,) = first.outputs["put"]["latentsync_blend"]
    hole = np.asarray(Image.open(server.base / told["hole"]["type"] / told["hole"]["filename"]).convert("L")) > 127
    assert told["size"] == [SIDE, SIDE]
    rows, columns = np.nonzero(hole)
    reach = 0.05 * told["side"] + 2  # half of the feather's width at 0.5, and a pixel of rounding
    # the head moves a little in these frames; the picture is of one of them
    reach += 0.1 * told["side"]
    y, x = np.nonzero(changed.any(axis=0))
    assert y.min() >= rows.min() - reach
    assert y.max() <= rows.max() + reach
    assert x.min() >= columns.min() - reach
    assert x.max() <= columns.max() + reach
    assert changed[FRAMES // 2][hole].mean() > 0.9  # and the hole is filled


def test_the_video_has_the_frames_and_the_sound(first):
    (path,) = (file for file in first.files if file.suffix == ".mp4")
    streams = Streams.of(path)
    assert (streams.num_frames, streams.fps, streams.size) == (FRAMES, FPS, (SIDE, SIDE))
    assert streams.duration == pytest.approx(FRAMES / FPS, abs=0.01)
    assert streams.sample_rate == 16_000
    assert streams.sound_duration == pytest.approx(FRAMES / FPS, abs=0.15)


def test_the_work_is_shown_while_it_is_done(first):
    shown = [preview for preview in first.previews if preview.node == "make"]
    assert shown
    for preview in shown:
        picture = Image.open(io.BytesIO(preview.encoded))
        assert picture.width == picture.height >= FACE
        assert np.asarray(picture).std() > 10
    values = first.progress("make")
    assert values == sorted(values)
    assert len(set(values)) > 2 * graphs.STEPS  # a step of each of two chunks moves it
    assert values[-1] == 1


def test_nothing_runs_twice_without_need(first, server, graph):
    again = server.run(graph)
    assert again.status == "success"
    assert again.executed == ()
    assert set(again.cached) == set(graph)
    softer = {**graph, "put": node("LatentSyncBlend", **{**graph["put"]["inputs"], "mask_smooth": 0.1})}
    run = server.run(softer)
    assert run.status == "success"
    assert set(run.executed) == {"put", "result", "create", "save"}


def test_a_second_speech_takes_the_same_faces(first, server, graph, clips, arrays):
    take = {key: graph[key] for key in ("clip", "parts", "cut", "speech", "model", "hear", "find", "make", "put")}
    take |= {"speech": graphs.speech("own.wav"), "result": write("second_take", images=["put", 0])}
    run = server.run(take)
    assert run.status == "success", run.message
    assert set(run.executed) == {"speech", "hear", "make", "put", "result"}
    assert not np.array_equal(arrays("second_take"), arrays("result"))


def test_the_same_seed_gives_the_same_bits(first, server, graph, arrays):
    other = {**graph, "make": node("LatentSyncSampler", **{**graph["make"]["inputs"], "seed": 2})}
    other["crops"] = write("other_seed", images=["make", 1])
    same = {**graph, "crops": write("same_seed", images=["make", 1])}
    for changed in (other, same):  # the second time the sampler runs anew: the host keeps only the last run's
        run = server.run(changed)
        assert run.status == "success", run.message
        assert "make" in run.executed
    assert np.array_equal(arrays("same_seed"), arrays("crops"))
    assert not np.array_equal(arrays("other_seed"), arrays("crops"))


def test_cached_frames_are_never_written_to(first, server, graph, arrays):
    """Those that the host kept through all runs above are still the clip's."""
    run = server.run({**graph, "source": write("source_later", images=["cut", 0]), "make": graph["make"]})
    assert run.status == "success", run.message
    assert "cut" not in run.executed
    assert np.array_equal(arrays("source_later"), arrays("source"))


def test_native_nodes_go_between(first, server, graph, arrays):
    """Crops that were made darker and twice as large are blended in."""
    run = server.run(
        {
            **graph,
            "large": node("ImageScaleBy", image=["make", 1], upscale_method="bicubic", scale_by=2.0),
            "invert": node("ImageInvert", image=["large", 0]),
            "put": node("LatentSyncBlend", **{**graph["put"]["inputs"], "crops": ["invert", 0]}),
            "result": write("inverted", images=["put", 0]),
        }
    )
    assert run.status == "success", run.message
    source, result, inverted = arrays("source"), arrays("result"), arrays("inverted")
    assert np.array_equal((source != inverted).any(3)[:, : SIDE // 3], np.zeros((FRAMES, SIDE // 3, SIDE), bool))
    changed = (result != source).any(3)
    assert np.abs(inverted - result)[changed].mean() > 0.05  # the edge is made to fit, even there


def test_the_whole_run_on_pictures_in_one_node(server, graph, clips):
    """Eight frames and a longer speech: trim ends both; the same frames go back and forth with bounce."""
    parts = ("clip", "parts", "speech", "model")
    eight = {key: graph[key] for key in parts} | {
        "cut": node("ImageFromBatch", image=["parts", 0], batch_index=0, length=8),
        "sync": node(
            "LatentSyncLipSyncImages",
            **{"frames": ["cut", 0], "audio": ["speech", 0], "model": ["model", 0], "fps": ["parts", 2], "seed": 1},
            **{"preset": "custom", "face": "largest", "length": "trim", "tail": "cut", "mask_smooth": 0.5},
            **{"steps": 1, "guidance_scale": 1.0},
        ),
        "given": write("given", images=["cut", 0]),
        "made": write(
            "made", images=["sync", 0], masks=["sync", 2], audio=["sync", 1], boxes=["sync", 3], text=["sync", 5]
        ),
        "rate": write("rate", number=["sync", 4]),
        "find": node("LatentSyncFacePrepare", **{**graph["find"]["inputs"], "frames": ["cut", 0]}),
        "found": write("found", masks=["find", 4], boxes=["find", 5]),
    }
    run = server.run(eight)
    assert run.status == "success", run.message
    given, made, found, rate = (
        np.load(server.base / "output" / f"{name}.npz") for name in ("given", "made", "found", "rate")
    )
    assert made["images"].shape == given["images"].shape
    assert made["masks"].shape == found["masks"].shape == (8, SIDE, SIDE)
    changed = (made["images"] != given["images"]).any(3)
    assert (changed.mean(axis=(1, 2)) > 0.005).all()
    assert not changed[made["masks"] == 0].any()
    assert set(np.unique(found["masks"] > 0.5)) == {False, True}
    assert (made["masks"][found["masks"] > 0.99] >= 0.5).all()  # the soft edge lies on the hard one
    assert made["waveform"].shape[-1] == 8 * made["sample_rate"] // FPS
    assert rate["number"] == FPS
    assert str(made["text"]).startswith("a face was made in 8 of 8 frames")
    boxes = json.loads(str(made["boxes"]))
    assert boxes == json.loads(str(found["boxes"]))
    for (box,), mask in zip(boxes, made["masks"], strict=True):
        rows, columns = np.nonzero(mask > 0.5)
        assert box["x"] < columns.mean() < box["x"] + box["width"]
        assert box["y"] + box["height"] / 2 < rows.mean() < box["y"] + box["height"]
        assert (box["label"], box["score"] > 0.5) == ("face", True)


def test_protected_pixels_stay(first, server, graph, arrays):
    run = server.run(
        {
            **graph,
            "all": node("SolidMask", value=1.0, width=SIDE, height=SIDE),
            "put": node("LatentSyncBlend", **{**graph["put"]["inputs"], "protect": ["all", 0]}),
            "result": write("protected", images=["put", 0]),
        }
    )
    assert run.status == "success", run.message
    assert np.array_equal(arrays("protected"), arrays("source"))


@pytest.mark.parametrize(
    "blend", [{"blend_method": "poisson"}, {"mask_shape": "landmarks"}], ids=["poisson", "landmarks"]
)
def test_the_blend_can_be_another_one(first, server, graph, arrays, blend):
    put = node("LatentSyncBlend", **graph["put"]["inputs"], **blend)
    run = server.run({**graph, "put": put, "result": write("other_blend", images=["put", 0])})
    assert run.status == "success", run.message
    assert "make" not in run.executed
    source, result, other = arrays("source"), arrays("result"), arrays("other_blend")
    changed, as_usual = ((source != frames).any(3) for frames in (other, result))
    assert not np.array_equal(other, result)
    assert 0.3 < changed.sum() / as_usual.sum() <= 1.05
    assert not changed[:, : SIDE // 3].any()


def test_in_pauses_the_source_is_shown(first, server, graph, arrays):
    """The speech begins after half a second; the clip's mouth moves before."""
    hear = node("LatentSyncAudioEncode", **graph["hear"]["inputs"], silence="source")
    kept = {key: graph[key] for key in ("clip", "parts", "cut", "speech", "model", "find", "make", "put")}
    run = server.run({**kept, "hear": hear, "result": write("pause", images=["put", 0])})
    assert run.status == "success", run.message
    assert "find" not in run.executed
    changed = (arrays("pause") != arrays("source")).any(axis=(1, 2, 3))
    assert not changed[:11].any()
    assert changed[16:].all()


def test_a_model_from_another_folder_works(first, server, graph, clips):
    """Found through extra_model_paths.yaml; it is a copy of the bundled one, so the bits are the same."""
    run = server.run(
        {**graph, "model": graphs.model(model="elsewhere/"), "crops": write("elsewhere", images=["make", 1])}
    )
    assert run.status == "success", run.message
    there, bundled = (np.load(server.base / "output" / f"{name}.npz")["images"] for name in ("elsewhere", "crops"))
    assert np.array_equal(there, bundled)


def test_fp8_gives_nearly_the_same_faces(arrays, server, clips):
    """Weights in 8 bits: other faces, but by less than anyone sees."""
    graph = stages(clips.talk, clips.speech)
    graph["model"]["inputs"]["precision"] = "fp8"
    run = server.run({**graph, "crops": write("fp8", images=["make", 1])})
    assert run.status == "success", run.message
    difference = np.abs(np.load(server.base / "output" / "fp8.npz")["images"] - arrays("crops"))
    assert 0 < difference.mean() < 0.02
