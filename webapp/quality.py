"""How good and how slow: the presets as the page offers them, and what suits the bundled model."""

from collections.abc import Mapping
from dataclasses import replace

from latentsync.demo import GUIDANCE
from latentsync.options import LipSyncOptions
from latentsync.presets import PRESETS, apply_preset

from .model_shelf import BUNDLED

LABELS = {name: name.capitalize() for name in PRESETS}


def hint(preset: str) -> str:
    """A sentence for a visitor."""
    summary = PRESETS[preset].summary
    return f"{summary[:1].upper()}{summary[1:]}."


def preset_options(preset: str, model: str) -> LipSyncOptions:
    """The settings of a preset, with the weight of the speech that suits the model. Raises OptionError."""
    options = apply_preset(LipSyncOptions(), preset)
    is_free = "guidance_scale" not in PRESETS[preset].options
    return replace(options, guidance_scale=GUIDANCE) if model == BUNDLED and is_free else options


def chosen_options(preset: str, model: str, given: Mapping) -> LipSyncOptions:
    """The preset, and over it what a visitor has changed. given: fields of LipSyncOptions. Raises OptionError."""
    shown = preset_options(preset, model)
    changed = {name for name, value in given.items() if value != getattr(shown, name)}
    return apply_preset(replace(shown, **{name: given[name] for name in changed}), preset, changed | {"guidance_scale"})
