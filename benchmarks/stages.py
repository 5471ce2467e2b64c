"""What each stage of a run costs, and from that a whole clip of 1080x1920 by preset.

    python -m benchmarks.stages                      # the bundled model at its 128 px
    python -m benchmarks.stages --full_size 256 512  # the released architecture, random weights, no download

A chunk is 16 frames. CPU seconds are of all threads and hold on a busy machine; milliseconds are wall time. Peak is the
process's memory while the stage ran (on CUDA what torch held there). On a machine with CUDA the networks run there.
With the part float32 the U-Net's guided call is measured in that too, in the same process. What a preset costs is
counted: so many calls of each kind for the clip, at what they took here; and in full calls, guided ones on 16 frames,
for each 16 frames of the result. The reference is counted with DeepCache, as its scripts and pages run it, and without.
"""

import argparse
import math
import platform
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import torch
from diffusers import AutoencoderTiny
from torch import nn

from latentsync.model.diffusion import NoisePredictor, build_scheduler, denoise
from latentsync.model.loading import LipSyncModel, bundled_model, choose_device, choose_dtype, load_model
from latentsync.model.masks import generation_mask
from latentsync.options import LipSyncOptions
from latentsync.pipeline import condition, decode_faces
from latentsync.presets import PRESETS, apply_preset

from . import per_frame
from .full_size import full_size_model
from .measure import FPS, PeakMemory, wait_for, write_portrait

CHUNK = 16  # frames
GUIDED, PLAIN = "guided", "unguided"
ENCODE, DECODE = "VAE encode, 16 frames twice", "VAE decode, 16 frames"
KEPT = ", deep features kept"
WITH_DEEPCACHE, WITHOUT = "the reference's apps, with DeepCache", "the reference without DeepCache"
AS_REFERENCE = " by the reference"
APPS_INTERVAL = 3  # steps that deep features serve in the reference's apps (DeepCacheSDHelper)
PARTS = ("frames", "unet", "vae", "float32")


class Table:
    """Rows as they come, and of each stage CPU and wall seconds and the memory, in bytes (see PeakMemory)."""

    def __init__(self, device: torch.device, repeats: int):
        self._device, self._repeats = device, repeats
        self.cpu: dict[str, float] = {}
        self.wall: dict[str, float] = {}
        self.memory: dict[str, PeakMemory] = {}
        print("| stage | ms | CPU s | peak memory |\n|---|---|---|---|", flush=True)

    def measure(self, name: str, work: Callable[[], object]) -> None:
        """The least of the repeats: what else the machine does only adds."""
        best_cpu = best_wall = math.inf
        with PeakMemory(self._device) as peak:
            for _ in range(self._repeats):
                cpu, wall = time.process_time(), time.perf_counter()
                work()
                wait_for(self._device)
                best_cpu = min(best_cpu, time.process_time() - cpu)
                best_wall = min(best_wall, time.perf_counter() - wall)
        self.memory[name] = peak
        self.add(name, best_cpu, best_wall, peak.bytes)

    def add(self, name: str, cpu: float, wall: float, peak: float | None = None) -> None:
        self.cpu[name], self.wall[name] = cpu, wall
        memory = "" if peak is None else f"{peak / 1e9:.2f} GB"
        print(f"| {name} | {1000 * wall:.0f} | {cpu:.3f} | {memory} |", flush=True)


def measure_unet(model: LipSyncModel, table: Table) -> None:
    """A call with and without guidance, whole and from kept deep features: as here, and as the reference keeps them."""
    known, tokens, sample = unet_inputs(model)
    for kind, scale in ((GUIDED, 1.5), (PLAIN, 1.0)):
        keeping: list[NoisePredictor] = []

        def whole(scale=scale, keeping=keeping):
            keeping.append(NoisePredictor(model.unet, known, tokens, scale, cache_interval=10**6))
            keeping[-1](sample, 500)

        table.measure(f"U-Net, {kind}", whole)
        table.measure(f"U-Net, {kind}{KEPT}", lambda keeping=keeping: keeping[-1](sample, 500))

        def kept_by_reference(keeping=keeping):
            keeping[-1](sample, 500)
            for module in model.unet.up_blocks[-1].motion_modules[:-1]:  # which DeepCache does not know of
                module(keeping[-1].deep_features, num_frames=CHUNK)

        table.measure(f"U-Net, {kind}{KEPT}{AS_REFERENCE}", kept_by_reference)


def unet_inputs(model: LipSyncModel, frames: int = CHUNK) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Conditioning, tokens and latents of one chunk, random."""
    space, generator = model.latents, torch.Generator().manual_seed(0)
    side = model.resolution // space.ratio
    width = model.unet.config.cross_attention_dim
    known = space.conditioned_channels - space.channels
    shapes = (1, known, frames, side, side), (frames, 50, width), (1, space.channels, frames, side, side)
    return tuple(torch.randn(shape, generator=generator).to(model.device) for shape in shapes)


def measure_vae(model: LipSyncModel, table: Table, draft: bool = True) -> None:
    """What one chunk takes of the VAE: each face encoded with and without its mouth, and decoded; draft: also so."""
    side, generator = model.resolution, torch.Generator().manual_seed(0)
    faces = torch.randint(0, 256, (CHUNK, side, side, 3), generator=generator, dtype=torch.uint8)
    mask = generation_mask(side, "mask")
    table.measure(ENCODE, lambda: condition(model, faces, mask, generator=generator))
    small = side // model.latents.ratio
    latents = torch.randn(CHUNK, model.latents.channels, small, small, generator=generator)
    table.measure(DECODE, lambda: decode_faces(model, latents))
    if not draft:
        return
    small = nn.Module.to(AutoencoderTiny(), model.device, model.dtype).eval()  # of TAESD's size
    draft = replace(model, draft_decoder=small)
    table.measure("draft decode, 16 frames", lambda: decode_faces(draft, latents))


def measure_frames(table: Table, resolution: int, count: int) -> None:
    """The stages of one frame of 1080x1920 outside the networks, and tracking."""
    with tempfile.TemporaryDirectory() as name:
        path = write_portrait(Path(name) / "portrait.mp4", count)
        stages = per_frame.Stages(path, count, resolution, Path(name))
        for stage in (stages.decode, stages.track, stages.align, stages.paste, stages.encode):
            cpu, wall = per_frame.measure(stage, count, 2)
            table.add(f"{stage.__name__}, 1 frame", cpu / 1000, wall / 1000)


class _CountingUNet:
    """Counts what the denoising loop asks of the U-Net."""

    dtype = torch.float32

    def __init__(self):
        self.calls: Counter[str] = Counter()

    def __call__(self, sample, timestep, tokens, return_dict, keep_deep_features=False, deep_features=None):
        kind = f"U-Net, {GUIDED if len(sample) == 2 else PLAIN}"
        self.calls[kind + (KEPT if deep_features is not None else "")] += 1
        return (torch.zeros_like(sample[:, :4]), torch.zeros(len(tokens), 1))


def calls_of(options: LipSyncOptions) -> Counter[str]:
    """How often each kind of the U-Net's call comes for one chunk."""
    unet, one = _CountingUNet(), torch.zeros(1, 9, 1, 1, 1)
    denoise(
        unet, build_scheduler(options.scheduler), one[:, :4], one, torch.zeros(1, 1, 1),
        options.num_inference_steps, options.guidance_scale,
        guidance_interval=options.guidance_interval, cache_interval=options.cache_interval,
    )  # fmt: skip
    return unet.calls


def full_calls(options: LipSyncOptions, costs: Mapping[str, float], as_reference: bool = False) -> float:
    """The U-Net's work for each 16 frames of the result, in guided calls on 16 frames; frames made twice count twice.

    costs: of each kind of call on a chunk of 16 frames, as of a Table. as_reference: deep features are kept as the
    reference's apps keep them.
    """
    kept = AS_REFERENCE if as_reference else ""
    calls = calls_of(options).items()
    chunk = sum(count * costs[kind + (kept if kind.endswith(KEPT) else "")] for kind, count in calls)
    return chunk / costs[f"U-Net, {GUIDED}"] * options.chunk_frames / (options.chunk_frames - options.chunk_overlap)


def reference_calls(costs: Mapping[str, float]) -> dict[str, float]:
    """Full calls of the reference, as its scripts and pages run it and without DeepCache."""
    reference = apply_preset(LipSyncOptions(), "reference")
    apps = replace(reference, cache_interval=APPS_INTERVAL)
    return {WITH_DEEPCACHE: full_calls(apps, costs, as_reference=True), WITHOUT: full_calls(reference, costs)}


def print_full_calls(costs: Mapping[str, float]) -> None:
    """Of the reference in both ways and of each preset."""
    counts = reference_calls(costs)
    counts |= {name: full_calls(apply_preset(LipSyncOptions(), name), costs) for name in PRESETS}
    print(f"\n| | full calls | of {WITH_DEEPCACHE} |\n|---|---|---|")
    for name, count in counts.items():
        print(f"| {name} | {count:.1f} | {count / counts[WITH_DEEPCACHE]:.2f} |")


def clip_seconds(options: LipSyncOptions, seconds: float, costs: dict[str, float]) -> float:
    """A clip with one face, from the costs of the stages."""
    frames = round(seconds * FPS)
    chunks = math.ceil(max(0, frames - options.chunk_frames) / (options.chunk_frames - options.chunk_overlap)) + 1
    total = chunks * sum(count * costs[kind] for kind, count in calls_of(options).items())
    total += frames / CHUNK * (costs[ENCODE] + costs[DECODE])
    return total + frames * sum(cost for name, cost in costs.items() if name.endswith(", 1 frame"))


def print_presets(table: Table, seconds: float) -> None:
    print(f"\n| preset, {seconds:g} s of 1080x1920 | CPU s | s | of reference |\n|---|---|---|---|")
    reference = None
    for name in PRESETS:
        options = apply_preset(LipSyncOptions(), name)
        cpu, wall = (clip_seconds(options, seconds, costs) for costs in (table.cpu, table.wall))
        reference = reference or cpu
        print(f"| {name} | {cpu:.0f} | {wall:.0f} | {cpu / reference:.2f} |")


def compare(model: LipSyncModel, table: Table, frames: int) -> None:
    """The guided call on so many frames in plain float32 beside the one in the model's own format; changes the model.

    Weights stay where they are and are widened layer by layer, or they alone would take 5 GB; that is some 3 % of the
    time.
    """
    known, tokens, sample = unet_inputs(model, frames)
    name = str(model.dtype).removeprefix("torch.")
    own, full = f"U-Net, guided, {frames} frames, {name}", f"U-Net, guided, {frames} frames, float32"
    table.measure(own, lambda: NoisePredictor(model.unet, known, tokens, 1.5)(sample, 500))
    model.unet.to(memory_format=torch.contiguous_format)
    for module in model.unet.modules():
        if isinstance(module, nn.GroupNorm | nn.LayerNorm):
            module.float()
    model.unet.enable_layerwise_casting(storage_dtype=model.dtype, compute_dtype=torch.float32)
    table.measure(full, lambda: NoisePredictor(model.unet, known, tokens, 1.5)(sample, 500))
    print(f"\nguided call: {name} takes {table.cpu[own] / table.cpu[full]:.2f} of float32's CPU time")


def describe(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    flags = [name for name in ("amx_tile", "amx_bf16", "avx512_bf16", "avx512f", "avx2") if name in cpu_flags()]
    return f"{platform.machine()}, {', '.join(flags) or 'no known vector units'}, torch {torch.__version__}"


def cpu_flags() -> set[str]:
    """What Linux says the CPU can do; nothing elsewhere."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.is_file() else []
    return {flag for line in lines if line.startswith("flags") for flag in line.split()[2:]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full_size", type=int, nargs="*", metavar="PX", help="released architecture at these sides")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto", choices=["auto", "float32", "bfloat16", "float16"])
    parser.add_argument("--threads", type=int, default=1, help="threads of torch (default: 1)")
    parser.add_argument("--repeats", type=int, default=1, help="of each stage, of which the least counts (default: 1)")
    parser.add_argument("--frames", type=int, default=16, help="drawn for the stages of one frame (default: 16)")
    parser.add_argument("--compared_frames", type=int, default=CHUNK, help="of the part float32 (default: a chunk)")
    parser.add_argument("--seconds", type=float, default=10, help="of the clip that is reckoned (default: 10)")
    parser.add_argument(
        "--parts", nargs="+", choices=PARTS, default=PARTS[:-1], help="what to measure (default: all but float32)"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device = choose_device(arguments.device)
    for side in arguments.full_size or [None]:
        with torch.inference_mode():
            if side is None:
                model = load_model(bundled_model(), device=device, dtype=choose_dtype(arguments.dtype, device))
            else:
                wanted = {"unet", "float32"} & set(arguments.parts)
                model = full_size_model(side, device, choose_dtype(arguments.dtype, device), with_unet=bool(wanted))
            print(
                f"\n{model.name}, {model.resolution} px, {str(model.dtype).removeprefix('torch.')}, {describe(device)}"
            )
            print(f"{arguments.threads} thread(s)\n")
            table = Table(device, arguments.repeats)
            if "frames" in arguments.parts:
                measure_frames(table, model.resolution, arguments.frames)
            if "unet" in arguments.parts:
                measure_unet(model, table)
            if "vae" in arguments.parts:
                measure_vae(model, table)
            if "unet" in arguments.parts:
                print_full_calls(table.cpu)
            if {"frames", "unet", "vae"} <= set(arguments.parts):
                print_presets(table, arguments.seconds)
            if "float32" in arguments.parts:
                compare(model, table, arguments.compared_frames)


if __name__ == "__main__":
    main()
