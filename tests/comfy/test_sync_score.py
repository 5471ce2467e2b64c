"""The sync score in the host: of a clip in sync, and of one whose sound was moved by a known time."""

import numpy as np
import pytest
from PIL import Image

from latentsync.media.video_writer import write_wav
from latentsync.sync.syncnet import BUNDLED_SYNCNET
from latentsync.synthetic.speech import SAMPLE_RATE
from tests.comfy.graphs import node, speech, write

LATE = 4  # frames by which the sound is moved

pytestmark = pytest.mark.skipif(not BUNDLED_SYNCNET.is_file(), reason="no bundled SyncNet")


@pytest.fixture(scope="module")
def run(server, clips, tmp_path_factory):
    moved = np.concatenate([np.zeros(LATE * SAMPLE_RATE // 25), clips.avatar.speech.waveform]).astype(np.float32)
    path = tmp_path_factory.mktemp("sounds") / "moved.wav"
    write_wav(path, moved[: len(clips.avatar.speech.waveform)], SAMPLE_RATE)
    server.add_input(path)
    judge = {"syncnet": "tiny (bundled)", "face": "largest", "fps": 25.0}
    graph = {
        "clip": node("LoadVideo", file=clips.talk),
        "silent": node("LoadVideo", file=clips.silent),
        "parts": node("GetVideoComponents", video=["clip", 0]),
        "moved": speech("moved.wav"),
        "video": node("LatentSyncSyncScore", frames=["clip", 0], **judge),
        "images": node("LatentSyncSyncScore", frames=["parts", 0], audio=["parts", 1], **judge),
        "late": node("LatentSyncSyncScore", frames=["silent", 0], audio=["moved", 0], **judge),
    }
    for name in ("video", "images", "late"):
        graph[f"{name}_score"] = write(f"{name}_score", number=[name, 0])
        graph[f"{name}_offset"] = write(f"{name}_offset", number=[name, 1], images=[name, 2])
    return server.run(graph)


def number(server, name: str) -> float:
    return float(np.load(server.base / "output" / f"{name}.npz")["number"])


def test_a_video_is_judged_by_its_own_sound(server, run, artefacts):
    assert run.status == "success", run.message
    assert number(server, "video_offset") == 0
    assert number(server, "video_score") > 0.1
    (text,) = run.outputs["video"]["text"]
    assert "with the sound" in text
    assert "drawn avatars only" in text
    picture = np.load(server.base / "output" / "video_offset.npz")["images"]
    assert picture.shape == (1, 320, 640, 3)
    Image.fromarray((picture[0] * 255).round().astype(np.uint8)).save(artefacts / "sync_score.png")


def test_frames_and_sound_are_judged_alike(server, run):
    assert number(server, "images_offset") == 0
    assert number(server, "images_score") == pytest.approx(number(server, "video_score"), abs=0.05)


def test_a_moved_sound_is_found(server, run):
    """The sound comes later: the lips come before it."""
    assert number(server, "late_offset") == -40 * LATE


def test_frames_without_sound_are_told(server, clips):
    run = server.run(
        {
            "clip": node("LoadVideo", file=clips.silent),
            "late": node("LatentSyncSyncScore", frames=["clip", 0], syncnet="tiny (bundled)", face="largest", fps=25.0),
        }
    )
    assert run.status == "error"
    assert "there is no sound" in run.message
