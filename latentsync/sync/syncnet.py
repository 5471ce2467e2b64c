"""StableSyncNet: what it hears, the network, and its files."""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from diffusers.models.attention import FeedForward
from diffusers.models.attention_processor import Attention
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.audio_utils import mel_filter_bank

from ..errors import AudioError, ForeignCheckpointError, FrameCountError, IncompleteCheckpointError, OptionError
from ..files import parse_json
from ..model.weights import building, check_fit, read_sidecar, read_weights, some_names, write_weights
from ..model_files import ASSETS, Framing, checked_framing

# The mel spectrogram SyncNet hears: Wav2Lip's, 80 columns a second. Not Whisper's, which is model/whisper.py.

SAMPLE_RATE = 16_000
COLUMNS_PER_SECOND = 80
NUM_MELS = 80
FPS = 25  # of the video whose windows are taken
_FFT, _HOP = 800, 200  # samples
_PRE_EMPHASIS = 0.97
_LOWEST, _HIGHEST = 55.0, 7600.0  # Hz
_FLOOR, _REFERENCE_DB, _RANGE_DB, _LARGEST = 1e-5, 20.0, 100.0, 4.0


def sync_mel(waveform: np.ndarray | torch.Tensor) -> np.ndarray:
    """Spectrogram of a waveform (T,), float, 16 kHz mono in [-1, 1] -> (80, T // 200 + 1) float32 in [-4, 4].

    Pre-emphasis, magnitude of a centred STFT with zeros beyond the ends, Slaney filters of 55 to 7600 Hz, decibels,
    -120..-20 dB to -4..4. Raises AudioError when the waveform is empty, not mono or not finite.
    """
    samples = torch.as_tensor(waveform)
    if samples.ndim != 1 or not samples.is_floating_point() or not len(samples):
        raise AudioError(
            f"Expected mono float samples of shape (T,), T > 0, got {tuple(samples.shape)} of {samples.dtype}."
        )
    samples = samples.to("cpu", torch.float64)
    if not samples.isfinite().all():
        raise AudioError("The audio has a sample that is not a finite number. Repair it.")
    samples = torch.cat((samples[:1], samples[1:] - _PRE_EMPHASIS * samples[:-1]))
    window = torch.hann_window(_FFT, dtype=samples.dtype)
    spectrum = torch.stft(samples, _FFT, _HOP, window=window, pad_mode="constant", return_complex=True).abs()
    level = 20 * torch.log10((_filters() @ spectrum).clamp(min=_FLOOR)) - _REFERENCE_DB
    scaled = 2 * _LARGEST * (level + _RANGE_DB) / _RANGE_DB - _LARGEST
    return scaled.clamp(-_LARGEST, _LARGEST).float().numpy()


@cache
def _filters() -> torch.Tensor:
    """(80, 401) float64."""
    bins = _FFT // 2 + 1
    bank = mel_filter_bank(bins, NUM_MELS, _LOWEST, _HIGHEST, SAMPLE_RATE, norm="slaney", mel_scale="slaney")
    return torch.from_numpy(bank.T)


def mel_length(num_frames: int) -> int:
    """Columns heard with that many frames at 25 fps: 52 with 16, 80 with 25."""
    return -(-num_frames * COLUMNS_PER_SECOND // FPS)


def mel_start(start_frame: int) -> int:
    """The column at which the window of the clip from `start_frame` on begins."""
    return COLUMNS_PER_SECOND * start_frame // FPS


def count_windows(num_frames: int, num_columns: int, window_frames: int = 16) -> int:
    """How many start frames have a whole window, both of pictures and of sound."""
    last = (FPS * (num_columns - mel_length(window_frames) + 1) - 1) // COLUMNS_PER_SECOND
    return max(0, min(num_frames - window_frames, last) + 1)


def mel_window(mel: np.ndarray, start_frame: int, num_frames: int = 16) -> np.ndarray:
    """What is heard with frames `start_frame` to `start_frame + num_frames - 1` of a 25 fps video.

    mel: (80, M) -> a view (80, 52) for 16 frames. Raises AudioError when the spectrogram does not reach that far.
    """
    start, length = mel_start(start_frame), mel_length(num_frames)
    if start_frame < 0 or start + length > mel.shape[1]:
        raise AudioError(
            f"The sound has {mel.shape[1]} mel columns; frames {start_frame} to {start_frame + num_frames - 1} need "
            f"columns {start} to {start + length - 1}. Give longer audio or an earlier frame."
        )
    return mel[:, start : start + length]


# StableSyncNet: two encoders whose embeddings agree, by their cosine, where lips and speech belong together.
#
# Follows LatentSync's network: residual blocks that shrink the picture, attention after some of them, a ReLU at the
# end, so that embeddings are not negative and their cosine lies in [0, 1].

Factor = int | tuple[int, int]  # of rows and columns
EPS = 1e-6
NUM_HEADS, NUM_GROUPS = 8, 32


@dataclass(frozen=True)
class EncoderConfig:
    """One of the two encoders, level by level; `attention` tells after which levels attention follows."""

    in_channels: int
    block_out_channels: tuple[int, ...]
    downsample_factors: tuple[Factor, ...]
    attention: tuple[bool, ...]

    def __post_init__(self):
        lengths = {len(self.block_out_channels), len(self.downsample_factors), len(self.attention)}
        if lengths != {len(self.block_out_channels)} or not self.block_out_channels:
            raise OptionError(
                f"A SyncNet encoder has {len(self.block_out_channels)} widths, {len(self.downsample_factors)} factors "
                f"and {len(self.attention)} attention flags; expected as many of each, at least one."
            )

    def out_size(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of what leaves the last level."""
        for factor in self.downsample_factors:
            if factor != 1:
                rows, columns = _pair(factor)
                left, right, top, bottom = _padding(factor)
                height, width = (height + top + bottom - 3) // rows + 1, (width + left + right - 3) // columns + 1
        return height, width


@dataclass(frozen=True)
class SyncNetConfig:
    """A SyncNet. `resolution` is the side of the whole face in pixels, of latents the side of their pictures.

    Latents (`latent`) are looked at whole or in their lower half, as pixels are. One is `latent_ratio` px of
    that side.
    """

    audio: EncoderConfig
    visual: EncoderConfig
    num_frames: int = 16
    resolution: int = 256
    lower_half: bool = True
    latent: bool = False
    latent_ratio: int = 8
    num_heads: int = NUM_HEADS
    norm_num_groups: int = NUM_GROUPS

    def __post_init__(self):
        if self.visual.in_channels % self.num_frames:
            raise OptionError(
                f"SyncNet's visual encoder has {self.visual.in_channels} input channels, which {self.num_frames} "
                "frames do not share evenly. Set num_frames or in_channels."
            )
        if self.audio.block_out_channels[-1] != self.visual.block_out_channels[-1]:
            raise OptionError(
                f"SyncNet's encoders end in {self.audio.block_out_channels[-1]} and "
                f"{self.visual.block_out_channels[-1]} channels; expected the same embedding width."
            )
        sizes = {"visual": self.visual.out_size(*self.picture_size), "audio": self.audio.out_size(*self.mel_size)}
        for name, size in sizes.items():
            if size != (1, 1):
                inputs = self.picture_size if name == "visual" else self.mel_size
                raise OptionError(
                    f"SyncNet's {name} encoder makes {size[0]}x{size[1]} of its {inputs[0]}x{inputs[1]} input; "
                    "expected 1x1. Check resolution, lower_half, num_frames and downsample_factors."
                )

    @property
    def channels_per_frame(self) -> int:
        return self.visual.in_channels // self.num_frames

    @property
    def side(self) -> int:
        """Of the face, or of its latents."""
        return self.resolution // self.latent_ratio if self.latent else self.resolution

    @property
    def picture_size(self) -> tuple[int, int]:
        """Height and width that `embed_frames` expects."""
        return (self.side // 2 if self.lower_half else self.side), self.side

    @property
    def mel_size(self) -> tuple[int, int]:
        return NUM_MELS, mel_length(self.num_frames)


class StableSyncNet(nn.Module):
    """Tensor names are those of the released files."""

    def __init__(self, config: SyncNetConfig):
        super().__init__()
        self.config = config
        self.framing: Framing = "insightface"  # of the faces it was trained with
        self.audio_encoder = DownEncoder(config.audio, config.num_heads, config.norm_num_groups)
        self.visual_encoder = DownEncoder(config.visual, config.num_heads, config.norm_num_groups)

    @property
    def dtype(self) -> torch.dtype:
        return self.audio_encoder.conv_in.weight.dtype

    def embed_frames(self, stacked: Tensor) -> Tensor:
        """What `stack_frames` returns, (B, F*3, h, w) -> unit vectors (B, D), none of their numbers negative."""
        return F.normalize(self.visual_encoder(stacked).flatten(1).float(), dim=1)

    def embed_audio(self, mel: Tensor) -> Tensor:
        """(B, 1, 80, W) in [-4, 4] -> unit vectors (B, D), none of their numbers negative."""
        return F.normalize(self.audio_encoder(mel).flatten(1).float(), dim=1)

    def forward(self, stacked: Tensor, mel: Tensor) -> tuple[Tensor, Tensor]:
        return self.embed_frames(stacked), self.embed_audio(mel)


def stack_frames(frames: Tensor, config: SyncNetConfig) -> Tensor:
    """Aligned faces (B, C, F, H, W), pixels in [-1, 1] or latents, as the visual encoder takes them: (B, F*C, h, w).

    Another size than the config's is resized (bicubic, not antialiased, as the reference does); the lower half is taken
    where the config says so. Channels go frame by frame: R, G, B of the first, then of the second. Raises
    FrameCountError for another number of frames, OptionError for another number of channels.
    """
    if frames.shape[2] != config.num_frames:
        raise FrameCountError(f"{frames.shape[2]} frames were given; this SyncNet looks at {config.num_frames}.")
    if frames.shape[1] != config.channels_per_frame:
        kind = "latents" if config.latent else "pixels"
        raise OptionError(
            f"Frames of {frames.shape[1]} channels were given; this SyncNet looks at {kind} of "
            f"{config.channels_per_frame} channels."
        )
    return seen_part(rearrange(frames, "b c f h w -> b (f c) h w"), config)


def seen_part(pictures: Tensor, config: SyncNetConfig) -> Tensor:
    """Whole faces (N, C, H, W) at the size, and the part of them, that SyncNet looks at: (N, C, h, w)."""
    side = config.side
    if pictures.shape[-2:] != (side, side):
        pictures = F.interpolate(pictures, (side, side), mode="bicubic")
    return pictures[:, :, side // 2 :] if config.lower_half else pictures


class DownEncoder(nn.Module):
    """(B, C, h, w) -> (B, D, 1, 1), not negative."""

    def __init__(self, config: EncoderConfig, num_heads: int, num_groups: int):
        super().__init__()
        width = config.block_out_channels[0]
        self.conv_in = nn.Conv2d(config.in_channels, width, 3, padding=1)
        self.down_blocks = nn.ModuleList()
        levels = zip(config.block_out_channels, config.downsample_factors, config.attention, strict=True)
        for out_channels, factor, attends in levels:
            self.down_blocks.append(ResidualBlock(width, out_channels, factor, num_groups))
            width = out_channels
            if attends:  # an entry of the list by itself, so that the numbers after it shift
                self.down_blocks.append(AttentionBlock(width, num_heads, num_groups))
        self.norm_out = nn.GroupNorm(num_groups, width, eps=EPS)

    def forward(self, hidden: Tensor) -> Tensor:
        hidden = self.conv_in(hidden)
        for block in self.down_blocks:
            hidden = block(hidden)
        return F.relu(self.norm_out(hidden))


class ResidualBlock(nn.Module):
    """Two convolutions beside a shortcut, then a strided one where the factor is not 1."""

    def __init__(self, in_channels: int, out_channels: int, factor: Factor, num_groups: int):
        super().__init__()
        self.norm1 = nn.GroupNorm(num_groups, in_channels, eps=EPS)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.norm2 = nn.GroupNorm(num_groups, out_channels, eps=EPS)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.conv_shortcut = nn.Conv2d(in_channels, out_channels, 1) if in_channels != out_channels else nn.Identity()
        self.padding = _padding(factor)
        self.downsample_conv = nn.Conv2d(out_channels, out_channels, 3, stride=_pair(factor)) if factor != 1 else None

    def forward(self, hidden: Tensor) -> Tensor:
        inner = self.conv1(F.silu(self.norm1(hidden)))
        hidden = self.conv_shortcut(hidden) + self.conv2(F.silu(self.norm2(inner)))
        return hidden if self.downsample_conv is None else self.downsample_conv(F.pad(hidden, self.padding))


class AttentionBlock(nn.Module):
    """Self-attention over all places of a picture; with biases, unlike the U-Net's."""

    def __init__(self, channels: int, num_heads: int, num_groups: int):
        super().__init__()
        self.norm1 = nn.GroupNorm(num_groups, channels, eps=EPS)
        self.conv_in = nn.Conv2d(channels, channels, 1)
        self.norm2 = nn.LayerNorm(channels)
        self.attn = Attention(query_dim=channels, heads=num_heads, dim_head=channels // num_heads, bias=True)
        self.norm3 = nn.LayerNorm(channels)
        self.ff = FeedForward(channels, activation_fn="geglu")
        self.conv_out = nn.Conv2d(channels, channels, 1)

    def forward(self, hidden: Tensor) -> Tensor:
        height = hidden.shape[2]
        tokens = rearrange(self.conv_in(self.norm1(hidden)), "b c h w -> b (h w) c")
        tokens = tokens + self.attn(self.norm2(tokens))
        tokens = tokens + self.ff(self.norm3(tokens))
        return hidden + self.conv_out(rearrange(tokens, "b (h w) c -> b c h w", h=height))


def _pair(factor: Factor) -> tuple[int, int]:
    return (factor, factor) if isinstance(factor, int) else (factor[0], factor[1])


def _padding(factor: Factor) -> tuple[int, int, int, int]:
    """Zeros left, right, top and bottom before the strided convolution, as the reference has them."""
    rows, columns = _pair(factor)
    if rows == columns or (rows > 1 and columns > 1):
        return 0, 1, 0, 1
    return (0, 1, 1, 1) if rows == 1 else (1, 1, 0, 1)


# SyncNet files: telling what a file is, building the network it holds, and writing one.
#
# Widths, attention and the number of frames are read from tensor names and shapes. Strides are not to be seen there,
# nor heads, norm groups, resolution and half: they come from metadata written by `save_syncnet`, from a JSON file
# beside the weights in the layout of the reference's YAML, or else are those of the released network with as many
# levels.

BUNDLED_SYNCNET = ASSETS / "syncnet" / "tiny.safetensors"
ENCODERS = ("audio_encoder", "visual_encoder")
RELEASED_RESOLUTION = 256
# Of the reference's configurations, by encoder and by which levels shrink the picture.
_TWO_FROM_WIDE = ((1, 2), 2, 2, 2, 2, 2, 2, 2)
RELEASED_FACTORS: dict[tuple[str, tuple[bool, ...]], tuple[Factor, ...]] = {
    (encoder, tuple(factor != 1 for factor in factors)): factors
    for encoder, factors in (
        ("visual_encoder", _TWO_FROM_WIDE),  # 16 and 25 frames of pixels
        ("audio_encoder", ((2, 1), 2, 2, 1, 2, 2, (2, 3))),  # 16 frames, beside pixels
        ("visual_encoder", (2, 2, 2, 1, 2, 2)),  # latents
        ("audio_encoder", ((2, 1), 2, 2, 2, 2, (2, 3))),  # 16 frames, beside latents
    )
}
AUDIO_FACTORS_25 = (2, 2, 2, 2, 2, 2)  # 25 frames; shrinks at the same levels as the one beside latents
SETTINGS = {"num_frames": int, "resolution": int, "lower_half": bool, "latent_space": bool, "latent_ratio": int}
SETTINGS |= {"num_heads": int, "norm_num_groups": int}


def load_syncnet(
    path: str | Path, device: torch.device | str = "cpu", dtype: torch.dtype | None = torch.float32
) -> StableSyncNet:
    """Load a StableSyncNet, released, exported or small, in eval mode and frozen; `dtype` None keeps the file's.

    Takes `.safetensors` and torch files, those with or without the trainer's wrapping `{"state_dict": ...}`. Raises
    ModelNotFoundError, DamagedCheckpointError, UnsafeCheckpointError, ForeignCheckpointError, IncompleteCheckpointError
    and OptionError.
    """
    path = Path(path)
    content, metadata = read_weights(path)
    if isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    tensors = {key: value for key, value in content.items() if isinstance(value, torch.Tensor)}
    if kind := _foreign_kind(content):
        raise ForeignCheckpointError(
            f"{path} is {kind}, not a StableSyncNet. Choose stable_syncnet.pt (or latentsync_syncnet.pt of 1.0)."
        )
    if "config" in metadata:
        described = parse_json(metadata["config"], told=f"the metadata of {path}")
    else:
        described = read_sidecar(path)
    with building(path, "a SyncNet"):
        config = syncnet_config_from_state_dict(tensors, described)
        with torch.device("meta"):
            syncnet = StableSyncNet(config)
    check_fit(tensors, syncnet.state_dict(), f"{path} does not fit the SyncNet that its layers describe")
    tensors = {key: tensor.to(device=device, dtype=dtype) for key, tensor in tensors.items()}
    with building(path, "a SyncNet"):
        syncnet.load_state_dict(tensors, strict=True, assign=True)
    # Files that `save_syncnet` wrote before it noted the framing were trained with the mesh's.
    framing = metadata.get("framing") or described.get("framing")
    syncnet.framing = checked_framing(framing or ("mesh" if "config" in metadata else "insightface"), path)
    return syncnet.eval().requires_grad_(False)


def save_syncnet(
    syncnet: StableSyncNet,
    path: str | Path,
    *,
    global_step: int | None = None,
    dtype: torch.dtype | None = None,
    facts: Mapping[str, object] | None = None,
) -> None:
    """Write a SyncNet under the reference's names, whole or not at all.

    `.safetensors` carries the configuration and `facts` as metadata; any other suffix gives a torch file
    `{"global_step", "state_dict"}`, which the reference loads. `dtype` None keeps the network's. Raises OutputError.
    """
    tensors = {
        key: value.detach().to(device="cpu", dtype=dtype or value.dtype) for key, value in syncnet.state_dict().items()
    }
    if Path(path).suffix == ".safetensors":
        noted = {"global_step": global_step, "framing": syncnet.framing, **(facts or {})}
        metadata = {key: str(value) for key, value in noted.items() if value is not None}
        write_weights(path, tensors, {**metadata, "config": json.dumps(describe_syncnet(syncnet.config))})
    else:
        write_weights(path, {"global_step": global_step or 0, "state_dict": tensors})


def describe_syncnet(config: SyncNetConfig) -> dict:
    """The configuration in the layout of the reference's YAML, with what is ours beside it; for JSON and YAML."""
    names = {"in_channels": "in_channels", "block_out_channels": "block_out_channels"}
    names |= {"downsample_factors": "downsample_factors", "attention": "attn_blocks"}
    description: dict = {}
    for encoder, fields in zip(ENCODERS, (asdict(config.audio), asdict(config.visual)), strict=True):
        description[encoder] = {names[name]: value for name, value in fields.items()}
        description[encoder]["attn_blocks"] = [int(attends) for attends in fields["attention"]]
    settings = {name: getattr(config, "latent" if name == "latent_space" else name) for name in SETTINGS}
    return description | settings


def syncnet_from_description(description: Mapping) -> SyncNetConfig:
    """The configuration that `describe_syncnet`, or the reference's YAML with its data section's settings, tells.

    Attention flags that are not there mean none (the reference's 25-frame file has none and breaks it). Raises
    OptionError.
    """
    try:
        encoders = {}
        for encoder in ENCODERS:
            given = description[encoder]
            widths = tuple(int(width) for width in given["block_out_channels"])
            flags = tuple(bool(flag) for flag in given.get("attn_blocks") or [0] * len(widths))
            factors = _factors(given["downsample_factors"])
            encoders[encoder] = EncoderConfig(int(given["in_channels"]), widths, factors, flags)
        settings = {name: kind(description[name]) for name, kind in SETTINGS.items() if name in description}
    except (KeyError, TypeError, ValueError) as error:
        raise OptionError(
            f"The description of a SyncNet cannot be used ({error!r}). Expected audio_encoder and visual_encoder, each "
            "with in_channels, block_out_channels, downsample_factors and attn_blocks."
        ) from error
    latent = settings.pop("latent_space", False)
    settings.setdefault("lower_half", not latent)  # as in the reference's configurations
    return SyncNetConfig(encoders["audio_encoder"], encoders["visual_encoder"], latent=latent, **settings)


def syncnet_config_from_state_dict(
    tensors: Mapping[str, torch.Tensor], described: Mapping | None = None
) -> SyncNetConfig:
    """The configuration these tensors fit; `described` tells what they do not show. See `syncnet_from_description`.

    Raises IncompleteCheckpointError when tensors that tell the shape are not there, OptionError where the strides
    are neither described nor those of a released network.
    """
    described = described if described and all(encoder in described for encoder in ENCODERS) else {}
    shapes = {encoder: _encoder_shape(tensors, encoder) for encoder in ENCODERS}
    visual_channels = shapes["visual_encoder"][0]
    latent = bool(described.get("latent_space", visual_channels % 3 != 0))
    num_frames = int(described.get("num_frames", visual_channels // (4 if latent else 3)))
    description = {
        "resolution": RELEASED_RESOLUTION,
        "num_heads": NUM_HEADS,
        "norm_num_groups": NUM_GROUPS,
        **{name: value for name, value in described.items() if name in SETTINGS},
        "latent_space": latent,
        "num_frames": num_frames,
    }
    for encoder, (in_channels, widths, attention, shrinks) in shapes.items():
        if described:
            factors = described[encoder].get("downsample_factors", ())
        elif encoder == "audio_encoder" and num_frames == 25 and shrinks == (True,) * len(AUDIO_FACTORS_25):
            factors = AUDIO_FACTORS_25
        else:
            factors = RELEASED_FACTORS.get((encoder, shrinks), ())
        if tuple(factor != 1 for factor in _factors(factors)) != shrinks:
            raise OptionError(
                f"The SyncNet's {encoder} shrinks its input at levels {_levels(shrinks)} of {len(shrinks)}; "
                + (f"its description gives the factors {list(factors)}." if described else "no released one does.")
                + " Put a JSON file with the fitting downsample_factors beside the weights, as save_syncnet's metadata."
            )
        description[encoder] = {
            "in_channels": in_channels,
            "block_out_channels": widths,
            "downsample_factors": factors,
            "attn_blocks": attention,
        }
    return syncnet_from_description(description)


def _encoder_shape(
    tensors: Mapping[str, torch.Tensor], encoder: str
) -> tuple[int, tuple[int, ...], tuple[bool, ...], tuple[bool, ...]]:
    """Input channels, and of each level its width, whether attention follows and whether it shrinks the picture."""

    def shape(key: str) -> torch.Size:
        if key not in tensors:
            raise IncompleteCheckpointError(f"The SyncNet has no tensor {key!r}. Download it again.")
        return tensors[key].shape

    pattern = re.compile(re.escape(encoder) + r"\.down_blocks\.(\d+)\.")
    entries = sorted({int(match[1]) for key in tensors if (match := pattern.match(key))})
    widths, attention, shrinks = [], [], []
    for entry in entries:
        prefix = f"{encoder}.down_blocks.{entry}."
        if f"{prefix}attn.to_q.weight" in tensors and attention:
            attention[-1] = True
            continue
        widths.append(int(shape(f"{prefix}conv1.weight")[0]))
        attention.append(False)
        shrinks.append(f"{prefix}downsample_conv.weight" in tensors)
    return int(shape(f"{encoder}.conv_in.weight")[1]), tuple(widths), tuple(attention), tuple(shrinks)


def _foreign_kind(content: Mapping) -> str | None:
    """What kind of model that is not a StableSyncNet these names belong to."""
    keys = [key for key in content if isinstance(key, str)]

    def starts(*prefixes: str) -> bool:
        return any(key.startswith(prefixes) for key in keys)

    if starts("netcnnaud.", "netcnnlip.", "netfcaud.", "netfclip."):
        return "syncnet_v2, the network of the LSE scores (eval/eval_quality loads it)"
    if starts("face_encoder") and starts("audio_encoder"):
        return "Wav2Lip's SyncNet"
    if starts("audio_encoder.conv_in.") and starts("visual_encoder.conv_in."):
        return None
    if starts("time_embedding.", "motion_modules.") or (starts("conv_in.") and starts("up_blocks.")):
        return "a U-Net"
    if starts("first_stage_model.", "encoder.conv_in.", "decoder.conv_in."):
        return "a VAE"
    if ("model_state_dict" in content and "dims" in content) or starts("encoder.positional_embedding"):
        return "a Whisper audio model"
    return f"something without the two encoders (its first names are {some_names(keys)})"


def _factors(given) -> tuple[Factor, ...]:
    return tuple(int(f) if isinstance(f, int | float) else (int(f[0]), int(f[1])) for f in given)


def _levels(flags: tuple[bool, ...]) -> str:
    return ", ".join(str(level) for level, flag in enumerate(flags) if flag)
