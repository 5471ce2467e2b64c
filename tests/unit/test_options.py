"""Ranges of the options, and the preset that follows the reference."""

from dataclasses import fields, replace
from fractions import Fraction

import pytest

from docs.option_tables import pages
from latentsync.errors import OptionError
from latentsync.options import SETTINGS, LipSyncOptions


@pytest.mark.parametrize(
    ("field", "value", "named"),
    [
        ("num_inference_steps", 0, "inference_steps is 0"),
        ("num_inference_steps", 1000, "inference_steps is 1000"),
        ("guidance_scale", -0.1, "guidance_scale"),
        ("guidance_scale", float("nan"), "guidance_scale"),
        ("mask_smooth", 1.01, "mask_smooth"),
        ("mask_smooth", float("nan"), "mask_smooth"),
        ("fps", Fraction(1, 2), "fps is 0.5"),
        ("fps", Fraction(241), "fps is 241"),
        ("start", -1.0, "start is -1"),
        ("start", float("inf"), "start is inf"),
        ("start", float("nan"), "start is nan"),
        ("duration", 0.0, "duration is 0"),
        ("duration", float("inf"), "duration is inf"),
        ("chunk_frames", 0, "chunk_frames"),
        ("chunk_frames", 25, "chunk_frames"),
        ("chunk_overlap", -1, "chunk_overlap"),
        ("chunk_overlap", 9, "chunk_overlap is 9; expected 0 to 8"),
        ("length", "pingpong", "length is 'pingpong'; expected one of bounce, loop, hold, trim, speed"),
        ("tail", "fade", "tail is 'fade'; expected one of cut, keep"),
        ("audio_offset_ms", 10_001, "audio_offset_ms is 10001"),
        ("audio_offset_ms", float("nan"), "audio_offset_ms is nan"),
        ("seed", -1, "seed"),
        ("seed", 2**63, "seed"),
    ],
)
def test_values_out_of_range_are_named(field, value, named):
    with pytest.raises(OptionError, match=named):
        LipSyncOptions(**{field: value})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("num_inference_steps", 1),
        ("num_inference_steps", 999),
        ("guidance_scale", 0),
        ("mask_smooth", 0.0),
        ("mask_smooth", 1.0),
        ("fps", Fraction(240)),
        ("chunk_frames", 24),
        ("chunk_overlap", 8),
        ("seed", 0),
    ],
)
def test_ends_of_the_ranges_are_allowed(field, value):
    assert getattr(LipSyncOptions(**{field: value}), field) == value


def test_option_tables_of_the_documents_are_up_to_date():
    for page, text in pages().items():
        assert page.read_text(encoding="utf-8") == text, f"{page}: python -m docs.option_tables"


def test_every_setting_has_its_words_behind_every_door():
    for row in SETTINGS.values():
        assert bool(row.group) == bool(row.help), row.name
        assert bool(row.tooltip) >= bool(row.nodes), row.name
        assert len(row.words) in (0, len(row.choices)), row.name
        row.check(row.default)


def test_lengths_that_contradict_each_other_are_told():
    with pytest.raises(OptionError, match=r"length is 'trim' and tail is 'keep'.* Take tail 'cut', or another length"):
        LipSyncOptions(length="trim", tail="keep")


def test_reference_preset_turns_every_deviation_off_and_keeps_the_rest():
    mine = LipSyncOptions(num_inference_steps=7, guidance_scale=2.0, seed=5, start=1.0, duration=2.0, mask_smooth=0.2)
    reference = mine.as_reference()
    changed = {field.name for field in fields(mine) if getattr(mine, field.name) != getattr(reference, field.name)}
    deviations = (
        "fps blend_mask chunk_overlap full_chunks posterior audio_windows smoothing sampling "
        "colour_match edge_match blend silence fade max_yaw extra_frames doubled_turns tf32"
    )
    assert changed == set(deviations.split())
    assert reference.fps == 25
    assert reference.chunk_frames == 16
    fast = {"scheduler": "unipc", "guidance_interval": (0.0, 0.5), "cache_interval": 3}
    edge = {"blend_method": "poisson", "mask_shape": "landmarks"}
    assert replace(mine, chunk_frames=8, chunk_overlap=2, **fast, **edge).as_reference() == reference
