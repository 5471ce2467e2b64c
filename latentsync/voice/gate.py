"""A gate that closes in the pauses of a speech: for the sound that moves the lips, and for what is pasted.

It is meant to close too seldom rather than too often: a word with closed lips looks worse than a twitch in a pause.
"""

from collections.abc import Iterable, Iterator

import numpy as np
from scipy.ndimage import uniform_filter1d

from .activity import SAMPLE_RATE, SECONDS, SpeechActivity

# Tuned on real, eSpeak's, formant-synthesised and sung voices, bare, over music and in noise. Measured: eval/pauses.py.
VOICED = 0.25  # probability, of three windows' mean, from which on a window is voice
DOUBTFUL = 0.02  # from which on it is voice if it is loud
LOUD = 12.0  # dB below the voice's loudest parts, within which a window is loud
LOUDEST = 95  # percentile of the level of the voiced windows, or of all where none is
# Singing is recognised in parts only. Of a voice with fewer voiced windows among its loudest ones, loudness decides.
KNOWN_VOICE, CORE = 0.6, 8.0  # share; dB below the loudest parts
NO_VOICE, STRANGE = 0.01, 0.03  # a share and a median probability among the loudest windows: below both, there is none
SUNG = 16.0  # dB, in the place of LOUD
BEFORE, AFTER = 0.08, 0.03  # s that a word is longer than its voiced windows; the network notices it a little late


class VoiceGate:
    """How far the gate is open at each moment of a sound: 1 while somebody speaks, 0 in a pause.

    attack, release  s: it opens before a word so that it is open with its beginning, and closes after it
    shortest_pause   s: shorter ones, and those without time for closing and opening, are none

    spoken           (n, 2) float64 s: beginning and end of each stretch of speech, in order; none where nobody speaks
    """

    def __init__(
        self,
        activity: SpeechActivity,
        *,
        attack: float = 0.06,
        release: float = 0.25,
        shortest_pause: float = 0.4,
    ):
        self.spoken = _stretches(voiced_windows(activity), max(shortest_pause, attack + release))
        self._times = (self.spoken[:, [0, 0, 1, 1]] + [-attack, 0, 0, release]).reshape(-1)
        self._open = np.tile([0.0, 1.0, 1.0, 0.0], len(self.spoken))

    def at(self, times: float | np.ndarray) -> float | np.ndarray:
        """0..1 at the given seconds of the sound, one or an array of any shape; before and after it, closed."""
        if not len(self.spoken):
            return np.zeros_like(times, dtype=np.float64)[()]
        return np.interp(times, self._times, self._open)


def gated_blocks(blocks: Iterable[np.ndarray], gate: VoiceGate) -> Iterator[np.ndarray]:
    """The sound that the gate was made from, blocks (T_i,) float at 16 kHz, faded to digital silence in its pauses."""
    position = 0
    for block in blocks:
        yield (block * gate.at((position + np.arange(len(block))) / SAMPLE_RATE)).astype(np.float32)
        position += len(block)


def voiced_windows(activity: SpeechActivity) -> np.ndarray:
    """(n,) bool, by probability and level; still with gaps between words."""
    probability = uniform_filter1d(activity.probability, 3, mode="nearest")
    voiced = probability >= VOICED
    below = np.percentile(activity.level[voiced] if voiced.any() else activity.level, LOUDEST) - activity.level  # dB
    core = below <= CORE
    share = voiced[core].mean()
    if share < NO_VOICE and np.median(probability[core]) < STRANGE:
        return np.zeros_like(voiced)
    if share < KNOWN_VOICE:
        return voiced | (below <= SUNG)
    return voiced | ((probability >= DOUBTFUL) & (below <= LOUD))


def _stretches(voiced: np.ndarray, shortest_pause: float) -> np.ndarray:
    """(n, 2) s, with the quiet edges of words."""
    edges = np.flatnonzero(np.diff(np.pad(voiced.astype(np.int8), 1)))  # a beginning, an end, a beginning ...
    spans = edges.reshape(-1, 2) * SECONDS + [-BEFORE, AFTER]
    is_pause = spans[1:, 0] - spans[:-1, 1] >= shortest_pause - 1e-9
    first, last = np.ones((2, len(spans)), bool)
    first[1:], last[:-1] = is_pause, is_pause
    return np.stack([spans[first, 0], spans[last, 1]], 1)
