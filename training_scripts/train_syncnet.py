"""Train a StableSyncNet; resumable, writes ``run_dir/syncnet.safetensors`` under the reference's names.

    python -m training_scripts.train_syncnet --config training_scripts/configs/syncnet_16_pixel_attn.yaml

Many GPUs: `torchrun --nproc_per_node 8 -m training_scripts.train_syncnet ...`. Losses and accuracy are in
``run_dir/log.csv`` and ``run_dir/curves.png``.
"""

import contextlib
import logging
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from diffusers import AutoencoderKL
from diffusers.training_utils import EMAModel
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

from .checkpoints import TrainingState
from .clip_store import ClipStore
from .config import SyncNetTraining, parse_settings
from .schedules import one_cycle
from .sync_loss import all_pairs_loss, cosine_bce, cosines_bce
from .syncnet_augmentation import augment
from .syncnet_batches import StepBatches
from .syncnet_log import TrainingLog
from .training_run import make_accelerator

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
    run_dir, target = Path(config.run_dir), Path(config.run_dir) / "syncnet.safetensors"
    accelerator = make_accelerator(config.mixed_precision, config.gradient_accumulation_steps)
    run_dir.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(config.seed)
    syncnet = StableSyncNet(config.network())
    syncnet.framing = clips.framing
    if config.initial is not None:
        syncnet.load_state_dict(load_syncnet(config.initial).state_dict())
    if config.channels_last:
        syncnet = syncnet.to(memory_format=torch.channels_last)
    vae = load_vae(config.vae, accelerator.device) if config.network().latent else None
    optimizer = torch.optim.AdamW(syncnet.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    network, optimizer = accelerator.prepare(syncnet, optimizer)
    model = accelerator.unwrap_model(network)
    ema = EMAModel(model.parameters(), decay=config.ema_decay)
    shadow = torch.nn.ParameterList(ema.shadow_params).requires_grad_(False)
    state = TrainingState(
        {"syncnet": model, "ema": shadow},
        optimizer.optimizer,
        np.random.default_rng(config.seed),
        torch.Generator().manual_seed(config.seed + accelerator.process_index),
    )
    if state.load(run_dir / "state.pt"):
        log.info("resumed at step %d", state.step)
    known, measured = clips.split(config.held_out)
    checks = validation_batches(clips, measured or known, config)
    batches = StepBatches(clips, known, config, accelerator.process_index, accelerator.num_processes)
    each = config.gradient_accumulation_steps
    loader = iter(batches.loader(state.step * each, config.steps * each))
    table, started = TrainingLog(run_dir, state.step), time.monotonic()
    while state.step < config.steps:
        if config.schedule == "one_cycle":
            rate = one_cycle(state.step, config.steps, config.learning_rate, config.warmup_fraction)
            optimizer.param_groups[0]["lr"] = rate
        mean = 0.0
        for _ in range(each):
            batch = next(loader)
            stacked = stack_frames(prepare_frames(batch, vae, accelerator.device), model.config)
            stacked, mel = augment(stacked, batch.mel.to(accelerator.device), config.augmentation, state.generator)
            if config.channels_last:
                stacked = stacked.contiguous(memory_format=torch.channels_last)
            with accelerator.accumulate(network):
                with accelerator.autocast():
                    vision, audio = network(stacked, mel)
                loss = pair_loss(vision, audio, batch, config)
                accelerator.backward(loss)
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(network.parameters(), config.max_grad_norm)
                optimizer.step()
                optimizer.zero_grad()
            mean += loss.item() / each
        state.step += 1
        if config.ema_decay:
            ema.optimization_step = state.step  # its warm-up depends on the step, also after a resume
            ema.step(model.parameters())
        average = state.extra["loss"] = 0.95 * state.extra.get("loss", mean) + 0.05 * mean
        last = state.step == config.steps
        if state.step % config.log_every == 0:
            log.info("%d/%d loss %.4f (%.0f s)", state.step, config.steps, average, time.monotonic() - started)
        if state.step % config.validate_every == 0 or last:
            with averaged(model, ema if config.ema_decay else None):
                scores = validate(model, checks, vae, accelerator)
                if accelerator.is_main_process:
                    export(model, target, config, state.step, scores)
            log.info("%d %s", state.step, " ".join(f"{name} {value:.4f}" for name, value in scores.items()))
            if accelerator.is_main_process:
                table.add(step=state.step, train_loss=average, **scores)
                table.draw()
        if (state.step % config.save_every == 0 or last) and accelerator.is_main_process:
            state.save(run_dir / "state.pt")
    accelerator.end_training()
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


@contextlib.contextmanager
def averaged(model: StableSyncNet, ema: EMAModel | None) -> Iterator[None]:
    """The network in eval mode, with the averaged weights if there are any."""
    model.eval()
    if ema is not None:
        ema.store(model.parameters())
        ema.copy_to(model.parameters())
    yield
    if ema is not None:
        ema.restore(model.parameters())
    model.train()


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
