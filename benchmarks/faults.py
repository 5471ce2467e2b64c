"""Does anything go wrong unnoticed: in runs that are killed and started again, and in tests that see no fault?

    python -m benchmarks.faults kills --kills 50
    python -m benchmarks.faults mutants timeline blending

Each says more with --help.
"""

import argparse
import dataclasses
import multiprocessing
import sys
import tempfile
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import av
import numpy as np

from latentsync.media.video_writer import VideoWriter, write_wav
from latentsync.model.loading import bundled_model, load_model
from latentsync.options import LipSyncOptions
from latentsync.run.engine import lip_sync
from latentsync.run.resume import JobFolder
from latentsync.synthetic.clips import AvatarClip
from latentsync.synthetic.speech import SAMPLE_RATE

from . import mutants, run_command

SIDE, SOURCE_FRAMES, SECONDS = 192, 12, 1.2
OPTIONS = LipSyncOptions(num_inference_steps=2, guidance_scale=1.0, chunk_frames=8, chunk_overlap=2)
PATIENCE = 600  # s that a single run may take


@dataclass(frozen=True)
class Outcome:
    """What came of it.

    kills      of them, in_work: after which there was a journal
    rounds     results that were compared; resumed: frames that their last runs had not to make again
    different  what should not be, as well as left_over: for each result where it was
    """

    kills: int
    in_work: int
    rounds: int
    resumed: int
    different: tuple[str, ...]
    left_over: tuple[str, ...]


def write_inputs(folder: Path) -> None:
    clip = AvatarClip(identity_seed=3, speech_seed=3, duration=2.0)
    with VideoWriter(folder / "video.mp4", SIDE, SIDE, rate=25) as writer:
        for index in range(SOURCE_FRAMES):
            writer.write(clip.frame(index, SIDE, SIDE))
    waveform = AvatarClip(0, 5, duration=SECONDS).speech.waveform
    write_wav(folder / "speech.wav", waveform[: round(SECONDS * SAMPLE_RATE)], SAMPLE_RATE)


def run(inputs: Path, output: Path, jobs: Path | None, ready: Connection) -> None:
    """A whole run, in a process of its own. Tells when the model is loaded, and how many frames were resumed."""
    model = load_model(bundled_model())
    ready.send(None)
    folder = None if jobs is None else JobFolder(jobs)
    report = lip_sync(inputs / "video.mp4", inputs / "speech.wav", output, model, OPTIONS, jobs=folder)
    ready.send(report.facts["resumed_frames"])


def content(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Decoded frames and audio samples."""
    with av.open(str(path)) as container:
        frames = np.stack([frame.to_ndarray() for frame in container.decode(video=0)])
    with av.open(str(path)) as container:
        return frames, np.concatenate([frame.to_ndarray() for frame in container.decode(audio=0)], axis=1)


class Killer:
    """Starts runs, and kills them. seconds: what an undisturbed run takes; expected: its frames and samples."""

    def __init__(self, folder: Path, seed: int):
        self.inputs, self.output, self.jobs = folder / "inputs", folder / "out" / "result.mp4", folder / "jobs"
        self.inputs.mkdir()
        write_inputs(self.inputs)
        self._random = np.random.default_rng(seed)
        kind = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
        self._context = multiprocessing.get_context(kind)
        if kind == "forkserver":  # libraries are loaded once, in a process that does nothing else
            self._context.set_forkserver_preload(["benchmarks.faults"])
        self.seconds = 0.0
        self.run_once(None, folder / "uncut.mp4", None)
        self.expected = content(folder / "uncut.mp4")

    def run_once(self, kill_after: float | None, output: Path | None = None, jobs: Path | None = None) -> int | None:
        """Frames that were resumed, or None where the run was killed, so many seconds after its model was loaded."""
        ours, theirs = self._context.Pipe(duplex=False)
        process = self._context.Process(target=run, args=(self.inputs, output or self.output, jobs, theirs))
        process.start()
        theirs.close()
        try:
            if not ours.poll(PATIENCE):
                raise TimeoutError(f"no model was loaded in {PATIENCE} s")
            ours.recv()
            began = time.monotonic()
            if not ours.poll(PATIENCE if kill_after is None else kill_after):
                process.kill()
            process.join(PATIENCE)
            if process.exitcode == 0:
                if kill_after is None or self.seconds > time.monotonic() - began:
                    self.seconds = time.monotonic() - began  # the machine may be busier or less busy by now
                return ours.recv()
            if kill_after is None:
                raise RuntimeError(f"a run that was not killed ended with exit code {process.exitcode}")
            return None
        finally:
            process.kill()
            process.join()
            ours.close()

    def round(self, kills_left: int) -> tuple[int, int, int]:
        """Kill until a run ends by itself: kills, those in the midst of frames, frames that the last run resumed."""
        kills = in_work = 0
        while True:
            moment = self._random.uniform(0, self.seconds) if kills < kills_left else None
            resumed = self.run_once(moment, jobs=self.jobs)
            if resumed is not None:
                return kills, in_work, resumed
            kills += 1
            in_work += any(self.jobs.glob("*.journal")) if self.jobs.exists() else 0

    def faults(self) -> tuple[str | None, str | None]:
        """What differs, and what is left over, besides the result, which is removed."""
        same = all(np.array_equal(*pair) for pair in zip(content(self.output), self.expected, strict=True))
        self.output.unlink()
        left = [path.name for folder in (self.output.parent, self.jobs) if folder.exists() for path in folder.iterdir()]
        return None if same else "frames or samples differ", ", ".join(left) or None


def kill_and_resume(folder: Path, kills: int, seed: int = 0, tell=lambda text: None) -> Outcome:
    """At least so many kills; folder: empty."""
    killer = Killer(folder, seed)
    tell(f"an undisturbed run takes {killer.seconds:.1f} s; {len(killer.expected[0])} frames")
    total = Outcome(0, 0, 0, 0, (), ())
    while total.kills < kills:
        done, in_work, resumed = killer.round(kills - total.kills)
        different, left = killer.faults()
        total = dataclasses.replace(
            total,
            kills=total.kills + done,
            in_work=total.in_work + in_work,
            rounds=total.rounds + 1,
            resumed=total.resumed + resumed,
            different=total.different + ((different,) if different else ()),
            left_over=total.left_over + ((left,) if left else ()),
        )
        tell(f"{total.kills} kills, {total.rounds} results: {different or 'equal'}, {left or 'nothing'} left over")
    return total


def kills_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default: 0)")


def kills(arguments: argparse.Namespace) -> int:
    """Runs that are killed at random moments and started again: is the result that of a run that was not?

    A run of the bundled model on a short drawn clip is killed (SIGKILL; on Windows TerminateProcess) at a moment drawn
    evenly from the time that an undisturbed run takes, started again, killed again, until it ends by itself; then its
    decoded frames and audio samples are compared with those of the undisturbed run, and the folders are looked through
    for what was left over. This is repeated until there were so many kills. Exit code 0 if nothing differs and nothing
    is left.
    """
    with tempfile.TemporaryDirectory() as name:
        outcome = kill_and_resume(Path(name), arguments.kills, arguments.seed, lambda text: print(text, flush=True))
    print(
        f"\n{outcome.kills} kills, {outcome.in_work} of them with a journal to go on with; "
        f"{outcome.rounds} results, {outcome.resumed} frames taken over by their last runs; "
        f"{len(outcome.different)} differ, {len(outcome.left_over)} left something over"
    )
    return 1 if outcome.different or outcome.left_over else 0


COMMANDS = {"kills": (kills_options, kills), "mutants": (mutants.options, mutants.mutants)}

if __name__ == "__main__":
    sys.exit(run_command(__doc__, COMMANDS))
