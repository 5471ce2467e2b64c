"""Whisper's audio encoder, read from an openai-whisper checkpoint.

LatentSync conditions on all hidden states of the encoder: the stem output with positions added, then each block's
output. The final LayerNorm is computed by the reference but its result is not used, so it is not part of this module.
"""

import re
from pathlib import Path

import torch
from torch import nn
from transformers import WhisperConfig
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from .cpu_threads import threads_of
from .errors import ForeignCheckpointError, IncompleteCheckpointError
from .weight_files import building, read_weights

MEL_FRAMES = 3000  # one window of 30 s at 100 mel frames per second
ENGLISH_VOCABULARY = 51864  # `n_vocab` of the .en models; the multilingual ones have more
HEAD_WIDTH = 64  # in every Whisper model

# openai-whisper names inside a block -> transformers names
BLOCK_NAMES = {
    "attn.query": "self_attn.q_proj",
    "attn.key": "self_attn.k_proj",
    "attn.value": "self_attn.v_proj",
    "attn.out": "self_attn.out_proj",
    "attn_ln": "self_attn_layer_norm",
    "mlp.0": "fc1",
    "mlp.2": "fc2",
    "mlp_ln": "final_layer_norm",
}


class AudioEncoder(nn.Module):
    """Whisper encoder that returns every hidden state.

    Attributes: `num_mels` (80), `width` D (384 for tiny, 768 for small), `num_states` (blocks + 1: 5 for tiny),
    `multilingual` (False for the .en models, None where the file does not tell).
    """

    def __init__(
        self,
        num_mels: int = 80,
        width: int = 384,
        num_heads: int = 6,
        num_blocks: int = 4,
        num_positions: int = MEL_FRAMES // 2,
        multilingual: bool | None = None,
    ):
        super().__init__()
        self.num_mels, self.width, self.num_states, self.multilingual = num_mels, width, num_blocks + 1, multilingual
        config = WhisperConfig(
            num_mel_bins=num_mels,
            d_model=width,
            encoder_attention_heads=num_heads,
            encoder_ffn_dim=4 * width,
            encoder_layers=num_blocks,
            max_source_positions=num_positions,
        )
        self.encoder = WhisperEncoder(config)
        self.encoder.layer_norm = nn.Identity()

    @property
    def device(self) -> torch.device:
        return self.encoder.conv1.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.encoder.conv1.weight.dtype

    def forward(self, mel: torch.Tensor) -> torch.Tensor:
        """Hidden states of normalised log-mel windows.

        Args:
            mel: (B, 80, 3000), on the encoder's device; cast to its dtype.

        Returns (B, 1500, num_states, D), 50 rows per second: the stem's output, then each block's.
        """
        with threads_of(self):
            states = self.encoder(mel.to(self.dtype), output_hidden_states=True).hidden_states
        return torch.stack(states, dim=2)


def load_whisper(
    path: str | Path, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> AudioEncoder:
    """Read an openai-whisper `.pt` file: `{"dims": {...}, "model_state_dict": {...}}`, frozen and in eval mode.

    Only the `encoder.*` tensors are used; a file may hold nothing else, and in any float type.
    Raises ModelNotFoundError, DamagedCheckpointError, UnsafeCheckpointError, ForeignCheckpointError and
    IncompleteCheckpointError.
    """
    path = Path(path)
    dims, state_dict = _read(path)
    tensors = {key.removeprefix("encoder."): value for key, value in state_dict.items() if key.startswith("encoder.")}
    for name in ("conv1.weight", "positional_embedding"):
        if name not in tensors:
            raise IncompleteCheckpointError(f"{path} has no tensor 'encoder.{name}'. Download the Whisper file again.")
    with building(path, "a Whisper encoder"), torch.device("meta"):
        width, num_mels = tensors["conv1.weight"].shape[:2]
        num_blocks = len({key.split(".")[1] for key in tensors if key.startswith("blocks.")})
        vocabulary = dims.get("n_vocab")
        encoder = AudioEncoder(
            num_mels=num_mels,
            width=width,
            num_heads=int(dims.get("n_audio_head") or width // HEAD_WIDTH),
            num_blocks=num_blocks,
            num_positions=tensors["positional_embedding"].shape[0],
            multilingual=None if vocabulary is None else int(vocabulary) != ENGLISH_VOCABULARY,
        )
    renamed = {
        "encoder." + _transformers_name(key): value.to(device=device, dtype=dtype)
        for key, value in tensors.items()
        if not key.startswith("ln_post.")
    }
    try:
        encoder.load_state_dict(renamed, strict=True, assign=True)
    except RuntimeError as error:
        raise IncompleteCheckpointError(
            f"{path} does not hold a complete Whisper encoder. Download it again. ({str(error)[:500]})"
        ) from error
    return encoder.eval().requires_grad_(False)


def _transformers_name(key: str) -> str:
    if key == "positional_embedding":
        return "embed_positions.weight"
    match = re.fullmatch(r"blocks\.(\d+)\.(.+)\.(weight|bias)", key)
    if not match:
        return key
    block, name, kind = match.groups()
    return f"layers.{block}.{BLOCK_NAMES.get(name, name)}.{kind}"


def _read(path: Path) -> tuple[dict, dict]:
    content, _ = read_weights(path)
    if not isinstance(content.get("model_state_dict"), dict):
        raise ForeignCheckpointError(
            f"{path} is not an openai-whisper checkpoint: it has no 'model_state_dict'. "
            "Expected openai-whisper's tiny.pt."
        )
    dims = content.get("dims")
    return (dims if isinstance(dims, dict) else {}), content["model_state_dict"]
