"""What the tests share: a small model, an avatar on video, and speech."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from latentsync.media.video_writer import write_wav
from latentsync.model.loading import LipSyncModel, described_model, load_model
from latentsync.synthetic.clips import AvatarClip
from latentsync.synthetic.scenes import scene_of_two, write_scene
from latentsync.synthetic.speech import SAMPLE_RATE
from tests.small_model import write_small_model
from tests.unit.media_clips import write_clip

FACE_SIDE = 192  # px; the face tracker finds an avatar that fills such a frame


@pytest.fixture(scope="session", autouse=True)
def track_cache_folder(tmp_path_factory) -> Path:
    """Found faces are kept here and not among the user's own."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LATENTSYNC_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="session")
def small_model_folder(tmp_path_factory) -> Path:
    """A described model with random weights, 64 px."""
    return write_small_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def small_model(small_model_folder) -> LipSyncModel:
    return load_model(described_model(small_model_folder))


@pytest.fixture(scope="session")
def avatar() -> AvatarClip:
    return AvatarClip(identity_seed=3, speech_seed=3, duration=2.0)


@pytest.fixture(scope="session")
def avatar_frames(avatar):
    """Twelve frames (192, 192, 3) uint8."""
    return [avatar.frame(index, FACE_SIDE, FACE_SIDE) for index in range(12)]


@pytest.fixture(scope="session")
def avatar_video(avatar_frames, tmp_path_factory) -> Path:
    """The twelve frames at 25 per second, with a sound of its own. Never to be written to."""
    path = tmp_path_factory.mktemp("clips") / "avatar.mp4"
    return write_clip(path, pictures=avatar_frames, size=(FACE_SIDE, FACE_SIDE), tone=300)


@pytest.fixture(scope="session")
def two_people(tmp_path_factory) -> Path:
    """Half a second of two avatars beside each other. Never to be written to."""
    path = tmp_path_factory.mktemp("scenes") / "two.mp4"
    write_scene(scene_of_two(duration=0.52), path)
    return path


@pytest.fixture(scope="session")
def speech(tmp_path_factory):
    """`speech(seconds, seed=5)`: path of a wav file of synthetic speech."""
    folder = tmp_path_factory.mktemp("speech")

    def make(seconds: float, seed: int = 5) -> Path:
        path = folder / f"{seconds:g}-{seed}.wav"
        if not path.exists():
            waveform = AvatarClip(0, seed, duration=max(1.0, seconds)).speech.waveform
            write_wav(path, waveform[: round(seconds * SAMPLE_RATE)], SAMPLE_RATE)
        return path

    return make


@pytest.fixture(scope="session")
def browser() -> Iterator:
    """A headless Chromium; where there is none the test is skipped with what to do about it."""
    from tests.comfy.browser import NoBrowser, chromium  # only where it is needed

    context = chromium()
    try:
        opened = context.__enter__()
    except NoBrowser as error:
        pytest.skip(str(error))
    yield opened
    context.__exit__(None, None, None)
