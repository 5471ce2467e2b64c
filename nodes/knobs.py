"""Inputs that several nodes share, made from the table of settings (latentsync/options.py)."""

from ..latentsync import options
from ..latentsync.options import LipSyncOptions, Setting
from ..latentsync.presets import CUSTOM, DEFAULT_PRESET, PRESETS, decide, decided_fields
from .host import io

DEFAULTS = LipSyncOptions()
CATEGORY = "LatentSync"
PRESET_NAMES = [CUSTOM, *PRESETS]  # custom first: a graph saved before presets were there gives what it gave
SYNONYMS = ("dub", "dubbing", "talking", "talking head", "mouth", "wav2lip", "lipsync", "lip sync")


def check_choices(**given: str | tuple[str | None, list[str]] | None) -> bool | str:
    """For validate_inputs: True, or what is wrong with a value that is not in its list, as in a graph of an older pack.

    given: setting=value, or input=(value, its list) of what the table has not; a value is None where it comes by a
    link. ComfyUI does not look after the lists of V3 nodes itself, and shows the answer at each input that
    validate_inputs names, so it says which one is meant.
    """
    for name, told in given.items():
        value, known = told if isinstance(told, tuple) else (told, choices(name))
        if value is not None and value not in known:
            return f"{name} is {value!r}, which is not in its list; choose one of {', '.join(known)}"
    return True


def choices(name: str) -> list[str]:
    """What a setting of the table can be."""
    return list(options.SETTINGS[name].choices)


def advanced(shown):
    """The input, hidden until the user asks for the node's advanced ones (a right click, Show Advanced)."""
    return _with(shown, advanced=True)  # no argument of its own in the oldest host


def _with(shown, **told):
    """The input, of which the page is told more than the host knows."""
    shown.extra_dict = {**shown.extra_dict, **told}
    return shown


def knobs(*names: str, optional: bool = True, hidden: bool | None = None) -> list:
    """The inputs of these settings. hidden: among the advanced ones, as the table says unless given."""
    rows = [options.SETTINGS[name] for name in names]
    made = [knob(row, optional=optional) for row in rows]
    return [
        advanced(one) if (row.advanced if hidden is None else hidden) else one
        for row, one in zip(rows, made, strict=True)
    ]


def knob(row: Setting, name: str = "", *, optional: bool = True):
    """One input; name: where it is not the table's."""
    words = {"id": name or row.widget, "default": row.default, "tooltip": row.tooltip, "optional": optional}
    if row.choices:
        return io.Combo.Input(options=list(row.choices), **words)
    if row.kind is bool:
        return io.Boolean.Input(**words)
    if row.kind is str:
        return io.String.Input(**words | {"default": row.default or ""})
    low, high = map(row.kind, row.range or (row.low, row.high))
    if row.kind is int:
        more = {"control_after_generate": True} if row.name == "seed" else {}
        return io.Int.Input(min=low, max=high, **words, **more)
    return io.Float.Input(min=low, max=high, step=0.01, round=False, **words | {"default": row.default or 0.0})


def others(node: str, inputs: list) -> list:
    """What the table has for this kind of node ("file", "frames") and is not among the inputs yet."""
    shown = {one.id for one in inputs}
    rows = options.SETTINGS.items()
    return knobs(*(name for name, row in rows if node in row.nodes and row.widget not in shown))


def settings_of(inputs: dict) -> dict:
    """Values of inputs as fields of LipSyncOptions: 0 and an empty text are None where that is the default."""
    rows = {row.widget: row for row in options.SETTINGS.values()}
    return {rows[name].name: value or (rows[name].default and value) for name, value in inputs.items()}


def decided(preset: str, inputs: dict, model) -> tuple[LipSyncOptions, list[str]]:
    """The options of a run, and what to say of those that the model decided. model: a LipSyncModel."""
    values = settings_of(inputs)
    chosen = decide(values, preset, model_defaults=model.defaults)
    names = [name for name in model.defaults if values.get(name) == getattr(DEFAULTS, name) != getattr(chosen, name)]
    return chosen, [
        f"{name} is {getattr(chosen, name)}, the default of the model {model.name}, as {values[name]} was not "
        "changed: set another value, or the preset custom, which takes all values as they are"
        for name in names
        if getattr(chosen, name) == model.defaults[name]
    ]


def preset() -> io.Combo.Input:
    """The page hides the inputs that the chosen preset decides.

    New nodes begin with the command line's preset, but a prompt that names none means "custom", as it did before.
    """
    names = {row.name: row.widget for row in options.SETTINGS.values() if "frames" in row.nodes}
    decides = {
        choice: {names[field]: value for field, value in decided_fields(choice).items() if field in names}
        for choice in PRESET_NAMES
    }
    shown = io.Combo.Input(
        "preset",
        options=PRESET_NAMES,
        default=DEFAULT_PRESET,
        optional=True,
        tooltip="How much time is spent. balanced is hardly to be told from quality and much faster, fast and draft "
        "are for a look, reference does as the reference implementation. What a preset decides is hidden; custom shows "
        "it and does what steps, guidance_scale and the rest say. A value that you changed from its default stays "
        "visible and wins over the preset.",
    )
    return _with(shown, latentsync_decides=decides)


def guidance_interval() -> list:
    """Two inputs for one setting."""
    return [
        io.Float.Input(
            name,
            default=default,
            min=0.0,
            max=1.0,
            step=0.01,
            optional=True,
            tooltip=f"Where guidance {what}, as a share of the steps: 0 is the first step, 1 the end. Steps without "
            "guidance take half the time.",
        )
        for name, default, what in zip(
            ("guidance_start", "guidance_end"), DEFAULTS.guidance_interval, ("begins", "ends"), strict=True
        )
    ]


def fps(tooltip: str) -> io.Float.Input:
    row = options.SETTINGS["fps"]
    return io.Float.Input(
        "fps", default=25.0, min=float(row.low), max=float(row.high), step=0.001, round=False, tooltip=tooltip
    )
