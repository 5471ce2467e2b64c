"""How a run stands, as a piece of the page."""

import base64
import io
from html import escape

import numpy as np
from PIL import Image

from .lip_sync_run import RunState

NOTHING = ""


def waiting(ahead: int) -> str:
    """Others come first."""
    runs = "1 run is" if ahead == 1 else f"{ahead} runs are"
    return _panel(f"Waiting: {runs} before yours.", None)


def working(state: RunState | None) -> str:
    """The run at work: frames, time left, and the face as it is so far."""
    progress = state and state.progress
    if progress is None:
        return _panel("Loading the model and listening to the speech …", None)
    if progress.stage == "find faces":
        return _panel("Finding the faces …", progress.fraction)
    left = progress.seconds * (1 - progress.fraction) / max(progress.fraction, 1e-6)
    words = f"{progress.frames_done} of {progress.frames_total} frames"
    if progress.fraction > 0.06:  # before that it is a guess
        words += f", about {clock(left)} left"
    return _panel(words, progress.fraction, state.look)


def done(words: str) -> str:
    return f'<p class="app-note" role="status">{escape(words)}</p>'


def failed(words: str) -> str:
    return f'<p class="app-note app-failed" role="alert">{escape(words)}</p>'


def clock(seconds: float) -> str:
    """ "7 s", "1:05 min", "2:03 h" """
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    minutes, rest = divmod(seconds, 60)
    return f"{minutes}:{rest:02d} min" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02d} h"


def _panel(words: str, fraction: float | None, look: np.ndarray | None = None) -> str:
    value = "" if fraction is None else f' value="{fraction:.4f}"'  # without one the bar moves by itself
    picture = "" if look is None else f'<img class="app-look" alt="The face in work" src="{_as_address(look)}">'
    return (
        f'<div class="app-progress">{picture}<div><p>{escape(words)}</p>'
        f'<progress aria-label="Progress of the run" max="1"{value}></progress></div></div>'
    )


def _as_address(picture: np.ndarray) -> str:
    """A small JPEG in the page itself."""
    image = Image.fromarray(picture)
    image.thumbnail((128, 128))
    file = io.BytesIO()
    image.save(file, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
