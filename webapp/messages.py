"""What a visitor is told when something fails: the library's own words, without the server's paths."""

import html
import logging
from concurrent.futures import CancelledError
from pathlib import Path

import gradio as gr

from latentsync.errors import Cancelled, LatentSyncError, is_out_of_memory

logger = logging.getLogger(__name__)

STOPPED = "Stopped. Nothing was kept of it."
MEMORY = "The server has not enough memory for this. Try a smaller video, a shorter part, or another preset."
UNFORESEEN = (
    "Something went wrong that was not foreseen. The server's log says what; whoever runs it can read it there."
)


def is_stop(error: BaseException) -> bool:
    """Whether the visitor asked for it."""
    return isinstance(error, Cancelled | CancelledError)


def visitor_message(error: BaseException, files: dict[Path, str] | None = None) -> str:
    """A sentence for a visitor, plain text. files: paths that the message may hold, and what they are to be called.

    What was not foreseen goes to the log with its stack trace, and the visitor is told only that.
    """
    if is_stop(error):
        return STOPPED
    if is_out_of_memory(error):
        logger.warning("not enough memory: %s", error)
        return MEMORY
    if not isinstance(error, LatentSyncError):
        logger.error("a run failed", exc_info=error)
        return UNFORESEEN
    message = without_paths(str(error), files or {})
    return message[:1].upper() + message[1:]


def without_paths(message: str, files: dict[Path, str]) -> str:
    for path, name in files.items():
        message = message.replace(str(path), name)
    return message


def as_toast(words: str) -> gr.Error:
    """To be raised. Gradio would show the message as HTML, and names of files are anybody's."""
    return gr.Error(html.escape(words), print_exception=False)
