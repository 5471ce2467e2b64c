"""What gpu_check.py measures: each row by itself, and in the order of what people want to know first."""

import gc
import math
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from latentsync.demo import IDENTITY, NEW_SPEECH, OWN_SPEECH
from latentsync.engine import lip_sync
from latentsync.media.video_reader import read_frames
from latentsync.metrics.pictures import psnr_of, squared_error
from latentsync.model.device import float32_products, free_unused, offload_leaves, save_memory
from latentsync.model.diffusion import NoisePredictor, build_scheduler, denoise
from latentsync.model.loading import LipSyncModel, bundled_model, choose_dtype, load_model
from latentsync.model.vae import SCALING_FACTOR
from latentsync.options import LipSyncOptions
from latentsync.pipeline import decode_faces
from latentsync.presets import apply_preset
from latentsync.synthetic.clips import AvatarClip
from latentsync.synthetic.files import write_clip, write_speech

from .full_size import full_size_model
from .low_memory import relative_error, weight_bytes
from .measure import PeakMemory, wait_for
from .stages import GUIDED, Table, clip_seconds, measure_unet, measure_vae, unet_inputs

CPU = torch.device("cpu")
BALANCED = apply_preset(LipSyncOptions(), "balanced")
LIMITS = (8, 12)  # GiB of the cards that most people ask about
KEPT_FREE = 1.0  # GiB of them that the screen, the driver and other programs have
SECONDS = 10.0  # of the clip that is reckoned
# Errors that pass, as shares of the deviation of the result; three times what the CPU itself makes of each format.
TOLERANCE = {"float32": 0.001, "float16": 0.005, "bfloat16": 0.03, "fp8": 0.1, "full size": 0.03}
LEAST_PSNR = 40.0  # dB between the demo's frames on the card and on the CPU


@dataclass(frozen=True)
class Row:
    """One measurement.

    key: its name in the results. kind: rows of one kind take about as long; guess: seconds that a slow card may take,
    for the first of a kind.
    """

    key: str
    kind: str
    guess: float
    work: Callable[[], dict]


@dataclass(frozen=True)
class Mode:
    """How the networks are kept. weights: of LOW_MEMORY."""

    name: str
    dtype: torch.dtype
    weights: str = "none"


def modes_of(device: torch.device) -> list[Mode]:
    """The device's own format first, then what saves memory, then the other formats that it may be fast with."""
    own = choose_dtype("auto", device)
    found = [Mode(_name(own), own), Mode("fp8", own, "fp8"), Mode("offload", own, "offload")]
    other = {torch.float16: torch.bfloat16, torch.bfloat16: torch.float32, torch.float32: torch.bfloat16}[own]
    return [*found, Mode(_name(other), other)]


class Check:
    """The rows for a device. small: narrow networks at small sides, for a CPU: whether the check itself works."""

    def __init__(self, device: torch.device, small: bool):
        self.device, self.small = device, small
        self.sides = (32, 64) if small else (256, 512)
        self.repeats = 1 if small else 2
        self._kept: dict[str, Any] = {}  # made once, for the rows that follow
        self._fitted: dict[tuple[str, int], float] = {}  # bytes of the card that a mode took at a side

    def rows(self) -> Iterator[Row]:
        modes, is_cpu = modes_of(self.device), self.device == CPU
        yield Row("demo", "demo", 40, self.demo)
        for mode in {mode.name: mode for mode in (Mode("float32", torch.float32), *modes)}.values():
            if not is_cpu or mode.dtype == torch.float32:
                yield Row(f"equal/{mode.name}", "equal", 15, lambda mode=mode: self.equal(mode))
        for mode in modes:
            for side in self.sides[:1] if is_cpu and mode.dtype != torch.float32 else self.sides:
                guess = 20 * (side / self.sides[0]) ** 2
                work = lambda mode=mode, side=side: self.full(mode, side)  # noqa: E731
                yield Row(f"full/{mode.name}/{side}", f"full/{side}", guess, work)
                for limit in LIMITS if self.device.type == "cuda" else ():
                    work = lambda mode=mode, side=side, limit=limit: self.fits(mode, side, limit)  # noqa: E731
                    yield Row(f"fits/{mode.name}/{side}/{limit}", f"fits/{side}", guess / 2, work)
        yield Row("equal/full size", "full size", 60, self.full_equal)
        if not is_cpu:
            yield Row("equal/demo", "demo", 60, self.demo_equal)

    def forget(self, but: str = "") -> None:
        """Free what rows have kept, but for that name's."""
        self._kept = {name: value for name, value in self._kept.items() if name == but}
        gc.collect()
        free_unused()

    # ---- the bundled model

    def demo(self) -> dict:
        """The drawn avatar says another speech, from file to file."""
        with PeakMemory(self.device) as peak:
            _, facts = self._demo(self.device, choose_dtype("auto", self.device))
        return {**facts, "peak": peak.bytes, "reserved": peak.reserved}

    def demo_equal(self) -> dict:
        card, _ = self._demo(self.device, choose_dtype("auto", self.device))
        cpu, facts = self._demo(CPU, torch.float32)
        psnr = min(psnr_of(np.mean([squared_error(*pair) for pair in zip(card, cpu, strict=True)])), 99.0)
        return {"psnr": psnr, "least": LEAST_PSNR, "passed": psnr >= LEAST_PSNR, "cpu_seconds": facts["seconds"]}

    def _demo(self, device: torch.device, dtype: torch.dtype) -> tuple[list[np.ndarray], dict]:
        seconds = 0.4 if self.small else 2.0
        own, new = (AvatarClip(IDENTITY, speech, seconds) for speech in (OWN_SPEECH, NEW_SPEECH))
        options = replace(BALANCED, **bundled_model().defaults, num_inference_steps=2 if self.small else 10)
        with tempfile.TemporaryDirectory() as name:
            video, speech, result = (Path(name) / file for file in ("source.mp4", "speech.wav", "result.mp4"))
            write_speech(new, speech)
            write_clip(own, video)
            model = load_model(bundled_model(), device=device, dtype=dtype)
            started = time.perf_counter()
            report = lip_sync(video, speech, result, model, options)
            taken = time.perf_counter() - started
            frames = [frame.pixels for frame in read_frames(result)]
        return frames, {"frames": len(frames), "seconds": taken, "dtype": _name(dtype), "warnings": report.warnings}

    def equal(self, mode: Mode) -> dict:
        """The latents after all steps of `balanced`, against float32 on the CPU."""
        if "latents" not in self._kept:
            self._kept["latents"] = self._latents(Mode("float32", torch.float32), CPU)
        got = self._latents(mode, self.device)
        tolerance = TOLERANCE[mode.name if mode.weights == "fp8" else _name(mode.dtype)]
        return _compared(got, self._kept["latents"], tolerance)

    @torch.inference_mode()
    def _latents(self, mode: Mode, device: torch.device) -> Tensor:
        model = load_model(bundled_model(), device=device, dtype=mode.dtype)
        _keep_weights(model.unet, mode, device)
        known, tokens, noise = unet_inputs(model, 4)
        with float32_products(tf32=False):
            return denoise(
                model.unet, build_scheduler(BALANCED.scheduler, model.prediction_type), noise, known, tokens,
                BALANCED.num_inference_steps, BALANCED.guidance_scale, cache_interval=BALANCED.cache_interval,
            ).cpu()  # fmt: skip

    # ---- the released size

    def _model(self, mode: Mode, side: int) -> LipSyncModel:
        """One at a time is in memory; the side is only a number to it."""
        name = f"model {mode.name}"
        self.forget(but=name)
        if name not in self._kept:
            model = full_size_model(side, self.device, mode.dtype, small=self.small)
            _keep_weights(model.unet, mode, self.device)
            self._kept[name] = replace(model, low_memory=mode.weights)
            free_unused()
        return replace(self._kept[name], resolution=side)

    @torch.inference_mode()
    def full(self, mode: Mode, side: int) -> dict:
        """What a chunk of 16 frames costs, and a clip by that."""
        model = self._model(mode, side)
        table = Table(self.device, self.repeats)
        measure_unet(model, table)
        measure_vae(model, table, draft=False)
        reserved = [memory.reserved for memory in table.memory.values() if memory.reserved is not None]
        if reserved:
            self._fitted[mode.name, side] = max(reserved)
        return {
            "weights": weight_bytes(model.unet),
            "guided": table.wall[f"U-Net, {GUIDED}"],
            "stages": table.wall,
            "clip": clip_seconds(BALANCED, SECONDS, table.wall),
            "peak": {name: memory.bytes for name, memory in table.memory.items()},
            "reserved": self._fitted.get((mode.name, side)),
        }

    @torch.inference_mode()
    def fits(self, mode: Mode, side: int, limit: float) -> dict:
        """Whether a chunk goes through where torch may take no more than a card of that size leaves it."""
        allowed = (limit - KEPT_FREE) * 2**30
        if self._fitted.get((mode.name, side), math.inf) <= allowed:
            return {"fits": True, "how": "took less"}
        model = self._model(mode, side)
        with _limited(self.device, allowed) as limited:
            if not limited:
                return {"skipped": "this card has less memory than that"}
            known, tokens, sample = unet_inputs(model)
            NoisePredictor(model.unet, known, tokens, BALANCED.guidance_scale, cache_interval=2)(sample, 500)
            decode_faces(model, sample[0].movedim(0, 1) * SCALING_FACTOR)
            wait_for(self.device)
        return {"fits": True, "how": "with less to take"}

    @torch.inference_mode()
    def full_equal(self) -> dict:
        """One unguided call on 2 frames at the smaller side against the CPU's in float32, of the same weights."""
        mode = modes_of(self.device)[0]
        model = self._model(mode, self.sides[0])
        known, tokens, sample = (value.cpu() for value in unet_inputs(model, 2))
        on_card = [value.to(self.device) for value in (known, tokens, sample)]
        with float32_products(tf32=False):
            got = NoisePredictor(model.unet, *on_card[:2], 1.0)(on_card[2], 500).float().cpu()
        twin = model.unet.cpu().to(memory_format=torch.contiguous_format)
        self.forget()
        for module in twin.modules():
            if isinstance(module, nn.GroupNorm | nn.LayerNorm):
                module.float()
        if mode.dtype != torch.float32:  # widened layer by layer: as a whole it would take 5 GB
            twin.enable_layerwise_casting(storage_dtype=mode.dtype, compute_dtype=torch.float32)
        expected = NoisePredictor(twin, known, tokens, 1.0)(sample, 500).float()
        return _compared(got, expected, TOLERANCE["full size"])


def _keep_weights(unet: nn.Module, mode: Mode, device: torch.device) -> None:
    if mode.weights == "offload" and device == CPU:
        offload_leaves(unet, device)  # refused to users, as it saves nothing; here it tries out the hooks
    else:
        save_memory(unet, mode.weights, device, mode.dtype)


@contextmanager
def _limited(device: torch.device, allowed: float) -> Iterator[bool]:
    """Inside, torch may take so many bytes of the card; False where the card has no more than that."""
    share = allowed / torch.cuda.get_device_properties(device).total_memory
    if share >= 1:
        yield False
        return
    torch.cuda.set_per_process_memory_fraction(share, device)
    try:
        yield True
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, device)


def _compared(got: Tensor, expected: Tensor, tolerance: float) -> dict:
    error = relative_error(got.float(), expected.float())
    return {"error": error, "tolerance": tolerance, "passed": error <= tolerance}  # a NaN does not pass


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
