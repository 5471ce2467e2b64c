"""Between other authors' nodes: frames and a lazy Mapping of sound go in, any writer of videos takes the rest."""

import pytest

from tests.comfy import graphs
from tests.comfy.graphs import node
from tests.comfy.media import FPS, SIDE, Streams

COUNT = 18


@pytest.fixture(scope="module")
def run(server, clips):
    graph = graphs.stages(clips.talk, clips.speech)
    for name in ("clip", "parts", "cut", "speech"):
        del graph[name]
    graph |= {
        "load": node("OtherLoadVideo", video=clips.talk, frame_load_cap=COUNT),
        "combine": node(
            "OtherCombineVideo",
            images=["put", 0],
            audio=["load", 2],
            frame_rate=["load", 3],
            filename_prefix="combined_synced",
        ),
        "create": node("CreateVideo", images=["put", 0], fps=["load", 3], audio=["load", 2]),
        "save": graphs.save_video(["create", 0], "native_synced"),
        # and the one node, on a video made of those frames, with the same lazy sound
        "frames": node("CreateVideo", images=["load", 0], fps=["load", 3]),
        "sync": node(
            "LatentSyncLipSync",
            **{**graphs.all_in_one(clips.talk, clips.speech, duration=0.4)["sync"]["inputs"]}
            | {"video": ["frames", 0], "audio": ["load", 2]},
        ),
        "save_sync": graphs.save_video(["sync", 0], "one_synced"),
    }
    for name in ("find", "put"):
        graph[name]["inputs"]["frames"] = ["load", 0]
    for name in ("find", "hear"):
        graph[name]["inputs"]["fps"] = ["load", 3]
    graph["hear"]["inputs"]["audio"] = ["load", 2]
    return server.run(graph)


@pytest.mark.parametrize(("name", "count"), [("combined_synced", COUNT), ("native_synced", COUNT), ("one_synced", 10)])
def test_the_chain_comes_out(run, name, count):
    assert (run.status, run.node_errors) == ("success", {}), run.message
    streams = Streams.of(next(file for file in run.files if file.name.startswith(name)))
    assert (streams.num_frames, streams.fps, streams.size) == (count, FPS, (SIDE, SIDE))
    assert streams.sample_rate == 16_000
