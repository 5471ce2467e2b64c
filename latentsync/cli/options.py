"""What the arguments of the command line mean to the library."""

import argparse
import secrets
from dataclasses import fields

from ..errors import OptionError
from ..media.video_reader import exact_rate
from ..options import LipSyncOptions
from ..presets import apply_preset
from ..speakers import Speaker
from .arguments import check_speech


def options_of(arguments: argparse.Namespace, given: set[str]) -> LipSyncOptions:
    """LipSyncOptions of the command line; an explicit option wins over the preset."""
    known = {field.name for field in fields(LipSyncOptions)}
    values = {field_of(name): value for name, value in vars(arguments).items() if field_of(name) in known}
    values["guidance_interval"] = tuple(arguments.guidance_interval)
    values["marking"] = not arguments.no_marking
    if arguments.fps is not None:
        values["fps"] = exact_rate(arguments.fps)
    if arguments.seed == -1:
        values["seed"] = secrets.randbelow(2**32)
    return apply_preset(LipSyncOptions(**values), arguments.preset, {field_of(name) for name in given} & known)


def field_of(name: str) -> str:
    """The field of LipSyncOptions that an option sets, if there is one."""
    return {"inference_steps": "num_inference_steps"}.get(name, name)


def speakers_of(arguments: argparse.Namespace, given: set[str]) -> list[Speaker]:
    """The Speakers of the command line. Raises OptionError."""
    check_speech(arguments)
    if arguments.track and "face" in given:
        raise OptionError("--face goes with --audio_path; with --track the face stands before the =")
    tracks = arguments.track or [(arguments.face, arguments.audio_path)]
    return [Speaker(path, face) for face, path in tracks]
