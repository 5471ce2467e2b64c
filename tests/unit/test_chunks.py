"""Streaming generation: every frame once and in order, seams cross-faded, equal to a direct computation."""

import numpy as np
import pytest
import torch

from latentsync.model.diffusion import shared_noise
from latentsync.options import LipSyncOptions
from latentsync.run.chunks import ChunkGenerator, Denoiser, FaceFrame, generate_alone
from latentsync.run.steps import condition, decode_faces, generate

pytestmark = pytest.mark.usefixtures("no_gradients")
FAST = {"num_inference_steps": 1, "guidance_scale": 1.0, "colour_match": False}
TWO_STEPS = FAST | {"num_inference_steps": 2}  # with a single step the noise hardly changes, whatever is given


@pytest.fixture
def no_gradients():
    with torch.inference_mode():
        yield


def frames(count: int, side: int = 64, seed: int = 0) -> list[FaceFrame]:
    """Noise that differs in brightness and contrast from frame to frame, so that it matters which ones meet."""
    rng = np.random.default_rng(seed)
    pictures = rng.integers(0, 256, (count, side, side, 3)) * rng.uniform(0.02, 1, (count, 1, 1, 1))
    pictures = pictures.astype(np.uint8)
    tokens = torch.from_numpy(rng.standard_normal((count, 50, 384), np.float32))
    return [FaceFrame(picture, token, payload=i) for i, (picture, token) in enumerate(zip(pictures, tokens))]  # noqa: B905


def run(model, options: LipSyncOptions, given: list[FaceFrame], seed: int = 1):
    """Faces (F, 3, S, S), the order the frames came back in, and the lengths of the chunks."""
    chunks, lengths = ChunkGenerator(model, options, torch.Generator().manual_seed(seed)), []

    def note(step: int, num_steps: int, latents: torch.Tensor) -> None:
        if step == 0:
            lengths.append(latents.shape[2])

    pairs = [pair for made in generate_alone(chunks, Denoiser(model, options, note), given) for pair in made]
    return torch.stack([face for _, face in pairs]), [frame.payload for frame, _ in pairs], lengths


@pytest.mark.parametrize("length", range(1, 41))
def test_every_frame_comes_out_once_and_in_order(small_model, length):
    faces, order, lengths = run(small_model, LipSyncOptions(**FAST), frames(length))
    assert order == list(range(length))
    assert faces.shape == (length, 3, 64, 64)
    # full chunks wherever there are frames enough, and none that only repeats what is final
    assert lengths == ([length] if length < 16 else [16] * (1 + -(-(length - 16) // 12)))


@pytest.mark.parametrize(("chunk", "overlap"), [(1, 0), (2, 1), (5, 2), (24, 12)])
def test_other_chunk_lengths(small_model, chunk, overlap):
    options = LipSyncOptions(**FAST, chunk_frames=chunk, chunk_overlap=overlap)
    for length in (1, chunk, chunk + 1, 2 * chunk + 1):
        assert run(small_model, options, frames(length))[1] == list(range(length))


@pytest.mark.parametrize(("length", "lengths"), [(5, [5]), (16, [16]), (17, [16, 1]), (40, [16, 16, 8])])
def test_reference_preset_takes_plain_chunks_with_a_short_last_one(small_model, length, lengths):
    _, order, taken = run(small_model, LipSyncOptions(**FAST).as_reference(), frames(length))
    assert order == list(range(length))
    assert taken == lengths


def test_single_chunk_equals_a_direct_computation(small_model):
    options = LipSyncOptions(colour_match=False, num_inference_steps=2, guidance_scale=1.5)
    given = frames(11)
    faces, _, _ = run(small_model, options, given)
    generator = torch.Generator().manual_seed(1)
    noise = shared_noise((1, 4, 1, 8, 8), generator)
    mask = ChunkGenerator(small_model, options, torch.Generator()).mask
    pictures = torch.from_numpy(np.stack([frame.aligned for frame in given]))
    conditioning = condition(small_model, pictures, mask, generator=generator)
    tokens = torch.stack([frame.tokens for frame in given])
    expected = decode_faces(small_model, generate(small_model, noise, conditioning, tokens, options))
    torch.testing.assert_close(faces, expected, atol=1e-4, rtol=0)


def latents_of(model, options: LipSyncOptions, given: list[FaceFrame], part: slice) -> torch.Tensor:
    """Latents of these frames as one chunk."""
    noise = shared_noise((1, 4, 1, 8, 8), torch.Generator().manual_seed(1))
    mask = ChunkGenerator(model, options, torch.Generator()).mask
    pictures = torch.from_numpy(np.stack([frame.aligned for frame in given[part]]))
    conditioning = condition(model, pictures, mask, generator=torch.Generator())
    return generate(model, noise, conditioning, torch.stack([frame.tokens for frame in given[part]]), options)


def test_chunks_cross_fade_where_they_overlap(small_model):
    """Frames 12..15 belong to chunks 0..15 and 12..27: weights 1/5, 2/5, 3/5, 4/5 of the later one."""
    options, given = LipSyncOptions(**TWO_STEPS), frames(28)
    faces, _, _ = run(small_model, options, given)
    first = latents_of(small_model, options, given, slice(0, 16))
    second = latents_of(small_model, options, given, slice(12, 28))
    weights = torch.arange(1, 5).reshape(4, 1, 1, 1) / 5
    mixed = torch.lerp(first[12:], second[:4], weights)
    expected = decode_faces(small_model, torch.cat([first[:12], mixed, second[4:]]))
    torch.testing.assert_close(faces, expected, atol=1e-4, rtol=0)
    hard_cut = decode_faces(small_model, second[:4])
    assert (faces[12:16] - hard_cut).abs().max() > 1e-3  # the chunks do differ there


def test_short_last_chunk_is_completed_with_the_frames_before_it(small_model):
    """19 frames: the second chunk is 3..18, of which 12..15 cross-fade and 16..18 are new."""
    options, given = LipSyncOptions(**TWO_STEPS), frames(19)
    faces, _, lengths = run(small_model, options, given)
    assert lengths == [16, 16]
    second = latents_of(small_model, options, given, slice(3, 19))
    expected = decode_faces(small_model, second[13:])
    torch.testing.assert_close(faces[16:], expected, atol=1e-4, rtol=0)
    alone = decode_faces(small_model, latents_of(small_model, options, given, slice(12, 19))[4:])
    assert (alone - expected).abs().max() > 1e-3  # the context does change the result


def test_a_new_run_knows_nothing_of_the_one_before(small_model):
    options = LipSyncOptions(**FAST)
    chunks = ChunkGenerator(small_model, options, torch.Generator().manual_seed(1))
    denoiser = Denoiser(small_model, options)
    made = list(generate_alone(chunks, denoiser, [*frames(20, seed=7), None, None, *frames(5)]))
    assert [len(pairs) for pairs in made[20:]] == [4 + options.chunk_overlap, 0, 0, 0, 0, 0, 0, 5]
    again = torch.stack([face for _, face in made[-1]])
    torch.testing.assert_close(again, run(small_model, options, frames(5))[0], atol=1e-5, rtol=0)
