"""A fuzzing run: which files, in what order, read by a child process that is watched and replaced when it dies."""

import json
import os
import queue
import shutil
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from statistics import median

from .bombs import make_bombs
from .damage import ways_for
from .samples import Sample, make_samples

ROOT = Path(__file__).resolve().parents[2]
LIMIT = 900.0  # s of wall time for one file: the machine may be busy; the child ends itself by its processor time
MOST_CPU = 20.0  # s of processor time, beyond which a file counts as a hang
START = 600.0  # s for the child to import everything
COMMAND_LINE_SHARE = 0.1  # of the files that the command line takes
ON_COMMAND_LINE = {"video", "sound", "picture", "restorer", "lora", "unet", "model_description"}
# Whole files that are refused all the same: a picture is not both a mask and a person; what a U-Net or a description
# needs beside it is not there on the command line.
EXCUSED = {("picture", "library"), ("unet", "command line"), ("model_description", "command line")}
SHARES = {"whole": 0.1, "bomb": 0.2}  # at most, of a run; the rest is damaged


@dataclass(frozen=True)
class Trial:
    """One file to be read. damage: how it was made, or "whole" or "bomb"; way: "library" or "command line"."""

    number: int
    sample: Sample
    damage: str
    content: bytes
    way: str

    @property
    def name(self) -> str:
        return f"{self.number}-{self.damage}-{self.sample.kind}-{self.sample.name}"


def trials(
    samples: list[Sample], bombs: list[Sample], number: int, seed: int, only: str | None = None
) -> Iterator[Trial]:
    """Whole files first, one of each kind by both ways at least, then bombs, then damaged ones; only: of this kind."""
    rng = Random(seed)
    chosen = [sample for sample in samples if only in (None, sample.kind)]
    bombs = [bomb for bomb in bombs if only in (None, bomb.kind)]
    rng.shuffle(bombs)
    first_of_kind = {sample.kind: sample for sample in reversed(chosen)}
    files = [("whole", sample, way) for sample in first_of_kind.values() for way in ("library", "command line")]
    files = [file for file in files if file[1].kind in ON_COMMAND_LINE or file[2] == "library"]
    others = [sample for sample in chosen if sample not in first_of_kind.values()]
    more = min(len(others), max(0, round(number * SHARES["whole"]) - len(files)))
    files += [("whole", sample, _way(sample, rng)) for sample in rng.sample(others, more)]
    files += [("bomb", bomb, _way(bomb, rng)) for bomb in bombs[: round(number * SHARES["bomb"])]]
    for count, (damage, sample, way) in enumerate(files[:number]):
        yield Trial(count, sample, damage, sample.content, way)
    count = min(number, len(files))
    while count < number:
        sample = rng.choice(chosen)
        way_to_damage = rng.choice(ways_for(sample.name))
        content = way_to_damage(sample.content, rng, rng.choice(samples).content)
        yield Trial(count, sample, way_to_damage.__name__, content, _way(sample, rng))
        count += 1


def _way(sample: Sample, rng: Random) -> str:
    by_command_line = sample.kind in ON_COMMAND_LINE and rng.random() < COMMAND_LINE_SHARE
    return "command line" if by_command_line else "library"


@dataclass
class Results:
    """What came of a run; `faults` are what must not happen."""

    answers: list[dict] = field(default_factory=list)

    def add(self, trial: Trial, answer: dict) -> dict:
        answer = {"name": trial.name, "way": trial.way, "kind": trial.sample.kind, "damage": trial.damage} | answer
        if answer["outcome"] == "refused" and trial.damage == "whole" and (trial.sample.kind, trial.way) not in EXCUSED:
            answer["outcome"] = "fault"
        if answer["cpu"] > MOST_CPU:
            answer |= {"outcome": "fault", "said": f"took {answer['cpu']} s of processor time; {answer['said']}"}
        self.answers.append(answer)
        return answer

    @property
    def faults(self) -> list[dict]:
        return [answer for answer in self.answers if answer["outcome"] == "fault"]

    def counts(self, column: str) -> Counter:
        return Counter(answer[column] for answer in self.answers)

    def growth(self) -> float:
        """MB that the child's memory grew from the second third of a run to its end; 0 where the system is silent."""
        memory = [answer["memory"] for answer in self.answers if answer["memory"]]
        third = len(memory) // 3
        return (median(memory[-third // 2 :]) - median(memory[third : third * 3 // 2])) / 1e6 if third else 0.0


class Reader:
    """The child process. `read` gives its answer, also where it died or never answered."""

    def __init__(self, samples: Path):
        self._samples, self._process = samples, None

    def read(self, path: Path, trial: Trial) -> dict:
        if self._process is None:
            self._start()
        task = {"path": str(path), "kind": trial.sample.kind, "way": trial.way}
        try:
            self._process.stdin.write(json.dumps(task) + "\n")
            self._process.stdin.flush()
            line = self._lines.get(timeout=LIMIT)
        except queue.Empty:
            line, why = "", f"no answer within {LIMIT:g} s"
        except OSError as error:
            line, why = "", str(error)
        else:
            why = ""
        if line:
            return json.loads(line)
        self.close()
        why = why or f"the process died (exit status {self._code})"
        return {"outcome": "fault", "said": why, "seconds": LIMIT, "cpu": 0.0, "memory": 0, "peak": 0}

    def _start(self) -> None:
        environment = {**os.environ, "LATENTSYNC_FUZZ_SAMPLES": str(self._samples), "OMP_NUM_THREADS": "1"}
        environment |= {"PYTHONPATH": str(ROOT), "LATENTSYNC_CACHE": str(self._samples / "cache-of-child")}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.fuzz.worker"],
            cwd=self._samples,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            encoding="utf-8",
        )
        self._lines: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._listen, args=(self._process, self._lines), daemon=True).start()
        if "ready" not in self._lines.get(timeout=START):
            raise RuntimeError("the fuzzer's child did not start; run python -m tests.fuzz.worker to see why")

    @staticmethod
    def _listen(process: subprocess.Popen, lines: queue.Queue) -> None:
        for line in process.stdout:
            lines.put(line)
        lines.put("")

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._code = self._process.wait()
            self._process = None


def run(
    number: int,
    seed: int,
    *,
    only: str | None = None,
    first: int = 0,
    on_answer: Callable[[dict], None] | None = None,
    keep: Path | None = None,
) -> Results:
    """Make `number` files and have them read, from the trial `first` on. keep: a folder for those with faults."""
    results = Results()
    with tempfile.TemporaryDirectory(prefix="latentsync-fuzz-") as name:
        whole, place = Path(name) / "samples", Path(name) / "trial"
        whole.mkdir()
        samples = make_samples(whole)
        reader = Reader(whole)
        try:
            for trial in trials(samples, list(make_bombs(samples)), number, seed, only):
                if trial.number < first:
                    continue
                place.mkdir()
                path = place / trial.sample.name
                for beside, content in trial.sample.companions:
                    (place / beside).write_bytes(content)
                path.write_bytes(trial.content)
                answer = results.add(trial, reader.read(path, trial))
                if answer["outcome"] == "fault" and keep is not None:
                    keep.mkdir(parents=True, exist_ok=True)
                    (keep / trial.name).write_bytes(trial.content)
                if on_answer is not None:
                    on_answer(answer)
                shutil.rmtree(place)
        finally:
            reader.close()
    return results
