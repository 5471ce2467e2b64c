"""Ray, started on this machine or joined as a cluster, for as long as a program needs it."""

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from types import ModuleType

from .errors import LatentSyncError, OptionError

OBJECT_STORE = 100_000_000  # bytes of memory of a local Ray: what travels is numbers and paths
CONNECT_TIMEOUT = 10.0  # s
ROOT = Path(__file__).resolve().parents[1]


@contextlib.contextmanager
def ray_session(address: str | None = None, *, num_cpus: int | None = None) -> Iterator[ModuleType]:
    """`start_ray`, and Ray is left again at the end. Inside, SIGTERM does what it did before."""
    is_main = threading.current_thread() is threading.main_thread()
    on_terminate = signal.getsignal(signal.SIGTERM) if is_main else None
    ray = start_ray(address, num_cpus=num_cpus)
    try:
        if is_main:
            signal.signal(signal.SIGTERM, on_terminate)  # Ray has put one in its place that ends the program at once
        yield ray
    finally:
        ray.shutdown()


def start_ray(
    address: str | None = None,
    *,
    num_cpus: int | None = None,
    environment: Mapping[str, str] | None = None,
    part: str = "ray",
) -> ModuleType:
    """The module `ray`, initialised; the caller shuts it down.

    address: of a running cluster, whose machines find this program, models and media under the same paths; None starts
    Ray here with `num_cpus` cores (None: all). environment: variables of its processes. part: the module
    that has to be there. Raises LatentSyncError where it is not installed, OptionError where Ray cannot be reached.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray would report to its makers
    try:
        import_module(part)
        ray = import_module("ray")
    except ImportError as error:
        raise LatentSyncError("--engine ray needs Ray. Install it: pip install 'ray[data]'") from error
    python_path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    common = {
        "runtime_env": {"env_vars": {"PYTHONPATH": python_path, **(environment or {})}},
        "log_to_driver": False,
        "configure_logging": False,
    }
    here = {"num_cpus": num_cpus, "include_dashboard": False, "object_store_memory": OBJECT_STORE}
    if address:
        _check_reachable(address)
    else:  # Ray would end workers by what the whole machine uses, other programs included
        os.environ.setdefault("RAY_memory_monitor_refresh_ms", "0")
    try:
        ray.init(**common, **({"address": address} if address else here))
    except (ConnectionError, ValueError, RuntimeError, ray.exceptions.RayError) as error:
        raise OptionError(f"Ray cannot be reached or started ({error}). Check --ray_address.") from error
    return ray


def _check_reachable(address: str) -> None:
    """Raises OptionError at once where nobody listens, for which Ray takes a minute and more."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if not port.isdecimal():
        return  # "auto"
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_TIMEOUT).close()
    except (OSError, OverflowError) as error:
        raise OptionError(f"no Ray cluster answers at {address} ({error}). Check --ray_address.") from error
