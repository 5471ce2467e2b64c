"""What the arguments of the command line mean to the library."""

import argparse
import secrets
from collections.abc import Mapping

from ..errors import OptionError
from ..media.video_reader import exact_rate
from ..options import SETTINGS, LipSyncOptions
from ..presets import decide
from ..speakers import Speaker
from .arguments import check_speech


def options_of(
    arguments: argparse.Namespace, given: set[str], model_defaults: Mapping[str, object] | None = None
) -> LipSyncOptions:
    """LipSyncOptions of the command line. model_defaults: see presets.decide."""
    rows = {row.option: row for row in SETTINGS.values() if row.group}
    values = {row.name: getattr(arguments, option) for option, row in rows.items()}
    values |= {row.name: values[row.name] != row.default for row in rows.values() if row.kind is bool}
    values["guidance_interval"] = tuple(arguments.guidance_interval)
    if arguments.fps is not None:
        values["fps"] = exact_rate(arguments.fps)
    if arguments.seed == -1:
        values["seed"] = secrets.randbelow(2**32)
    explicit = {rows[name].name for name in given & rows.keys()}
    return decide(values, arguments.preset, explicit=explicit, model_defaults=model_defaults or {})


def speakers_of(arguments: argparse.Namespace, given: set[str]) -> list[Speaker]:
    """The Speakers of the command line. Raises OptionError."""
    check_speech(arguments)
    if arguments.track and "face" in given:
        raise OptionError("--face goes with --audio_path; with --track the face stands before the =")
    tracks = arguments.track or [(arguments.face, arguments.audio_path)]
    return [Speaker(path, face) for face, path in tracks]
