"""Clocks, memory of child processes, and clips to measure with."""

import os
import subprocess
import threading
import time
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import torch

from latentsync.media.video_writer import VideoWriter, write_wav
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
