"""Loading the VAE from every layout it comes in, and encoding and decoding with a small random one."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file

from latentsync.errors import (
    CheckpointError,
    DamagedCheckpointError,
    ForeignCheckpointError,
    IncompleteCheckpointError,
    ModelNotFoundError,
    OptionError,
)
from latentsync.model.face_autoencoder import FaceAutoencoder, with_fewer_channels
from latentsync.model.vae import ImageAutoencoder, LatentSpace, decode, encode, in_batches, load_vae, vae_distance
from tests.unit.test_errors import FULL

GOLDEN = Path(__file__).parents[1] / "golden" / "mini"
CONFIG = json.loads((GOLDEN / "vae_tiny_config.json").read_text())


@pytest.fixture
def folder(tmp_path) -> Path:
    shutil.copy(GOLDEN / "vae_tiny.safetensors", tmp_path / "diffusion_pytorch_model.safetensors")
    shutil.copy(GOLDEN / "vae_tiny_config.json", tmp_path / "config.json")
    return tmp_path


@pytest.fixture(scope="module")
def vae() -> AutoencoderKL:
    vae = AutoencoderKL.from_config(CONFIG)
    vae.load_state_dict({key: tensor.float() for key, tensor in load_file(GOLDEN / "vae_tiny.safetensors").items()})
    return vae.eval()


def pixels(frames: int = 3) -> torch.Tensor:
    return torch.rand(frames, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1


def original_name(key: str, levels: int) -> str:
    """diffusers' name -> Stable Diffusion's original name, written from the two layouts."""
    key = re.sub(r"up_blocks\.(\d+)", lambda m: f"up.{levels - 1 - int(m[1])}", key)
    key = re.sub(r"down_blocks\.(\d+)", r"down.\1", key)
    key = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", key)
    key = re.sub(r"\.resnets\.(\d+)", r".block.\1", key)
    key = key.replace("mid_block.attentions.0", "mid.attn_1").replace("conv_shortcut", "nin_shortcut")
    key = key.replace("downsamplers.0", "downsample").replace("upsamplers.0", "upsample")
    key = key.replace("conv_norm_out", "norm_out").replace("group_norm", "norm")
    for old, new in (("to_q", "q"), ("to_k", "k"), ("to_v", "v"), ("to_out.0", "proj_out")):
        key = key.replace(f"attn_1.{old}", f"attn_1.{new}")
    return key


def original_layout(vae: AutoencoderKL, prefix: str = "") -> dict[str, torch.Tensor]:
    levels = len(vae.config.block_out_channels)
    return {
        prefix + original_name(key, levels): tensor[:, :, None, None].contiguous()
        if ".attentions." in key and tensor.ndim == 2
        else tensor
        for key, tensor in vae.state_dict().items()
    }


def assert_same(loaded: AutoencoderKL, vae: AutoencoderKL) -> None:
    expected = vae.state_dict()
    got = loaded.state_dict()
    assert got.keys() == expected.keys()
    assert all(torch.equal(got[key], expected[key]) for key in expected)
    assert not loaded.training
    assert not any(parameter.requires_grad for parameter in loaded.parameters())


def test_folders_and_files(folder, vae, tmp_path):
    assert_same(load_vae(folder), vae)
    assert_same(load_vae(folder / "diffusion_pytorch_model.safetensors"), vae)
    assert load_vae(folder).config.scaling_factor == 0.18215
    pipeline = tmp_path / "pipeline"
    shutil.copytree(folder, pipeline / "vae", ignore=shutil.ignore_patterns("pipeline"))
    assert_same(load_vae(pipeline), vae)
    torch.save(vae.state_dict(), folder / "diffusion_pytorch_model.bin")
    (folder / "diffusion_pytorch_model.safetensors").unlink()
    assert_same(load_vae(folder), vae)
    assert load_vae(folder, dtype=torch.bfloat16).dtype == torch.bfloat16


@pytest.mark.parametrize("prefix", ["", "first_stage_model.", "vae."])
def test_original_layout(vae, folder, prefix):
    tensors = original_layout(vae, prefix)
    if prefix == "first_stage_model.":
        tensors |= {"model.diffusion_model.input_blocks.0.0.weight": torch.zeros(1)}
    torch.save({"state_dict": tensors | {"loss.logvar": torch.zeros(1)} if not prefix else tensors}, folder / "kl.ckpt")
    assert_same(load_vae(folder / "kl.ckpt"), vae)


def test_names_of_old_diffusers(vae, folder):
    names = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}

    def old(key):
        for new, name in names.items():
            key = key.replace(new, name)
        return key

    tensors = {old(key): tensor.contiguous() for key, tensor in vae.state_dict().items()}
    save_file(tensors, folder / "diffusion_pytorch_model.safetensors")
    assert_same(load_vae(folder), vae)


@pytest.mark.parametrize("layout", ["diffusers", "original"])
def test_shapes_tell_the_configuration_of_a_lone_file(tmp_path, layout):
    torch.manual_seed(0)
    sizes = {"block_out_channels": (32, 64), "layers_per_block": 2, "latent_channels": 4}
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    vae = AutoencoderKL(**sizes, **blocks).eval()
    tensors = vae.state_dict() if layout == "diffusers" else original_layout(vae)
    torch.save(tensors, tmp_path / "vae.pt")
    loaded = load_vae(tmp_path / "vae.pt")
    assert_same(loaded, vae)
    with torch.no_grad():
        assert torch.equal(decode(loaded, torch.ones(1, 4, 8, 8)), decode(vae, torch.ones(1, 4, 8, 8)))


@torch.no_grad()
def test_posterior_sample_and_mean(vae):
    posterior = vae.encode(pixels()).latent_dist
    mean = encode(vae, pixels(), sample=False)
    assert torch.equal(mean, posterior.mean * 0.18215)
    assert mean.shape == (3, 4, 4, 4)
    noise = torch.randn(3, 4, 4, 4, generator=torch.Generator().manual_seed(5))
    sampled = encode(vae, pixels(), torch.Generator().manual_seed(5))
    assert (sampled - (posterior.mean + posterior.std * noise) * 0.18215).abs().max() < 1e-6


@torch.no_grad()
@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_batch_size_changes_nothing(vae, batch_size):
    whole = encode(vae, pixels(5), torch.Generator().manual_seed(5))
    parts = encode(vae, pixels(5), torch.Generator().manual_seed(5), batch_size=batch_size)
    assert (whole - parts).abs().max() < 1e-5
    assert (decode(vae, whole) - decode(vae, whole, batch_size=batch_size)).abs().max() < 1e-4
    assert decode(vae, whole).shape == (5, 3, 32, 32)


@pytest.mark.parametrize("error", [FULL["cuda"], FULL["mps"], FULL["cublas"]])
@pytest.mark.parametrize(
    ("capacity", "tried"),
    [(5, [5, 5, 3]), (3, [5, 2, 2, 2, 2, 2, 2, 1]), (2, [5, 2, 2, 2, 2, 2, 2, 1]), (1, [5, 2, 1] + [1] * 12)],
)
def test_full_memory_halves_the_batch(capacity, tried, error):
    sizes: list[int] = []

    def apply(part: torch.Tensor) -> torch.Tensor:
        sizes.append(len(part))
        if len(part) > capacity:
            raise error
        return part * 2

    inputs = torch.arange(13.0)
    assert torch.equal(in_batches(apply, inputs, 5), inputs * 2)
    assert sizes == tried


@pytest.mark.parametrize(("error", "tried"), [(FULL["mps"], [5, 2, 1]), (RuntimeError("mat1 and mat2"), [5])])
def test_memory_for_not_even_one_is_an_error(error, tried):
    sizes: list[int] = []

    def apply(part: torch.Tensor) -> torch.Tensor:
        sizes.append(len(part))
        raise error

    with pytest.raises(type(error), match=re.escape(str(error))):
        in_batches(apply, torch.zeros(5))
    assert sizes == tried


@torch.no_grad()
def test_encoding_and_decoding_go_on_in_smaller_batches(vae, monkeypatch):
    latents = encode(vae, pixels(5), sample=False)
    pictures = decode(vae, latents)
    for part in (vae.encoder, vae.decoder):
        whole = part.forward

        def limited(batch, *rest, whole=whole, **named):
            if len(batch) > 2:
                raise FULL["mps"]
            return whole(batch, *rest, **named)

        monkeypatch.setattr(part, "forward", limited)
    assert (encode(vae, pixels(5), sample=False) - latents).abs().max() < 1e-5
    assert (decode(vae, latents) - pictures).abs().max() < 1e-4


class Host:
    """A VAE that takes care of itself."""

    def __init__(self, vae):
        self.vae, self.sizes = vae, []

    def encode_mean(self, images: torch.Tensor) -> torch.Tensor:
        self.sizes.append(len(images))
        return self.vae.encode(images).latent_dist.mode() * 0.18215

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        self.sizes.append(len(latents))
        return self.vae.decode(latents / 0.18215).sample


@torch.no_grad()
def test_another_autoencoder_is_used_as_it_is(vae):
    host = Host(vae)
    assert isinstance(host, ImageAutoencoder)
    assert not isinstance(vae, ImageAutoencoder)
    latents = encode(host, pixels(5), sample=False, batch_size=2)
    assert (latents - encode(vae, pixels(5), sample=False)).abs().max() < 1e-5
    assert (decode(host, latents, batch_size=3) - decode(vae, latents)).abs().max() < 1e-4
    assert host.sizes == [2, 2, 1, 3, 2]
    with pytest.raises(OptionError, match="only the mean"):
        encode(host, pixels(), torch.Generator())


def test_gradients_flow_through_the_decoder(vae):
    latents = torch.randn(1, 4, 4, 4, requires_grad=True)
    decode(vae, latents).square().mean().backward()
    assert latents.grad.abs().sum() > 0


def test_wrong_files_are_named(folder, vae, tmp_path):
    with pytest.raises(ModelNotFoundError, match="no VAE"):
        load_vae(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelNotFoundError, match="diffusion_pytorch_model"):
        load_vae(tmp_path / "empty")
    with pytest.raises(ForeignCheckpointError, match="not a VAE"):
        load_vae(GOLDEN / "unet_tiny.safetensors")
    file = folder / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    tensors.pop("decoder.conv_out.bias")
    save_file(tensors, file)
    with pytest.raises(IncompleteCheckpointError, match=r"decoder\.conv_out\.bias"):
        load_vae(folder)
    file.write_bytes(file.read_bytes()[:5000])
    with pytest.raises(DamagedCheckpointError):
        load_vae(folder)
    shutil.copy(GOLDEN / "vae_tiny.safetensors", file)
    (folder / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="JSON"):
        load_vae(folder)


@pytest.fixture
def plain() -> FaceAutoencoder:
    """At 1/16, with random weights everywhere."""
    torch.manual_seed(4)
    scale = {"latents_mean": [0.1] * 6, "latents_std": [0.5] * 6}
    plain = FaceAutoencoder(6, (8, 12, 16), (1, 1, 1), (1, 1, 1), 4, 4, **scale)
    for parameter in plain.parameters():
        torch.nn.init.normal_(parameter, std=0.3 / max(1, parameter[0].numel()) ** 0.5)
    return plain.eval()


@torch.no_grad()
def test_an_autoencoder_without_normalisation(plain, tmp_path):
    plain.save_pretrained(tmp_path / "vae")
    loaded = load_vae(tmp_path / "vae")
    assert_same(loaded, plain)
    assert LatentSpace.of(loaded.config) == LatentSpace(6, 16, (2.0,) * 6, (0.1,) * 6)
    latents = encode(loaded, pixels(), sample=False, batch_size=2)
    assert latents.shape == (3, 6, 2, 2)
    torch.testing.assert_close(latents, (plain.encode(pixels()).latent - 0.1) * 2)
    assert torch.equal(encode(loaded, pixels(), torch.Generator(), sample=True, batch_size=2), latents)  # no posterior
    torch.testing.assert_close(decode(loaded, latents), plain(pixels()).sample)
    assert vae_distance(loaded, pixels(), pixels().flip(0))[0] > vae_distance(loaded, pixels(), pixels())[0] == 0


@torch.no_grad()
def test_the_first_channels_alone(plain):
    latents = plain.encode(pixels()).latent
    few = with_fewer_channels(plain, 4)
    assert torch.equal(few.encode(pixels()).latent, latents[:, :4])
    latents[:, 4:] = 0
    torch.testing.assert_close(few(pixels()).sample, plain.decode(latents).sample)
    assert LatentSpace.of(few.config).channels == len(few.config.latents_std) == 4


def test_wrong_files_of_such_an_autoencoder_are_named(plain, tmp_path):
    plain.save_pretrained(tmp_path)
    file, config = tmp_path / "diffusion_pytorch_model.safetensors", tmp_path / "config.json"
    described = json.loads(config.read_text())
    for change in ({"encoder_layers": [1, 10**9, 1]}, {"decoder_layers": 3}):
        config.write_text(json.dumps(described | change))
        with pytest.raises(IncompleteCheckpointError, match="layers in 3 blocks"):
            load_vae(tmp_path)
    for change in ({"patch_size": 0}, {"pixel_width": "x"}, {"block_out_channels": [8, 12]}):
        config.write_text(json.dumps(described | change))
        with pytest.raises(CheckpointError):
            load_vae(tmp_path)
    config.write_text(json.dumps(described))
    tensors = load_file(file)
    tensors.pop("decoder.pixels.2.bias")
    save_file(tensors, file)
    with pytest.raises(IncompleteCheckpointError, match=r"decoder\.pixels\.2\.bias"):
        load_vae(tmp_path)
