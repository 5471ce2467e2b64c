"""What the arguments of the command line mean to the library."""

import argparse
import secrets
from collections.abc import Mapping
from dataclasses import fields

from ..errors import OptionError
from ..media.video_reader import exact_rate
from ..options import SETTINGS, LipSyncOptions
from ..presets import decide
from ..session import ModelChoice, RunRequest
from ..speakers import Speaker
from .arguments import check_speech


def request_of(arguments: argparse.Namespace, given: set[str]) -> RunRequest:
    """Return what is asked for. given: names of the explicit options. Raises OptionError, ModelNotFoundError."""
    models = models_of(arguments)
    return RunRequest(
        video_path=arguments.video_path,
        speakers=speakers_of(arguments, given),
        video_out_path=arguments.video_out_path,
        options=options_of(arguments, given, models.model_files().defaults),
        models=models,
        output_audio=arguments.output_audio,
        protect=arguments.protect,
        measure_opening=arguments.report is not None,
        keep_faces=not arguments.no_track_cache,
        job_dir=arguments.job_dir,
        resume=not arguments.no_resume,
        threads=arguments.threads,
    )


def models_of(arguments: argparse.Namespace) -> ModelChoice:
    """Return what is to be loaded."""
    values = {field.name: getattr(arguments, field.name) for field in fields(ModelChoice)}
    return ModelChoice.for_preset(arguments.preset, **values)


def options_of(
    arguments: argparse.Namespace, given: set[str], model_defaults: Mapping[str, object] | None = None
) -> LipSyncOptions:
    """Return the settings. model_defaults: see presets.decide."""
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


def speakers_of(arguments: argparse.Namespace, given: set[str]) -> tuple[Speaker, ...]:
    """Return who speaks what. Raises OptionError."""
    check_speech(arguments)
    if arguments.track and "face" in given:
        raise OptionError("--face goes with --audio_path; with --track the face stands before the =")
    tracks = arguments.track or [(arguments.face, arguments.audio_path)]
    return tuple(Speaker(path, face) for face, path in tracks)
