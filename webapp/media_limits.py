"""What may be worked on: checked before a run waits or starts, by what the files hold and not by what they say."""

from pathlib import Path

from latentsync.errors import AudioError, MediaError
from latentsync.media.audio_reader import AudioFacts, audio_length, probe_audio
from latentsync.media.container import open_media
from latentsync.media.isolation import check_apart
from latentsync.media.video_reader import VideoFacts, probe_video, video_length

from .settings import Limits


def check_video(path: str | Path, limits: Limits) -> VideoFacts:
    """Facts about an uploaded video. Raises MediaError where it cannot be read or is beyond the limits."""
    check_size(path, limits)
    check_apart(path)
    with open_media(path) as container:  # before a picture of that size is decoded
        for stream in container.streams.video:
            if max(stream.width, stream.height) > limits.side:
                raise MediaError(
                    f"The picture is {stream.width} x {stream.height} px; this page takes up to {limits.side} px a "
                    "side. Make the video smaller first."
                )
    facts = probe_video(path)
    if facts.fps > limits.fps:
        raise MediaError(
            f"The video has {float(facts.fps):g} frames a second; this page takes up to {limits.fps:g}. "
            "Export it with a lower frame rate."
        )
    check_length("video", max(facts.duration, video_length(path)), limits)
    return facts


def check_speech(path: str | Path, limits: Limits) -> AudioFacts:
    """Facts about an uploaded sound. Raises MediaError where it cannot be read or is beyond the limits."""
    check_size(path, limits)
    check_apart(path, AudioError)
    facts = probe_audio(path)
    check_length("speech", max(facts.duration, audio_length(path)), limits, AudioError)
    return facts


def check_size(path: str | Path, limits: Limits) -> None:
    """Raises MediaError for a file that is too large."""
    size = Path(path).stat().st_size / 2**20
    if size > limits.upload_mb:
        raise MediaError(f"The file has {size:.0f} MB; this page takes up to {limits.upload_mb} MB.")


def check_length(what: str, seconds: float, limits: Limits, kind: type[MediaError] = MediaError) -> None:
    """Raises `kind` for a file that is too long."""
    if seconds > limits.seconds:
        raise kind(
            f"The {what} is {seconds:.0f} s long; this page takes up to {limits.seconds:.0f} s. Cut it, or use the "
            "command line (main.py), which has no limit."
        )
