"""The audio encoder against openai-whisper's own, with the bundled weights and with random ones."""

from pathlib import Path

import pytest
import torch
import whisper.model
from safetensors.torch import save_file

from latentsync.errors import (
    DamagedCheckpointError,
    ForeignCheckpointError,
    IncompleteCheckpointError,
    ModelNotFoundError,
)
from latentsync.model.whisper import load_whisper

BUNDLED = Path(__file__).parents[2] / "latentsync" / "assets" / "tiny" / "whisper" / "tiny.en.pt"
DIMS = {
    "n_mels": 80,
    "n_vocab": 51865,
    "n_audio_ctx": 1500,
    "n_audio_state": 128,
    "n_audio_head": 2,
    "n_audio_layer": 2,
    "n_text_ctx": 8,
    "n_text_state": 64,
    "n_text_head": 1,
    "n_text_layer": 1,
}


@torch.no_grad()
def reference_states(encoder: whisper.model.AudioEncoder, mel: torch.Tensor) -> torch.Tensor:
    """Input of the first block and output of each, caught inside openai-whisper."""
    states = []
    hooks = [encoder.blocks[0].register_forward_pre_hook(lambda _, given: states.append(given[0]))]
    hooks += [block.register_forward_hook(lambda _, __, output: states.append(output)) for block in encoder.blocks]
    encoder(mel)
    for hook in hooks:
        hook.remove()
    return torch.stack(states, dim=2)


@torch.no_grad()
def test_bundled_encoder_equals_openai_whispers():
    content = torch.load(BUNDLED, weights_only=True)
    assert set(content) == {"dims", "model_state_dict"}
    assert all(key.startswith("encoder.") for key in content["model_state_dict"])
    dims = content["dims"]
    reference = whisper.model.AudioEncoder(
        dims["n_mels"], dims["n_audio_ctx"], dims["n_audio_state"], dims["n_audio_head"], dims["n_audio_layer"]
    )
    reference.load_state_dict(
        {key.removeprefix("encoder."): value.float() for key, value in content["model_state_dict"].items()}
    )
    encoder = load_whisper(BUNDLED)
    assert (encoder.width, encoder.num_states, encoder.num_mels, encoder.multilingual) == (384, 5, 80, False)
    assert (encoder.dtype, encoder.training) == (torch.float32, False)
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    mel = torch.rand(1, 80, 3000, generator=torch.Generator().manual_seed(0)) * 2 - 1
    states, expected = encoder(mel), reference_states(reference.eval(), mel)
    assert states.shape == (1, 1500, 5, 384)
    difference = (states - expected).abs().amax(dim=(0, 1, 3))
    print("largest differences by state:", difference.tolist(), "of", expected.abs().amax(dim=(0, 1, 3)).tolist())
    assert (difference <= 2e-6 * expected.abs().amax(dim=(0, 1, 3))).all()


@pytest.fixture(scope="module")
def multilingual() -> whisper.model.Whisper:
    torch.manual_seed(0)
    return whisper.model.Whisper(whisper.model.ModelDimensions(**DIMS)).eval()


@torch.no_grad()
def test_whole_model_of_another_size(multilingual, tmp_path):
    path = tmp_path / "whole.pt"
    torch.save({"dims": DIMS, "model_state_dict": multilingual.state_dict()}, path)
    encoder = load_whisper(path)
    assert (encoder.width, encoder.num_states, encoder.multilingual) == (128, 3, True)
    mel = torch.rand(2, 80, 3000) * 2 - 1
    assert (encoder(mel) - reference_states(multilingual.encoder, mel)).abs().max() < 1e-5
    assert load_whisper(path, dtype=torch.bfloat16)(mel[:1]).dtype == torch.bfloat16


def test_wrong_files_are_named(multilingual, tmp_path):
    path = tmp_path / "whisper.pt"
    with pytest.raises(ModelNotFoundError, match=r"whisper\.pt"):
        load_whisper(path)
    path.write_bytes(BUNDLED.read_bytes()[:1_000_000])
    with pytest.raises(DamagedCheckpointError, match="cut short"):
        load_whisper(path)
    torch.save({"state_dict": {"conv_in.weight": torch.zeros(1)}}, path)
    with pytest.raises(ForeignCheckpointError, match="model_state_dict"):
        load_whisper(path)
    save_file({"encoder.conv1.weight": torch.zeros(1)}, tmp_path / "flat.safetensors")
    with pytest.raises(ForeignCheckpointError, match="model_state_dict"):
        load_whisper(tmp_path / "flat.safetensors")
    tensors = dict(multilingual.state_dict())
    del tensors["encoder.blocks.1.mlp.2.bias"]
    torch.save({"dims": DIMS, "model_state_dict": tensors}, path)
    with pytest.raises(IncompleteCheckpointError, match="complete"):
        load_whisper(path)
    del tensors["encoder.positional_embedding"]
    torch.save({"dims": DIMS, "model_state_dict": tensors}, path)
    with pytest.raises(IncompleteCheckpointError, match="positional_embedding"):
        load_whisper(path)
