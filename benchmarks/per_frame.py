"""What one frame costs without the networks: decode, align, paste, encode at 1080x1920.

    python -m benchmarks.per_frame

Each stage runs alone over all frames, several times, so that the threads of the decoder and the encoder are counted
with their own stage; a figure is the median of the passes, per frame. "all, interleaved" goes frame by frame as the
product does. Face tracking is a network, and is listed apart. The aligned face, with some noise, stands in for the
generated one.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from statistics import median

import cv2
import numpy as np
import torch

from latentsync.faces.align import Aligner, warp_faces
from latentsync.faces.blend import FacePaster
from latentsync.faces.finder import FaceTracker
from latentsync.given_paths import given_path
from latentsync.media.video_reader import probe_video, read_frames
from latentsync.media.video_writer import VideoWriter
from latentsync.model.vae import to_pixels
from latentsync.options import LipSyncOptions

from .measure import Timing, write_portrait

GOAL = 0.17  # CPU-seconds a frame


class Stages:
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


def measure(work: Callable[[], object], count: int, repeats: int) -> tuple[float, float]:
    """Median CPU and wall milliseconds per frame."""
    timing = Timing()
    for _ in range(repeats):
        with timing.measure(count):
            work()
    return 1000 * median(timing.cpu), 1000 * median(timing.wall)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--video", type=given_path, help="clip with a face in every frame (default: a drawn avatar)")
    parser.add_argument("--frames", type=int, default=48)
    parser.add_argument("--resolution", type=int, default=256, help="side of the aligned face, px (default: 256)")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1, help="threads of torch and OpenCV (default: 1)")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    cv2.setNumThreads(arguments.threads)
    with tempfile.TemporaryDirectory() as name, torch.inference_mode():
        path = arguments.video or write_portrait(Path(name) / "portrait.mp4", arguments.frames)
        stages = Stages(path, arguments.frames, arguments.resolution, Path(name))
        count = len(stages.frames)
        size, threads = f"{stages.facts.width}x{stages.facts.height}", arguments.threads
        print(f"{size}, {stages.facts.codec}, {count} frames, face {arguments.resolution} px")
        print(f"median of {arguments.repeats} passes, {threads} thread(s) for torch and OpenCV\n")
        print("| stage | CPU ms a frame | wall ms a frame |\n|---|---|---|")
        total = 0.0
        for stage in (stages.decode, stages.align, stages.paste, stages.encode):
            cpu, wall = measure(stage, count, arguments.repeats)
            total += cpu
            print(f"| {stage.__name__} | {cpu:.1f} | {wall:.1f} |", flush=True)
        print(f"| sum | {total:.1f} | |")
        together, wall = measure(stages.together, count, arguments.repeats)
        print(f"| all, interleaved | {together:.1f} | {wall:.1f} |", flush=True)
        cpu, wall = measure(stages.track, count, arguments.repeats)
        print(f"| (track the face: networks) | {cpu:.1f} | {wall:.1f} |")
    worst = max(total, together) / 1000
    print(f"\n{worst:.3f} CPU-s a frame (goal: at most {GOAL}): {'met' if worst <= GOAL else 'NOT met'}")
    return 0 if worst <= GOAL else 1


if __name__ == "__main__":
    sys.exit(main())
