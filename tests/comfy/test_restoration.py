"""Restored faces: by the pack's loader, by a native upscale model, between the stages and in the one node."""

import numpy as np
import pytest
import torch
from spandrel.architectures.Compact.__arch.SRVGG import SRVGGNetCompact

from latentsync.samples import VIDEO
from tests.comfy import graphs
from tests.comfy.graphs import all_in_one, node, write

FRAMES, FACE, SCALE = 4, 128, 2
FILE = "sharp.pth"


@pytest.fixture(scope="module")
def restorer(server) -> str:
    """A network of random small weights beside a plain enlargement, in models/upscale_models."""
    torch.manual_seed(5)
    net = SRVGGNetCompact(num_feat=8, num_conv=2, upscale=SCALE)
    with torch.no_grad():
        net.body[-1].weight.mul_(0.3)
    folder = server.base / "models" / "upscale_models"
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(net.state_dict(), folder / FILE)
    return f"upscale_models/{FILE}"


@pytest.fixture(scope="module")
def graph(samples, restorer, clips) -> dict:
    stages = graphs.stages(VIDEO, clips.speech, count=FRAMES, steps=1, faces=["restore", 0])
    return {
        **stages,
        "load": node("LatentSyncRestoreLoader", restorer=restorer, codeformer_fidelity=0.5),
        "restore": restore(),
        "crops": write("restored", images=["restore", 1]),
        "plain": write("not_restored", images=["make", 1]),
        "count": node("PreviewAny", source=["restore", 2]),
        "source": write("restored_source", images=["cut", 0]),
        "result": write("restored_result", images=["put", 0]),
    }


def restore(**changes) -> dict:
    inputs = {"frames": ["cut", 0], "faces": ["make", 0], "restorer": ["load", 0], "sr_ratio": 2, "sr_strength": 1.0}
    return node("LatentSyncFaceRestore", **(inputs | changes))


@pytest.fixture(scope="module")
def first(server, graph):
    run = server.run(graph)
    assert (run.status, run.node_errors) == ("success", {}), run.message
    return run


@pytest.fixture(scope="module")
def arrays(first, server):
    return lambda name: np.load(server.base / "output" / f"{name}.npz")["images"]


def count_of(run) -> int:
    return int(run.outputs["count"]["text"][0])


def test_faces_become_larger_and_only_inside_the_mask_others(first, arrays):
    crops, plain = arrays("restored"), arrays("not_restored")
    assert count_of(first) == FRAMES
    assert crops.shape == (FRAMES, SCALE * FACE, SCALE * FACE, 3)
    enlarged = torch.nn.functional.interpolate(
        torch.from_numpy(plain).movedim(-1, 1), scale_factor=SCALE, mode="bicubic", antialias=True
    )
    difference = np.abs(crops - enlarged.clamp(0, 1).movedim(1, -1).numpy()).mean(axis=(0, 3))
    assert difference[: SCALE * FACE // 8].max() < 0.01  # hair and brows: only larger
    assert difference[SCALE * FACE // 2 :].mean() > 0.001


def test_the_frame_changes_in_the_mouth_alone(arrays):
    changed = (arrays("restored_source") != arrays("restored_result")).any(axis=(0, 3))
    assert changed.any()
    assert not changed[: changed.shape[0] // 4].any()


def test_a_native_upscale_model_does_the_same(first, server, graph, arrays):
    """And is used by its own node afterwards, where that expects it."""
    native = {
        "load": node("UpscaleModelLoader", model_name=FILE),
        "native": node("ImageUpscaleWithModel", upscale_model=["load", 0], image=["restore", 1]),
        "crops": write("native", images=["restore", 1]),
        "larger": write("larger", images=["native", 0]),
    }
    run = server.run({**graph, **native})
    assert (run.status, run.node_errors) == ("success", {}), run.message
    assert "make" not in run.executed
    assert np.array_equal(arrays("native"), arrays("restored"))
    assert arrays("larger").shape[1] == SCALE * SCALE * FACE


@pytest.mark.parametrize(
    ("changes", "side", "count"),
    [({"sr_ratio": 1}, FACE, FRAMES), ({"sr_ratio": 3}, 3 * FACE, FRAMES), ({"sr_strength": 0.0}, 2 * FACE, 0)],
)
def test_size_and_strength(first, server, graph, arrays, changes, side, count):
    run = server.run({**graph, "restore": restore(**changes), "crops": write("sized", images=["restore", 1])})
    assert run.status == "success", run.message
    assert arrays("sized").shape == (FRAMES, side, side, 3)
    assert count_of(run) == count


def test_the_bundled_restorer_is_there(first, server, graph, arrays):
    graph = {**graph, "load": node("LatentSyncRestoreLoader", restorer="tiny (bundled)", codeformer_fidelity=0.5)}
    run = server.run({**graph, "crops": write("bundled", images=["restore", 1])})
    assert run.status == "success", run.message
    assert count_of(run) == FRAMES
    assert not np.array_equal(arrays("bundled"), arrays("restored"))


def test_files_of_the_usual_folders_are_listed(server, restorer):
    folder = server.base / "models" / "facerestore_models"
    folder.mkdir(exist_ok=True)
    (folder / "GFPGANv1.4.pth").write_bytes(b"")
    said = server.nodes()["LatentSyncRestoreLoader"]["input"]["required"]["restorer"][1]["options"]
    assert said[0] == "tiny (bundled)"
    assert {restorer, "facerestore_models/GFPGANv1.4.pth"} <= set(said)


@pytest.mark.parametrize("native", [False, True], ids=["own", "native"])
def test_the_one_node_restores(server, graph, clips, native):
    one = all_in_one(VIDEO, clips.speech, steps=1, duration=FRAMES / 25, restorer=["load", 0], sr_ratio=2)
    one["load"] = node("UpscaleModelLoader", model_name=FILE) if native else graph["load"]
    run = server.run(one)
    assert (run.status, run.node_errors) == ("success", {}), run.message
    (payload,) = run.outputs["sync"]["latentsync_report"]
    assert payload["faces"][0]["frames"]["restored"] == [1] * FRAMES
    assert payload["restorer"]["name"] == (FILE if not native else "upscale model RealESRGAN Compact")
