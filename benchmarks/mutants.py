"""Small wrong changes of the program, and the tests that should notice them: `python -m benchmarks.faults mutants`.

All of them take about 15 minutes of one core; parts of the names of files choose some.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PATIENCE = 600  # s for the tests of one mutant; one that makes them hang is noticed too


@dataclass(frozen=True)
class Mutant:
    """One change of one place in `file`; tests: names of files in tests/unit, without "test_" and ".py"."""

    file: str
    old: str
    new: str
    tests: str


def _of(file: str, tests: str, *changes: tuple[str, str]) -> list[Mutant]:
    return [Mutant(f"latentsync/{file}", old, new, tests) for old, new in changes]


MUTANTS = [
    *_of(
        "faces/edge.py",
        "harmonisation blending",
        ('"poisson": Poisson', '"poisson": Feather'),
        ('"multiband": MultiBand', '"multiband": Feather'),
        ("if self.edge_match:", "if False:"),
        ("LIP_TOLERANCE = 0.3", "LIP_TOLERANCE = 0.5"),
        ("ALIKE, UNLIKE = 0.03, 0.1", "ALIKE, UNLIKE = 0.03, 0.3"),
        ("BAND_RAMPS = (0.25, 0.5, 1.0)", "BAND_RAMPS = (1.0, 0.5, 1.0)"),
    ),
    *_of(
        "faces/blend.py",
        "blending blend_guarantees",
        ("if weight == 0:", "if weight < 0:"),
        ("mul_(127.5)", "mul_(127)"),
        (
            "blend(pasted, region, drawn, protect, weight, rounded=True)",
            "blend(pasted, region, drawn, None, weight, rounded=True)",
        ),
        ("scale = np.minimum(np.hypot(*to_frame[:2, :2]), 1)", "scale = np.ones(2)"),
        ("pasted = frame.copy()", "pasted = frame"),
        ("cv2.INTER_CUBIC, cv2.BORDER_REPLICATE", "cv2.INTER_CUBIC, cv2.BORDER_CONSTANT"),
    ),
    *_of(
        "faces/edge.py",
        "blend_shape blending blend_mask",
        ("len(hole)) - 0.5", "len(hole))"),
        ("np.minimum(border[:, None], border[None, :])", "np.inf"),
        ("ramp * ramp * (3 - 2 * ramp)", "ramp"),
        ("CONTOUR_MARGIN = 0.04", "CONTOUR_MARGIN = 0.0"),
    ),
    *_of(
        "faces/colours.py",
        "colour_match",
        ("AGREEING_AROUND_LIPS = 0.2, 0.005, 0.15", "AGREEING_AROUND_LIPS = 0.2, 0.005, 0.5"),
        ("LEAST_WEIGHT = 1e-6", "LEAST_WEIGHT = 1.0"),
        ("inside * _blur(inside, SOFT)", "0 * inside"),
    ),
    *_of(
        "run/timeline.py",
        "run_time engine stages",
        ("1 / np.median(stay) < FEW", "1 / np.median(stay) < 1"),
        ('if heard > spoken else "it is followed', 'if heard < spoken else "it is followed'),
        ("end - frame.time <= LONG + 1e-6", "end - frame.time <= 100"),
        ('if options.tail == "cut" or options.length == "speed" else options.duration or math.inf', "if True else 0"),
        ("nearest = options.start - 0.5 /", "nearest = options.start + 0.5 /"),
        ('options.length != "speed" or 1 / UNUSUAL_SPEED', 'options.length == "speed" or 1 / UNUSUAL_SPEED'),
    ),
    *_of(
        "run/speech.py",
        "speech_features",
        ("duration * fps - 1e-6", "duration * fps"),
        ("max(1, math.ceil(", "max(0, math.ceil("),
    ),
    *_of(
        "run/chunks.py",
        "chunks",
        ("weight = (index + 1) / (len(shared) + 1)", "weight = 1.0"),
        ("self._past[-missing:] if missing > 0 else []", "[]"),
        ("self.options.chunk_frames - self.options.chunk_overlap", "self.options.chunk_frames"),
        ("self._past = []\n        return final", "return final"),
        ("self._judge(faces, sources)", "pass"),
        ('encoded if options.posterior == "mean" else None', "encoded"),
    ),
    *_of(
        "faces/choice.py",
        "tracks_choice",
        ("MIN_PRESENCE = 0.2", "MIN_PRESENCE = 0.0"),
        ("if moving and still:", "if False:"),
        ('float(x if kind == "left" else -x)', 'float(-x if kind == "left" else x)'),
        ("MAX_UNLIKE = 0.5", "MAX_UNLIKE = 50"),
        ("return min(found)[2]", "return max(found)[2]"),
        ('"." in value and float(value) <= 1', "float(value) <= 1"),
    ),
    *_of(
        "options.py",
        "options presets",
        ('            blend_method="feather",\n', ""),
        ('            mask_shape="drawn",\n', ""),
        ("            fade=0.0,\n", ""),
    ),
    *_of(
        "media/length_modes.py",
        "length_modes",
        ("range(number - 2, 0, -1)", "range(number - 1, 0, -1)"),
        ("start(following) <= time", "start(following) < time"),
        ("(k + Fraction(1, 2))", "k"),
    ),
    *_of(
        "media/color.py",
        "video_reader",
        ("max(width, height) >= 1280", "max(width, height) >= 1920"),
        ("_EXACT = 0x2 | 0x40000 |", "_EXACT = 0x2 |"),
        ("_KNEE = 0.7", "_KNEE = 0.3"),
    ),
    *_of(
        "media/audio_reader.py",
        "audio_reader",
        ("skip = round(start * sample_rate)", "skip = int(start) * sample_rate"),
        ("if left == 0:\n                break", "if False:\n                break"),
    ),
]


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("files", nargs="*", help="parts of the names of files; all of them if none is given")


def mutants(arguments: argparse.Namespace) -> int:
    """Whether the tests notice faults: small wrong changes, one at a time, each beside the tests of its subject.

    Works on a copy of the tracked files. A mutant that no test fails on is printed and makes the exit status 1.
    """
    wanted = arguments.files
    chosen = [one for one in MUTANTS if not wanted or any(part in one.file for part in wanted)]
    with tempfile.TemporaryDirectory(prefix="latentsync-mutants-") as folder:
        copy = _copied(Path(folder) / "project")
        known_good = [_fails(copy, tests) for tests in sorted({one.tests for one in chosen})]
        if any(known_good):
            print("tests fail without a mutant; mend them first")
            return 2
        alive = [one for one in chosen if not _noticed(copy, one)]
    print(f"{len(chosen) - len(alive)} of {len(chosen)} mutants are noticed")
    return 1 if alive else 0


def _copied(target: Path) -> Path:
    """The tracked files as they lie there now."""
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout  # noqa: S607
    for name in names.decode().split("\0"):
        if name and (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, target / name)
    return target


def _noticed(copy: Path, mutant: Mutant) -> bool:
    path = copy / mutant.file
    text = path.read_text(encoding="utf-8")
    if text.count(mutant.old) != 1:
        raise SystemExit(f"{mutant.file} has {mutant.old!r} {text.count(mutant.old)} times; expected once")
    path.write_text(text.replace(mutant.old, mutant.new), encoding="utf-8")
    try:
        noticed = _fails(copy, mutant.tests)
    finally:
        path.write_text(text, encoding="utf-8")
    change = f"{mutant.old.strip()!r} -> {mutant.new.strip()!r}"
    print(f"{'noticed' if noticed else 'ALIVE  '}  {mutant.file}: {change}", flush=True)
    return noticed


def _fails(copy: Path, tests: str) -> bool:
    files = [f"tests/unit/test_{name}.py" for name in tests.split()]
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *files]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        return True
    return done.returncode != 0
