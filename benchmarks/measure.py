"""What measurements share: clocks, memory, clips, the people kept for measuring, a model of the released size."""

import argparse
import json
import math
import os
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import islice
from pathlib import Path

import av
import cv2
import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import nn

from latentsync.faces.finder import FaceTracker
from latentsync.given_paths import given_path, path_or_word
from latentsync.media.audio_reader import read_audio
from latentsync.media.video_reader import read_frames
from latentsync.media.video_writer import VideoWriter, write_wav
from latentsync.model.checkpoints import build_unet
from latentsync.model.device import suit_to_device
from latentsync.model.loading import BUNDLED_WHISPER, LipSyncModel
from latentsync.model.unet import LatentSyncUNet
from latentsync.model.vae import SCALING_FACTOR
from latentsync.model.whisper import load_whisper
from latentsync.options import LipSyncOptions
from latentsync.run.stages import FaceTrack, prepare_faces
from latentsync.synthetic.avatar import draw
from latentsync.synthetic.clips import AvatarClip
from latentsync.synthetic.speech import SAMPLE_RATE, Voice, synthesise

WIDTH, HEIGHT, FPS = 1080, 1920, 25
HEAD_UNIT = 800  # px of the frame per unit of the avatar's own frame: the face is about 350 px wide
GRAIN = 2.5  # grey levels; a drawing without a camera's noise would be coded for next to nothing
_SHRINK = 3  # drawn at a third of the size: the shapes are smooth


@dataclass
class Timing:
    """CPU and wall seconds of repeated work, the CPU time of every thread of this process included."""

    cpu: list[float] = field(default_factory=list)
    wall: list[float] = field(default_factory=list)

    @contextmanager
    def measure(self, items: int = 1):
        """Add one measurement, divided by the number of items worked on."""
        cpu, wall = time.process_time(), time.perf_counter()
        yield
        self.cpu.append((time.process_time() - cpu) / items)
        self.wall.append((time.perf_counter() - wall) / items)


def peak_memory(command: Sequence[str], cwd: Path) -> tuple[float, float]:
    """Run a command; its peak resident memory in bytes and its CPU seconds. Raises RuntimeError where it fails."""
    child = subprocess.Popen(command, cwd=cwd)
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise RuntimeError(f"exit code {child.returncode} from {' '.join(command)}")
    kilobytes = usage.ru_maxrss if os.uname().sysname != "Darwin" else usage.ru_maxrss / 1024
    return kilobytes * 1024, usage.ru_utime + usage.ru_stime


def write_figures(path: Path | None, figures: object) -> None:
    """As JSON, into folders made for it; nothing where no path was given."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


def portrait_frames(count: int, seed: int = 0) -> list[np.ndarray]:
    """A drawn avatar speaking in a tall frame with camera noise: ``count`` arrays (HEIGHT, WIDTH, 3) uint8."""
    clip = AvatarClip(identity_seed=seed, speech_seed=seed, duration=count / FPS + 0.1, fps=FPS)
    unit = HEAD_UNIT / _SHRINK
    left, top = 0.5 - WIDTH / _SHRINK / 2 / unit, 0.5 - 0.4 * HEIGHT / _SHRINK / unit
    view = np.array([[1 / unit, 0, left], [0, 1 / unit, top]])
    rng = np.random.default_rng(seed)
    grain = rng.normal(0, GRAIN, (HEIGHT + 64, WIDTH + 64, 1)).astype(np.float32)
    frames = []
    for index in range(count):
        small = draw(clip.identity, clip.pose(index), view, HEIGHT // _SHRINK, WIDTH // _SHRINK)
        picture = cv2.resize(small, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
        y, x = rng.integers(0, 64, 2)
        noisy = picture + grain[y : y + HEIGHT, x : x + WIDTH]
        frames.append(np.clip(np.rint(noisy), 0, 255).astype(np.uint8))
    return frames


def write_portrait(path: Path, count: int) -> Path:
    """`portrait_frames` as a video file."""
    with VideoWriter(path, WIDTH, HEIGHT, rate=Fraction(FPS)) as writer:
        for pixels in portrait_frames(count):
            writer.write(pixels)
    return path


def repeat_video(source: Path, target: Path, seconds: float) -> Path:
    """The video of ``source`` over and over until ``seconds`` are full; packets are copied, nothing is coded again."""
    with av.open(str(target), "w") as output:
        copied, offset = None, 0
        while True:
            with av.open(str(source)) as container:
                stream = container.streams.video[0]
                copied = copied or output.add_stream_from_template(stream)
                end = offset
                for packet in container.demux(stream):
                    if packet.dts is None:
                        continue
                    packet.pts, packet.dts = packet.pts + offset, packet.dts + offset
                    packet.stream, end = copied, max(end, packet.pts + (packet.duration or 0))
                    output.mux(packet)
                offset = end
                if offset * stream.time_base >= seconds:
                    return target


def write_speech(path: Path, seconds: float, seed: int = 0) -> Path:
    """Synthesised speech as a wav file."""
    rng = np.random.default_rng(seed)
    write_wav(path, synthesise(rng, seconds, Voice.random(rng)).waveform, SAMPLE_RATE)
    return path


def wait_for(device: torch.device) -> None:
    """Until a GPU has done all that it was given. Raises RuntimeError where it cannot go on."""
    if device.type in ("cuda", "mps"):
        getattr(torch, device.type).synchronize()


class PeakMemory:
    """Inside, the most memory that is in use: of torch on CUDA and MPS, else of this process on Linux, else None.

    `bytes` is what tensors take, on CUDA `reserved` what torch asked the card for, a part of which lies idle.
    """

    INTERVAL = 0.05  # s between looks

    def __init__(self, device: torch.device):
        self._device, self.bytes, self.reserved = device, None, None
        self._done = threading.Event()

    def __enter__(self):
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
        elif self._can_look():
            self._watcher = threading.Thread(target=self._watch, daemon=True)
            self._watcher.start()
        return self

    def __exit__(self, *_):
        if self._device.type == "cuda":
            self.bytes = torch.cuda.max_memory_allocated(self._device)
            self.reserved = torch.cuda.max_memory_reserved(self._device)
        elif self._can_look():
            self._done.set()
            self._watcher.join()

    def _can_look(self) -> bool:
        return self._device.type == "mps" or Path("/proc/self/statm").is_file()

    def _watch(self) -> None:
        done = False
        while not done:
            done = self._done.wait(self.INTERVAL)
            self.bytes = max(self.bytes or 0, self._now())

    def _now(self) -> int:
        if self._device.type == "mps":
            return torch.mps.current_allocated_memory()
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def relative_error(got: torch.Tensor, expected: torch.Tensor) -> float:
    """As a share of the deviation of what was expected."""
    return ((got - expected).square().mean().sqrt() / expected.std()).item()


def weight_bytes(network: torch.nn.Module) -> int:
    return sum(parameter.numel() * parameter.element_size() for parameter in network.parameters())


# ---- people that no model was trained on

NUM_HELD_OUT = 16
HELD_OUT_SIDE, HELD_OUT_SECONDS, HELD_OUT_SEED = 512, 4.0, 1247  # px; of each clip; of the noise
MISMATCH = 5  # the mismatched speech of a clip is the new speech of the clip so many places further on


@dataclass(frozen=True)
class HeldOutClip:
    """An avatar saying its own words, and the same avatar, moving the same, as it should look with the new words."""

    index: int
    own: AvatarClip
    new: AvatarClip
    mismatched: AvatarClip


def held_out_clip(index: int) -> HeldOutClip:
    """Looks, voices and words of which no training clip has one (training: identities below 1,000, speeches 500,000
    to 501,000); index: below NUM_HELD_OUT."""

    def clip(speech: int) -> AvatarClip:
        return AvatarClip(1_000_000 + index, speech, HELD_OUT_SECONDS, FPS)

    other = (index + MISMATCH) % NUM_HELD_OUT
    return HeldOutClip(index, clip(2_000_000 + index), clip(3_000_000 + index), clip(3_000_000 + other))


@dataclass(frozen=True)
class Footage:
    """Frames (H, W, 3) uint8 with a face in each and the speech (T,) at 16 kHz for them.

    truth: the frames as they should become; None where nobody knows.
    """

    name: str
    frames: list[np.ndarray]
    speech: np.ndarray
    fps: float
    truth: list[np.ndarray] | None = None

    def track(self, model: LipSyncModel, options: LipSyncOptions) -> FaceTrack:
        """Its faces, aligned for the model. Raises FaceNotFoundError where a frame has none."""
        return prepare_faces(
            self.frames, model.resolution, options, finder=FaceTracker(), fps=self.fps, missing="error",
            blend_mask=model.blend_mask, framing=model.framing,
        )  # fmt: skip


def held_out_footage(index: int, num_frames: int) -> Footage:
    """The avatar, given new words."""
    clip = held_out_clip(index)
    frames, truth = (
        [side.frame(i, HELD_OUT_SIDE, HELD_OUT_SIDE) for i in range(num_frames)] for side in (clip.own, clip.new)
    )
    return Footage(f"avatar {index}", frames, clip.new.speech.waveform, FPS, truth)


def footage_of(video: Path, audio: Path, num_frames: int) -> Footage:
    """The beginning of a video of one's own, given the speech."""
    frames = list(islice(read_frames(video), num_frames))
    fps = (len(frames) - 1) / (frames[-1].time - frames[0].time)
    speech = read_audio(audio, sample_rate=SAMPLE_RATE, duration=num_frames / fps)
    return Footage(video.stem, [frame.pixels for frame in frames], speech, fps)


def model_options(parser: argparse.ArgumentParser, own_video: bool = True) -> None:
    """The options of a measurement that runs a model; own_video: on footage that may be the user's."""
    parser.add_argument("--model", type=path_or_word, default="tiny", help="as for main.py (default: the bundled one)")
    parser.add_argument("--checkpoints", type=given_path, default=Path("checkpoints"))
    if own_video:
        parser.add_argument("--video", type=given_path, help="a video of your own, with a face in every frame")
        parser.add_argument("--audio", type=given_path, help="the speech for it")


def own_footage(arguments: argparse.Namespace, num_frames: int) -> Footage | None:
    """What --video and --audio name, if they do."""
    if (arguments.video is None) != (arguments.audio is None):
        raise SystemExit("--video and --audio go together")
    return None if arguments.video is None else footage_of(arguments.video, arguments.audio, num_frames)


# ---- a model of the released sizes with random weights: costs what they cost, without a download


def full_size_model(
    resolution: int = 256,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    with_unet: bool = True,
    small: bool = False,
) -> LipSyncModel:
    """U-Net of 1,267 M parameters and Stable Diffusion's VAE; made in `dtype`, without a detour of more memory.

    Weights are normal with a variance of 1 / inputs, as new layers have: values stay near 1 on their way. They are
    drawn on the device; another kind of device has others. with_unet: False leaves a tiny one in its place, where only
    the VAE is looked at. small: both networks with all their parts, only narrow, to try out what measures them.
    """
    config = {} if with_unet else {"block_out_channels": (32,), "attention_levels": (True,)}
    config = {"block_out_channels": (32, 64), "layers_per_block": 1} if small else config
    unet = build_unet(config, random_tensors(lambda: LatentSyncUNet(**config), dtype, device))
    nn.Module.to(unet, device, dtype)  # diffusers' own warns of parts to keep in float32; there are none
    widths = (32,) * 4 if small else (128, 256, 512, 512)
    with torch.device("meta"):
        vae = full_size_vae(widths)
    vae.load_state_dict(random_tensors(lambda: full_size_vae(widths), dtype, device), assign=True)
    vae.to(device).eval().requires_grad_(False)
    for network in (unet, vae):
        suit_to_device(network, device, dtype)
    whisper = load_whisper(BUNDLED_WHISPER, device=device, dtype=torch.float32)
    parts = (unet, vae, whisper, resolution, torch.device(device), dtype)
    return LipSyncModel("small" if small else "full size, random weights", *parts, is_trained=False)


def full_size_vae(widths: tuple[int, ...] = (128, 256, 512, 512)) -> AutoencoderKL:
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=widths,
        layers_per_block=2,
        latent_channels=4,
        scaling_factor=SCALING_FACTOR,
    )


def random_tensors(
    build: Callable[[], nn.Module], dtype: torch.dtype, device: torch.device | str = "cpu"
) -> dict[str, torch.Tensor]:
    """Parameters by name for what `build` makes, drawn with a fixed seed."""
    with torch.device("meta"):
        shapes = {name: parameter.shape for name, parameter in build().named_parameters()}
    generator = torch.Generator(device).manual_seed(0)
    tensors = {}
    for name, shape in shapes.items():
        if len(shape) > 1:
            std = 1 / math.sqrt(math.prod(shape[1:]))
            tensors[name] = torch.randn(shape, generator=generator, dtype=dtype, device=device) * std
        else:
            tensors[name] = torch.full(
                shape, float(name.endswith("weight")), dtype=dtype, device=device
            )  # of norms; biases are 0
    return tensors
