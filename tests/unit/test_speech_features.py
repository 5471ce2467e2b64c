"""A whole speech in memory: the same features as streamed, its length in frames, and what is refused."""

import numpy as np
import pytest
import torch

from latentsync.errors import AudioError, OptionError
from latentsync.media.audio_reader import read_audio
from latentsync.model.whisper import AudioFeatureStream, TokenWindows, window_centre_at
from latentsync.run.speech import SpeechFeatures, encode_speech
from latentsync.voice_activity import VoiceGate, speech_activity


@pytest.fixture(scope="module")
def waveform(speech):
    return read_audio(speech(1.0))


@pytest.fixture(scope="module")
def encoded(small_model, waveform) -> SpeechFeatures:
    return encode_speech(small_model, waveform, 16_000, 25.0)


def test_features_are_those_of_the_stream(small_model, waveform, encoded):
    stream = AudioFeatureStream(lambda: np.array_split(waveform, 9), small_model.whisper)
    windows = TokenWindows(stream)
    times = [i / 25 for i in range(25)]
    tokens = torch.cat([windows.tokens([window_centre_at(time)]) for time in times])
    assert encoded.features.shape == (50, 5, 384)
    assert encoded.features.dtype == torch.float32
    assert torch.equal(encoded.tokens(times), tokens)
    assert tokens.shape == (25, 50, 384)
    assert torch.equal(encoded.tokens([7.0]), encoded.tokens([9.0]))  # after the end


def test_rates_and_channels_are_brought_to_whispers(small_model, waveform, encoded):
    times = np.arange(2 * len(waveform)) / 2
    doubled = np.interp(times, np.arange(len(waveform)), waveform).astype(np.float32)
    stereo = encode_speech(small_model, torch.from_numpy(np.stack([doubled * 2, doubled * 0])), 32_000, 25.0)
    assert (stereo.duration, stereo.num_frames, len(stereo.features)) == (1.0, 25, 50)
    assert float((stereo.features - encoded.features).abs().mean()) < 0.1 * float(encoded.features.std())
    assert np.corrcoef(stereo.peaks, encoded.peaks)[0, 1] > 0.99


@pytest.mark.parametrize(
    ("duration", "fps", "frames"),
    [
        *[
            (1.0, 25.0, 25),
            (1.001, 25.0, 26),
            (0.96, 25.0, 24),
            (0.001, 25.0, 1),
            (1.0, 30000 / 1001, 30),
            (0.5, 1.0, 1),
        ],
        (0.28, 25.0, 7),  # 7.000000000000001
        (1.00001, 25.0, 26),
    ],
)
def test_as_many_frames_as_the_speech_lasts(duration, fps, frames):
    gate = VoiceGate(speech_activity([np.zeros(512, np.float32)]))
    assert SpeechFeatures(torch.zeros(1, 5, 384), fps, duration, gate).num_frames == frames


@pytest.mark.parametrize("fps", [0, -25, 0.5, 1000, float("nan"), float("inf")])
def test_impossible_rates_are_refused(small_model, waveform, fps):
    with pytest.raises(OptionError, match="fps"):
        encode_speech(small_model, waveform, 16_000, fps)


def test_unusable_sounds_are_refused(small_model, waveform):
    with pytest.raises(AudioError, match="no samples"):
        encode_speech(small_model, waveform[:0], 16_000, 25)
    broken = waveform.copy()
    broken[100] = np.nan
    with pytest.raises(AudioError, match="not finite"):
        encode_speech(small_model, broken, 16_000, 25)
    with pytest.raises(AudioError, match="sample rate"):
        encode_speech(small_model, waveform, 0, 25)
    with pytest.raises(AudioError, match="shape"):
        encode_speech(small_model, waveform[None, None], 16_000, 25)


def test_opposite_channels_are_heard_and_told(small_model, waveform, encoded):
    opposite = encode_speech(small_model, np.stack([waveform, -waveform]), 16_000, 25.0)
    assert opposite.gate.spoken.tolist() == encoded.gate.spoken.tolist() != []
    assert "opposite phase" in opposite.notices[0]
    assert not encoded.notices


def test_pauses_are_silent_to_the_model_unless_told_otherwise(small_model):
    noise = np.random.default_rng(0).normal(0, 0.05, 16_000).astype(np.float32)
    closed, heard = (encode_speech(small_model, noise, 16_000, 25.0, silence=silence) for silence in ("close", "off"))
    silent = encode_speech(small_model, np.zeros(16_000, np.float32), 16_000, 25.0)
    assert torch.equal(closed.features, silent.features)
    assert not torch.allclose(heard.features, silent.features, atol=0.1)
    assert closed.voice(np.array([0.2, 0.8])).tolist() == [0, 0]
