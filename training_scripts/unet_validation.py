"""Validation while the U-Net trains: short clips as inference makes them, to look at, and what SyncNet says of them.

All processes do the same number of clips, so that none waits for another's; nothing is drawn from training's
generators.
"""

import logging

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from latentsync.media.video_writer import VideoWriter
from latentsync.model.diffusion import ddim_scheduler, denoise, shared_noise
from latentsync.model.vae import decode, encode
from latentsync.model.whisper import audio_tokens, window_centre
from latentsync.sync.syncnet import load_syncnet

from .clip_latents import to_pixels
from .clip_store import ClipStore
from .config import UNetTrainingConfig
from .training_run import SHARDED, TrainingRun
from .unet_losses import UNetLosses

log = logging.getLogger(__name__)
FPS = 25


class Validation:
    """Call it with the run, by all processes, with the weights to judge in place."""

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
