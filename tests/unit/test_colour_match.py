"""Broad colours of the generated face are the source's; the lips are not looked at."""

import torch

from latentsync.colours import MOUTH_CENTRE, match_colours, mouth_weight
from latentsync.options import LipSyncOptions


def faces(side: int = 128) -> torch.Tensor:
    return torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(3)) - 0.5


def test_a_cast_of_colour_is_taken_back_everywhere():
    source = faces()
    cast = torch.tensor([0.2, -0.1, 0.05]).reshape(1, 3, 1, 1)
    torch.testing.assert_close(match_colours(source + cast, source), source, atol=1e-4, rtol=0)


def test_an_equal_face_is_left_alone():
    source = faces()
    torch.testing.assert_close(match_colours(source, source), source, atol=1e-6, rtol=0)


def test_the_lips_of_the_source_do_not_come_along():
    source = torch.zeros(1, 3, 128, 128)
    x, y = (int(v * 128) for v in MOUTH_CENTRE)
    source[..., y - 12 : y + 12, x - 20 : x + 20] = -1.0  # a wide open, dark mouth
    matched = match_colours(torch.zeros_like(source), source)
    assert matched.abs().max() < 0.01


def test_fine_detail_of_the_generated_face_stays():
    detail = torch.zeros(1, 3, 256, 256)
    detail[..., 80::4, :] = 0.5
    detail -= detail[..., 80:, :].mean()
    matched = match_colours(detail, torch.zeros_like(detail))
    rows = matched[0, 0, 100:240, 128]
    assert rows.max() - rows.min() > 0.4


def test_the_mouth_has_next_to_no_weight():
    weight = mouth_weight(64)
    assert weight[43, 32] < 0.01
    assert weight[10, 32] == weight[60, 5] == 1


def test_the_reference_preset_leaves_colours_alone():
    assert LipSyncOptions().colour_match
    assert not LipSyncOptions().as_reference().colour_match
