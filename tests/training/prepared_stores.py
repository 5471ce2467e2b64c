"""What tests of the data preparation share: its command on small videos, and stores compared byte for byte."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

from training_scripts.preparation.settings import PrepareSettings
from training_scripts.prepare_data import build_parser, settings_of

ROOT = Path(__file__).parents[2]
SHORT = ("--resolution", "96", "--min_seconds", "1", "--max_seconds", "2", "--min_face", "40")
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def command(raw: Path, output: Path, *options: str) -> list[str]:
    places = ["--input", str(raw), "--output", str(output)]
    return [sys.executable, "-m", "training_scripts.prepare_data", *places, *SHORT, *options]


def prepare(raw: Path, output: Path, *options: str, code: int = 0) -> subprocess.CompletedProcess:
    """Run the command to its end."""
    done = subprocess.run(
        command(raw, output, *options), cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=1200
    )
    assert done.returncode == code, done.stdout[-2000:] + done.stderr[-4000:]
    return done


def short_settings(raw: Path, output: Path, *options: str) -> PrepareSettings:
    return settings_of(build_parser().parse_args(["--input", str(raw), "--output", str(output), *SHORT, *options]))


def fingerprints(folder: Path) -> dict[str, str]:
    """SHA-256 of every file of a store but of the report, which tells times, and of what may be deleted."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    names = {str(path.relative_to(folder)): path for path in files}
    kept = {name: path for name, path in names.items() if not name.startswith(("work", "report."))}
    return {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in kept.items()}
