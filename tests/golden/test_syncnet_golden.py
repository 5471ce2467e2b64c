"""SyncNet's sound, network and loss against the reference's: within 1e-4, the network in float64 within 2e-5.

In float32 an embedding has a wider limit. The last normalisation works on the two channels of a group, one value each.
Where the two are nearly equal (0.8e-4 apart from their mean in the fuller set) it multiplies what rounding left by the
inverse of its epsilon's root, a thousand: 1e-7 becomes 1e-4, and which 1e-7 depends on threads and memory layout.
float64 shows that the arithmetic is the reference's: what remains there is the reference's own rounding.
"""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from latentsync.sync.syncnet import load_syncnet, mel_window, stack_frames, sync_mel
from training_scripts.losses import cosine_bce, sync_loss

TOLERANCE = 1e-4
EMBEDDINGS = {torch.float64: 2e-5, torch.float32: 5e-4}
EMBEDDINGS_MEAN = 1e-5


def test_the_mel_and_its_windows(golden, largest_error):
    with np.load(golden / "mel.npz") as data:
        arrays = {name: torch.from_numpy(np.asarray(data[name])).double() for name in data.files}
    mel = sync_mel(arrays["wav"].float())
    assert mel.dtype == np.float32
    assert largest_error("mel", torch.from_numpy(mel).double(), arrays["mel"]) <= TOLERANCE
    for start, crop in zip(arrays["crop_start_frames"].int().tolist(), arrays["crops"], strict=True):
        window = torch.from_numpy(mel_window(mel, start)).double()
        assert largest_error(f"window of frame {start}", window, crop) <= TOLERANCE


@pytest.fixture
def reference(golden):
    """The network and what went in and came out of the reference's."""
    return load_syncnet(golden / "syncnet_tiny.safetensors"), load_file(golden / "syncnet_tiny_io.safetensors")


@pytest.mark.parametrize("dtype", EMBEDDINGS)
@torch.no_grad()
def test_embeddings_and_cosine(reference, largest_error, dtype):
    syncnet, data = reference
    frames = data["frames_u8"].to(dtype) / 127.5 - 1
    vision, audio = syncnet.to(dtype)(frames, data["mel"].to(dtype))
    for name, made in (("vision_embeds", vision), ("audio_embeds", audio)):
        assert largest_error(name, made, data[name]) <= EMBEDDINGS[dtype]
        assert (made - data[name]).abs().mean() <= EMBEDDINGS_MEAN
    assert largest_error("cosine", (vision * audio).sum(1), data["cosine"]) <= TOLERANCE


def test_losses(reference, largest_error):
    _, data = reference
    between = (data["vision_embeds"] + data["audio_embeds"]) / 2
    for label in (0, 1):
        losses = [
            cosine_bce(one[None], other[None], torch.tensor([float(label)]))
            for one, other in zip(between, data["audio_embeds"], strict=True)
        ]
        assert largest_error(f"loss of label {label}", torch.stack(losses), data[f"loss_y{label}"]) <= TOLERANCE


def test_the_sync_loss_takes_the_lower_half_of_whole_faces(reference):
    """Frames whose lower halves are the golden input give minus the logarithm of the golden cosine, and a gradient."""
    syncnet, data = reference
    lower = data["frames_u8"].float() / 127.5 - 1
    frames = torch.cat((torch.zeros_like(lower), lower), 2).unflatten(1, (16, 3)).transpose(1, 2).requires_grad_()
    assert torch.equal(stack_frames(frames, syncnet.config), lower)
    loss = sync_loss(syncnet, frames, data["mel"])
    assert loss.item() == pytest.approx(-data["cosine"].log().mean().item(), abs=TOLERANCE)
    loss.backward()
    assert frames.grad[..., :128, :].abs().max() == 0
    assert frames.grad[..., 128:, :].abs().max() > 0
