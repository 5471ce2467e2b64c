"""Which features each frame sees, and how many frames the reference makes of them: exactly."""

import torch
from safetensors.torch import load_file

from latentsync.model.whisper import TokenWindows, audio_tokens, num_reference_frames, window_centre, window_rows


def test_windows(golden):
    data = load_file(golden / "audio_windows.safetensors")
    cases = sorted({key.split(".")[0] for key in data})
    assert cases
    for case in cases:
        feature, fps = data[f"{case}.feature"], float(data[f"{case}.fps"])
        num_frames = num_reference_frames(len(feature), fps)
        assert num_frames == int(data[f"{case}.num_chunks"]), case
        centres = [window_centre(frame, fps) for frame in range(num_frames)]
        assert torch.equal(window_rows(centres, len(feature)), data[f"{case}.indices"]), case

        tokens = audio_tokens(feature, centres)
        assert torch.equal(tokens[data[f"{case}.chunk_ids"]], data[f"{case}.chunks"]), case
        streamed = TokenWindows(feature.split(7), len(feature))
        parts = [streamed.tokens(centres[i : i + 4]) for i in range(0, num_frames, 4)]
        assert torch.equal(torch.cat(parts), tokens), case

        training = data.get(f"{case}.train_window_start3")
        if training is not None:  # training is always at 25 frames a second
            got = audio_tokens(feature, [window_centre(frame, 25) for frame in range(3, 3 + len(training))])
            assert torch.equal(got, training), case
        print(f"{case}: {len(feature)} features at {fps} fps -> {num_frames} frames")
