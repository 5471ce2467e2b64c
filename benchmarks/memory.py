"""How much memory a run takes: of the command line, of ComfyUI, of a process that runs for long, with --low_memory.

    python -m benchmarks.memory clip
    python -m benchmarks.memory host --seconds 10 60
    python -m benchmarks.memory growth --runs 30
    python -m benchmarks.memory low_memory

Each says more with --help.
"""

import argparse
import gc
import sys
import tempfile
from pathlib import Path

import torch

from latentsync.given_paths import given_path, path_or_word
from latentsync.media.video_reader import probe_video
from latentsync.model.device import LOW_MEMORY, save_memory
from latentsync.model.diffusion import NoisePredictor, build_scheduler, denoise
from latentsync.model.loading import bundled_model, choose_device, choose_dtype, find_model, load_model
from latentsync.options import LipSyncOptions
from latentsync.presets import apply_preset
from latentsync.run.engine import lip_sync
from latentsync.synthetic.clips import AvatarClip
from latentsync.synthetic.files import write_clip
from latentsync.synthetic.files import write_speech as write_speech_of

from . import run_command
from .measure import (
    FPS,
    HEIGHT,
    WIDTH,
    PeakMemory,
    full_size_model,
    peak_memory,
    relative_error,
    repeat_video,
    weight_bytes,
    write_portrait,
    write_speech,
)
from .speed import unet_inputs

ROOT = Path(__file__).resolve().parents[1]
MAX_RATIO, MAX_BYTES = 1.15, 2.5e9  # of a long clip over a short one; of either
SAMPLE_SECONDS = 4  # drawn, then repeated
MAX_GROWTH = 60e6  # bytes, from the second run to the last
WARM_UP = 2  # runs
SIDE = 192  # px


def clip_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--video", type=given_path, help="sample whose frames are repeated (default: a drawn avatar)")
    parser.add_argument("--model", type=path_or_word, default="tiny", help="as for main.py (default: the bundled one)")
    parser.add_argument("--inference_steps", type=int, default=1)
    parser.add_argument("--guidance_scale", type=float, default=1.5)
    parser.add_argument("--seconds", type=float, nargs=2, default=(10, 60), metavar=("SHORT", "LONG"))


def clip(arguments: argparse.Namespace) -> int:
    """Peak memory of the whole command line on a short and a long 1080x1920 clip.

    Each run is a process of its own, measured by the operating system (ru_maxrss). Few denoising steps are taken,
    because their number changes the time and not the memory. Exit code 1 above the goal.
    """
    peaks = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sample = arguments.video or write_portrait(folder / "sample.mp4", SAMPLE_SECONDS * FPS)
        facts = probe_video(sample)
        print(
            f"{facts.width}x{facts.height} at {float(facts.fps):g} fps, model {arguments.model}, "
            f"{arguments.inference_steps} denoising step(s), guidance {arguments.guidance_scale:g}\n"
        )
        print("| clip | peak memory | CPU time |\n|---|---|---|")
        for seconds in arguments.seconds:
            video = repeat_video(sample, folder / f"video_{seconds:g}.mp4", seconds)
            speech = write_speech(folder / f"speech_{seconds:g}.wav", seconds)
            command = [sys.executable, "main.py", "--quiet", "--model", arguments.model]
            command += ["--video_path", str(video), "--audio_path", str(speech)]
            command += ["--video_out_path", str(folder / f"out_{seconds:g}.mp4")]
            command += ["--inference_steps", str(arguments.inference_steps)]
            command += ["--guidance_scale", str(arguments.guidance_scale)]
            peak, cpu = peak_memory(command, ROOT)
            peaks.append(peak)
            print(f"| {seconds:g} s | {peak / 1e9:.3f} GB | {cpu:.0f} s |", flush=True)
    ratio = peaks[1] / peaks[0]
    passed = ratio <= MAX_RATIO and max(peaks) <= MAX_BYTES
    print(
        f"\nratio {ratio:.3f} (goal: at most {MAX_RATIO}), largest {max(peaks) / 1e9:.2f} GB "
        f"(goal: at most {MAX_BYTES / 1e9}): {'met' if passed else 'NOT met'}"
    )
    return 0 if passed else 1


def host_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seconds", type=float, nargs=2, default=(10, 60), metavar=("SHORT", "LONG"))
    parser.add_argument("--steps", type=int, default=1)


def host(arguments: argparse.Namespace) -> int:
    """ComfyUI's peak memory while the all-in-one node works on a short and a long 1080x1920 clip.

    Each run has a server of its own, so that nothing of the other is cached; the peak is that of the run, not of the
    start. Linux only. Few denoising steps are taken, because their number changes the time and not the memory.
    """
    peaks = []
    with tempfile.TemporaryDirectory() as name:
        sample = write_portrait(Path(name) / "sample.mp4", SAMPLE_SECONDS * FPS)
        print(f"{WIDTH}x{HEIGHT} at {FPS} fps, bundled model, {arguments.steps} denoising step(s), guidance 1.5\n")
        print("| clip | before | peak | time |\n|---|---|---|---|", flush=True)
        for seconds in arguments.seconds:
            idle, most, took = host_peak(Path(name), sample, seconds, arguments.steps)
            peaks.append(most)
            print(f"| {seconds:g} s | {idle:.0f} MiB | {most:.0f} MiB | {took:.0f} s |", flush=True)
    ratio = peaks[1] / peaks[0]
    print(f"\nratio {ratio:.3f} (goal: at most {MAX_RATIO}): {'met' if ratio <= MAX_RATIO else 'NOT met'}")
    return 0 if ratio <= MAX_RATIO else 1


def host_peak(folder: Path, sample: Path, seconds: float, steps: int) -> tuple[float, float, float]:
    """MiB before the run, MiB at its peak, seconds that it took."""
    from tests.comfy.graphs import all_in_one
    from tests.comfy.server import ComfyServer

    with ComfyServer(folder / f"base_{seconds:g}", {"latentsync-nodes": ROOT}) as server:
        video = server.add_input(repeat_video(sample, folder / f"video_{seconds:g}.mp4", seconds))
        speech = server.add_input(write_speech(folder / f"speech_{seconds:g}.wav", seconds))
        idle = server.rss()
        run = server.run(all_in_one(video, speech, steps=steps, guidance_scale=1.5), timeout=36_000)
        if run.status != "success" or run.peak_rss is None:
            raise RuntimeError(f"{run.status}: {run.message or 'this system does not tell the peak memory'}")
        return idle, run.peak_rss, run.seconds


def growth_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--runs", type=int, default=30)
    parser.add_argument("--seconds", type=float, default=0.48, help="of each result (default: 0.48, twelve frames)")
    parser.add_argument("--model", type=path_or_word, default="tiny", help="as for main.py (default: the bundled one)")


def growth(arguments: argparse.Namespace) -> int:
    """Memory of one process after each of many short runs, as in a server that runs for days.

    Each run loads the model, finds the faces, generates, encodes and writes the report's figures, with the drawn avatar
    and the bundled model. Resident memory is read after each; the first two, which fill caches, do not count.
    """
    person = AvatarClip(identity_seed=3, speech_seed=3, duration=max(1.0, arguments.seconds))
    options = LipSyncOptions(num_inference_steps=1, guidance_scale=1.0, duration=arguments.seconds)
    memory = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_speech_of(person, folder / "speech.wav")
        write_clip(person, folder / "clip.mp4", SIDE, audio=folder / "speech.wav")
        for number in range(arguments.runs):
            model = load_model(find_model(arguments.model, Path("checkpoints")))
            report = lip_sync(
                folder / "clip.mp4", folder / "speech.wav", folder / "out.mp4", model, options, measure_opening=True
            )
            report.to_json()
            del model, report
            gc.collect()
            memory.append(resident_memory())
            print(f"run {number + 1}: {memory[-1] / 1e6:.0f} MB", flush=True)
    grown = memory[-1] - memory[min(WARM_UP, len(memory)) - 1]
    met = grown <= MAX_GROWTH
    print(
        f"growth after the first {WARM_UP}: {grown / 1e6:.1f} MB (goal: {MAX_GROWTH / 1e6:.0f}): "
        f"{'met' if met else 'NOT met'}"
    )
    return 0 if met else 1


def resident_memory() -> float:
    """Bytes of this process in memory; where the system does not tell, the most it ever had."""
    status = Path("/proc/self/status")
    if status.is_file():
        line = next(line for line in status.read_text(encoding="ascii").splitlines() if line.startswith("VmRSS:"))
        return int(line.split()[1]) * 1024.0
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1.0 if sys.platform == "darwin" else 1024.0)


def low_memory_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--resolution", type=int, default=256)
    parser.add_argument("--frames", type=int, default=4, help="of the call (default: 4; a chunk has 16)")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=1)


def low_memory(arguments: argparse.Namespace) -> None:
    """What --low_memory saves and changes: the U-Net of the released size with random weights, and the bundled one.

    Weights are what the U-Net itself takes; peak is the memory of the process (on CUDA torch's own) during one call on
    a few frames, the networks beside it included. The error is that of the call against the one before, as a share of
    the deviation of its output; of the bundled model that of the latents after all steps of `balanced`, on noise.
    """
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


COMMANDS = {
    "clip": (clip_options, clip),
    "host": (host_options, host),
    "growth": (growth_options, growth),
    "low_memory": (low_memory_options, low_memory),
}

if __name__ == "__main__":
    sys.exit(run_command(__doc__, COMMANDS))
