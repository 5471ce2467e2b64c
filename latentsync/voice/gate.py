"""A gate that closes in the pauses of a speech: for the sound that moves the lips, and for what is pasted."""

from collections.abc import Iterable, Iterator

import numpy as np

from .activity import SAMPLE_RATE, SECONDS, SpeechActivity


class VoiceGate:
    """How far the gate is open at each moment of a sound: 1 while somebody speaks, 0 in a pause.

    It is fully open before a word begins, `attack` seconds earlier beginning to open, and starts to close after the
    word, over `release` seconds. Pauses too short for that, or shorter than `shortest_pause`, are none.
    """

    def __init__(
        self,
        activity: SpeechActivity,
        attack: float = 0.06,
        release: float = 0.25,
        shortest_pause: float = 0.4,
    ):
        self.duration = len(activity.probability) * SECONDS
        self.spoken = np.array([[0.0, self.duration]])
        knots = [
            (moment, value)
            for start, end in self.spoken
            for moment, value in ((start - attack, 0.0), (start, 1.0), (end, 1.0), (end + release, 0.0))
        ]
        self._times, self._values = np.array(knots).reshape(-1, 2).T

    def at(self, times: float | np.ndarray) -> float | np.ndarray:
        """0..1 at the given seconds of the sound, one or an array of any shape."""
        if not len(self._times):
            return np.zeros_like(times, dtype=float)[()]
        return np.interp(times, self._times, self._values)


def gated_blocks(blocks: Iterable[np.ndarray], gate: VoiceGate) -> Iterator[np.ndarray]:
    """The sound (T_i,) at 16 kHz, faded to digital silence where the gate is closed; float32."""
    position = 0
    for block in blocks:
        times = (position + np.arange(len(block))) / SAMPLE_RATE
        yield (block * gate.at(times)).astype(np.float32)
        position += len(block)
