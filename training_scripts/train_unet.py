"""Train the U-Net: stage 1, stage 2, its efficient variant, any size; resumable to the exact step.

    python -m training_scripts.train_unet --config training_scripts/configs/stage2.yaml --set data.clips=data/clips
    torchrun --nproc_per_node 8 -m training_scripts.train_unet --config training_scripts/configs/stage2.yaml

Writes into ``output``: save points, losses.csv and curves, validation clips, and at the end unet.safetensors (or .pt)
in the reference's tensor names, which the product and other packs load; of an adapter (train_lora.py) its file alone.
A finished run is not done again.
"""

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from latentsync.errors import OptionError
from latentsync.media.video_writer import VideoWriter
from latentsync.model.checkpoints import build_unet as unet_of_tensors
from latentsync.model.checkpoints import read_unet_facts, save_unet
from latentsync.model.diffusion import ddim_scheduler, denoise, shared_noise
from latentsync.model.masks import generation_mask
from latentsync.model.unet import Float32Attention, LatentSyncUNet
from latentsync.model.vae import Autoencoder, LatentSpace, decode, encode, load_vae
from latentsync.model.whisper import audio_tokens, window_centre
from latentsync.model_files import Framing
from latentsync.sync.syncnet import load_syncnet

from .batches import Batch, ClipLatents, UNetClips, to_pixels, unet_batches
from .clip_store import FPS, ClipStore
from .config import UNetTrainingConfig, parse_settings
from .lip_reader import load_lip_reader
from .losses import UNetLosses
from .training_run import SHARDED, Losses, TrainingRun, learning_rate, make_accelerator, precision_here
from .unet_model import add_adapter, build_unet, checkpoint_blocks, choose_trainable, save_adapter, sizes

log = logging.getLogger(__name__)
ADAPTER = "adapter.safetensors"
AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16, "no": None}


def train_unet(config: UNetTrainingConfig) -> Path:
    """Train, or finish training; returns the file of the (averaged) weights."""
    target = config.output / (ADAPTER if config.lora.rank else f"unet.{config.export}")
    if target.exists():
        log.info("%s is there already", target)
        return target
    config = replace(config, mixed_precision=precision_here(config.mixed_precision))
    accelerator = make_accelerator(config.mixed_precision, config.optimizer.gradient_accumulation_steps)
    vae = load_vae(config.model.vae)
    torch.manual_seed(config.seed)
    unet, prediction_type = build_unet(config.model, LatentSpace.of(vae.config))
    learned = add_adapter(unet, config.lora) if config.lora.rank else choose_trainable(unet, config.model.trainable)
    if config.gradient_checkpointing:
        checkpoint_blocks(unet)
    if config.mixed_precision == "bf16" and accelerator.device.type == "cpu":
        unet.set_attn_processor(Float32Attention())
    store = ClipStore(config.data.clips)
    _check_framing(store, config.model.initial)
    known, held_out = _clips(store, config)
    latents = _latents(store, vae, config, accelerator, known)
    reader = load_lip_reader(config, latents, known) if config.loss.lip_weight > 0 else None
    losses = UNetLosses(config, prediction_type, vae, accelerator.device, reader)
    clips = UNetClips(store, known, config, latents, losses.syncnet is not None, losses.needs_pixels)
    optimizer = torch.optim.AdamW(
        learned, lr=config.optimizer.learning_rate, weight_decay=config.optimizer.weight_decay
    )
    run = TrainingRun(
        config.output,
        accelerator,
        unet,
        learned,
        optimizer,
        ema_decay=config.optimizer.ema_decay,
        max_grad_norm=config.optimizer.max_grad_norm,
        log_every=config.log_every,
        save_every=config.save_every,
        keep=config.keep,
        tensorboard=config.tensorboard,
    )
    run.resume()
    validation = Validation(config, store, held_out or known, losses) if config.validation.every else None
    _steps(config, run, clips, losses, validation)
    _export(config, run, unet, prediction_type, store.framing, losses.latent_ratio, target)
    run.close()
    return target


def _steps(
    config: UNetTrainingConfig, run: TrainingRun, clips: UNetClips, losses: UNetLosses, validation: "Validation | None"
) -> None:
    accelerator, settings, told = run.accelerator, config.optimizer, set()

    def loss_of(batch: Batch) -> Losses:
        for text in batch.broken:
            if text not in told:
                told.add(text)
                log.warning("replaced: %s", text)
        batch = batch.to(accelerator.device)
        sample, timesteps, noisy, clean, noise = losses.prepare(batch)
        with accelerator.autocast():
            predicted = run.model(sample.float(), timesteps, batch.tokens).sample
            return losses(batch, predicted, timesteps, noisy, clean, noise)

    def rate(step: int) -> float:
        return learning_rate(settings.schedule, step, settings.steps, settings.learning_rate, settings.warmup_fraction)

    def validate() -> None:
        if validation is not None and run.step % config.validation.every == 0:
            run.swap_average()
            validation(run)
            run.swap_average()

    source = unet_batches(
        clips,
        range(run.step, settings.steps),
        accelerator.process_index,
        accelerator.num_processes,
        pin=accelerator.device.type == "cuda",
    )
    run.train(settings.steps, source, loss_of, rate, validate)


def _clips(store: ClipStore, config: UNetTrainingConfig) -> tuple[list[int], list[int]]:
    if store.resolution != config.data.resolution:
        raise OptionError(
            f"the faces of {store.folder} have {store.resolution} px, data.resolution is {config.data.resolution}. "
            "Prepare the clips at that size, or change the setting."
        )
    return store.split(config.data.held_out)


def _check_framing(store: ClipStore, initial: Path | None) -> None:
    """Warns where the clips are not cut out as those were that the initial U-Net was trained with."""
    framing = store.framing if initial is None else read_unet_facts(initial).framing or "insightface"
    if framing != store.framing:
        log.warning(
            "%s was trained on faces of the framing %s, those of %s have %s, which the new model has to learn; "
            "or prepare the clips with --framing %s",
            initial,
            framing,
            store.folder,
            store.framing,
            framing,
        )


def _latents(store: ClipStore, vae: Autoencoder, config, accelerator, clips: list[int]) -> ClipLatents | None:
    if config.data.latents == "encoded":
        return None
    mask = generation_mask(config.data.resolution, config.data.mask).to(accelerator.device)
    latents = ClipLatents(store, vae.to(accelerator.device), mask, config.data.mask)
    latents.make(clips[accelerator.process_index :: accelerator.num_processes], AUTOCAST[config.mixed_precision])
    accelerator.wait_for_everyone()
    return latents


def _export(
    config: UNetTrainingConfig,
    run: TrainingRun,
    unet: LatentSyncUNet,
    prediction_type: str,
    framing: Framing,
    latent_ratio: int,
    target: Path,
) -> None:
    run.swap_average()
    tensors = run.accelerator.get_state_dict(run.model)  # gathered where it is sharded, by all processes together
    if run.accelerator.is_main_process and config.lora.rank:
        save_adapter(unet, tensors, config.lora, config.model.initial, target)
    elif run.accelerator.is_main_process:
        save_unet(
            unet_of_tensors(sizes(unet, tensors), tensors),
            target,
            global_step=run.step,
            resolution=config.data.resolution,
            prediction_type=prediction_type,
            framing=framing,
            latent_ratio=latent_ratio,
        )
    run.swap_average()
    run.accelerator.wait_for_everyone()


class Validation:
    """Short clips as inference makes them, to look at, and what SyncNet says of them.

    Call it with the run, by all processes, with the weights to judge in place. All do the same number of clips, so that
    none waits for another's; nothing is drawn from training's generators.
    """

    def __init__(self, config: UNetTrainingConfig, store: ClipStore, clips: list[int], losses: UNetLosses):
        self.config, self.store, self.losses = config, store, losses
        frames = config.data.num_frames
        usable = [i for i in clips if store.num_frames(i) >= frames]
        self.clips = usable[:: max(1, len(usable) // config.validation.clips)][: config.validation.clips]
        path = config.validation.syncnet or config.loss.syncnet
        self.syncnet = load_syncnet(path, losses.device) if path is not None else None

    @torch.no_grad()
    def __call__(self, run: TrainingRun) -> None:
        accelerator = run.accelerator
        rank, world_size = accelerator.process_index, accelerator.num_processes
        # Of plain data parallelism the module itself: a forward pass for which no other process must wait.
        unet = run.model if accelerator.distributed_type in SHARDED else accelerator.unwrap_model(run.model)
        unet.eval()
        scores = []
        for first in range(0, len(self.clips), world_size):
            clip = self.clips[min(first + rank, len(self.clips) - 1)]
            with accelerator.autocast():
                made, true = self.make(unet, clip)
            scores.append(self.score(clip, made))
            if first + rank < len(self.clips):
                path = run.folder / "validation" / f"step-{run.step:08d}" / f"{self.store.keys[clip]}.mp4"
                write_beside(path, made, true)
        unet.train()
        everyones = accelerator.gather_for_metrics(scores, use_gather_object=True)
        found = [score for score in everyones if score]
        if found and accelerator.is_main_process:
            row = {name: float(np.mean([score[name] for score in found])) for name in found[0]}
            run.write_row("validation.csv", row)
            log.info("validation at step %d: %s", run.step, row)

    def make(self, unet: torch.nn.Module, clip: int) -> tuple[np.ndarray, np.ndarray]:
        """The clip as the U-Net makes it and as it is, (F, S, S, 3) uint8: whole chunks of `data.num_frames`."""
        settings, size = self.config.validation, self.config.data.num_frames
        chunks = min(settings.chunks, self.store.num_frames(clip) // size)
        true = self.store.frames(clip, 0, chunks * size)
        features = torch.from_numpy(np.array(self.store.features(clip, 0)))
        generator = torch.Generator().manual_seed(self.config.seed)
        noise, made = None, []
        for start in range(0, len(true), size):
            pixels = to_pixels(true[start : start + size]).to(self.losses.device)
            masked, clean = (self._latents(part) for part in (pixels * self.losses.mask, pixels))
            if noise is None:
                noise = shared_noise(clean.shape, generator, self.losses.device)
            hole = self.losses.hole.float().expand(1, 1, *clean.shape[2:])
            centres = [window_centre(index, FPS) for index in range(start, start + size)]
            latents = denoise(
                unet,
                ddim_scheduler(self.losses.prediction_type),
                noise,
                torch.cat([hole, masked, clean], 1),
                audio_tokens(features, centres).float().to(self.losses.device),
                settings.num_inference_steps,
                settings.guidance_scale,
            )
            drawn = decode(self.losses.vae, rearrange(latents, "1 c f h w -> f c h w")).float()
            drawn = pixels * self.losses.mask + drawn * (1 - self.losses.mask)
            made.append(((drawn.clamp(-1, 1) + 1) * 127.5).round().byte().movedim(1, -1).cpu().numpy())
        return np.concatenate(made), true

    def _latents(self, pixels: Tensor) -> Tensor:
        """(1, C, F, s, s) float32."""
        return rearrange(encode(self.losses.vae, pixels, sample=False).float(), "f c h w -> 1 c f h w")

    def score(self, clip: int, made: np.ndarray) -> dict[str, float]:
        """Empty without a SyncNet."""
        if self.syncnet is None:
            return {}
        from latentsync.sync.score import sync_score

        found = sync_score(made, np.asarray(self.store.mel(clip, 0)), self.syncnet)
        return {"sync_confidence": float(found.confidence), "sync_offset": float(found.offset_frames)}


def write_beside(path, made: np.ndarray, true: np.ndarray) -> None:
    """What was made, left, and what it should be, as a video of 25 frames a second."""
    path.parent.mkdir(parents=True, exist_ok=True)
    side = made.shape[1]
    with VideoWriter(path, 2 * side, side, rate=FPS) as writer:
        for pair in zip(made, true, strict=True):
            writer.write(np.concatenate(pair, axis=1))


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    train_unet(parse_settings(UNetTrainingConfig, __doc__, "data.clips=clips"))
