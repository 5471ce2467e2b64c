"""Does a mouth move with its sound? For videos without known lip tracks, such as real ones.

    python -m eval.envelope output.mp4

Prints the share of frames with a face and Pearson's r between the mouth opening (face mesh) and the smoothed loudness
envelope of the video's own sound. An open vowel is loud and a closed lip is quiet, so a talking face scores well above
zero; it is a coarse measure, since many sounds are loud with nearly closed lips.
"""

import argparse
from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter1d

from latentsync.given_paths import given_path
from latentsync.media.audio_reader import read_audio
from latentsync.media.video_reader import read_frames
from latentsync.metrics.faces import correlation, opening_track

SAMPLE_RATE = 16_000
WINDOW = 0.04  # s, of each loudness value
SMOOTHING = 0.08  # s, standard deviation


def loudness_envelope(waveform: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Root mean square of the sound around each time, smoothed; (F,). waveform: (T,) at SAMPLE_RATE."""
    step = int(WINDOW * SAMPLE_RATE)
    blocks = waveform[: len(waveform) // step * step].reshape(-1, step)
    loudness = gaussian_filter1d(np.sqrt((blocks**2).mean(1)), SMOOTHING / WINDOW)
    return np.interp(times, (np.arange(len(blocks)) + 0.5) * WINDOW, loudness)


def score(path: Path) -> tuple[float, float]:
    """(share of frames with a face, r between opening and envelope)."""
    times = []

    def pixels():
        for frame in read_frames(path):
            times.append(frame.time)
            yield frame.pixels

    opening = opening_track(pixels())
    waveform = read_audio(path, sample_rate=SAMPLE_RATE)
    envelope = loudness_envelope(waveform, np.array(times) + WINDOW / 2)
    return float(np.isfinite(opening).mean()), correlation(opening, envelope)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("videos", type=given_path, nargs="+")
    for path in parser.parse_args().videos:
        found, r = score(path)
        print(f"{path}: face in {found:.0%} of the frames, r with the sound's envelope {r:.2f}")


if __name__ == "__main__":
    main()
