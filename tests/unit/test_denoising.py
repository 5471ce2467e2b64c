"""Chunks of several faces in one batch: each is what it is alone."""

import dataclasses

import pytest
import torch

from latentsync.options import LipSyncOptions
from latentsync.run.chunks import Chunk, ChunkGenerator, Denoiser, SourceCache, generate_alone
from tests.unit.test_chunks import frames
from tests.unit.test_errors import FULL

OPTIONS = LipSyncOptions(num_inference_steps=3, guidance_scale=1.5, colour_match=False)
ROUNDING = 2e-5  # of latents of about unit size: larger matrix products sum in another order


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.inference_mode():
        yield


def chunk(seed: int, length: int = 5) -> Chunk:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    return Chunk(normal(1, 4, 1, 8, 8), normal(length, 9, 8, 8) * seed, normal(length, 50, 384))


def asked(*chunks: Chunk):
    """Work that wants these denoised, one after another."""
    results = []
    for one in chunks:
        results.append((yield one))
    return results


@pytest.fixture
def batches(small_model):
    """Noted at each call of the U-Net: how many clips it saw."""
    seen = []
    hook = small_model.unet.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))
    yield seen
    hook.remove()


def test_together_is_as_alone(small_model, batches):
    chunks = [chunk(seed) for seed in (1, 2, 3)]
    alone = [Denoiser(small_model, OPTIONS).together([asked(one)])[0][0] for one in chunks]
    batches.clear()
    together = Denoiser(small_model, dataclasses.replace(OPTIONS, clips_at_once=3)).together(map_asked(chunks))
    assert batches == [6] * 3  # each with and without speech, in three steps
    for one, (other,) in zip(alone, together, strict=True):
        torch.testing.assert_close(other, one, atol=ROUNDING, rtol=0)
    # the chunks are unlike each other, so that statistics of the whole batch would show
    assert min((alone[a] - alone[b]).abs().max().item() for a, b in ((0, 1), (0, 2), (1, 2))) > 0.1


def map_asked(chunks):
    return [asked(one) for one in chunks]


def test_no_more_than_allowed_and_only_equal_lengths(small_model, batches):
    lengths = [5, 5, 5, 3]
    work = map_asked([chunk(1 + index, length) for index, length in enumerate(lengths)])
    results = Denoiser(small_model, dataclasses.replace(OPTIONS, guidance_scale=1.0)).together(work)
    assert batches == [2] * 3 + [1] * 3 + [1] * 3
    assert [len(latents) for (latents,) in results] == lengths


def test_works_of_different_lengths_all_end(small_model):
    works = [asked(), asked(chunk(1)), asked(chunk(2), chunk(3), chunk(4))]
    assert [len(results) for results in Denoiser(small_model, OPTIONS).together(works)] == [0, 1, 3]


@pytest.mark.parametrize("error", [FULL["cuda"], FULL["mps"]])
def test_where_memory_does_not_suffice_each_goes_alone(error, small_model, batches):
    def refuse(module, inputs):
        if len(inputs[0]) > 2:
            raise error

    chunks = [chunk(1), chunk(2)]
    alone = [Denoiser(small_model, OPTIONS).together([asked(one)])[0][0] for one in chunks]
    hook = small_model.unet.register_forward_pre_hook(refuse)
    try:
        results = Denoiser(small_model, OPTIONS).together(map_asked(chunks))
    finally:
        hook.remove()
    for one, (other,) in zip(alone, results, strict=True):
        assert torch.equal(one, other)


def test_frames_that_come_again_are_encoded_once(small_model):
    encoded = []
    hook = small_model.vae.encoder.register_forward_pre_hook(lambda module, inputs: encoded.append(len(inputs[0])))
    options = dataclasses.replace(OPTIONS, num_inference_steps=1, guidance_scale=1.0)
    try:
        results = {}
        for name, room in (("kept", 2**20), ("not", 0)):
            encoded.clear()
            generator = torch.Generator().manual_seed(1)
            chunks = ChunkGenerator(small_model, options, generator, encoded=SourceCache(room))
            given = frames(10) + frames(10)[::-1] + frames(10)
            for index, frame in enumerate(given):
                frame.key = [*range(10), *range(9, -1, -1), *range(10)][index]
            made = generate_alone(chunks, Denoiser(small_model, options), given)
            results[name] = [face for pairs in made for _, face in pairs]
            if name == "kept":
                assert sum(encoded) == 2 * 10  # masked and whole
        assert sum(encoded) == 2 * (10 + 8 + 2)  # without room once a chunk
    finally:
        hook.remove()
    torch.testing.assert_close(torch.stack(results["kept"]), torch.stack(results["not"]), atol=1e-4, rtol=0)


def test_a_cache_keeps_the_first_that_fit_and_the_latest():
    cache = SourceCache(30)
    for key in range(6):
        cache.put(key, str(key), 10)
    assert [cache.get(key) for key in range(6)] == ["0", "1", "2", None, None, "5"]
    cache.put(1, "1", 10)  # again: no room is taken twice
    assert cache.get(5) is None
    empty = SourceCache(0)
    empty.put("a", 1, 1)
    assert (empty.get("a"), empty.get("b")) == (1, None)
