"""The VAE's colour error is measured on the source frame and undone in the generated one."""

from dataclasses import replace

import torch

from latentsync.masks import generation_mask
from latentsync.options import LipSyncOptions
from latentsync.pipeline import condition, decode_faces, match_colours, to_pixels


def test_a_frame_given_back_by_the_vae_gets_its_own_colours(small_model):
    model = small_model
    side = model.resolution
    faces = torch.randint(0, 2, (2, 1, 1, 3), dtype=torch.uint8).mul(120).add(60).expand(2, side, side, 3).contiguous()
    conditioning = condition(model, faces, generation_mask(side), generator=torch.Generator())
    decoded = decode_faces(model, conditioning[:, 5:])
    matched = match_colours(model, decoded, conditioning, faces)
    before, after = ((x - to_pixels(faces)).mean((2, 3)).abs().max() for x in (decoded, matched))
    assert after < 0.2 * before


def test_the_reference_preset_leaves_colours_alone():
    assert LipSyncOptions().colour_match
    assert not replace(LipSyncOptions(), seed=1).as_reference().colour_match
