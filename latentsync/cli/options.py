"""What the arguments of the command line mean to the library."""

import argparse
import secrets
from dataclasses import replace

from ..errors import OptionError
from ..media.video_reader import exact_rate
from ..options import LipSyncOptions
from ..speakers import Speaker


def options_of(arguments: argparse.Namespace, given: set[str]) -> LipSyncOptions:
    """LipSyncOptions of the command line; an explicit option wins over the preset."""
    seed = arguments.seed
    if seed == -1:
        seed = secrets.randbelow(2**32)
    options = LipSyncOptions(
        num_inference_steps=arguments.inference_steps,
        guidance_scale=arguments.guidance_scale,
        seed=seed,
        mask_smooth=arguments.mask_smooth,
        start=arguments.start,
        duration=arguments.duration,
        length=arguments.length,
        tail=arguments.tail,
        audio_offset_ms=arguments.audio_offset_ms,
        silence=arguments.silence,
        fade=arguments.fade,
        max_yaw=arguments.max_yaw,
        mask_shape=arguments.mask_shape,
        blend_method=arguments.blend_method,
        sr_ratio=arguments.sr_ratio,
        sr_strength=arguments.sr_strength,
    )
    if arguments.preset == "reference":
        options = options.as_reference()
    if "fps" in given:
        options = replace(options, fps=exact_rate(arguments.fps))
    if given & {"mask_smooth", "mask_shape", "blend_method"}:
        options = replace(options, blend="mask")  # the reference's blending has no such edge
    kept = given & {"silence", "fade", "max_yaw", "mask_shape", "blend_method"}
    return replace(options, **{name: getattr(arguments, name) for name in kept})


def speakers_of(arguments: argparse.Namespace, given: set[str]) -> list[Speaker]:
    """The Speakers of the command line. Raises OptionError."""
    if bool(arguments.track) == bool(arguments.audio_path):
        raise OptionError("give either --audio_path with one speech, or --track WHICH=FILE for each person")
    if arguments.track and "face" in given:
        raise OptionError("--face goes with --audio_path; with --track the face stands before the =")
    tracks = arguments.track or [(arguments.face, arguments.audio_path)]
    return [Speaker(path, face) for face, path in tracks]
