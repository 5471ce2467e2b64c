"""The options of gradio_app.py, and what it says when it starts."""

import argparse
import logging
import os
import sys
import threading

from latentsync.commands import DONE, FAILED, OptionParser, clean_stops, complain
from latentsync.errors import OptionError
from latentsync.given_paths import given_path, path_or_word

from .settings import AppSettings, Limits

LOCAL, EVERYWHERE = "127.0.0.1", "0.0.0.0"  # noqa: S104 (only with --listen, with a warning)
DEFAULTS, LIMITS = AppSettings(), Limits()
NO_GRADIO = 'gradio is not installed. In the environment: python -m pip install "gradio>=6.31,<7"'
WHO = {
    "local": "Only this computer can open the page.",
    "listen": "WARNING: every computer that reaches this one can open the page and use this one for it; there is no "
    "password, and nothing is encrypted. Recording works on this computer only: browsers want https for it.",
    "share": "WARNING: the page is on the internet: everyone who has the public address can use this computer for it, "
    "and what is uploaded goes through the servers of Gradio's makers. The address ends with this program.",
}


def build_parser() -> argparse.ArgumentParser:
    parser = OptionParser(
        prog="gradio_app.py", description="Lip-sync in the browser. Only this computer can open the page unless asked."
    )
    parser.add_argument(
        "--enable_sr", action="store_true", help="offer super-resolution of the generated face (GFPGAN, CodeFormer, ..)"
    )
    parser.add_argument("--port", type=int, default=7860, help="default: 7860; 0: the first free one from there on")
    parser.add_argument(
        "--listen",
        nargs="?",
        const=EVERYWHERE,
        metavar="ADDRESS",
        help="let other computers open the page, over this address of the machine (default: all of them)",
    )
    parser.add_argument(
        "--share", action="store_true", help="a public address on the internet, by the servers of Gradio's makers"
    )
    model = parser.add_argument_group("model")
    model.add_argument(
        "--model",
        type=path_or_word,
        help="a U-Net file or a folder, offered beside those in --checkpoints and the bundled one",
    )
    model.add_argument(
        "--checkpoints", type=given_path, default=DEFAULTS.checkpoints, help="folder of models (default: checkpoints)"
    )
    model.add_argument("--device", default=DEFAULTS.device, help="auto, cpu, cuda, cuda:1, mps (default: auto)")
    model.add_argument(
        "--dtype", default=DEFAULTS.dtype, choices=["auto", "float32", "bfloat16", "float16"], help="default: auto"
    )
    model.add_argument(
        "--low_memory", default=DEFAULTS.low_memory, choices=["none", "fp8", "offload"], help="as of main.py"
    )
    files = parser.add_argument_group("files and limits")
    files.add_argument(
        "--output",
        type=given_path,
        default=DEFAULTS.folder,
        metavar="FOLDER",
        help="of uploads and results (default: output/gradio)",
    )
    files.add_argument(
        "--keep_hours",
        type=positive,
        default=DEFAULTS.keep_hours,
        metavar="H",
        help="remove uploads and results after so long (default: 24)",
    )
    files.add_argument(
        "--max_upload_mb", type=positive, default=LIMITS.upload_mb, metavar="MB", help="of a file (default: 500)"
    )
    files.add_argument(
        "--max_seconds", type=positive, default=LIMITS.seconds, metavar="S", help="of a video or speech (default: 600)"
    )
    files.add_argument(
        "--max_side", type=positive, default=LIMITS.side, metavar="PX", help="of a picture (default: 4096)"
    )
    files.add_argument(
        "--max_waiting", type=int, default=LIMITS.waiting, metavar="N", help="runs behind the one at work (default: 8)"
    )
    parser.add_argument("--verbose", action="store_true", help="also what the libraries log, and stack traces")
    return parser


def positive(text: str) -> float:
    """A number above 0; raises argparse's error for anything else."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {text!r}")
    return value


def settings_of(arguments: argparse.Namespace) -> AppSettings:
    limits = Limits(
        upload_mb=max(1, round(arguments.max_upload_mb)),
        seconds=arguments.max_seconds,
        side=round(arguments.max_side),
        waiting=max(0, arguments.max_waiting),
    )
    return AppSettings(
        folder=arguments.output.absolute(),
        keep_hours=arguments.keep_hours,
        checkpoints=arguments.checkpoints.absolute(),
        model=arguments.model,
        device=arguments.device,
        dtype=arguments.dtype,
        low_memory=arguments.low_memory,
        enable_sr=arguments.enable_sr,
        limits=limits,
    )


def main(argv: list[str] | None = None) -> int:
    """Serve until interrupted; returns the exit code."""
    arguments = build_parser().parse_args(argv)
    logging.basicConfig(
        level=logging.DEBUG if arguments.verbose else logging.WARNING, format="%(levelname)s: %(message)s"
    )
    # Read by Gradio when it is imported or launched: it tells its makers nothing, and asks them for no newer version.
    os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_DISABLE_TELEMETRY": "1", "DO_NOT_TRACK": "1"}
    for name in ("GRADIO_ALLOWED_PATHS", "GRADIO_SHARE", "GRADIO_ROOT_PATH", "GRADIO_NUM_WORKERS"):
        os.environ.pop(name, None)  # only what was asked for here counts
    try:
        from .app import build  # seconds, for torch and all that stands on it
    except ModuleNotFoundError as error:
        if error.name != "gradio":
            return complain(error, arguments.verbose)
        print(f"error: {NO_GRADIO}", file=sys.stderr)
        return FAILED
    except Exception as error:  # a package that does not load may raise anything
        return complain(error, arguments.verbose)
    try:
        with clean_stops():
            serve(build(settings_of(arguments)), arguments)
    except KeyboardInterrupt:
        return DONE
    except Exception as error:
        return complain(error, arguments.verbose)
    return DONE


def serve(app, arguments: argparse.Namespace) -> None:
    """Until interrupted. Raises OptionError where the address or port cannot be had."""
    address, port = arguments.listen or LOCAL, arguments.port
    try:
        try:
            here, public = app.launch(address, port or None, arguments.share)
        except OSError as error:
            raise OptionError(
                f"{address}, port {port or 'any'}, cannot be used: another program may have it. Choose another with "
                "--port N; --port 0 takes the first free one"
            ) from error
        print(f"Open {here} in a browser; Ctrl-C ends it.", flush=True)
        print(WHO["listen" if arguments.listen else "local"] if not public else WHO["share"], flush=True)
        if arguments.share:
            print(f"Public address: {public or 'could not be made, see above'}", flush=True)
        print(f"Uploads and results: {app.settings.folder}, removed after {app.settings.keep_hours:g} h", flush=True)
        threading.Event().wait()
    finally:
        app.close()
