"""Weights kept in 8 bits or brought layer by layer: how much smaller, how far off, and what is refused."""

import diffusers
import pytest
import torch

from latentsync.errors import OptionError
from latentsync.model.device import LOW_MEMORY, offload_leaves, save_memory
from latentsync.model.diffusion import NoisePredictor
from latentsync.model.loading import bundled_model, described_model, load_model
from latentsync.model.vae import decode
from latentsync.run.steps import faces_at_once
from tests.small_model import small_unet
from tests.unit.test_deep_features import clip

CPU = torch.device("cpu")


def weight_bytes(network) -> int:
    return sum(parameter.numel() * parameter.element_size() for parameter in network.parameters())


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_fp8_weights_are_half_of_bfloat16_and_nearly_as_good(dtype):
    unet = small_unet().to(dtype)
    latents, conditioning, tokens = (value.to(dtype) for value in clip(unet))
    sample = torch.cat((latents, conditioning), 1)
    expected, before = unet(sample, 400, tokens).sample.float(), weight_bytes(unet)
    save_memory(unet, "fp8", CPU, dtype)
    assert weight_bytes(unet) < before * (1.06 / dtype.itemsize)  # norms stay as they were
    assert unet.dtype == dtype
    got = unet(sample, 400, tokens).sample.float()
    error = (got - expected).square().mean().sqrt() / expected.std()
    print(f"{dtype}: error {error:.4f} of the deviation")
    assert 0 < error < 0.2  # of random weights; a trained one: docs/performance.md
    assert weight_bytes(unet) < before * (1.06 / dtype.itemsize)  # and are small again after the call


@torch.no_grad()
def test_deep_features_are_kept_with_fp8_weights_too():
    unet = small_unet()
    save_memory(unet, "fp8", CPU, torch.float32)
    latents, conditioning, tokens = clip(unet)
    sample = torch.cat((latents, conditioning), 1)
    whole, deep = unet(sample, 400, tokens, keep_deep_features=True)
    assert torch.equal(unet(sample, 400, tokens, return_dict=False, deep_features=deep)[0], whole)


@torch.no_grad()
def test_offloaded_layers_give_the_same_bits():
    """On the CPU the way there and back is short, but the hooks are those of a GPU."""
    unet = small_unet()
    latents, conditioning, tokens = clip(unet)
    sample = torch.cat((latents, conditioning), 1)
    expected = unet(sample, 400, tokens).sample
    offload_leaves(unet, CPU)
    whole, deep = unet(sample, 400, tokens, keep_deep_features=True)
    assert torch.equal(whole, expected)
    assert torch.equal(unet(sample, 400, tokens, return_dict=False, deep_features=deep)[0], expected)


@pytest.mark.parametrize(
    ("version", "device", "streams"),
    [
        ("0.35.2", "cuda", False),
        ("0.36.0", "cuda", False),
        ("0.37.0", "cuda", True),
        ("1.0.0.dev0", "cuda", True),
        ("0.37.0", "mps", False),
        ("0.42.1", "cpu", False),
    ],
)
def test_layers_are_fetched_ahead_only_where_diffusers_can(version, device, streams, monkeypatch):
    """Below 0.37 the second step failed; no GPU is needed to see what diffusers is asked for."""
    asked, unet = {}, small_unet()
    monkeypatch.setattr(diffusers, "__version__", version)
    monkeypatch.setattr(type(unet), "enable_group_offload", lambda self, **how: asked.update(how))
    offload_leaves(unet, torch.device(device))
    assert asked["use_stream"] is streams


def test_a_loaded_model_saves_memory_also_in_its_vae(small_model_folder):
    files = described_model(small_model_folder)
    plain, saving = (load_model(files, low_memory=how) for how in ("none", "fp8"))
    assert weight_bytes(saving.unet) < weight_bytes(plain.unet) / 3
    assert (faces_at_once(plain), faces_at_once(saving)) == (256, 1)


def test_what_cannot_be_is_refused(small_model_folder):
    with pytest.raises(
        OptionError, match="low_memory is 'offload', but the networks run on the CPU already; try 'fp8'"
    ):
        load_model(described_model(small_model_folder), low_memory="offload")
    with pytest.raises(OptionError, match="low_memory is 'int4'; expected one of none, fp8, offload"):
        save_memory(small_unet(), "int4", CPU, torch.float32)
    assert LOW_MEMORY[0] == "none"


@torch.inference_mode()
@pytest.mark.parametrize("how", ["none", "fp8"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_every_format_lies_and_computes_on_the_device_it_was_loaded_for(dtype, how):
    """The meta device stands for a GPU: what is left on the CPU, or comes from it on the way, is an error there."""
    meta = torch.device("meta")
    model = load_model(bundled_model(), device=meta, dtype=dtype, low_memory=how)
    for network in (model.unet, model.vae, model.whisper):
        assert {tensor.device for tensor in network.state_dict().values()} == {meta}
    formats = {tensor.dtype for tensor in model.unet.state_dict().values() if tensor.is_floating_point()}
    assert formats == ({dtype} if how == "none" else {dtype, torch.float8_e4m3fn})
    assert {parameter.dtype for parameter in model.vae.parameters()} == {dtype}
    assert {parameter.dtype for parameter in model.whisper.parameters()} == {torch.float32}
    side = model.resolution // 8
    known, tokens = torch.empty(1, 9, 2, side, side, device=meta), torch.empty(2, 50, 384, device=meta)
    latents = NoisePredictor(model.unet, known, tokens, 1.5)(torch.empty(1, 4, 2, side, side, device=meta), 500)
    assert latents.device == meta
    pictures = decode(model.vae, latents[0].movedim(0, 1))
    assert (pictures.device, pictures.dtype) == (meta, dtype)
    assert pictures.shape == (2, 3, model.resolution, model.resolution)
