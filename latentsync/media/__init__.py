"""Video and audio files in and out, streamed with PyAV: no ffmpeg binary, no shell, constant memory."""
