"""The options of the command line, as argparse knows them. Quick to import: `--help` loads neither torch nor numpy."""

import argparse
from collections.abc import Collection
from fractions import Fraction
from pathlib import Path

from .. import presets
from ..commands import OptionParser
from ..errors import AudioError, OptionError
from ..given_paths import (
    CHECKPOINTS,
    PICTURES,
    check_input,
    check_model,
    check_there,
    given_path,
    path_or_word,
    similar,
)
from ..model_files import find_restorer
from ..options import SETTINGS, Setting

BATCH_OPTIONS = {"batch", "results", "engine", "workers", "ray_address"}
OWN_OF_A_RUN = {"video_path", "audio_path", "track", "video_out_path", "report"}  # no two runs share them
PRESETS = tuple(presets.PRESETS)


def build_parser() -> argparse.ArgumentParser:
    parser = OptionParser(
        prog="main.py",
        description="Make the person in a video speak another speech.",
        epilog="Exit codes: 0 done, 1 failed (the reason is on standard error), 2 wrong arguments, 130 interrupted, "
        "143 terminated.",
    )
    files = parser.add_argument_group("files")
    files.add_argument("--video_path", type=given_path, help="video of someone talking")
    files.add_argument("--audio_path", type=given_path, help="speech: an audio file, or a video with sound")
    files.add_argument("--video_out_path", type=given_path, help="result (.mp4, .mov, .mkv, .webm)")
    files.add_argument(
        "--report",
        type=given_path,
        metavar="FILE.json",
        help="write a report: settings, versions, times, and for each frame the face, its yaw, the mouth's "
        "opening, voice or pause; and a picture of it (FILE.png)",
    )
    files.add_argument(
        "--output_audio",
        type=given_path,
        metavar="FILE",
        help="sound of the result instead of the speech, which then only moves the lips (vocals move the lips,"
        " the mix is heard); cut or followed by silence to fit the result",
    )
    files.add_argument(
        "--sync_score",
        type=path_or_word,
        default="auto",
        metavar="auto|off|FILE",
        help="SyncNet that scores for the report how well lips and sound match in the first 20 s: auto takes "
        "the bundled one for the bundled model, else stable_syncnet.pt in --checkpoints if it is there "
        "(default: auto)",
    )
    add_settings(files, "marking", "visible_mark")
    files.add_argument(
        "--job_dir",
        type=given_path,
        metavar="FOLDER",
        help="where to keep the work of unfinished runs, so that the same command continues after an "
        "interruption (default: jobs in the user's cache folder)",
    )
    files.add_argument(
        "--no_resume", action="store_true", help="start from the beginning, even if the same run was interrupted before"
    )
    faces = parser.add_argument_group("faces")
    faces.add_argument(
        "--face",
        type=path_or_word,
        default="largest",
        metavar="WHICH",
        help="whose lips speak --audio_path: largest, left, right, centre, all, a number (0 is the largest face of the "
        "clip), a point x,y in the picture, or the path of a picture of the person (default: largest)",
    )
    faces.add_argument(
        "--track",
        type=parse_track,
        action="append",
        default=[],
        metavar="WHICH=FILE",
        help="instead of --audio_path, once for each person: --track left=a.wav --track right=b.wav. All are heard",
    )
    add_settings(faces, "fade", "max_yaw")
    faces.add_argument(
        "--no_track_cache",
        action="store_true",
        help="find the faces again instead of taking them from the user's cache folder, where an earlier run "
        "on the same video left them",
    )
    times = parser.add_argument_group("time")
    add_settings(times, "length", "tail", "audio_offset_ms", "silence", "fps", "start", "duration")
    quality = parser.add_argument_group("generation")
    quality.add_argument(
        "--preset",
        choices=PRESETS,
        default=presets.DEFAULT_PRESET,
        help="how much time to spend: sets the six options below; reference also sets --dtype and more, to do "
        "what the reference implementation does. An explicit option wins. Compared in docs/performance.md"
        f" (default: {presets.DEFAULT_PRESET})",
    )
    add_settings(quality, "num_inference_steps", "guidance_scale", "guidance_interval", "scheduler", "cache_interval")
    add_settings(quality, "chunk_overlap", "seed", "mask_smooth", "mask_shape", "blend_method")
    quality.add_argument(
        "--protect",
        type=given_path,
        metavar="FILE",
        help="picture, or video as long as the source, that is white where the source must stay (a hand, a microphone)",
    )
    quality.add_argument(
        "--superres",
        type=path_or_word,
        default="none",
        metavar="NAME",
        help="restore the generated face: none, GFPGAN, CodeFormer, tiny (bundled, for drawn faces), or the file of "
        "any restoration or upscale model that spandrel reads (default: none)",
    )
    quality.add_argument(
        "--sr_backend",
        choices=["spandrel", "package"],
        default="spandrel",
        help="library that builds the network of GFPGAN or CodeFormer: spandrel, or the authors' own package "
        "(gfpgan, codeformer-pip), which must be installed; the results are the same (default: spandrel)",
    )
    add_settings(quality, "sr_ratio", "sr_strength")
    quality.add_argument(
        "--codeformer_fidelity",
        type=float,
        default=0.5,
        help="CodeFormer: from 0 (most restored) to 1 (most faithful) (default: 0.5)",
    )
    model = parser.add_argument_group("model")
    model.add_argument(
        "--model",
        type=path_or_word,
        help="'tiny' (bundled), a U-Net file or a folder (default: the one in --checkpoints if there, else tiny)",
    )
    model.add_argument(
        "--checkpoints",
        type=given_path,
        default=CHECKPOINTS,
        help="folder of released models (default: checkpoints)",
    )
    model.add_argument(
        "--resolution",
        type=int,
        help="side of the face that the model works at, e.g. 256 or 512 px (default: what the model says)",
    )
    model.add_argument(
        "--lora", type=given_path, metavar="FILE", help="adapter of one speaker, made by training_scripts.train_lora"
    )
    model.add_argument(
        "--lora_strength",
        type=float,
        default=1.0,
        help="strength of --lora, from 0 (none) to 1 (as trained) (default: 1)",
    )
    model.add_argument(
        "--device", default="auto", help="where the networks run: auto, cpu, cuda, cuda:1, mps (default: auto)"
    )
    model.add_argument(
        "--dtype",
        default="auto",
        choices=["auto", "float32", "bfloat16", "float16"],
        help="number format of the networks (default: auto)",
    )
    model.add_argument(
        "--decoder",
        default="auto",
        choices=["auto", "vae", "draft"],
        help="decoder of the latents: the VAE, or the small draft decoder in checkpoints/taesd; auto takes the"
        " small one for --preset draft if it is there (default: auto)",
    )
    model.add_argument(
        "--low_memory",
        default="none",
        choices=["none", "fp8", "offload"],
        help="fp8 keeps the U-Net's weights in 8 bits, offload copies them to the GPU layer by layer; both run"
        " the VAE on one picture at a time (default: none)",
    )
    model.add_argument(
        "--threads",
        type=int,
        metavar="N",
        help="CPU threads of all networks (default: one; large networks on the CPU use one for each core, or "
        "OMP_NUM_THREADS)",
    )
    model.add_argument(
        "--det_model", type=given_path, help="optional InsightFace det_10g.onnx, used with --landmark_model"
    )
    model.add_argument("--landmark_model", type=given_path, help="optional InsightFace 2d106det.onnx")
    batch = parser.add_argument_group("many runs")
    batch.add_argument(
        "--batch",
        type=given_path,
        metavar="JOBS.csv",
        help="make every result of a table, one run per row. Columns are named like these options (video_path,"
        " audio_path, video_out_path and any other) and win over the command line; paths are relative to "
        "the table's folder. Started again, it continues where it stopped",
    )
    batch.add_argument(
        "--results",
        type=given_path,
        metavar="FILE.json",
        help="where to write the outcome of each row, also as a table (.csv); read again to continue (default:"
        " JOBS.results.json beside the job file)",
    )
    batch.add_argument(
        "--engine",
        choices=["local", "ray"],
        default="local",
        help="what runs --batch: this process, or Ray on this machine or a cluster (default: local)",
    )
    batch.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="workers of --engine ray, each of which loads the model once (default: one for each GPU, else one"
        " for each machine)",
    )
    batch.add_argument(
        "--ray_address",
        metavar="ADDRESS",
        help="address of a running Ray cluster, or auto (default: start Ray on this machine)",
    )
    for group in parser._action_groups:  # settings that have no place of their own above
        options = parser._option_string_actions
        add_settings(group, *(n for n, row in SETTINGS.items() if row.group == group.title and row.flag not in options))
    talk = parser.add_mutually_exclusive_group()
    talk.add_argument("--quiet", action="store_true", help="show errors only")
    talk.add_argument("--verbose", action="store_true", help="also show log messages of libraries and stack traces")
    return parser


def add_settings(group: argparse._ArgumentGroup, *names: str) -> None:
    """Add the rows of the table of settings that have these names."""
    for row in map(SETTINGS.get, names):
        group.add_argument(row.flag, help=row.help + default_words(row), **argparse_words(row))


def argparse_words(row: Setting) -> dict:
    """What argparse is to know of a setting beside its name and help."""
    if row.kind is bool:
        return {"action": "store_true"}
    words = {"default": row.default, "type": {Fraction: parse_fps}.get(row.kind, row.kind)}
    if row.choices:
        return words | {"choices": row.choices}
    if row.name == "sr_ratio":
        return words | {"choices": range(int(row.low), int(row.high) + 1)}
    metavar = tuple(row.unit.upper().split())
    if len(metavar) == 2:
        return words | {"type": float, "nargs": 2, "metavar": metavar}
    return words | ({"metavar": metavar[0]} if metavar else {})


def default_words(row: Setting) -> str:
    """The default in brackets, but for what presets decide."""
    default = row.nothing if row.default is None else row.default
    if row.kind is bool or default == "" or any(row.name in preset.options for preset in presets.PRESETS.values()):
        return ""
    return f" (default: {default:g})" if isinstance(default, float) else f" (default: {default})"


def parse_fps(text: str) -> Fraction:
    """ "25", "29.97" or "30000/1001"; raises argparse's error for anything else."""
    try:
        rate = Fraction(text)
    except (ValueError, ZeroDivisionError) as error:
        raise argparse.ArgumentTypeError(f"expected a number such as 25 or 30000/1001, got {text!r}") from error
    if rate <= 0:
        raise argparse.ArgumentTypeError(f"expected more than 0 frames per second, got {text!r}")
    return rate


def parse_track(text: str) -> tuple[str, Path]:
    """ "0=a.wav" -> ("0", a.wav); raises argparse's error for anything else."""
    face, equals, path = text.partition("=")
    if not (face and equals and path):
        raise argparse.ArgumentTypeError(f"expected a face and its speech, such as 0=a.wav or left=a.wav, got {text!r}")
    return path_or_word(face), given_path(path)


def parse(argv: list[str]) -> tuple[argparse.Namespace, set[str]]:
    """The arguments, and the names of the options that were given, whatever their value. Exits as argparse does."""
    parser = build_parser()
    arguments, given = parser.parse_args(argv), explicit_options(argv)
    if arguments.batch is None:
        if missing := [name for name in ("video_path", "video_out_path") if name not in given]:
            parser.error(f"the following arguments are required: {', '.join(f'--{name}' for name in missing)}")
        if idle := sorted(given & BATCH_OPTIONS):
            parser.error(f"--{idle[0]} goes with --batch JOBS.csv")
    else:
        if own := sorted(given & OWN_OF_A_RUN):
            parser.error(f"--{own[0]} is of one run: with --batch it is a column of the job file")
        if idle := sorted(given & {"workers", "ray_address"} if arguments.engine != "ray" else ()):
            parser.error(f"--{idle[0]} goes with --engine ray")
    return arguments, given


def check_inputs(arguments: argparse.Namespace, given: Collection[str] = ()) -> None:
    """See that the files of one run are there, before the seconds that torch takes to load.

    Raises MediaError, ModelNotFoundError, and OptionError where not one way to give the speech was chosen.
    """
    check_speech(arguments)
    check_input(arguments.video_path)
    sounds = (arguments.audio_path, *(file for _, file in arguments.track), arguments.output_audio)
    for sound in filter(None, sounds):
        check_input(sound, AudioError)
    if arguments.protect is not None:
        check_input(arguments.protect)
    for face in (arguments.face, *(face for face, _ in arguments.track)):
        if Path(face).suffix.lower() in PICTURES:
            check_there(face, "picture of the person", OptionError)
    check_model(arguments.model)
    if (arguments.det_model is None) != (arguments.landmark_model is None):
        raise OptionError("--det_model and --landmark_model belong together: give both or neither")
    for option in ("lora", "det_model", "landmark_model"):
        if (path := getattr(arguments, option)) is not None:
            check_there(path, f"file for --{option}")
    if "checkpoints" in given and not arguments.checkpoints.is_dir():
        raise OptionError(
            f"--checkpoints {arguments.checkpoints} is not a folder; expected the one with the models. "
            f"{similar(arguments.checkpoints)}".rstrip()
        )
    if arguments.superres != "none":
        find_restorer(arguments.superres, [arguments.checkpoints])
    if arguments.report is not None and arguments.sync_score not in ("auto", "off"):
        check_there(arguments.sync_score, "SyncNet for --sync_score (auto, off or a file)", OptionError)


def check_speech(arguments: argparse.Namespace) -> None:
    """See that one speech is given or some are, not both. Raises OptionError."""
    if bool(arguments.track) == bool(arguments.audio_path):
        raise OptionError("give either --audio_path with one speech, or --track WHICH=FILE for each person")


def explicit_options(argv: list[str]) -> set[str]:
    """Names of the options that were given, whatever their value."""
    return set(vars(sparse_parser().parse_args(argv)))


def sparse_parser() -> argparse.ArgumentParser:
    """One that tells what is given and nothing else, and requires nothing."""
    parser = build_parser()
    for action in parser._actions:
        action.default = argparse.SUPPRESS
    return parser
