"""Presets: what they set, what wins over them, and that each is cheaper than the one before."""

import itertools
from dataclasses import FrozenInstanceError, fields

import pytest

from benchmarks.speed import WITH_DEEPCACHE, WITHOUT, calls_of, full_calls, reference_calls
from latentsync.errors import OptionError
from latentsync.options import LipSyncOptions
from latentsync.presets import CUSTOM, DEFAULT_PRESET, PRESETS, apply_preset, decide, decided_fields


def cost(options: LipSyncOptions) -> float:
    """Clips that go through the U-Net's deep part for each frame of the result."""
    calls = calls_of(options)
    return (2 * calls["U-Net, guided"] + calls["U-Net, unguided"]) / (options.chunk_frames - options.chunk_overlap)


def test_each_preset_costs_less_than_the_one_before():
    costs = [cost(apply_preset(LipSyncOptions(), name)) for name in ("quality", "balanced", "fast", "draft")]
    assert costs == sorted(costs, reverse=True)
    assert all(later < 0.7 * earlier for earlier, later in itertools.pairwise(costs))
    assert list(PRESETS) == ["reference", "quality", DEFAULT_PRESET, "fast", "draft"]


def test_calls_are_counted_as_the_loop_makes_them():
    """What the table of costs rests on; which steps run whole is tested in test_deep_features.py."""
    options = LipSyncOptions(num_inference_steps=7, cache_interval=3, guidance_interval=(0.0, 0.6))
    kinds = {"U-Net, guided": 2, "U-Net, guided, deep features kept": 3}
    kinds |= {"U-Net, unguided": 1, "U-Net, unguided, deep features kept": 1}
    assert calls_of(options) == kinds
    assert calls_of(apply_preset(LipSyncOptions(), "reference")) == {"U-Net, guided": 20}


COSTS = {  # of a full-size call, s; shares of a guided one: 1, 0.1, 0.12, 0.6, 0.05, 0.06
    "U-Net, guided": 30.0,
    "U-Net, guided, deep features kept": 3.0,
    "U-Net, guided, deep features kept by the reference": 3.6,
    "U-Net, unguided": 18.0,
    "U-Net, unguided, deep features kept": 1.5,
    "U-Net, unguided, deep features kept by the reference": 1.8,
}


def test_full_calls_count_shares_and_frames_that_are_made_twice():
    counts = {name: full_calls(apply_preset(LipSyncOptions(), name), COSTS) for name in PRESETS}
    assert counts == pytest.approx(
        {
            "reference": 20,  # chunks beside each other
            "quality": 25 * 16 / 12,
            "balanced": (5 + 5 * 0.1) * 16 / 12,
            "fast": (2 + 2 * 0.1 + 2 * 0.6 + 2 * 0.05) * 16 / 14,
            "draft": 3 * 0.6 + 2 * 0.05,
        }
    )
    assert reference_calls(COSTS) == pytest.approx({WITH_DEEPCACHE: 7 + 13 * 0.12, WITHOUT: 20})
    doubled = {kind: 2 * cost for kind, cost in COSTS.items()}  # on a machine half as fast
    assert full_calls(apply_preset(LipSyncOptions(), "fast"), doubled) == pytest.approx(counts["fast"])


def test_only_what_a_preset_names_changes():
    mine = LipSyncOptions(seed=9, start=1.0, mask_smooth=0.2, silence="source", length="loop")
    for name, preset in PRESETS.items():
        got = apply_preset(mine, name)
        assert got.seed == 9
        assert got.length == "loop"
        for field, value in preset.options.items():
            assert getattr(got, field) == value
        if not preset.as_reference:
            changed = {field for field in vars(mine) if getattr(mine, field) != getattr(got, field)}
            assert changed <= set(preset.options)
    assert apply_preset(mine, CUSTOM) is mine


@pytest.mark.parametrize("name", PRESETS)
def test_explicit_options_win(name):
    mine = LipSyncOptions(num_inference_steps=3, silence="close", guidance_scale=2.0, blend_method="poisson")
    explicit = {"num_inference_steps", "silence", "guidance_scale", "blend_method"}
    got = apply_preset(mine, name, explicit)
    assert (got.num_inference_steps, got.silence, got.guidance_scale) == (3, "close", 2.0)
    assert (got.blend_method, got.blend) == ("poisson", "mask")  # the reference's blending has no such edge


def test_one_rule_for_all_doors():
    """By hand, then the preset, then the model's own, then the table's."""
    own = {"guidance_scale": 2.5, "fade": 1.0}
    assert decide({}, "balanced", model_defaults=own).guidance_scale == 2.5
    assert decide({}, "draft", model_defaults=own).guidance_scale == 1.0
    assert decide({"guidance_scale": 1.5, "fade": 1.0}, CUSTOM, model_defaults=own).guidance_scale == 1.5
    # The command line knows what was given, also where it is the default; a widget that was not changed is no choice.
    values = {"guidance_scale": 1.5, "num_inference_steps": 25}
    by_hand = decide(values, "draft", explicit={"guidance_scale"}, model_defaults=own)
    assert (by_hand.guidance_scale, by_hand.num_inference_steps, by_hand.fade) == (1.5, 5, 1.0)
    assert decide(values, "draft", model_defaults=own) == decide({}, "draft", model_defaults=own)
    assert decide(values | {"num_inference_steps": 24}, "draft").num_inference_steps == 24
    # The page's controls begin with what the preset has.
    shown = decide({}, "fast", model_defaults=own)
    page = decide({"num_inference_steps": 25}, "fast", model_defaults=own, shown=shown)
    assert (page.num_inference_steps, page.scheduler, page.guidance_scale) == (25, "dpmpp_2m", 2.5)


def test_presets_cannot_be_changed_in_passing():
    with pytest.raises(TypeError):
        PRESETS["mine"] = PRESETS["fast"]
    with pytest.raises(FrozenInstanceError):
        PRESETS["fast"].summary = ""


def test_an_unknown_preset_is_named():
    with pytest.raises(OptionError, match="preset is 'fastest'; expected one of reference, quality, balanced, fast"):
        apply_preset(LipSyncOptions(), "fastest")


@pytest.mark.parametrize("name", PRESETS)
def test_what_a_preset_decides_is_what_it_does_to_untouched_options(name):
    """And nothing else of it depends on them."""
    before, after = LipSyncOptions(), apply_preset(LipSyncOptions(), name)
    decided = decided_fields(name)
    assert {field: getattr(after, field) for field in decided} == decided
    others = {field.name for field in fields(before)} - set(decided)
    assert all(getattr(before, field) == getattr(after, field) for field in others)
    assert decided_fields(CUSTOM) == {}
