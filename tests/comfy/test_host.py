"""The host itself, the harness around it and the other pack: if one of these fails, look here first."""

import numpy as np
import pytest

from tests.comfy.media import FPS, SECONDS, SIDE, Streams
from tests.comfy.server import preview_of

NATIVE = ("LoadVideo", "GetVideoComponents", "CreateVideo", "SaveVideo", "LoadAudio", "ImageFromBatch", "EmptyImage")


def test_the_host_has_its_own_nodes(server):
    assert set(NATIVE) <= set(server.nodes())
    assert set(server.nodes("other_pack")) == {
        "OtherBatchManager",
        "OtherLoadVideo",
        "OtherCombineVideo",
        "OtherNoFrames",
        "OtherWriteArrays",
    }


def test_native_and_other_nodes_pass_a_clip(server, clips):
    run = server.run(
        {
            "load": {"class_type": "OtherLoadVideo", "inputs": {"video": clips.talk, "frame_load_cap": 20}},
            "combine": {
                "class_type": "OtherCombineVideo",
                "inputs": {
                    "images": ["load", 0],
                    "audio": ["load", 2],
                    "frame_rate": ["load", 3],
                    "filename_prefix": "c",
                },
            },
            "create": {
                "class_type": "CreateVideo",
                "inputs": {"images": ["load", 0], "fps": ["load", 3], "audio": ["load", 2]},
            },
            "save": {
                "class_type": "SaveVideo",
                "inputs": {"video": ["create", 0], "filename_prefix": "n", "format": "auto", "codec": "auto"},
            },
        }
    )
    assert (run.status, run.node_errors) == ("success", {})
    combined, saved = (Streams.of(next(f for f in run.files if f.name.startswith(name))) for name in "cn")
    assert combined.num_frames == saved.num_frames == 20
    assert combined.fps == saved.fps == FPS
    assert combined.size == (SIDE, SIDE)
    assert combined.sound_duration == pytest.approx(SECONDS, abs=0.15)  # AAC pads


def test_a_refused_branch_is_no_success(server, clips):
    """The host answers 200, drops the branch and says success."""
    run = server.run(
        {
            "load": {"class_type": "OtherLoadVideo", "inputs": {"video": clips.talk, "frame_load_cap": 2}},
            "good": {"class_type": "OtherWriteArrays", "inputs": {"name": "good", "images": ["load", 0]}},
            "bad": {"class_type": "OtherWriteArrays", "inputs": {"name": "bad", "masks": ["load", 0]}},
        }
    )
    assert run.status == "partial"
    assert set(run.node_errors) == {"bad"}
    assert "type" in run.message


def test_the_silent_clip_has_no_sound_for_the_host(server, clips):
    run = server.run(
        {
            "load": {"class_type": "LoadVideo", "inputs": {"file": clips.silent}},
            "parts": {"class_type": "GetVideoComponents", "inputs": {"video": ["load", 0]}},
            "write": {
                "class_type": "OtherWriteArrays",
                "inputs": {"name": "silent", "images": ["parts", 0], "audio": ["parts", 1], "number": ["parts", 2]},
            },
        }
    )
    assert run.status == "success"
    written = np.load(run.files[0])
    assert "waveform" not in written
    assert written["images"].shape == (round(SECONDS * FPS), SIDE, SIDE, 3)
    assert float(written["number"]) == FPS


def test_messages_with_pictures_are_taken_apart():
    jpeg = b"\xff\xd8rest"
    said = b'{"node_id": "7"}'
    (preview,) = preview_of((4).to_bytes(4, "big") + len(said).to_bytes(4, "big") + said + jpeg)
    assert (preview.node, preview.encoded) == ("7", jpeg)
    (plain,) = preview_of((1).to_bytes(4, "big") + (1).to_bytes(4, "big") + jpeg)
    assert (plain.node, plain.encoded) == (None, jpeg)
    assert preview_of((3).to_bytes(4, "big") + b"text") == []
