"""What a run costs: each stage, the work around the networks, by length of the clip, and ComfyUI's start.

    python -m benchmarks.speed stages                      # the bundled model
    python -m benchmarks.speed stages --full_size 256 512  # the released architecture, random weights, no download
    python -m benchmarks.speed per_frame
    python -m benchmarks.speed scaling --seconds 10 600 --inference_steps 1
    python -m benchmarks.speed host_start

CPU seconds are of all threads and hold on a busy machine; wall seconds do not.
"""

import argparse
import math
import platform
import re
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import islice, pairwise
from pathlib import Path

import cv2
import numpy as np
import torch
from diffusers import AutoencoderTiny
from torch import nn

from latentsync.faces.align import Aligner, warp_faces
from latentsync.faces.blend import FacePaster
from latentsync.faces.finder import FaceTracker
from latentsync.given_paths import given_path
from latentsync.media.video_reader import probe_video, read_frames
from latentsync.media.video_writer import VideoWriter
from latentsync.model.diffusion import NoisePredictor, build_scheduler, denoise
from latentsync.model.loading import LipSyncModel, bundled_model, choose_device, choose_dtype, load_model
from latentsync.model.masks import generation_mask
from latentsync.model.vae import to_pixels
from latentsync.options import LipSyncOptions
from latentsync.presets import PRESETS, apply_preset
from latentsync.run.steps import condition, decode_faces
from latentsync.synthetic.clips import AvatarClip
from latentsync.synthetic.files import write_clip
from latentsync.synthetic.scenes import scene_of_two, write_scene

from . import run_command
from .measure import (
    FPS,
    PeakMemory,
    Timing,
    full_size_model,
    peak_memory,
    repeat_video,
    wait_for,
    write_portrait,
    write_speech,
)

ROOT = Path(__file__).resolve().parents[1]

# ---- the networks

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
        stages = FrameStages(path, count, resolution, Path(name))
        for stage in (stages.decode, stages.track, stages.align, stages.paste, stages.encode):
            cpu, wall = time_of(stage, count, 2)
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


def stages_options(parser: argparse.ArgumentParser) -> None:
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


def stages(arguments: argparse.Namespace) -> None:
    """What each stage costs, and from that a clip of 1080x1920 by preset.

    A chunk is 16 frames. Peak is the memory of the process while the stage ran (on CUDA what torch held there). On a
    machine with CUDA the networks run there. With the part float32 the U-Net's guided call is measured in that too, in
    the same process. What a preset costs is counted: so many calls of each kind for the clip, at what they took here;
    and in full calls, guided ones on 16 frames, for each 16 frames of the result. The reference is counted with
    DeepCache, as its scripts and pages run it, and without.
    """
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


# ---- the work around the networks

GOAL = 0.17  # CPU-seconds a frame


class FrameStages:
    """The product's stages over one clip, each as a pass over all frames."""

    def __init__(self, path: Path, count: int, resolution: int, folder: Path):
        self.path, self.count, self.resolution, self.folder = path, count, resolution, folder
        self.options, self.facts, self.tracker = LipSyncOptions(), probe_video(path), FaceTracker()
        self.paster = FacePaster(resolution, self.options)
        self.frames = self.decode()
        self.points = self.track()
        self.faces, self.matrices = self.align()
        self.generated = to_pixels(torch.from_numpy(np.stack(self.faces)))
        self.generated += 0.1 * torch.randn(self.generated.shape, generator=torch.Generator().manual_seed(0))

    def decode(self) -> list[np.ndarray]:
        return [frame.pixels for frame in islice(read_frames(self.path), self.count)]

    def track(self) -> list[np.ndarray]:
        seen, points = None, []
        for index, frame in enumerate(self.frames):
            seen = self.tracker(frame, seen)
            if seen is None:
                raise SystemExit(f"no face in frame {index} of {self.path}; choose a clip with a face in every frame")
            points.append(seen.points)
        return points

    def align(self) -> tuple[list[np.ndarray], list[np.ndarray]]:
        aligner = Aligner(self.resolution, self.options.smoothing, float(self.facts.fps))
        matrices = [aligner(points) for points in self.points]
        pairs = zip(self.frames, matrices, strict=True)
        return [self._aligned(frame, matrix) for frame, matrix in pairs], matrices

    def paste(self) -> list[np.ndarray]:
        return list(map(self.paster, self.frames, self.generated, self.faces, self.matrices))

    def encode(self) -> None:
        with self._writer() as writer:
            for frame in self.frames:
                writer.write(frame)

    def together(self) -> None:
        """Everything but the networks, frame by frame."""
        aligner = Aligner(self.resolution, self.options.smoothing, float(self.facts.fps))
        with self._writer() as writer:
            source = islice(read_frames(self.path), self.count)
            for frame, points, face in zip(source, self.points, self.generated, strict=True):
                matrix = aligner(points)
                aligned = self._aligned(frame.pixels, matrix)
                writer.write(self.paster(frame.pixels, face, aligned, matrix))

    def _aligned(self, frame: np.ndarray, matrix: np.ndarray) -> np.ndarray:
        return warp_faces([frame], matrix[None], self.resolution, self.options.sampling)[0]

    def _writer(self) -> VideoWriter:
        facts = self.facts
        return VideoWriter(self.folder / "out.mp4", facts.width, facts.height, rate=facts.fps, color=facts.output_color)


def time_of(work: Callable[[], object], count: int, repeats: int) -> tuple[float, float]:
    """Median CPU and wall milliseconds per frame."""
    timing = Timing()
    for _ in range(repeats):
        with timing.measure(count):
            work()
    return 1000 * statistics.median(timing.cpu), 1000 * statistics.median(timing.wall)


def per_frame_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--video", type=given_path, help="clip with a face in every frame (default: a drawn avatar)")
    parser.add_argument("--frames", type=int, default=48)
    parser.add_argument("--resolution", type=int, default=256, help="side of the aligned face, px (default: 256)")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1, help="threads of torch and OpenCV (default: 1)")


def per_frame(arguments: argparse.Namespace) -> int:
    """What one frame costs without the networks: decode, align, paste, encode at 1080x1920.

    Each stage runs alone over all frames, several times, so that the threads of the decoder and the encoder count with
    their own stage; a figure is the median of the passes, per frame. "all, interleaved" goes frame by frame as the
    product does. Face tracking is a network, and is listed apart. The aligned face, with some noise, stands in for the
    generated one. Exit code 1 above the goal.
    """
    torch.set_num_threads(arguments.threads)
    cv2.setNumThreads(arguments.threads)
    with tempfile.TemporaryDirectory() as name, torch.inference_mode():
        path = arguments.video or write_portrait(Path(name) / "portrait.mp4", arguments.frames)
        stages = FrameStages(path, arguments.frames, arguments.resolution, Path(name))
        count = len(stages.frames)
        size, threads = f"{stages.facts.width}x{stages.facts.height}", arguments.threads
        print(f"{size}, {stages.facts.codec}, {count} frames, face {arguments.resolution} px")
        print(f"median of {arguments.repeats} passes, {threads} thread(s) for torch and OpenCV\n")
        print("| stage | CPU ms a frame | wall ms a frame |\n|---|---|---|")
        total = 0.0
        for stage in (stages.decode, stages.align, stages.paste, stages.encode):
            cpu, wall = time_of(stage, count, arguments.repeats)
            total += cpu
            print(f"| {stage.__name__} | {cpu:.1f} | {wall:.1f} |", flush=True)
        print(f"| sum | {total:.1f} | |")
        together, wall = time_of(stages.together, count, arguments.repeats)
        print(f"| all, interleaved | {together:.1f} | {wall:.1f} |", flush=True)
        cpu, wall = time_of(stages.track, count, arguments.repeats)
        print(f"| (track the face: networks) | {cpu:.1f} | {wall:.1f} |")
    worst = max(total, together) / 1000
    print(f"\n{worst:.3f} CPU-s a frame (goal: at most {GOAL}): {'met' if worst <= GOAL else 'NOT met'}")
    return 0 if worst <= GOAL else 1


# ---- length and faces

SAMPLE_SECONDS = 4.0  # drawn, then repeated
SIDE = 256  # px
MAX_MEMORY_RATIO = 1.15


@dataclass(frozen=True)
class Run:
    """Of one clip."""

    seconds: float
    faces: int
    cpu: float  # s
    peak: float  # bytes


def timed_run(source: Path, seconds: float, faces: int, folder: Path, options: list[str]) -> Run:
    name = f"{faces}_{seconds:g}"
    video = repeat_video(source, folder / f"video_{name}.mp4", seconds)
    speech = write_speech(folder / f"speech_{name}.wav", seconds)
    command = [sys.executable, "main.py", "--quiet", "--model", "tiny", "--no_track_cache", *options]
    command += ["--face", "all" if faces > 1 else "largest", "--video_path", video, "--audio_path", speech]
    peak, cpu = peak_memory([*map(str, command), "--video_out_path", str(folder / f"out_{name}.mp4")], ROOT)
    print(
        f"| {seconds:g} s | {faces} | {cpu:.0f} | {1000 * cpu / (seconds * FPS):.0f} | {peak / 1e9:.2f} GB |",
        flush=True,
    )
    return Run(seconds, faces, cpu, peak)


def scaling_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seconds", type=float, nargs="+", default=[10, 60])
    parser.add_argument("--preset", default="draft")
    parser.add_argument("--inference_steps", type=int, help="in place of the preset's")


def scaling(arguments: argparse.Namespace) -> None:
    """Time and memory of the command line by length of the clip and by number of faces, with the bundled model.

    Small pictures and the preset draft, so that it ends soon; neither changes how it grows. Each run is a process of
    its own; its peak is what the operating system counts (ru_maxrss). Time is linear where a further second costs the
    same between any two lengths, memory flat where the longest clip takes hardly more than the shortest.
    """
    options = ["--preset", arguments.preset]
    if arguments.inference_steps:
        options += ["--inference_steps", str(arguments.inference_steps)]
    lengths = sorted(arguments.seconds)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        one, two = folder / "one.mp4", folder / "two.mp4"
        write_clip(AvatarClip(0, 0, SAMPLE_SECONDS), one, SIDE)
        write_scene(scene_of_two(duration=SAMPLE_SECONDS), two)
        print(f"{' '.join(options)}, {FPS} frames a second\n")
        print("| clip | faces | CPU s | CPU ms a frame | peak memory |\n|---|---|---|---|---|")
        runs = [timed_run(one, seconds, 1, folder, options) for seconds in lengths]
        timed_run(two, lengths[0], 2, folder, options)
    for shorter, longer in pairwise(runs):
        rate = (longer.cpu - shorter.cpu) / (longer.seconds - shorter.seconds)
        print(f"\nfrom {shorter.seconds:g} s to {longer.seconds:g} s: {rate:.2f} CPU s for each further second")
    if len(runs) > 1:
        ratio = runs[-1].peak / runs[0].peak
        flat = "flat" if ratio <= MAX_MEMORY_RATIO else "NOT flat"
        print(f"memory of the longest over the shortest: {ratio:.3f}, {flat} (at most {MAX_MEMORY_RATIO})")


# ---- ComfyUI's start

START_GOAL = 0.5  # CPU s that the pack may add
PACK = "latentsync-nodes"
IMPORT_TIME = re.compile(r"([\d.]+) seconds(?: \(IMPORT FAILED\))?: .*" + PACK)


def one_start(packs: dict[str, Path]) -> tuple[float, float, float | None]:
    """Seconds of one start, CPU seconds of it, and the seconds that the host itself counts for the pack's import."""
    import psutil

    from tests.comfy.server import ComfyServer

    with tempfile.TemporaryDirectory() as base, ComfyServer(Path(base), packs) as server:
        if server.failed_imports():
            raise RuntimeError(f"the pack was not imported:\n{server.log_text()[-3000:]}")
        times = psutil.Process(server.process.pid).cpu_times()
        own = IMPORT_TIME.search(server.log_text())
        return server.start_seconds, times.user + times.system, float(own[1]) if own else None


def host_start_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--starts", type=int, default=5, help="of each kind (default: 5)")


def host_start(arguments: argparse.Namespace) -> int:
    """What the pack adds to ComfyUI's start: the median of several starts with and without it, in turn.

    A start lasts from the process to the server's first answer. CPU time is the verdict, as other work on the machine
    does not count there: exit code 1 if the pack adds half a second of it.
    """
    one_start({PACK: ROOT})  # fills the disk's cache and compiles modules
    runs = [(one_start({}), one_start({PACK: ROOT})) for _ in range(arguments.starts)]
    medians = []
    print("| | CPU time, median | wall time, median | all wall times |\n|---|---|---|---|")
    for name, kind in (("without the pack", [run[0] for run in runs]), ("with it", [run[1] for run in runs])):
        walls, cpus = sorted(run[0] for run in kind), [run[1] for run in kind]
        medians.append(statistics.median(cpus))
        shown = ", ".join(f"{seconds:.1f}" for seconds in walls)
        print(f"| {name} | {medians[-1]:.2f} s | {statistics.median(walls):.2f} s | {shown} |")
    added = medians[1] - medians[0]
    own = [run[1][2] for run in runs]
    said = "not in ComfyUI's list of imports" if None in own else f"ComfyUI's own list says at most {max(own):.1f} s"
    print(f"\nadded {added:+.2f} s of CPU time (goal: under {START_GOAL}); the pack's import: {said}")
    return 0 if added < START_GOAL else 1


COMMANDS = {
    "stages": (stages_options, stages),
    "per_frame": (per_frame_options, per_frame),
    "scaling": (scaling_options, scaling),
    "host_start": (host_start_options, host_start),
}

if __name__ == "__main__":
    sys.exit(run_command(__doc__, COMMANDS))
