"""What was computed of a source frame, for when the frame is shown again: a clip that is bounced or looped, or held."""

from collections.abc import Hashable
from typing import Generic, TypeVar

Value = TypeVar("Value")


class SourceCache(Generic[Value]):
    """Values by frame: the first ones that fit into `max_bytes`, and always the latest.

    The first are kept, not the most recently used ones: of a loop that does not fit, these would always be those that
    come last. Memory is bounded by `max_bytes`, not by the clip.
    """

    def __init__(self, max_bytes: int):
        self._room = max_bytes
        self._kept: dict[Hashable, Value] = {}
        self._latest: tuple[Hashable, Value] | None = None

    def get(self, key: Hashable) -> Value | None:
        if self._latest is not None and self._latest[0] == key:
            return self._latest[1]
        return self._kept.get(key)

    def put(self, key: Hashable, value: Value, num_bytes: int) -> None:
        self._latest = key, value
        if key not in self._kept and num_bytes <= self._room:
            self._kept[key] = value
            self._room -= num_bytes
