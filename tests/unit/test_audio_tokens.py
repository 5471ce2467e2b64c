"""Log-mel, windows over the file and tokens per frame, with the real Whisper encoder."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from whisper.audio import log_mel_spectrogram

from latentsync.errors import AudioError, OptionError
from latentsync.model.whisper import (
    AudioFeatureStream,
    TokenWindows,
    audio_tokens,
    encode_audio,
    encoder_windows,
    load_whisper,
    log_mel,
    normalise,
    num_reference_frames,
    raw_log_mel,
    resample_mono,
    window_centre,
    window_centre_at,
)

WEIGHTS = Path(__file__).parents[2] / "latentsync" / "assets" / "tiny" / "whisper" / "tiny.en.pt"


@pytest.fixture(scope="module")
def encoder():
    return load_whisper(WEIGHTS)


def speechlike(seconds: float, seed: int = 0) -> np.ndarray:
    """Voiced syllables with pauses and a quiet background; what the encoder sees changes all the time."""
    rng = np.random.default_rng(seed)
    t = np.arange(round(seconds * 16000)) / 16000
    pitch = 120 + 20 * np.sin(2 * np.pi * 0.7 * t)
    voice = sum(np.sin(2 * np.pi * k * np.cumsum(pitch) / 16000) / k for k in range(1, 12))
    envelope = np.clip(np.sin(2 * np.pi * 3.1 * t) + 0.5 * np.sin(2 * np.pi * 0.31 * t), 0, None)
    return (0.1 * envelope * voice + 0.002 * rng.standard_normal(len(t))).astype(np.float32)


@pytest.mark.parametrize("num_samples", [320, 401, 16000, 16159, 16160, 16161, 3 * 16000 + 77])
def test_log_mel_equals_whispers(num_samples):
    waveform = speechlike(num_samples / 16000)
    difference = (log_mel(waveform) - log_mel_spectrogram(waveform)).abs()
    assert difference.max() < 2e-5, (difference.max(), difference.mean())


@pytest.mark.parametrize("block", [1, 7, 159, 400, 5000, 16000, 40000])
def test_blocks_do_not_change_the_mel(block):
    waveform = speechlike(2.3) if block < 100 else speechlike(70.1)
    pieces = list(raw_log_mel(waveform[i : i + block] for i in range(0, len(waveform), block)))
    raw = torch.cat(pieces, 1)
    whole = log_mel_spectrogram(waveform)
    assert raw.shape == whole.shape
    assert (normalise(raw, raw.max()) - whole).abs().max() < 2e-5


def test_memory_of_the_mel_stream_is_bounded():
    """Ten minutes in blocks of a second: no yielded piece, hence no held rest, grows with the file."""
    second = speechlike(1)
    widths = [raw.shape[1] for raw in raw_log_mel(second for _ in range(600))]
    assert sum(widths) == 60000
    assert max(widths) <= 200


@pytest.mark.parametrize("num_samples", [1, 80, 159, 160, 319, 320, 639])
def test_very_short_audio_gives_one_feature(encoder, num_samples):
    features = encode_audio(speechlike(1)[:num_samples], encoder)
    assert features.shape == (1, 5, 384)
    assert features.isfinite().all()


def test_bad_audio_is_named(encoder):
    with pytest.raises(AudioError, match="no samples"):
        encode_audio(np.zeros(0, np.float32), encoder)
    with pytest.raises(AudioError, match="no samples"):
        AudioFeatureStream(lambda: iter(()), encoder)
    broken = speechlike(2)
    broken[24000] = np.nan
    with pytest.raises(AudioError, match="not finite"):
        encode_audio(broken, encoder)
    with pytest.raises(AudioError, match=r"1\.500 s"):
        AudioFeatureStream(lambda: np.split(broken, 10), encoder)
    with pytest.raises(AudioError, match="int16"):
        encode_audio(np.zeros(100, np.int16), encoder)
    with pytest.raises(OptionError, match="sideways"):
        encode_audio(speechlike(1), encoder, mode="sideways")


@pytest.mark.parametrize("num_mel_frames", [2, 3, 2999, 3000])
def test_modes_agree_up_to_30_seconds(num_mel_frames):
    assert encoder_windows(num_mel_frames, "overlap") == encoder_windows(num_mel_frames, "reference")


@pytest.mark.parametrize("mode", ["overlap", "reference"])
@pytest.mark.parametrize("num_mel_frames", [2, 3000, 3001, 3002, 4999, 5000, 5001, 6000, 6001, 123457])
def test_windows_keep_every_feature_once(mode, num_mel_frames):
    windows = encoder_windows(num_mel_frames, mode)
    kept = [(window.keep_start, window.keep_end) for window in windows]
    assert kept[0][0] == 0
    assert kept[-1][1] == num_mel_frames // 2
    assert all(before[1] == after[0] for before, after in pairwise(kept))
    for window in windows:
        assert window.mel_start % 2 == 0
        assert window.mel_end - window.mel_start <= 3000
        assert window.mel_start // 2 <= window.keep_start
        assert window.keep_end <= window.mel_end // 2
        if mode == "overlap":
            assert window.mel_start == 0 or window.keep_start - window.mel_start // 2 >= 250
            assert window.keep_end == num_mel_frames // 2 or window.mel_end // 2 - window.keep_end >= 250


def test_reference_mode_follows_whispers_windows(encoder):
    waveform = speechlike(33)
    mel = log_mel_spectrogram(waveform)
    with torch.no_grad():
        first = encoder(mel[None, :, :3000])[0]
        second = encoder(torch.nn.functional.pad(mel[None, :, 3000:], (0, 3000 - 300)))[0, :150]
    features = encode_audio(waveform, encoder, mode="reference")
    assert (features - torch.cat((first, second))).abs().max() < 1e-2  # states reach 475
    assert features.shape == (1650, 5, 384)


def test_overlap_heals_the_seam_and_streams(encoder):
    """Around 30 s, features with overlap are closer to those of a window centred there than the reference's are."""
    waveform = speechlike(60, seed=3)
    stream = AudioFeatureStream(lambda: (waveform[i : i + 3000] for i in range(0, len(waveform), 3000)), encoder)
    overlap = torch.cat(list(stream))
    assert (stream.num_samples, stream.num_features, len(overlap)) == (60 * 16000, 3000, 3000)
    assert (overlap - encode_audio(waveform, encoder)).abs().max() < 1e-2
    reference = encode_audio(waveform, encoder, mode="reference")
    with torch.no_grad():
        centred = encoder(log_mel(waveform)[None, :, 1500:4500])[0]  # no window of either mode has this phase
    # Blocks 1 to 3: the stem holds absolute positions, a few channels outweigh all others in the last block.
    near, blocks = slice(1490, 1510), slice(1, 4)
    truth = centred[740:760, blocks]
    healed = (overlap[near, blocks] - truth).abs().mean() / truth.abs().mean()
    seam = (reference[near, blocks] - truth).abs().mean() / truth.abs().mean()
    print(f"mean deviation around 30 s, relative: overlap {healed:.3f}, reference {seam:.3f}")
    assert healed < 0.5 * seam

    def jump(features, row):
        return float((features[row, blocks] - features[row - 1, blocks]).abs().mean())

    jumps = jump(reference, 1500), jump(overlap, 1250), jump(overlap, 2250)
    print("jumps: reference at 30 s {:.3f}, overlap at its seams {:.3f} and {:.3f}".format(*jumps))
    assert max(jumps[1:]) < 0.5 * jumps[0]


@pytest.mark.parametrize(("rate", "channels"), [(48000, 2), (44100, 1), (8000, 2), (22050, 6)])
def test_any_rate_and_channels(encoder, rate, channels):
    t = np.arange(rate) / rate
    tone = 0.5 * np.sin(2 * np.pi * 440 * t).astype(np.float32)
    mono = resample_mono(np.stack([tone] * channels), rate)
    assert abs(len(mono) - 16000) <= 1
    expected = 0.5 * np.sin(2 * np.pi * 440 * np.arange(len(mono)) / 16000)
    assert np.abs(mono - expected)[400:-400].max() < 5e-3
    assert encode_audio(np.stack([tone] * channels), encoder, sample_rate=rate).shape[1:] == (5, 384)


@pytest.mark.parametrize("channels", [2, 4])
def test_channels_of_opposite_polarity_do_not_cancel(channels):
    tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(48_000) / 16_000).astype(np.float32)
    told = []
    opposite = resample_mono(np.stack([tone, -tone] * (channels // 2)), 16_000, told.append)
    np.testing.assert_allclose(opposite[200:], tone[200:], atol=1e-6)
    assert "opposite phase for 3.0 s" in told[0]
    quiet = np.stack([tone, 0.2 * np.roll(tone, 9)] * (channels // 2))
    np.testing.assert_array_equal(resample_mono(quiet, 16_000, told.append), quiet.mean(0))
    assert len(told) == 1


def test_frames_for_audio():
    assert [num_reference_frames(seconds * 50, 25) for seconds in (1, 10, 30, 60)] == [27, 252, 752, 1502]
    for fps in (23.976, 24, 25, 29.97, 30, 50, 60):
        assert [window_centre_at(i / fps) for i in range(3000)] == [window_centre(i, fps) for i in range(3000)]
        for num_features in (1, 2, 3, 99, 100):
            frame = 0
            while window_centre(frame, fps) <= num_features:
                frame += 1
            assert num_reference_frames(num_features, fps) == frame + 1


@pytest.mark.parametrize("block", [1, 3, 8, 100])
def test_token_windows_equal_whole_tokens(block):
    features = torch.randn(61, 5, 8)
    windows = TokenWindows(features.split(block), num_features=61)
    centres = [window_centre(i, 24) for i in range(40)]  # runs past the end of the audio
    for start in range(0, 40, 7):
        part = centres[start : start + 7]
        assert torch.equal(windows.tokens(part), audio_tokens(features, part))
        assert len(windows._rows) <= 10 + block
    with pytest.raises(OptionError, match="order of time"):
        windows.tokens([0])


def test_stream_shorter_than_announced_is_named():
    with pytest.raises(AudioError, match="announced"):
        TokenWindows([torch.zeros(5, 5, 8)], num_features=20).tokens([10])
