"""What goes wrong in one stage of a run ends all of it: the error itself, no thread, no file."""

import dataclasses
import logging
import os
import threading

import pytest
import torch

from latentsync.errors import Cancelled, LatentSyncError, MediaError, OutputError
from latentsync.options import LipSyncOptions
from latentsync.restoration.restorers import Restorer
from latentsync.run.engine import lip_sync
from latentsync.run.progress import Progress
from tests.small_model import small_unet
from tests.unit.media_clips import write_clip

FAST = LipSyncOptions(num_inference_steps=1, guidance_scale=1.0, chunk_frames=4, chunk_overlap=0)


@pytest.fixture
def out(tmp_path):
    """Where the result would be; afterwards neither a file nor a folder nor a thread is left."""
    before = set(threading.enumerate())
    yield tmp_path / "result" / "out.mp4"
    assert not (tmp_path / "result").exists()
    assert set(threading.enumerate()) <= before


def test_decoding(small_model, avatar_frames, speech, tmp_path, out):
    """The video becomes another one after its faces were found, with a picture that changes its size in the middle."""
    video, size = tmp_path / "v.h264", (192, 192)
    write_clip(video, muxer="h264", pictures=avatar_frames, size=size)
    tail = write_clip(tmp_path / "tail.h264", muxer="h264", pictures=2, size=(96, 64))
    broken = tmp_path / "broken.h264"
    broken.write_bytes(video.read_bytes() + tail.read_bytes())

    searched = []

    def exchange(progress: Progress) -> None:
        searched.append(progress.stage)
        if len(searched) == len(avatar_frames):
            assert set(searched) == {"find faces"}
            os.replace(broken, video)

    with pytest.raises(MediaError, match="changes from 192x192 to 96x64 on the way"):
        lip_sync(video, speech(0.6), out, small_model, FAST, on_progress=exchange)


def test_generation(small_model, avatar_video, speech, out):
    """The second chunk breaks, while frames of the first are on their way to the file."""
    unet, calls = small_unet(), []

    def spoil(module, inputs, output):
        calls.append(1)
        return (output[0] * torch.nan,) if len(calls) == 2 else output

    unet.register_forward_hook(spoil)
    with pytest.raises(LatentSyncError, match="not finite"):
        lip_sync(avatar_video, speech(0.48), out, dataclasses.replace(small_model, unet=unet), FAST)


def test_restoration(small_model, avatar_video, speech, out):
    def network(faces):
        raise RuntimeError("the network is gone")

    with pytest.raises(RuntimeError, match="the network is gone"):
        lip_sync(avatar_video, speech(0.48), out, small_model, FAST, restorer=Restorer("gone", network))


@pytest.mark.skipif(os.name == "nt", reason="a limit of POSIX")
@pytest.mark.parametrize("size", [1, 30_000])
def test_encoding_to_a_full_disk(small_model, avatar_video, speech, out, size):
    """A limit on the size of files stands for the disk: it is met while encoding, at once or in the middle."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        with pytest.raises(OutputError, match="the disk is full or a size limit is reached"):
            lip_sync(avatar_video, speech(4.0), out, small_model, dataclasses.replace(FAST, chunk_frames=16))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("frames", [0, 5, 11])
def test_stopping_with_all_stages_at_work(small_model, avatar_video, speech, out, frames):
    seen = []
    with pytest.raises(Cancelled):
        lip_sync(
            avatar_video,
            speech(0.48),
            out,
            small_model,
            FAST,
            on_progress=lambda state: seen.append(state.frames_done),
            should_stop=lambda: bool(seen) and seen[-1] >= frames,
        )


def test_damage_in_the_middle_costs_its_frames_only(small_model, avatar_frames, speech, tmp_path, caplog):
    """No failure: decoding skips what is damaged."""
    video = write_clip(tmp_path / "v.mkv", pictures=avatar_frames * 2, size=(192, 192), gop=4, options={"bf": "0"})
    content = bytearray(video.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 600] = os.urandom(600)
    video.write_bytes(content)
    with caplog.at_level(logging.WARNING):
        report = lip_sync(video, speech(0.8), tmp_path / "out.mp4", small_model, FAST)
    assert (tmp_path / "out.mp4").is_file()
    assert 12 < report.num_frames <= 24
