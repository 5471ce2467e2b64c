"""VideoMAE-v2's video encoder, whose features the temporal loss compares: the released ViT-giant, or a small one.

`transformers` has the network; the released file (`vit_g_hybrid_pt_1200e_ssv2_ft.pth`) names its tensors otherwise, has
queries, keys and values in one matrix, and normalises the mean of the tokens (`fc_norm`). What LatentSync's authors
compare is that normalised mean, before the classes. A small encoder of our own is stored under the same names.
"""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from transformers import VideoMAEConfig
from transformers.models.videomae.modeling_videomae import VideoMAEModel

from .errors import ForeignCheckpointError, OptionError
from .model.weights import check_fit, read_weights, some_names, write_weights

NORM_EPS = 1e-6
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of the pixels that VideoMAE was trained on, in [0, 1]
HEADS_OF_WIDTH = {384: 6, 768: 12, 1024: 16, 1280: 16, 1408: 16}  # the released sizes: small to giant
UNSEEN_FIELDS = ("image_size", "num_frames", "num_heads")  # not in any tensor's shape
BLOCK_NAMES = {  # of a released block -> transformers; queries, keys and values apart
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "attn.proj": "attention.output.dense",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}
STEM, RELEASED_STEM = "backbone.embeddings.patch_embeddings.projection", "patch_embed.proj"
PROJECTIONS = ("query", "key", "value")


@dataclass(frozen=True)
class VideoEncoderConfig:
    """The sizes; those of the released ViT-giant unless said otherwise."""

    image_size: int = 224  # px
    patch_size: int = 14  # px
    num_frames: int = 16
    tubelet_size: int = 2  # frames
    width: int = 1408
    depth: int = 40
    num_heads: int = 16
    mlp_width: int = 6144
    num_classes: int = 174  # 0: no classes

    def for_transformers(self, **others) -> VideoMAEConfig:
        """The configuration of transformers' classes; `others` are fields that only training has."""
        return VideoMAEConfig(
            image_size=self.image_size,
            patch_size=self.patch_size,
            num_frames=self.num_frames,
            tubelet_size=self.tubelet_size,
            hidden_size=self.width,
            num_hidden_layers=self.depth,
            num_attention_heads=self.num_heads,
            intermediate_size=self.mlp_width,
            layer_norm_eps=NORM_EPS,
            use_mean_pooling=True,
            **others,
        )


class VideoEncoder(nn.Module):
    """Clips to one feature vector each. In eval mode and frozen when loaded."""

    def __init__(self, config: VideoEncoderConfig):
        super().__init__()
        self.config = config
        self.backbone = VideoMAEModel(config.for_transformers())
        embeddings = self.backbone.embeddings
        del embeddings.position_embeddings  # a plain tensor, which would stay behind when the model moves
        tokens = embeddings.num_patches
        embeddings.register_buffer("position_embeddings", sinusoid_table(tokens, config.width)[None], persistent=False)
        self.fc_norm = nn.LayerNorm(config.width, eps=NORM_EPS)
        self.head = nn.Linear(config.width, config.num_classes) if config.num_classes else None

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, 3, F, S, S) as the network takes them -> (B, D): the normalised mean of all tokens.

        S and F must be the configuration's. Raises OptionError.
        """
        wanted = (3, self.config.num_frames, self.config.image_size, self.config.image_size)
        if tuple(pixels.shape[1:]) != wanted:
            raise OptionError(
                f"the video encoder was given clips of (channels, frames, height, width) {tuple(pixels.shape[1:])}; "
                f"expected {wanted}. Resize the frames and cut clips of {self.config.num_frames}"
            )
        tokens = self.backbone(rearrange(pixels, "b c f h w -> b f c h w")).last_hidden_state
        return self.fc_norm(tokens.mean(1))

    def features(self, frames: Tensor) -> Tensor:
        """(B, 3, F, H, W) RGB in [-1, 1], any side -> (B, D), with the normalisation that VideoMAE was trained with.

        Values outside the range count as the nearest inside, and gradients flow as if they were not cut.
        """
        pixels = resize_frames(frames.to(self.dtype), self.config.image_size) / 2 + 0.5
        pixels = pixels + (pixels.clamp(0, 1) - pixels).detach()
        mean, std = (pixels.new_tensor(values)[:, None, None, None] for values in (MEAN, STD))
        return self((pixels - mean) / std)

    @property
    def dtype(self) -> torch.dtype:
        return self.fc_norm.weight.dtype

    def checkpoint_blocks(self) -> None:
        """Recompute each block in the backward pass instead of keeping what it computed: slower, far less memory."""
        for block in self.backbone.encoder.layer:
            block.forward = partial(checkpoint, block.forward, use_reentrant=False)


def resize_frames(frames: Tensor, side: int) -> Tensor:
    """(B, 3, F, H, W) -> (B, 3, F, side, side), frame by frame, bicubic without antialiasing as in the reference."""
    if frames.shape[-2:] == (side, side):
        return frames
    flat = F.interpolate(rearrange(frames, "b c f h w -> (b f) c h w"), size=(side, side), mode="bicubic")
    return rearrange(flat, "(b f) c h w -> b c f h w", b=len(frames))


def sinusoid_table(tokens: int, width: int) -> Tensor:
    """(tokens, width) float32: sines in even columns, cosines in odd ones, computed in double precision."""
    column = torch.arange(width, dtype=torch.float64, device="cpu")
    angles = torch.arange(tokens, dtype=torch.float64, device="cpu")[:, None] / 10000 ** (2 * (column // 2) / width)
    return torch.where(column % 2 == 0, angles.sin(), angles.cos()).float()


def load_videomae(
    path: str | Path, *, device: torch.device | str = "cpu", dtype: torch.dtype | None = None
) -> VideoEncoder:
    """Load the released VideoMAE-v2 file, wrapped in "model" or "module" or not, or one of `save_videomae`.

    `dtype` None keeps the file's. In eval mode and frozen. Raises ModelNotFoundError and CheckpointError's subclasses.
    """
    content, metadata = read_weights(path)
    for wrapping in ("model", "module"):
        if isinstance(content.get(wrapping), Mapping):
            content = content[wrapping]
            break
    tensors = {key: value for key, value in content.items() if isinstance(value, Tensor)}
    config = _config_of(tensors, metadata, str(path))
    with torch.device("meta"):
        encoder = VideoEncoder(config)
    told = f"{path} does not fit the video encoder that its layers describe"
    check_fit(tensors, released_tensors(encoder), told)
    tensors = {key: tensor.to(device=device, dtype=dtype) for key, tensor in tensors.items()}
    encoder.load_state_dict(_own_tensors(tensors, set(encoder.state_dict())), strict=True, assign=True)
    embeddings = encoder.backbone.embeddings
    table = sinusoid_table(embeddings.num_patches, config.width)[None]
    embeddings.position_embeddings = table.to(device=device, dtype=encoder.dtype)
    return encoder.eval().requires_grad_(False)


def save_videomae(encoder: VideoEncoder, path: str | Path, dtype: torch.dtype | None = None) -> None:
    """Write the encoder under the released names with its sizes as metadata, whole or not at all (OutputError)."""
    tensors = {key: tensor.detach().to("cpu", dtype) for key, tensor in released_tensors(encoder).items()}
    write_weights(path, tensors, {field: str(value) for field, value in asdict(encoder.config).items()})


def released_tensors(encoder: VideoEncoder) -> dict[str, Tensor]:
    """The encoder's tensors under the released file's names."""
    own = encoder.state_dict()
    tensors = {}
    for kind in ("weight", "bias"):
        tensors[f"{RELEASED_STEM}.{kind}"] = own[f"{STEM}.{kind}"]
    for index in range(encoder.config.depth):
        block, released = f"backbone.encoder.layer.{index}", f"blocks.{index}"
        attention = f"{block}.attention.attention"
        tensors[f"{released}.attn.q_bias"] = own[_bias_name(attention, "query", own)]
        tensors[f"{released}.attn.v_bias"] = own[_bias_name(attention, "value", own)]
        tensors[f"{released}.attn.qkv.weight"] = torch.cat([own[f"{attention}.{name}.weight"] for name in PROJECTIONS])
        for theirs, ours in BLOCK_NAMES.items():
            for kind in ("weight", "bias"):
                tensors[f"{released}.{theirs}.{kind}"] = own[f"{block}.{ours}.{kind}"]
    return tensors | {key: tensor for key, tensor in own.items() if key.startswith(("fc_norm.", "head."))}


def _own_tensors(tensors: Mapping[str, Tensor], expected: set[str]) -> dict[str, Tensor]:
    """The reverse of `released_tensors`."""
    own = {}
    for key, tensor in tensors.items():
        block = re.fullmatch(r"blocks\.(\d+)\.(.+)", key)
        if block is None:
            own[key.replace(RELEASED_STEM, STEM)] = tensor
            continue
        layer, rest = f"backbone.encoder.layer.{block[1]}", block[2]
        attention = f"{layer}.attention.attention"
        if rest == "attn.qkv.weight":
            for name, part in zip(PROJECTIONS, tensor.chunk(3), strict=True):
                own[f"{attention}.{name}.weight"] = part.clone()
        elif rest in ("attn.q_bias", "attn.v_bias"):
            own[_bias_name(attention, "query" if rest == "attn.q_bias" else "value", expected)] = tensor
        else:
            name, kind = rest.rsplit(".", 1)
            own[f"{layer}.{BLOCK_NAMES[name]}.{kind}"] = tensor
    return own


def _bias_name(attention: str, projection: str, names: Mapping | set) -> str:
    """transformers 5 has the bias in the projection, transformers 4 beside it."""
    beside = f"{attention}.{projection[0]}_bias"
    return beside if beside in names else f"{attention}.{projection}.bias"


def _config_of(tensors: Mapping[str, Tensor], described: Mapping[str, str], name: str) -> VideoEncoderConfig:
    stem = tensors.get(f"{RELEASED_STEM}.weight")
    first, mlp = tensors.get("blocks.0.attn.qkv.weight"), tensors.get("blocks.0.mlp.fc1.weight")
    if stem is None or stem.ndim != 5 or first is None or mlp is None:
        kind = "something else"
        if any(key.startswith("videomae.") for key in tensors):
            kind = "a VideoMAE in transformers' layout"
        elif any(key.startswith("encoder.blocks.") for key in tensors):
            kind = "a VideoMAE for pre-training, whose encoder was not fine-tuned"
        raise ForeignCheckpointError(
            f"{name} is {kind} (its first names are {some_names(tensors) or 'none'}), not "
            "VideoMAE-v2's encoder. Expected vit_g_hybrid_pt_1200e_ssv2_ft.pth or a file of train_video_encoder."
        )
    width, _, tubelet_size, patch_size, _ = stem.shape
    unseen = {field: int(described[field]) for field in UNSEEN_FIELDS if field in described}
    if "num_heads" not in unseen:
        if width not in HEADS_OF_WIDTH:
            raise ForeignCheckpointError(
                f"{name} has blocks of width {width} and does not say its number of heads; known without are "
                f"{', '.join(map(str, HEADS_OF_WIDTH))}. Expected a released VideoMAE-v2 or a file of save_videomae."
            )
        unseen["num_heads"] = HEADS_OF_WIDTH[width]
    blocks = {int(match[1]) for key in tensors if (match := re.match(r"blocks\.(\d+)\.", key))}
    return VideoEncoderConfig(
        patch_size=patch_size,
        tubelet_size=tubelet_size,
        width=width,
        depth=max(blocks) + 1,
        mlp_width=mlp.shape[0],
        num_classes=tensors["head.weight"].shape[0] if "head.weight" in tensors else 0,
        **unseen,
    )
