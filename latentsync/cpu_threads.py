"""How many CPU threads torch works with: one, but for large networks.

Threads of OpenMP that wait for each other spin, and torch makes them wait after every layer. Where another program
works beside, two threads take 2 to 30 times the CPU time of one in small networks, and more wall time as well; see
docs/performance.md. The layers of a network of LARGE parameters or more take long enough for threads to pay: it gets
those that torch had before. The rule asks for sizes and never for times, so equal runs stay equal.

    with own_threads():                     # a run: one thread, in this and in its stages' threads
        with threads_of(network):           # more where it is large
            network(x)
"""

import itertools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from weakref import WeakKeyDictionary

import torch
from torch import nn

from .errors import OptionError

LARGE = 30_000_000  # parameters; docs/performance.md lists the networks on either side
MOST = 1024  # threads that may be asked for

_for_large: ContextVar[int | None] = ContextVar("threads of large networks", default=None)  # None: outside of any run
_sizes: WeakKeyDictionary[nn.Module, int] = WeakKeyDictionary()
_turn = threading.RLock()  # of networks that use all there is: every core, or a graphics card and its memory
_guard = threading.Lock()  # of the two that follow
_runs, _found = 0, 1  # how many there are in the process, and torch's threads before the first


@contextmanager
def own_threads(count: int | None = None) -> Iterator[None]:
    """torch works with one thread here and large networks with as many as torch had; all with `count` if it is given.

    Afterwards torch has what it had. Within another such block only a `count` changes anything. Also a decorator of
    functions, not of generators. Raises OptionError.
    """
    global _runs, _found
    if count is not None:
        check_count(count)
    is_within = _for_large.get() is not None
    if is_within and count is None:
        yield
        return
    with _guard:
        if not _runs:  # a new thread beside another run would see what that one has set
            _found = torch.get_num_threads()
        _runs += 1
        before = torch.get_num_threads() if is_within else _found
    outer = _for_large.set(count or _found)
    torch.set_num_threads(count or 1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
        _for_large.reset(outer)
        with _guard:
            _runs -= 1


def check_count(count: int) -> None:
    """Raises OptionError for a number of threads that cannot be asked for."""
    if not 1 <= count <= MOST:
        raise OptionError(f"{count} threads were asked for; expected 1 to {MOST}")


def thread_count(network: object) -> int:
    """The threads that a network gets here. What is no module of torch's, such as a host's VAE, counts as large."""
    for_large = _for_large.get()
    return torch.get_num_threads() if for_large is None or not _is_large(network) else for_large


@contextmanager
def threads_of(network: object) -> Iterator[None]:
    """torch works with the threads of this network here.

    Networks with several threads take turns, since two at once would have more threads than there are cores. So do
    those on a graphics card: two at once would need the memory of both, and a host's may put the others off the card.
    """
    count, before = thread_count(network), torch.get_num_threads()
    if _for_large.get() is None or (count == 1 and _is_on_the_cpu(network)):
        yield
        return
    with _turn:
        torch.set_num_threads(count)
        try:
            yield
        finally:
            torch.set_num_threads(before)


def _is_large(network: object) -> bool:
    """Whether it is large and works on the CPU."""
    if not isinstance(network, nn.Module):
        return True
    if network not in _sizes:
        _sizes[network] = sum(parameter.numel() for parameter in network.parameters())
    return _sizes[network] >= LARGE and _is_on_the_cpu(network)


def _is_on_the_cpu(network: object) -> bool:
    """False where it is not known."""
    return isinstance(network, nn.Module) and all(
        parameter.device.type == "cpu" for parameter in itertools.islice(network.parameters(), 1)
    )
