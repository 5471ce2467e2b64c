"""What --low_memory saves and what it changes: the U-Net of the released size with random weights, and the bundled one.

    python -m benchmarks.low_memory

Weights are what the U-Net itself takes; peak is the process's memory (on CUDA torch's own) during one call on a few
frames, the networks beside it included. The error is that of the call against the one before, as a share of the
deviation of its output; of the bundled model that of the latents after all steps of `balanced`, on noise.
"""

import argparse

import torch

from latentsync.model.device import LOW_MEMORY, save_memory
from latentsync.model.diffusion import NoisePredictor, build_scheduler, denoise
from latentsync.model.loading import bundled_model, choose_device, choose_dtype, load_model
from latentsync.options import LipSyncOptions
from latentsync.presets import apply_preset

from .full_size import full_size_model
from .measure import PeakMemory
from .stages import unet_inputs


def relative_error(got: torch.Tensor, expected: torch.Tensor) -> float:
    return ((got - expected).square().mean().sqrt() / expected.std()).item()


def weight_bytes(network: torch.nn.Module) -> int:
    return sum(parameter.numel() * parameter.element_size() for parameter in network.parameters())


def measure_full_size(side: int, frames: int, device: torch.device, dtype: torch.dtype) -> None:
    model, expected = full_size_model(side, device, dtype), None
    known, tokens, sample = unet_inputs(model, frames)
    for how in LOW_MEMORY:
        if how == "offload" and device.type == "cpu":
            continue
        if how == "offload":
            model = full_size_model(side, device, dtype)
        save_memory(model.unet, how, device, dtype)
        with PeakMemory(device) as peak:
            got = NoisePredictor(model.unet, known, tokens, 1.0)(sample, 500).cpu()
        expected = got if expected is None else expected
        memory = "" if peak.bytes is None else f"{peak.bytes / 1e9:.2f} GB"
        error, weights = relative_error(got, expected), weight_bytes(model.unet)
        print(f"| full size, {side} px | {how} | {weights / 1e9:.2f} GB | {memory} | {error:.3f} |", flush=True)


def measure_bundled(device: torch.device, dtype: torch.dtype) -> None:
    options, expected = apply_preset(LipSyncOptions(), "balanced"), None
    for how in LOW_MEMORY:
        if how == "offload" and device.type == "cpu":
            continue
        model = load_model(bundled_model(), device=device, dtype=dtype, low_memory=how)
        known, tokens, noise = unet_inputs(model)
        scheduler = build_scheduler(options.scheduler, model.prediction_type)
        got = denoise(
            model.unet, scheduler, noise, known, tokens, options.num_inference_steps, options.guidance_scale,
            cache_interval=options.cache_interval,
        ).cpu()  # fmt: skip
        expected = got if expected is None else expected
        error, weights = relative_error(got, expected), weight_bytes(model.unet)
        print(f"| bundled, {model.resolution} px | {how} | {weights / 1e9:.3f} GB | | {error:.3f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--resolution", type=int, default=256)
    parser.add_argument("--frames", type=int, default=4, help="of the call (default: 4; a chunk has 16)")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device = choose_device(arguments.device)
    dtype = choose_dtype("auto", device)
    print(
        f"{dtype}, {device}\n\n| U-Net | low_memory | weights | peak memory | error |\n|---|---|---|---|---|",
        flush=True,
    )
    with torch.inference_mode():
        measure_bundled(device, dtype)
        measure_full_size(arguments.resolution, arguments.frames, device, dtype)


if __name__ == "__main__":
    main()
