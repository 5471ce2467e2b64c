"""Ray Data as the engine: the same stages, one task an item, on this machine or on a cluster.

On a cluster sources and output lie on storage that all machines see under the same paths.
"""

import json
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from latentsync.errors import LatentSyncError, OptionError

from .engines import ONE_THREAD, TRIES, Outcome, Stage, longest_first, lost, perform
from .settings import PrepareSettings

OBJECT_STORE = 200_000_000  # bytes of memory of a local Ray: what travels is numbers and paths
ROOT = Path(__file__).parents[2]


class RayEngine:
    """address: of a running cluster; None starts Ray here, with `workers` processes, and ends it."""

    name = "ray"

    def __init__(self, workers: int, address: str | None = None):
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray would report to its makers
        try:
            import ray
            import ray.data
        except ImportError as error:
            raise LatentSyncError("--engine ray needs Ray. Install it: pip install 'ray[data]'") from error
        self._ray = ray
        path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        environment = {"env_vars": {"PYTHONPATH": path, **ONE_THREAD}}
        common = {"runtime_env": environment, "log_to_driver": False, "configure_logging": False}
        try:
            if address:
                ray.init(address=address, **common)
            else:
                ray.init(num_cpus=workers, include_dashboard=False, object_store_memory=OBJECT_STORE, **common)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise OptionError(f"Ray cannot be reached or started ({error}). Check --ray_address.") from error
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
