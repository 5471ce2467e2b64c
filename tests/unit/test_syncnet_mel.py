"""The windows of sound that belong to frames; the spectrogram itself is held to the reference's in tests/golden."""

import numpy as np
import pytest
import torch

from latentsync.errors import AudioError
from latentsync.sync.syncnet import count_windows, mel_length, mel_start, mel_window, sync_mel


def test_lengths_and_starts_are_the_references():
    assert [mel_length(frames) for frames in (5, 16, 25)] == [16, 52, 80]
    assert all(mel_start(frame) == int(80.0 * (frame / 25.0)) for frame in range(5000))


def test_eighty_columns_a_second_in_range():
    time = np.arange(32_000) / 16_000
    mel = sync_mel((0.3 * np.sin(2 * np.pi * 440 * time)).astype(np.float32))
    assert mel.shape == (80, 161)
    assert mel.min() >= -4
    assert mel.max() <= 4
    assert (mel[:, 20:140].argmax(0) == mel[:, 80].argmax()).all()  # one steady tone


def test_silence_is_the_lowest_value():
    assert (sync_mel(np.zeros(16_000, np.float32)) == -4).all()


@pytest.mark.parametrize("num_frames", [16, 25])
def test_every_counted_window_is_there_and_none_beyond(num_frames):
    for columns in range(50, 400, 7):
        mel = np.zeros((80, columns), np.float32)
        count = count_windows(10_000, columns, num_frames)
        assert all(mel_window(mel, s, num_frames).shape == (80, mel_length(num_frames)) for s in range(count))
        with pytest.raises(AudioError, match=f"{columns} mel columns"):
            mel_window(mel, count, num_frames)


def test_pictures_limit_the_windows_too():
    assert count_windows(100, 321) == 85
    assert count_windows(16, 321) == 1
    assert count_windows(15, 321) == 0


def test_a_frame_before_the_first():
    with pytest.raises(AudioError, match="frames -1 to 14"):
        mel_window(np.zeros((80, 100), np.float32), -1)


@pytest.mark.parametrize(
    "waveform",
    [
        np.zeros(0, np.float32),
        np.zeros((2, 100), np.float32),
        np.zeros(100, np.int16),
        np.full(100, np.nan, np.float32),
    ],
)
def test_sound_that_cannot_be_heard(waveform):
    with pytest.raises(AudioError):
        sync_mel(waveform)


def test_a_tensor_is_taken_too():
    noise = np.random.default_rng(0).normal(0, 0.1, 4000).astype(np.float32)
    assert np.array_equal(sync_mel(torch.from_numpy(noise)), sync_mel(noise))
