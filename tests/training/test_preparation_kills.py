"""A preparation that is killed at any moment, again and again, ends with the store of one that was not disturbed.

LATENTSYNC_KILLS=20 makes the long test of it: that many kills instead of three.
"""

import os
import random
import signal
import subprocess
import time

from training_scripts.clip_store import ClipStore

from .prepared_stores import ENVIRONMENT, ROOT, command, fingerprints, prepare

KILLS = int(os.environ.get("LATENTSYNC_KILLS", "3"))
STEPS = ("probe", "sound", "cut", "segments", "sync", "clips")


def progress(output) -> int:
    """Files and folders of results that are there."""
    folders = [output / ("" if step == "clips" else "work") / step for step in STEPS]
    return sum(1 for folder in folders if folder.is_dir() for path in folder.iterdir() if path.suffix != ".part")


def kill(process: subprocess.Popen, is_all: bool) -> None:
    """SIGKILL, which nothing can be done about: to the command alone, or with its workers."""
    if is_all and os.name == "posix":
        os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
    process.wait()


def test_killed_at_any_moment_it_ends_with_the_same_store(few_videos, few_store, tmp_path):
    """Moments are drawn in units of work done, so that they fall into every stage however fast the machine is."""
    rng, output = random.Random(7), tmp_path / "store"
    whole = progress(few_store)
    for number in range(KILLS):
        if progress(output) >= whole - 1:  # nothing is left to be interrupted
            prepare(few_videos, output, "--workers", "1")
            assert fingerprints(output) == fingerprints(few_store)
            print(f"{output.name} is equal", flush=True)
            output = tmp_path / f"store{number}"
        process = subprocess.Popen(
            command(few_videos, output, "--workers", "1"),
            cwd=ROOT,
            env=ENVIRONMENT,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
        goal = rng.randint(progress(output) + 1, min(whole, progress(output) + 5))
        while process.poll() is None and progress(output) < goal:
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.5))  # within the next piece of work
        assert process.poll() is None or progress(output) == whole, "it ended by itself"
        kill(process, is_all=bool(number % 2))
        print(f"kill {number + 1}: {progress(output)} of {whole} results there, {output.name}", flush=True)
    prepare(few_videos, output, "--workers", "1")
    assert fingerprints(output) == fingerprints(few_store)
    assert len(ClipStore(output)) == 3
    assert not list(output.rglob("*.part*"))
