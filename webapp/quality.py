"""How good and how slow: the presets as the page offers them."""

from collections.abc import Mapping

from latentsync.options import LipSyncOptions
from latentsync.presets import PRESETS, decide

LABELS = {name: name.capitalize() for name in PRESETS}


def hint(preset: str) -> str:
    """A sentence for a visitor."""
    summary = PRESETS[preset].summary
    return f"{summary[:1].upper()}{summary[1:]}."


def chosen_options(preset: str, model_defaults: Mapping, given: Mapping) -> LipSyncOptions:
    """The preset, and over it what a visitor has changed. given: fields of LipSyncOptions. Raises OptionError."""
    shown = decide({}, preset, model_defaults=model_defaults)
    return decide(given, preset, model_defaults=model_defaults, shown=shown)
