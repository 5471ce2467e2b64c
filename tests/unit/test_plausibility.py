"""Results that are no faces are refused and the network is named: the bundled model, made wrong in one way each."""

import copy
import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
import torch

from latentsync.errors import BrokenResultError
from latentsync.faces.finder import FaceTracker
from latentsync.model.loading import LipSyncModel, bundled_model, described_model, load_model
from latentsync.options import LipSyncOptions
from latentsync.run import engine
from latentsync.run.chunks import ChunkGenerator, Denoiser, FaceFrame, generate_alone
from latentsync.run.speech import encode_speech
from latentsync.run.stages import prepare_faces
from latentsync.run.steps import FaceJudge, check_finite
from tests.small_model import small_vae, write_small_model

NUM_FRAMES = 4
FEW_STEPS = LipSyncOptions(num_inference_steps=3, guidance_scale=1.0, chunk_frames=NUM_FRAMES, chunk_overlap=0)


@pytest.fixture(scope="module")
def model() -> LipSyncModel:
    return load_model(bundled_model())


@pytest.fixture(scope="module")
def aligned(avatar) -> np.ndarray:
    frames = [avatar.frame(index, 256, 256) for index in range(NUM_FRAMES)]
    return prepare_faces(frames, 128, FEW_STEPS, finder=FaceTracker("cpu")).aligned


def copied(network: torch.nn.Module) -> torch.nn.Module:
    """The same network, to be made wrong."""
    return copy.deepcopy(network)


def generated(model: LipSyncModel, aligned: np.ndarray, avatar, options=FEW_STEPS) -> str | None:
    """What is said of a chunk's faces: the warning, if any."""
    speech = encode_speech(model, torch.from_numpy(avatar.speech.waveform)[None], 16_000, 25.0)
    chunks = ChunkGenerator(model, options, torch.Generator().manual_seed(0))
    with torch.inference_mode():
        heard = speech.tokens(np.arange(NUM_FRAMES) / 25)
        list(generate_alone(chunks, Denoiser(model, options), map(FaceFrame, aligned, heard)))
    return chunks.warning


def shuffled_unet(model: LipSyncModel) -> LipSyncModel:
    unet, generator = copied(model.unet), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in (parameter for parameter in unet.parameters() if parameter.ndim > 1):
            weight.copy_(torch.randn(weight.shape, generator=generator) * weight.std())
    return dataclasses.replace(model, unet=unet)


def loud_whisper(model: LipSyncModel) -> LipSyncModel:
    whisper = copied(model.whisper)
    with torch.no_grad():
        for parameter in whisper.parameters():
            parameter.mul_(3)
    return dataclasses.replace(model, whisper=whisper)


def louder_vae(model: LipSyncModel, factor: float) -> LipSyncModel:
    vae = copied(model.vae)
    with torch.no_grad():
        vae.decoder.conv_out.weight.mul_(factor)
        vae.decoder.conv_out.bias.mul_(factor)
    return dataclasses.replace(model, vae=vae)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_fitting_model_is_not_suspected(aligned, avatar, dtype):
    assert generated(load_model(bundled_model(), dtype=dtype), aligned, avatar) is None


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (shuffled_unet, "correlation with it is"),
        (loud_whisper, "correlation with it is"),
        (lambda model: dataclasses.replace(model, vae=small_vae()), "correlation with it is"),
        (lambda model: louder_vae(model, 50.0), "beyond black and white"),
        (lambda model: louder_vae(model, 0.0), "of one colour"),
    ],
    ids=["U-Net shuffled", "Whisper too loud", "another VAE", "VAE too loud", "VAE silent"],
)
def test_garbage_is_refused(model, aligned, avatar, spoil, said):
    with pytest.raises(BrokenResultError, match=said):
        generated(spoil(model), aligned, avatar)


def test_a_wrong_prediction_type_is_told(model, aligned, avatar):
    wrong = dataclasses.replace(model, prediction_type="epsilon")
    try:
        assert generated(wrong, aligned, avatar)
    except BrokenResultError:
        return


@pytest.mark.parametrize(
    ("part", "tensor", "name"),
    [
        ("unet", "conv_out.weight", "U-Net"),
        ("vae", "encoder.conv_in.weight", "VAE"),
        ("vae", "decoder.conv_out.bias", "VAE"),
        ("whisper", "encoder.conv1.weight", "Whisper"),
    ],
)
def test_a_number_that_is_none_is_traced_to_its_file(model, aligned, avatar, part, tensor, name):
    network = copied(getattr(model, part))
    with torch.no_grad():
        network.get_parameter(tensor).view(-1)[0] = torch.nan
    spoiled = dataclasses.replace(model, **{part: network})
    with pytest.raises(BrokenResultError, match=rf"the {name} of the model .* float32; check .*: its tensor {tensor}"):
        generated(spoiled, aligned, avatar)


def test_an_overflow_of_float16_is_told_as_one(small_model):
    half = dataclasses.replace(small_model, dtype=torch.float16)
    with pytest.raises(BrokenResultError, match=r"the U-Net of the model small .* float16; try float32 \(fp32\)$"):
        check_finite(torch.tensor([1.0, torch.inf]), half, "unet")


def test_nothing_of_it_is_written(model, avatar_video, speech, tmp_path):
    with pytest.raises(BrokenResultError, match="no faces"):
        engine.lip_sync(avatar_video, speech(0.2), tmp_path / "out.mp4", shuffled_unet(model), FEW_STEPS)
    assert list(tmp_path.iterdir()) == []


def judged(model: LipSyncModel, faces: Callable, steps: int = 5) -> str | None:
    sources = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    judge = FaceJudge(model, torch.ones(64, 64), steps)
    judge(faces(sources), sources)
    return judge.warning


def test_limits_of_the_judgement(model):
    noise = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    assert judged(model, lambda sources: sources) is None
    assert judged(model, lambda sources: sources * 0.5 + 0.2) is None  # colours may differ
    assert "correlation 0." in judged(model, lambda sources: sources * 0.6 + noise * 0.25)
    assert "exceed their range" in judged(model, lambda sources: sources * 1.4)
    with pytest.raises(BrokenResultError, match="black or white"):
        judged(model, lambda sources: sources.sign())
    with pytest.raises(BrokenResultError, match=r"-1\.00 instead"):
        judged(model, lambda sources: -sources)
    assert judged(model, lambda sources: -sources, steps=1) is None  # a single step gives noise


def test_random_weights_that_say_so_are_not_compared(tmp_path):
    model = load_model(described_model(write_small_model(tmp_path)))
    assert not model.is_trained
    assert judged(model, lambda sources: -sources) is None
