"""Broad colours of the generated face are the source's; the lips are not looked at."""

import torch

from latentsync.faces.colours import MOUTH_CENTRE, match_colours, mouth_weight
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


SKIN, BACKGROUND, LOST = ((-0.4, -0.55, -0.65), (-0.2, 0.3, -0.05), (-0.15, 0.0, 0.1))


def painted(background: tuple, jaw: float) -> torch.Tensor:
    """(1, 3, 128, 128): skin above a slanted jaw at that height in the middle, background below and beside it."""
    y, x = torch.meshgrid(torch.arange(128.0), torch.arange(128.0), indexing="ij")
    is_skin = (y < jaw - 0.3 * (x - 64).abs()) & ((x - 64).abs() < 44)
    colours = (torch.tensor(colour).reshape(1, 3, 1, 1) for colour in (SKIN, background))
    return torch.where(is_skin, *colours)


def test_a_background_that_was_lost_does_not_tint_the_skin_beside_it():
    source, generated = painted(BACKGROUND, 120), painted(LOST, 120)
    is_skin = source[:, :1] == SKIN[0]
    skin = is_skin.expand_as(source)
    matched = match_colours(generated, source)
    off, before = (matched - source).abs(), (generated - source).abs()
    near = skin & (torch.nn.functional.max_pool2d((~is_skin).float(), 17, 1, 8) > 0).expand_as(source)
    assert off[near].mean() < 0.01
    assert off[near].quantile(0.9) < 0.05
    assert off[~skin].mean() < 0.15 * before[~skin].mean()


def test_the_old_jaw_does_not_come_along():
    matched = match_colours(painted(BACKGROUND, 116), painted(BACKGROUND, 108))
    lowered = matched[0, :, 110:114, 60:68]
    assert (lowered - torch.tensor(SKIN).reshape(3, 1, 1)).abs().mean() < 0.06


def test_the_lips_get_their_colours_from_skin_that_is_right():
    """On one side of the mouth the skin is off by a little, on the other it is another thing."""
    source = torch.zeros(1, 3, 128, 128)
    generated = source - 0.03
    generated[..., 66:] -= 0.14
    matched = match_colours(generated, source)
    row = int(MOUTH_CENTRE[1] * 128)
    assert 0.042 < (matched - generated)[0, 0, row, 62] < 0.055  # at the border; of a plain average it is 0.068


def test_the_reference_preset_leaves_colours_alone():
    assert LipSyncOptions().colour_match
    assert not LipSyncOptions().as_reference().colour_match
