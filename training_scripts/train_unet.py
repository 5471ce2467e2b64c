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

import torch

from latentsync.errors import OptionError
from latentsync.model.checkpoints import build_unet as unet_of_tensors
from latentsync.model.checkpoints import read_unet_facts, save_unet
from latentsync.model.masks import generation_mask
from latentsync.model.unet import Float32Attention, LatentSyncUNet
from latentsync.model.vae import Autoencoder, LatentSpace, load_vae
from latentsync.model_files import Framing

from .clip_latents import ClipLatents
from .clip_store import ClipStore
from .config import UNetTrainingConfig, parse_settings
from .lip_reader import load_lip_reader
from .lora_adapter import add_adapter, save_adapter
from .training_run import Losses, TrainingRun, learning_rate, make_accelerator, precision_here
from .unet_batches import Batch, UNetClips, batches
from .unet_losses import UNetLosses
from .unet_model import build_unet, checkpoint_blocks, choose_trainable, sizes
from .unet_validation import Validation

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
    config: UNetTrainingConfig, run: TrainingRun, clips: UNetClips, losses: UNetLosses, validation: Validation | None
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

    source = batches(
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


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    train_unet(parse_settings(UNetTrainingConfig, __doc__, "data.clips=clips"))
