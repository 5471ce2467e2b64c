"""Drawn talking avatars and formant-synthesised speech: data with exact truth, for training, demos and tests."""
