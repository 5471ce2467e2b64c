"""The runs of a batch on Ray: an actor for each GPU or worker, with the model loaded once in each."""

import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from types import ModuleType

from ..errors import OptionError
from ..ray_session import ray_session
from ..session import Say
from .batch_results import Outcome
from .run import Job
from .worker import OnDone, Waiting, Worker

STOP_TIMEOUT = 60.0  # s for a run to end at its next step and remove what it began


class _Actor:
    """A worker in a process of its own, which can be told to stop while it works."""

    def __init__(self, make_worker: Callable[[], Worker], folder: str):
        os.chdir(folder)  # the command line's paths start there
        self._worker, self._stop = make_worker(), threading.Event()

    def do(self, job: Job, outcome: Outcome) -> Outcome:
        return self._worker.do(job, outcome, self._stop.is_set)

    def stop(self) -> None:
        self._stop.set()


class RayEngine:
    """Runs in processes of Ray's. One whose process dies has failed; another process does the next one."""

    def __init__(
        self,
        say: Say,
        *,
        workers: int | None = None,
        address: str | None = None,
        make_worker: Callable[[], Worker] = Worker,
    ):
        """workers: how many; None for one for each GPU, else one for each machine. Raises OptionError."""
        if workers is not None and workers < 1:
            raise OptionError(f"--workers is {workers}; expected 1 or more")
        self._say, self._workers, self._address, self._make_worker = say, workers, address, make_worker

    def work(self, waiting: Sequence[Waiting], keep: OnDone) -> None:
        """Raises OptionError, LatentSyncError."""
        devices = [job.request.models.device for _, job, _ in waiting]
        if numbered := [device for device in devices if ":" in device]:
            raise OptionError(
                f"the device {numbered[0]!r} is one of many; with --engine ray, which gives each worker a "
                "GPU of its own, expected auto, cpu or cuda"
            )
        with ray_session(self._address) as ray:
            count, share = _share(ray, waiting, self._workers)
            actor_class = ray.remote(_Actor).options(max_concurrency=2, **share)
            pool = _Pool(ray, lambda: actor_class.remote(self._make_worker, os.getcwd()), count, self._say)
            pool.work(waiting, keep)


def _share(ray: ModuleType, waiting: Sequence[Waiting], workers: int | None) -> tuple[int, dict[str, float]]:
    """How many actors, and what each may take."""
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    cpus = [int(machine.get("CPU", 0)) for machine in machines]
    gpus = sum(machine.get("GPU", 0) for machine in machines)
    if all(job.request.models.device == "cpu" for _, job, _ in waiting):
        gpus = 0
    count = workers or int(gpus) or len(machines)
    count = min(count, len(waiting), max(1, sum(cpus)))
    share = {"num_cpus": max(1, min(sum(cpus) // count, min(filter(None, cpus), default=1)))}
    if gpus:
        share["num_gpus"] = 1 if count <= gpus else gpus / count
    return count, share


class _Pool:
    """Actors, and what each is at."""

    def __init__(self, ray: ModuleType, make_actor: Callable, count: int, say: Say):
        self._ray, self._make_actor, self._say = ray, make_actor, say
        self._free = [make_actor() for _ in range(count)]
        self._running: dict = {}  # reference of the outcome -> (index, outcome so far, actor)

    def work(self, waiting: Sequence[Waiting], keep: OnDone) -> None:
        coming, total, done = deque(waiting), len(waiting), 0
        self._say(f"{total} runs on {len(self._free)} workers of Ray")
        try:
            while coming or self._running:
                while coming and self._free:
                    index, job, outcome = coming.popleft()
                    actor = self._free.pop()
                    quiet = replace(job, quiet=True)  # no bars of many workers
                    self._running[actor.do.remote(quiet, outcome)] = index, outcome, actor
                (ready, *_), _ = self._ray.wait(list(self._running))
                index, outcome = self._result(ready)
                done += 1
                if outcome.status == "done":
                    self._say(f"[{done}/{total}] {outcome.video_out_path} in {outcome.seconds:.1f} s")
                keep(index, outcome)
        except BaseException:
            self._stop()
            raise

    def _result(self, ready) -> tuple[int, Outcome]:
        """Of a run that has ended; its actor is free again, or another one in its place."""
        index, outcome, actor = self._running.pop(ready)
        try:
            outcome = self._ray.get(ready)
        except self._ray.exceptions.RayError as error:
            reason = str(error).strip().splitlines() or [type(error).__name__]
            outcome = replace(outcome, status="failed", message=f"the worker's process ended: {reason[0]}")
            self._ray.kill(actor)
            actor = self._make_actor()
        self._free.append(actor)
        return index, outcome

    def _stop(self) -> None:
        """Let all end what they are at, so that nothing half-written is left."""
        for _, _, actor in self._running.values():
            actor.stop.remote()
        if self._running:
            self._ray.wait(list(self._running), num_returns=len(self._running), timeout=STOP_TIMEOUT)
