"""Ray Data as the engine: the same stages, one task an item, on this machine or on a cluster.

On a cluster sources and output lie on storage that all machines see under the same paths.
"""

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict

from latentsync.errors import LatentSyncError
from latentsync.ray_session import start_ray

from .engines import ONE_THREAD, TRIES, Outcome, Stage, longest_first, lost, perform
from .settings import PrepareSettings


class RayEngine:
    """address: of a running cluster; None starts Ray here, with `workers` processes, and ends it."""

    name = "ray"

    def __init__(self, workers: int, address: str | None = None):
        self._ray = ray = start_ray(address, num_cpus=workers, environment=ONE_THREAD, part="ray.data")
        self.workers = max(1, int(ray.cluster_resources().get("CPU", 1)))
        logging.getLogger("ray.data").setLevel(logging.WARNING)  # plans and durations of each stage
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.max_errored_blocks = -1  # of an item whose process died no row comes, and the others go on

    def run(self, stage: Stage, items: Sequence[dict], settings: PrepareSettings, on_done: Callable) -> list[Outcome]:
        rows = [{"index": index, "item": json.dumps(items[index])} for index in longest_first(items)]
        if not rows:
            return []
        made = self._ray.data.from_items(rows, override_num_blocks=len(rows)).map(
            _perform, fn_args=(stage, settings.as_dict()), num_cpus=1, ray_remote_args_fn=_retries
        )
        outcomes: list[Outcome | None] = [None] * len(items)
        for row in made.iter_rows():
            if row["error"]:
                raise LatentSyncError(row["error"])
            outcomes[row["index"]] = Outcome(**json.loads(row["outcome"]))
            on_done(row["index"], outcomes[row["index"]])
        for index, outcome in enumerate(outcomes):
            if outcome is None:
                outcomes[index] = lost("see Ray's logs")
                on_done(index, outcomes[index])
        return outcomes

    def close(self) -> None:
        self._ray.shutdown()


def _retries() -> dict:
    return {"max_retries": TRIES - 1}  # Ray Data's own are without end


def _perform(row: dict, stage: Stage, settings: dict) -> dict:
    try:
        outcome = perform(stage, json.loads(row["item"]), PrepareSettings.from_dict(settings))
    except (LatentSyncError, OSError, MemoryError) as error:  # as a row: Ray takes what is raised for the item's fault
        return {"index": row["index"], "error": f"{type(error).__name__}: {error}", "outcome": ""}
    return {"index": row["index"], "error": "", "outcome": json.dumps(asdict(outcome))}
