"""Several people in one clip: who is meant, who says what, and what the report tells of each."""

import numpy as np
import pytest

from latentsync.metrics.faces import correlation
from tests.comfy import graphs
from tests.comfy.graphs import all_in_one, node, write
from tests.comfy.media import SIDE

FRAMES = 6


@pytest.fixture(scope="module")
def aligned(server, clips):
    """`aligned(inputs of Face Prepare)`: the crops of the face that is found."""
    stages = graphs.stages(clips.two, clips.speech, count=FRAMES)
    picture = {
        "crop": node("ImageCrop", image=["cut", 0], width=SIDE, height=SIDE, x=SIDE, y=0),
        "person": node("ImageFromBatch", image=["crop", 0], batch_index=3, length=1),
    }
    wanted = {key: stages[key] for key in ("clip", "parts", "cut", "model")} | picture

    def run(**inputs) -> np.ndarray:
        find = node("LatentSyncFacePrepare", **{**stages["find"]["inputs"], **inputs})
        done = server.run({**wanted, "find": find, "write": write("found", images=["find", 1])})
        assert done.status == "success", done.message
        return np.load(server.base / "output" / "found.npz")["images"]

    return run


def test_each_way_to_choose_finds_its_face(aligned):
    left, right = aligned(face="left"), aligned(face="right")
    assert np.abs(left - right).mean() > 0.05
    assert np.array_equal(aligned(face="point", face_x=0.25, face_y=0.5), left)
    assert np.array_equal(aligned(face="point", face_x=0.75, face_y=0.5), right)
    assert np.array_equal(aligned(face="left", face_picture=["person", 0]), right)  # the picture goes before
    numbered = [aligned(face="number", face_number=number) for number in (0, 1)]
    assert any(
        np.array_equal(numbered[0], one) and np.array_equal(numbered[1], other)
        for one, other in ((left, right), (right, left))
    )


@pytest.fixture(scope="module")
def run(server, clips):
    """The left one says the given speech, the right one what the left one said in the clip."""
    graph = all_in_one(clips.two, clips.speech, steps=6, guidance_scale=1.5, face="left", speakers=["right", 0])
    graph |= {
        "own": graphs.speech("own.wav"),
        "right": node("LatentSyncSpeaker", audio=["own", 0], face="right"),
        "report": node("LatentSyncReport", report=["sync", 1]),
    }
    return server.run(graph)


def test_everyone_says_their_own(run, clips, spoken):
    assert (run.status, run.node_errors) == ("success", {}), run.message
    (payload,) = run.outputs["sync"]["latentsync_report"]
    assert [face["choice"] for face in payload["faces"]] == ["left", "right"]
    assert sorted(face["index"] for face in payload["faces"]) == [0, 1]
    speeches = (spoken.lips[:, 0], clips.avatar.lips[:, 0])
    for face, own, other in zip(payload["faces"], speeches, speeches[::-1], strict=True):
        opening = np.array(face["frames"]["opening"], float)
        assert np.isfinite(opening).all()
        rights = correlation(opening, own), correlation(opening, other)
        print(f"{face['choice']}: correlation with the own speech {rights[0]:.2f}, with the other's {rights[1]:.2f}")
        assert rights[0] >= 0.6
        assert rights[0] - rights[1] >= 0.3


def test_faces_of_a_clip_are_kept_for_the_next_run(run, server, clips):
    """Another speech for everybody: the clip is not searched again."""
    kept = list((server.base / "cache").rglob("*.npz"))
    assert kept
    again = server.run(all_in_one(clips.two, "own.wav", face="all", duration=0.2))
    assert again.status == "success", again.message
    (payload,) = again.outputs["sync"]["latentsync_report"]
    assert len(payload["faces"]) == 2
    assert set((server.base / "cache").rglob("*.npz")) == set(kept)
    assert payload["stages"]["find faces"] < 0.5  # s
    assert payload["num_frames"] == payload["num_faces"] == 5
