"""The fuzzer's child process: reads files as it is told on standard input, one JSON object a line, and tells how it
went on standard output. It limits its own memory; its parent limits its time and sees it die.
"""

import gc
import hashlib
import json
import os
import sys
import time
import traceback
from pathlib import Path

PATIENCE = 60  # s of processor time for one file
COLLECT_EVERY = 20  # files; it takes longer than reading one
MEMORY = 3 << 30  # bytes of address space beyond what the process has when it is ready


def limit_memory() -> None:
    """Where the system can: an allocation of many GB then fails here instead of filling the machine."""
    try:
        import resource
    except ImportError:  # Windows
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (_status("VmSize") + MEMORY, hard) if _status("VmSize") else (soft, hard))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def limit_time() -> None:
    """From now on this process may compute for PATIENCE seconds, where the system can tell; then it is ended."""
    try:
        import resource
    except ImportError:
        return
    used = resource.getrusage(resource.RUSAGE_SELF)
    end = int(used.ru_utime + used.ru_stime) + PATIENCE
    resource.setrlimit(resource.RLIMIT_CPU, (end, resource.getrlimit(resource.RLIMIT_CPU)[1]))


def _status(field: str) -> int:
    """A figure of this process in bytes, 0 where the system does not tell."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(field + ":")), 0)


def _forget_peak() -> None:
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return


def tree(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def judge(path: Path, kind: str, way: str) -> dict:
    """How reading went: `outcome` "read", "refused" (a clean error) or "fault", and what was said."""
    from latentsync.errors import LatentSyncError
    from tests.fuzz.readers import READERS, read_by_command_line

    before = tree(path.parent)
    _forget_peak()
    began, cpu = time.monotonic(), time.process_time()
    try:
        READERS[kind](path) if way == "library" else read_by_command_line(path, kind)
        outcome, said = "read", ""
    except LatentSyncError as error:
        outcome, said = "refused", f"{type(error).__name__}: {error}"
        if len(said) > 4000:
            outcome, said = "fault", f"a message of {len(said)} characters: {said[:300]}"
    except BaseException as error:
        outcome, said = "fault", "".join(traceback.format_exception(error))[-4000:]
    seconds, cpu = time.monotonic() - began, time.process_time() - cpu
    if (after := tree(path.parent)) != before:
        changed = sorted({name for name, _ in set(after.items()) ^ set(before.items())})
        outcome, said = "fault", f"files were changed or left: {changed}; {said}"
    memory = {"memory": _status("VmRSS"), "peak": _status("VmHWM")}
    return {"outcome": outcome, "said": said, "seconds": round(seconds, 3), "cpu": round(cpu, 3), **memory}


def main() -> None:
    import logging
    import warnings

    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever else prints does not get between the answers
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    import torch

    import latentsync.run.engine
    import tests.fuzz.readers  # noqa: F401

    assert latentsync.run.engine
    torch.set_num_threads(1)
    limit_memory()
    print(json.dumps("ready"), file=answers, flush=True)
    for number, line in enumerate(sys.stdin):
        if number % COLLECT_EVERY == 0:
            gc.collect()
        limit_time()
        task = json.loads(line)
        print(json.dumps(judge(Path(task["path"]), task["kind"], task["way"])), file=answers, flush=True)


if __name__ == "__main__":
    main()
