"""How much time is spent on a result: named sets of options. What each costs and changes: docs/performance.md.

Without torch, so that the names can be shown before that is loaded.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields, replace
from types import MappingProxyType

from .errors import OptionError
from .options import LipSyncOptions

DEFAULT_PRESET = "balanced"
CUSTOM = "custom"  # no preset: every option as it is given
EDGE = {"mask_smooth", "mask_shape", "blend_method"}  # what the reference's blending has no place for


@dataclass(frozen=True)
class Preset:
    """summary: a line for a user; options: fields of LipSyncOptions; as_reference: these after `as_reference`.

    full_precision: float32 everywhere, and not what is fast on the device. draft_decoder: where the model has one.
    """

    summary: str
    options: Mapping[str, object] = field(default_factory=dict)
    as_reference: bool = False
    full_precision: bool = False
    draft_decoder: bool = False


PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        "reference": Preset(
            "as the reference implementation does it: 25 fps, no overlap of chunks, the whole face square blended",
            {"num_inference_steps": 20, "guidance_scale": 1.5},
            as_reference=True,
            full_precision=True,
        ),
        "quality": Preset("every step in full", {"scheduler": "ddim", "num_inference_steps": 25}),
        "balanced": Preset(
            "hardly to be told from quality, in a quarter of the time",
            {"scheduler": "dpmpp_2m", "num_inference_steps": 10, "cache_interval": 2},
        ),
        "fast": Preset(
            "for a look at a whole clip",
            {
                "scheduler": "dpmpp_2m",
                "num_inference_steps": 8,
                "cache_interval": 2,
                "guidance_interval": (0.0, 0.5),
                "chunk_overlap": 2,
            },
        ),
        "draft": Preset(
            "to see whether face and speech are the right ones",
            {
                "scheduler": "dpmpp_2m",
                "num_inference_steps": 5,
                "cache_interval": 2,
                "guidance_scale": 1.0,
                "chunk_overlap": 0,
            },
            draft_decoder=True,
        ),
    }
)


def apply_preset(options: LipSyncOptions, name: str, explicit: Collection[str] = ()) -> LipSyncOptions:
    """The options as the preset has them; the fields named in `explicit` keep their values.

    name: of PRESETS, or "custom", which changes nothing. Raises OptionError.
    """
    if name == CUSTOM:
        return options
    if name not in PRESETS:
        raise OptionError(f"preset is {name!r}; expected one of {', '.join([*PRESETS, CUSTOM])}")
    preset = PRESETS[name]
    changed = replace(options.as_reference() if preset.as_reference else options, **preset.options)
    if EDGE & set(explicit):
        changed = replace(changed, blend="mask")
    return replace(changed, **{name: getattr(options, name) for name in explicit})


def decide(
    values: Mapping[str, object],
    preset: str,
    *,
    explicit: Collection[str] | None = None,
    model_defaults: Mapping[str, object] = MappingProxyType({}),
    shown: LipSyncOptions | None = None,
) -> LipSyncOptions:
    """The options of a run, by one rule for all doors. Raises OptionError.

    What was set by hand wins over the preset, that over the model's own defaults, those over the table's. "custom"
    takes every value as it is given.

    values          fields of LipSyncOptions, as the door has them
    explicit        which of them were set by hand. None where a door cannot know, as its controls always have a value:
                    those that differ from what the controls begin with, `shown` or the table's defaults
    model_defaults  see ModelFiles
    """
    if explicit is None:
        begun = shown or LipSyncOptions()
        explicit = {name for name, value in values.items() if value != getattr(begun, name)}
    if preset != CUSTOM:
        values = {**values, **{name: value for name, value in model_defaults.items() if name not in explicit}}
    return apply_preset(LipSyncOptions(**values), preset, explicit)


def network_formats(preset: str, dtype: str = "auto", decoder: str = "auto") -> tuple[str, str]:
    """dtype and decoder for loading.load_model as the preset has them, where they are left to it ("auto")."""
    row = PRESETS.get(preset, Preset(""))
    return (
        "float32" if dtype == "auto" and row.full_precision else dtype,
        "vae" if decoder == "auto" and not row.draft_decoder else decoder,
    )


def decided_fields(name: str) -> dict[str, object]:
    """What a preset makes of the fields that were left at their defaults: {field: value}. Empty for "custom"."""
    if name == CUSTOM:
        return {}
    preset, options = PRESETS[name], apply_preset(LipSyncOptions(), name)
    default = LipSyncOptions()
    changed = {one.name for one in fields(options) if getattr(options, one.name) != getattr(default, one.name)}
    names = {*preset.options, *changed, *(EDGE if preset.as_reference else ())}
    return {name: getattr(options, name) for name in sorted(names)}
