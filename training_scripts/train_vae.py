"""Train the small autoencoder on aligned faces; resumable, writes ``run_dir/vae`` in diffusers' layout.

    python -m training_scripts.train_vae --config training_scripts/configs/heads_vae.yaml

Its latents are met with noise in them, so that a little of it, as the U-Net leaves, shows little; and often without
the last of their channels, so that the first carry most and a model of fewer channels can be cut out of this one.
Inputs are spoiled where targets are not, so that latents carry less grain.
"""

import logging
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from latentsync.model.face_autoencoder import FaceAutoencoder, with_fewer_channels
from latentsync.model.masks import generation_mask

from .batches import step_generator
from .clip_store import ClipStore
from .config import TrainingConfig, VAEConfig, parse_settings
from .losses import vae_loss
from .training_run import Losses, TrainingRun, make_accelerator, one_cycle

SCALE = "latents_mean", "latents_std"
MEASURED_CLIPS, FRAMES_OF_EACH = 48, 4  # whose latents tell their mean and deviation
MOST_LEAVES = 60


def build_vae(config: TrainingConfig) -> FaceAutoencoder:
    settings = config.vae
    return FaceAutoencoder(
        settings.latent_channels,
        settings.block_out_channels,
        settings.encoder_layers,
        settings.decoder_layers,
        settings.patch_size,
        settings.pixel_width,
    )


@dataclass(frozen=True)
class Pictures:
    """N pictures of one step: inputs and targets (N, 3, s, s) in [-1, 1], mouths (N, 1, s, s): 1 where it is pasted."""

    inputs: Tensor
    targets: Tensor
    mouths: Tensor


class PictureSource:
    """Batches by the step and the store alone: a resumed run sees what an unbroken one would."""

    def __init__(self, store: ClipStore, config: TrainingConfig):
        self.store, self.config = store, config
        self.mask = generation_mask(config.resolution, config.mask).numpy()
        self.mouth = (generation_mask(config.resolution, config.blend_mask).numpy() < 0.5).astype(np.float32)

    def batch(self, step: int) -> Pictures:
        settings, random = self.config.vae, np.random.default_rng([self.config.seed, 1, step])
        side, count = settings.crop or self.config.resolution, settings.batch_size
        leaves = int(settings.leaves_fraction * count)
        faces = self._faces(count - leaves, random)
        masked = int(settings.masked_fraction * len(faces))
        rows = []
        for number, face in enumerate(faces):
            picture, place = crop(face, side, random)
            target, mouth = recoloured(picture, random), _part(self.mouth, place, side)
            seen = spoiled(target, random) if random.random() < settings.spoiled_fraction else target
            if number < masked:  # grey in the hole, as the U-Net's condition has it
                keep = _part(self.mask, place, side)[..., None]
                seen, target = ((shown - 0.5) * keep + 0.5 for shown in (seen, target))
            rows.append((seen, target, mouth[..., None]))
        for _ in range(leaves):
            target = dead_leaves(side, random)
            rows.append((target, target, np.zeros((side, side, 1), np.float32)))
        parts = (torch.from_numpy(np.stack(part)).movedim(-1, 1).float() for part in zip(*rows, strict=True))
        inputs, targets, mouths = parts
        return Pictures(inputs * 2 - 1, targets * 2 - 1, mouths)

    def _faces(self, count: int, random: np.random.Generator) -> list[np.ndarray]:
        """(S, S, 3) uint8; some of each of a few clips, since those may be videos."""
        faces, some = [], self.config.vae.frames_per_clip
        while len(faces) < count:
            frames = self.store.frames(int(random.integers(len(self.store))))
            faces += [frames[i] for i in random.integers(0, len(frames), min(some, count - len(faces)))]
        return faces


def _part(mask: np.ndarray, place: np.ndarray, side: int) -> np.ndarray:
    x, y, width = (place * len(mask)).round().astype(int)
    return cv2.resize(mask[y : y + width, x : x + width], (side, side), interpolation=cv2.INTER_AREA)


def train_vae(config: TrainingConfig) -> Path:
    """Train, or finish training; returns the folder of the model."""
    run_dir, target = config.run_dir, config.run_dir / "vae"
    if target.exists():
        return target
    accelerator = make_accelerator(config.mixed_precision)
    torch.manual_seed(config.seed)
    store, settings = ClipStore(config.clip_folder), config.vae
    source = PictureSource(store, config)
    model = build_vae(config)
    scale = None
    if settings.initial is not None:
        initial = FaceAutoencoder.from_pretrained(settings.initial)
        if settings.latent_channels < initial.config.latent_channels:
            initial = with_fewer_channels(initial, settings.latent_channels)
        model.load_state_dict(initial.state_dict())
        if not settings.train_encoder:
            scale = {name: initial.config[name] for name in SCALE}
    model.to(memory_format=torch.channels_last)
    learned = model if settings.train_encoder else model.decoder
    model.requires_grad_(False)
    learned.requires_grad_(True)
    optimizer = torch.optim.AdamW(learned.parameters(), lr=settings.learning_rate, betas=(0.9, 0.99))
    run = TrainingRun(
        run_dir / "vae_training",
        accelerator,
        model,
        learned.parameters(),
        optimizer,
        ema_decay=config.ema_decay,
        max_grad_norm=config.max_grad_norm,
        log_every=config.log_every,
        save_every=config.save_every,
    )
    run.resume(earlier=run_dir / "vae_state.pt")

    def loss_of(shown: Pictures) -> Losses:
        pixels = shown.inputs.to(accelerator.device, memory_format=torch.channels_last)
        with accelerator.autocast():
            with torch.set_grad_enabled(settings.train_encoder):
                latents = model.encode(pixels).latent
            latents = disturbed(latents, settings, step_generator(config.seed, run.step))
            reconstruction = model.decode(latents).sample
        return vae_loss(
            reconstruction.float(),
            shown.targets.to(accelerator.device),
            shown.mouths.to(accelerator.device),
            gradient_weight=settings.gradient_weight,
            colour_weight=settings.colour_weight,
            mouth_weight=settings.mouth_weight,
        )

    def rate(step: int) -> float:
        return one_cycle(step, settings.steps, settings.learning_rate, config.warmup_fraction)

    def refresh() -> None:
        if run.step % config.save_every == 0:
            source.store = ClipStore(store.folder)  # which may be growing

    pictures = (source.batch(step) for step in range(run.step, settings.steps))
    run.train(settings.steps, pictures, loss_of, rate, refresh)
    run.swap_average()
    model.cpu()
    save_vae(model, scale or measured_scale(model, measured_faces(store)), target)
    return target


def disturbed(latents: Tensor, settings: VAEConfig, generator: torch.Generator) -> Tensor:
    """Latents (N, C, h, w) with noise; of half the pictures only the first channels, `fewest_channels` or more."""
    count, channels = latents.shape[:2]
    spread = latents.detach().float().std((0, 2, 3), keepdim=True)
    noise = torch.randn(latents.shape, generator=generator).to(latents.device)
    kept = torch.randint(settings.fewest_channels, channels + 1, (count,), generator=generator)
    kept[count // 2 :] = channels
    is_kept = torch.arange(channels) < kept[:, None]
    return (latents + settings.latent_noise * spread * noise) * is_kept[:, :, None, None].to(latents)


@torch.inference_mode()
def measured_scale(model: FaceAutoencoder, pixels: Tensor) -> dict[str, list[float]]:
    """SCALE of the latents of pictures (N, 3, S, S), so that the diffusion model sees unit variance in each channel."""
    latents = torch.cat([model.encode(part).latent for part in pixels.split(16)]).movedim(1, 0).flatten(1)
    mean, deviation = latents.mean(1).tolist(), latents.std(1).tolist()
    if not np.isfinite(deviation).all() or not all(deviation):
        raise RuntimeError(f"the latents have standard deviations {deviation}: training diverged")
    return dict(zip(SCALE, (mean, deviation), strict=True))


def save_vae(model: FaceAutoencoder, scale: dict[str, list[float]], target: Path) -> None:
    """Write the folder, whole or not at all."""
    model.register_to_config(**scale, _name_or_path="vae")
    part = target.with_name("vae.part")
    model.save_pretrained(part)
    part.rename(target)


def measured_faces(store: ClipStore) -> Tensor:
    """(N, 3, S, S) in [-1, 1]: a few frames of clips of the whole store."""
    clips = range(0, len(store), max(1, len(store) // MEASURED_CLIPS))
    faces = np.concatenate([store.frames(clip)[:: max(1, store.num_frames(clip) // FRAMES_OF_EACH)] for clip in clips])
    return torch.from_numpy(faces).movedim(-1, 1).float() / 127.5 - 1


def crop(face: np.ndarray, side: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A part of a face (S, S, 3) uint8 as (side, side, 3), and its (x, y, width) in shares of S.

    Half of them as they are, half of a larger part made smaller: so faces of every sharpness are met.
    """
    whole = len(face)
    width = side if random.random() < 0.5 else int(random.integers(side, whole + 1))
    x, y = random.integers(0, whole - width + 1, 2)
    part = face[y : y + width, x : x + width].astype(np.float32) / 255
    if width != side:
        part = cv2.resize(part, (side, side), interpolation=cv2.INTER_AREA)
    return part, np.array([x, y, width]) / whole


def recoloured(picture: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Other light, white balance, contrast and saturation; now and then mirrored."""
    if random.random() < 0.5:
        picture = picture[:, ::-1]
    if random.random() < 0.7:
        picture = picture * np.exp(random.normal(0, 0.18, 3)) + random.normal(0, 0.05)
        picture = picture.clip(0, 1) ** np.exp(random.normal(0, 0.25))
        grey = picture.mean(-1, keepdims=True)
        picture = (grey + (picture - grey) * random.uniform(0.4, 1.6)).clip(0, 1)
    return np.ascontiguousarray(picture, dtype=np.float32)


def dead_leaves(side: int, random: np.random.Generator) -> np.ndarray:
    """Discs of all sizes that hide each other, some soft, some with grain: the edges and colours of any picture."""
    picture = np.zeros((side, side, 3), np.float32) + random.uniform(0, 1, 3).astype(np.float32)
    base, spread = random.uniform(0, 1, 3), random.uniform(0.05, 0.6)
    for _ in range(int(random.integers(8, MOST_LEAVES))):
        radius = min(2 / random.uniform(0.01, 1) ** 0.5, 0.55 * side)
        colour = np.clip(base + random.normal(0, spread, 3), 0, 1)
        centre = random.uniform(-10, side + 10, 2)
        axes = radius, radius * random.uniform(0.25, 1)
        sixteenths = [tuple(int(16 * value) for value in pair) for pair in (centre, axes)]
        turn = float(random.uniform(0, 360))
        cv2.ellipse(picture, *sixteenths, turn, 0, 360, colour.tolist(), cv2.FILLED, cv2.LINE_AA, 4)
    light = cv2.resize(random.uniform(-0.25, 0.25, (3, 3, 3)), (side, side), interpolation=cv2.INTER_CUBIC)
    picture = picture * (1 + light)
    if random.random() < 0.6:
        picture = cv2.GaussianBlur(picture, (0, 0), random.uniform(0.3, 2.5))
    if random.random() < 0.5:
        grain = random.normal(0, random.uniform(0, 0.12), (side // int(random.integers(1, 5)),) * 2)
        picture = picture + cv2.resize(grain, (side, side))[..., None]
    return picture.clip(0, 1).astype(np.float32)


def spoiled(picture: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """With a camera's grain, and as JPEG of low or high quality."""
    grain = random.normal(0, random.uniform(0, 0.03), picture.shape)
    levels = ((picture + grain).clip(0, 1) * 255).round().astype(np.uint8)
    jpeg = cv2.imencode(".jpg", levels[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, int(random.integers(40, 96))])[1]
    return cv2.imdecode(jpeg, cv2.IMREAD_COLOR)[..., ::-1].astype(np.float32) / 255


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    train_vae(parse_settings(TrainingConfig, __doc__))
