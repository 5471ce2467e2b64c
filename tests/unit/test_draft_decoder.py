"""The draft decoder: found beside the model, used in place of the VAE's, refused where it is not whole."""

from dataclasses import replace

import pytest
import torch
from diffusers import AutoencoderTiny
from safetensors.torch import load_file, save_file

from latentsync.errors import CheckpointError, IncompleteCheckpointError, ModelNotFoundError, OptionError
from latentsync.model.loading import described_model, load_model, model_of_unet
from latentsync.model.vae import decode, load_draft_decoder
from latentsync.run.steps import decode_faces

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture
def folder(tmp_path):
    """Random weights in TAESD's shape, only narrower."""
    torch.manual_seed(2)
    widths = (8, 8, 8, 8)
    AutoencoderTiny(encoder_block_out_channels=widths, decoder_block_out_channels=widths).save_pretrained(tmp_path)
    return tmp_path


@pytest.fixture
def files(small_model_folder, folder):
    return replace(described_model(small_model_folder), draft_decoder=folder)


@torch.no_grad()
def test_it_decodes_in_place_of_the_vae(files):
    latents = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    plain, draft = load_model(files), load_model(files, decoder="draft")
    assert plain.draft_decoder is None
    faces = decode_faces(draft, latents)
    assert faces.shape == (3, 3, 64, 64)
    assert torch.equal(faces, decode(draft.draft_decoder, latents))
    assert torch.equal(faces, draft.draft_decoder.decode(latents).sample)  # its latents are those scaled by the VAE
    assert not torch.equal(faces, decode_faces(plain, latents))


def test_auto_takes_it_where_it_is(files, tmp_path):
    assert load_model(files, decoder="auto").draft_decoder is not None
    assert load_model(replace(files, draft_decoder=tmp_path / "none"), decoder="auto").draft_decoder is None
    assert load_model(replace(files, draft_decoder=None), decoder="auto").draft_decoder is None


def test_a_released_models_lies_in_checkpoints_taesd(tmp_path):
    (tmp_path / "taesd").mkdir()
    assert model_of_unet(tmp_path / "latentsync_unet.pt").draft_decoder == tmp_path / "taesd"


def test_what_is_missing_or_damaged_is_named(files, folder, tmp_path):
    with pytest.raises(OptionError, match="decoder is 'small'; expected one of auto, vae, draft"):
        load_model(files, decoder="small")
    with pytest.raises(OptionError, match="the model small has no draft decoder"):
        load_model(replace(files, draft_decoder=None), decoder="draft")
    with pytest.raises(ModelNotFoundError, match=r"there is no draft decoder at .*absent; expected a folder"):
        load_model(replace(files, draft_decoder=tmp_path / "absent"), decoder="draft")
    weights = load_file(folder / WEIGHTS)
    lost = next(iter(weights))
    save_file({name: tensor for name, tensor in weights.items() if name != lost}, folder / WEIGHTS)
    with pytest.raises(IncompleteCheckpointError, match=f"1 tensors are missing.*{lost}"):
        load_draft_decoder(folder)
    (folder / WEIGHTS).write_bytes(b"not tensors")
    with pytest.raises(CheckpointError, match="is not a draft decoder that can be read"):
        load_draft_decoder(folder)
    (folder / WEIGHTS).unlink()
    with pytest.raises(CheckpointError, match="is not a draft decoder that can be read"):
        load_draft_decoder(folder)
