"""A small decoder in place of the VAE's, for drafts: TAESD, which decodes Stable Diffusion's latents at a fraction of
the cost, with less detail."""

from pathlib import Path

import torch
from diffusers import AutoencoderTiny

from .errors import CheckpointError, IncompleteCheckpointError, ModelNotFoundError
from .files import read_json, shown
from .weight_files import DAMAGE

NAMES_SHOWN = 5
MOST_LAYERS = 64  # of one level; TAESD has 3


def load_draft_decoder(
    folder: str | Path, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> AutoencoderTiny:
    """From a folder as diffusers saves it (config.json and safetensors), in eval mode; never from the network.

    It is used with `vae.decode`, as the VAE is, and must know the same latents. Raises ModelNotFoundError and
    CheckpointError's subclasses.
    """
    folder = Path(folder)
    if not (folder / "config.json").is_file():
        raise ModelNotFoundError(
            f"there is no draft decoder at {folder}; expected a folder with config.json and "
            "diffusion_pytorch_model.safetensors, such as that of taesd for released models. Put it there, or decode "
            "with the VAE"
        )
    _check_layers(folder / "config.json")
    try:
        decoder, found = AutoencoderTiny.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, torch_dtype=dtype, output_loading_info=True
        )
    except DAMAGE as error:
        reason = str(error)[:500]
        raise CheckpointError(f"{folder} is not a draft decoder that can be read ({reason}). Get it again.") from error
    wrong = [*found["missing_keys"], *found["unexpected_keys"], *map(str, found["mismatched_keys"])]
    if wrong:
        raise IncompleteCheckpointError(
            f"{folder} does not fit its config.json: {len(wrong)} tensors are missing, unknown or of another shape "
            f"({', '.join(wrong[:NAMES_SHOWN])}). Get it again."
        )
    return decoder.to(device).eval().requires_grad_(False)


def _check_layers(path: Path) -> None:
    """Raises CheckpointError for a description that would build without end."""
    description = read_json(path, what="describes the draft decoder")
    fields = description if isinstance(description, dict) else {}
    for field in ("num_encoder_blocks", "num_decoder_blocks"):
        numbers = fields.get(field, [1])
        if not isinstance(numbers, list) or not all(isinstance(n, int) and 0 < n <= MOST_LAYERS for n in numbers):
            raise CheckpointError(
                f"{path} has {field} {shown(numbers)}; expected a few numbers up to {MOST_LAYERS}. Get it again."
            )
