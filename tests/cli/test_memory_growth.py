"""Memory of a process that runs again and again; 30 runs: python -m benchmarks.memory growth --runs 30"""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_four_runs_in_one_process():
    command = [sys.executable, "-m", "benchmarks.memory", "growth", "--runs", "4"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    assert done.stdout.count("run ") == 4
    assert "goal: 60): met" in done.stdout
