"""Train a StableSyncNet; resumable, writes ``run_dir/syncnet.safetensors`` under the reference's names.

    python -m training_scripts.train_syncnet --config training_scripts/configs/syncnet_16_pixel_attn.yaml

Many GPUs: `torchrun --nproc_per_node 8 -m training_scripts.train_syncnet ...`. Losses and accuracy
are in ``losses.csv`` and ``validation.csv`` of ``run_dir``, their curves beside them.
"""

import logging
from collections.abc import Mapping
from pathlib import Path

import torch
from accelerate import Accelerator
from diffusers import AutoencoderKL
from torch import Tensor

from latentsync.model import vae as vaes
from latentsync.sync.pairs import (
    PairBatch,
    fixed_pairs,
    load_pairs,
    pair_cosines,
    pair_scores,
    prepare_frames,
    usable_clips,
)
from latentsync.sync.syncnet import StableSyncNet, load_syncnet, save_syncnet, stack_frames

from .batches import StepBatches, augment, step_generator
from .clip_store import ClipStore
from .config import SyncNetTraining, parse_settings
from .losses import all_pairs_loss, cosine_bce, cosines_bce
from .training_run import Losses, TrainingRun, learning_rate, make_accelerator

log = logging.getLogger(__name__)


def load_vae(folder: str | Path, device: torch.device | str) -> vaes.Autoencoder:
    """A VAE in diffusers' layout: a folder, or a repository's name where the network may be asked."""
    if Path(folder).is_dir():
        return vaes.load_vae(folder, device=device)
    return AutoencoderKL.from_pretrained(str(folder)).to(device).eval().requires_grad_(False)


def validation_batches(clips: ClipStore, among: list[int], config: SyncNetTraining) -> list[PairBatch]:
    """The pairs that accuracy is told by, the same all through a run and in all runs of a seed."""
    num_frames, distance = config.network().num_frames, config.negative_distance
    usable = usable_clips(clips, among, num_frames, distance)
    pairs = fixed_pairs(clips, usable, num_frames, distance, config.num_validation_pairs, config.seed)
    size = min(config.batch_size, 64)
    return [load_pairs(clips, pairs[start : start + size], num_frames) for start in range(0, len(pairs), size)]


def validate(
    syncnet: StableSyncNet, batches: list[PairBatch], vae: vaes.Autoencoder | None, accelerator: Accelerator
) -> dict[str, float]:
    """Loss and accuracy on the same pairs every time, shared among the processes."""
    mine = batches[accelerator.process_index :: accelerator.num_processes]
    cosines, labels = [], []
    with accelerator.autocast():
        for batch in mine:
            cosines.append(pair_cosines(syncnet, batch, vae))
            labels.append(batch.labels.to(accelerator.device))
    found = [torch.cat(values) if values else torch.empty(0, device=accelerator.device) for values in (cosines, labels)]
    cosine, label = (tensor.cpu() for tensor in gather_uneven(accelerator, found))
    scores = pair_scores(cosine.numpy(), label.numpy())
    return {
        "validation_loss": cosines_bce(cosine, label).mean().item(),
        "validation_accuracy": scores.accuracy,
        "best_accuracy": scores.best_accuracy,
        "best_threshold": scores.best_threshold,
    }


def gather_uneven(accelerator: Accelerator, tensors: list[Tensor]) -> list[Tensor]:
    """Tensors (n,) of all processes, with any n, one behind the other."""
    gathered = []
    for tensor in tensors:
        padded = accelerator.pad_across_processes(tensor, pad_index=-1.0)
        everywhere = accelerator.gather(padded)
        gathered.append(everywhere[everywhere >= 0])  # cosines and labels are not negative
    return gathered


def train_syncnet(config: SyncNetTraining, clips: ClipStore) -> Path:
    """Train, or finish training; returns the file."""
    target = config.run_dir / "syncnet.safetensors"
    accelerator = make_accelerator(config.mixed_precision, config.gradient_accumulation_steps)
    torch.manual_seed(config.seed)
    syncnet = StableSyncNet(config.network())
    syncnet.framing = clips.framing
    if config.initial is not None:
        syncnet.load_state_dict(load_syncnet(config.initial).state_dict())
    if config.channels_last:
        syncnet = syncnet.to(memory_format=torch.channels_last)
    vae = load_vae(config.vae, accelerator.device) if config.network().latent else None
    optimizer = torch.optim.AdamW(syncnet.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    run = TrainingRun(
        config.run_dir,
        accelerator,
        syncnet,
        syncnet.parameters(),
        optimizer,
        ema_decay=config.ema_decay,
        max_grad_norm=config.max_grad_norm,
        log_every=config.log_every,
        save_every=config.save_every,
    )
    run.resume(earlier=config.run_dir / "state.pt")
    known, measured = clips.split(config.held_out)
    checks = validation_batches(clips, measured or known, config)
    batches = StepBatches(clips, known, config, accelerator.process_index, accelerator.num_processes)

    def loss_of(numbered: tuple[int, PairBatch]) -> Losses:
        number, batch = numbered
        stacked = stack_frames(prepare_frames(batch, vae, accelerator.device), syncnet.config)
        generator = step_generator(config.seed, number, accelerator.process_index)
        stacked, mel = augment(stacked, batch.mel.to(accelerator.device), config.augmentation, generator)
        if config.channels_last:
            stacked = stacked.contiguous(memory_format=torch.channels_last)
        with accelerator.autocast():
            vision, audio = run.model(stacked, mel)
        return pair_loss(vision, audio, batch, config), {}

    def rate(step: int) -> float:
        return learning_rate(config.schedule, step, config.steps, config.learning_rate, config.warmup_fraction)

    def check() -> None:
        if run.step % config.validate_every and run.step != config.steps:
            return
        run.swap_average()
        scores = validate(syncnet.eval(), checks, vae, accelerator)
        if accelerator.is_main_process:
            export(syncnet, target, config, run.step, scores)
            run.write_row("validation.csv", scores)
        syncnet.train()
        run.swap_average()
        log.info("%d %s", run.step, " ".join(f"{name} {value:.4f}" for name, value in scores.items()))

    first = run.step * config.gradient_accumulation_steps
    loader = batches.loader(first, config.steps * config.gradient_accumulation_steps)
    run.train(config.steps, enumerate(loader, first), loss_of, rate, check)
    run.close()
    return target


def pair_loss(vision: Tensor, audio: Tensor, batch: PairBatch, config: SyncNetTraining) -> Tensor:
    """The reference's loss of labelled pairs, or that of every picture against every sound."""
    if config.pairing == "labels":
        return cosine_bce(vision, audio, batch.labels.to(vision.device))
    return all_pairs_loss(
        vision,
        audio,
        batch.belongs().to(vision.device),
        [kind.to(vision.device) for kind in batch.differs(config.negative_distance)],
        contrastive_weight=config.contrastive_weight,
        temperature=config.temperature,
    )


def export(model: StableSyncNet, target: Path, config: SyncNetTraining, step: int, scores: Mapping[str, float]) -> None:
    """The files for use."""
    dtype = getattr(torch, config.export_dtype)
    facts = {**scores, "min_negative_distance": config.negative_distance}
    save_syncnet(model, target, global_step=step, dtype=dtype, facts=facts)
    if config.export_pt:
        save_syncnet(model, target.with_suffix(".pt"), global_step=step, dtype=dtype)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    configuration = parse_settings(SyncNetTraining, __doc__, "steps=10")
    train_syncnet(configuration, ClipStore(configuration.data))
