"""Channels of opposite polarity: heard by everyone over loudspeakers, they cancel when they are mixed to mono.

One of two microphones is wired the wrong way round, or an effect turned a channel over to make the sound wide.
"""

from collections.abc import Sequence

import numpy as np

WINDOW = 1.0  # s judged as one; in shorter ones two microphones some distance apart can look like it for a vowel
LOST = 8.0  # a mix is mended where its power grows by so much (9 dB), and again left alone where it grows by less
SOUND = 2.0  # than this
QUIET = 1e-6  # mean square, -60 dB: of no account below
RAMP = 0.01  # s in which a channel is turned over, without a click
NOTICEABLE = 0.25  # s


class Polarity:
    """Finds the channels that are to be turned over before a mono mix, window by window.

    weights: (C,) of the mix. turned: seconds so far in which at least one channel was turned.
    """

    def __init__(self, weights: Sequence[float], sample_rate: int):
        self._weights, self._rate = np.asarray(weights, np.float64), sample_rate
        self._signs = np.ones(len(self._weights))
        self.turned = 0.0

    def gains(self, blocks: Sequence[np.ndarray]) -> list[np.ndarray | None]:
        """For consecutive blocks (C, T_i) in [-1, 1], together about a WINDOW: what each is to be multiplied by.

        Arrays (C, T_i) in [-1, 1], or None for a block that stays as it is.
        """
        before = self._signs
        self._signs = self._judged(blocks)
        if before.min() > 0 and self._signs.min() > 0:
            return [None] * len(blocks)
        if self._signs.min() < 0:
            self.turned += sum(block.shape[1] for block in blocks) / self._rate
        gains: list[np.ndarray | None] = [np.tile(self._signs[:, None], block.shape[1]) for block in blocks]
        length = min(round(RAMP * self._rate), gains[0].shape[1])
        gains[0][:, :length] = np.linspace(before, self._signs, length, axis=1)
        return gains

    def _judged(self, blocks: Sequence[np.ndarray]) -> np.ndarray:
        """(C,) 1 or -1, of the window; those of the window before where it tells nothing."""
        with np.errstate(all="ignore"):  # damaged sound has any values; the reader tells that
            powers = sum(block @ block.T for block in blocks) / sum(block.shape[1] for block in blocks)
            powers = powers * np.outer(self._weights, self._weights)
        total = np.trace(powers)
        if not QUIET * self._weights.sum() ** 2 < total < np.inf:
            return self._signs
        signs = np.zeros(len(powers))
        for channel in np.argsort(-powers.diagonal(), kind="stable"):  # the loudest keeps its polarity
            signs[channel] = -1 if signs @ powers[channel] < 0 else 1
        plain, best = powers.sum(), signs @ powers @ signs
        if best > LOST * plain:
            return signs
        return np.ones(len(powers)) if best < SOUND * plain else self._signs


def polarity_notice(name: str, turned: float) -> str | None:
    """What a person should know of a sound in which channels were turned over for so many seconds."""
    if turned < NOTICEABLE:
        return None
    return (
        f"channels of {name} are of opposite phase for {turned:.1f} s and would cancel in the mono mix that moves the "
        "lips: for that mix one of them is turned over. The sound of the result stays as it is; to mend that too, "
        "invert one channel in an audio editor"
    )
