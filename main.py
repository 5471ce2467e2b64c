"""Lip-sync a video to a speech from the command line.

Exit codes: 0 done, 1 the work failed (message on standard error), 2 wrong arguments, 130 interrupted.
"""

import argparse
import logging
import sys
from fractions import Fraction
from pathlib import Path

ROOT = Path(__file__).resolve().parent
FAILED, INTERRUPTED = 1, 130


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="main.py",
        description="Make the person in a video speak another speech.",
        epilog="Exit codes: 0 done, 1 failed (the reason is on standard error), 2 wrong arguments, 130 interrupted.",
    )
    files = parser.add_argument_group("files")
    files.add_argument("--video_path", type=Path, required=True, help="video of someone talking")
    files.add_argument("--audio_path", type=Path, required=True, help="speech: an audio file, or a video with sound")
    files.add_argument("--video_out_path", type=Path, required=True, help="result (.mp4, .mov, .mkv, .webm)")
    quality = parser.add_argument_group("generation")
    quality.add_argument("--inference_steps", type=int, default=25, help="denoising steps, 1 to 999 (default: 25)")
    quality.add_argument(
        "--guidance_scale",
        type=float,
        default=1.5,
        help="weight of the speech, usually 1 to 3; 1 is twice as fast (default: 1.5)",
    )
    quality.add_argument(
        "--seed", type=int, default=1247, help="same seed, same result (default: 1247); -1: a random one"
    )
    quality.add_argument(
        "--mask_smooth", type=float, default=0.5, help="edge of the new part: 0 hard to 1 wide feather (default: 0.5)"
    )
    quality.add_argument(
        "--superres",
        choices=["none", "GFPGAN", "CodeFormer"],
        default="none",
        help="restore the generated face (default: none)",
    )
    quality.add_argument(
        "--sr_ratio", type=int, choices=[1, 2, 3, 4], default=2, help="working size of --superres (default: 2)"
    )
    quality.add_argument(
        "--preset",
        choices=["default", "reference"],
        default="default",
        help="reference: reproduce the reference implementation (25 fps, 16-frame chunks without overlap, sampled posteriors, "
        "whole face square blended); explicit options win over it",
    )
    quality.add_argument(
        "--fps", type=parse_fps, help="output frame rate, e.g. 25 or 30000/1001 (default: the source's own)"
    )
    quality.add_argument("--start", type=float, default=0.0, help="preview: begin here, in seconds (default: 0)")
    quality.add_argument("--duration", type=float, help="preview: length in seconds (default: the whole speech)")
    model = parser.add_argument_group("model")
    model.add_argument(
        "--model",
        help="'tiny' (bundled), a U-Net file or a folder (default: checkpoints/latentsync_unet.pt if there, else tiny)",
    )
    model.add_argument(
        "--checkpoints",
        type=Path,
        default=ROOT / "checkpoints",
        help="folder of released models (default: checkpoints)",
    )
    model.add_argument(
        "--resolution", type=int, help="face side the model works at, e.g. 256 or 512 (default: told by the model)"
    )
    model.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps (default: auto)")
    model.add_argument(
        "--dtype", default="auto", choices=["auto", "float32", "bfloat16", "float16"], help="default: auto"
    )
    model.add_argument("--det_model", type=Path, help="optional InsightFace det_10g.onnx, used with --landmark_model")
    model.add_argument("--landmark_model", type=Path, help="optional InsightFace 2d106det.onnx")
    talk = parser.add_mutually_exclusive_group()
    talk.add_argument("--quiet", action="store_true", help="only errors")
    talk.add_argument("--verbose", action="store_true", help="also what the libraries log, and stack traces")
    return parser


def parse_fps(text: str) -> Fraction:
    """ "25", "29.97" or "30000/1001"; raises argparse's error for anything else."""
    try:
        rate = Fraction(text)
    except (ValueError, ZeroDivisionError) as error:
        raise argparse.ArgumentTypeError(f"expected a number such as 25 or 30000/1001, got {text!r}") from error
    if rate <= 0:
        raise argparse.ArgumentTypeError(f"expected more than 0 frames per second, got {text!r}")
    return rate


def explicit_options(argv: list[str]) -> set[str]:
    """Names of the options that were given, whatever their value."""
    parser = build_parser()
    for action in parser._actions:
        action.default = argparse.SUPPRESS
        action.required = False
    return set(vars(parser.parse_args(argv)))


def options_of(arguments: argparse.Namespace, given: set[str]):
    """LipSyncOptions of the command line; an explicit option wins over the preset."""
    from dataclasses import replace

    from latentsync.media.video_reader import exact_rate
    from latentsync.options import LipSyncOptions

    seed = arguments.seed
    if seed == -1:
        import secrets

        seed = secrets.randbelow(2**32)
    options = LipSyncOptions(
        num_inference_steps=arguments.inference_steps,
        guidance_scale=arguments.guidance_scale,
        seed=seed,
        mask_smooth=arguments.mask_smooth,
        start=arguments.start,
        duration=arguments.duration,
    )
    if arguments.preset == "reference":
        options = options.as_reference()
    if "fps" in given:
        options = replace(options, fps=exact_rate(arguments.fps))
    return options


def make_detector(arguments: argparse.Namespace):
    """The detector the user asked for; None for the built-in one."""
    from latentsync.errors import OptionError

    if arguments.det_model is None and arguments.landmark_model is None:
        return None
    if arguments.det_model is None or arguments.landmark_model is None:
        raise OptionError("--det_model and --landmark_model belong together: give both or neither")
    from latentsync.faces.onnx import InsightFaceDetector

    return InsightFaceDetector(arguments.det_model, arguments.landmark_model)


def run(arguments: argparse.Namespace, given: set[str]) -> None:
    """Check everything that can be checked, then load, then work."""
    from latentsync.errors import OptionError
    from latentsync.media.output_file import check_output

    if arguments.superres != "none":
        raise OptionError(f"--superres {arguments.superres} is not built in yet; leave it out or give --superres none")
    options = options_of(arguments, given)
    detector = make_detector(arguments)
    check_output(arguments.video_out_path, (arguments.video_path, arguments.audio_path))
    from latentsync.engine import lip_sync
    from latentsync.media.audio_reader import probe_audio
    from latentsync.media.video_reader import probe_video
    from latentsync.models import choose_device, choose_dtype, find_model, load_model

    probe_video(arguments.video_path)
    probe_audio(arguments.audio_path)
    say = (lambda text: None) if arguments.quiet else (lambda text: print(text, file=sys.stderr))
    device = choose_device(arguments.device)
    files = find_model(arguments.model, arguments.checkpoints)
    model = load_model(
        files, device=device, dtype=choose_dtype(arguments.dtype, device), resolution=arguments.resolution
    )
    say(
        f"model: {model.name} ({files.unet}), {model.resolution} px, {device}, {str(model.dtype).removeprefix('torch.')}"
    )
    for warning in model.warnings:
        say(f"warning: {warning}")
    bar = None if arguments.quiet else ProgressBar()
    try:
        report = lip_sync(
            arguments.video_path,
            arguments.audio_path,
            arguments.video_out_path,
            model,
            options,
            detector=detector,
            on_progress=bar,
        )
    finally:
        if bar is not None:
            bar.close()
    for warning in report.warnings[len(model.warnings) :]:
        say(f"warning: {warning}")
    unchanged = report.num_frames - report.num_faces
    note = f", {unchanged} without a face left as they were" if unchanged else ""
    say(f"{report.num_frames} frames in {report.seconds:.1f} s{note}, seed {options.seed}")
    if not arguments.quiet:
        print(report.path)


class ProgressBar:
    """A bar with frames per second and time left, on standard error."""

    def __init__(self):
        from tqdm import tqdm

        self._bar = tqdm(unit="frame", dynamic_ncols=True, file=sys.stderr)

    def __call__(self, progress) -> None:
        self._bar.total = progress.frames_total
        if progress.step:
            self._bar.set_postfix_str(f"step {progress.step}/{progress.num_steps}", refresh=False)
        self._bar.update(progress.frames_done - self._bar.n)

    def close(self) -> None:
        self._bar.close()


def main(argv: list[str] | None = None) -> int:
    """Run and return the exit code."""
    argv = sys.argv[1:] if argv is None else argv
    arguments = build_parser().parse_args(argv)
    logging.basicConfig(
        level=logging.DEBUG if arguments.verbose else logging.ERROR if arguments.quiet else logging.WARNING,
        format="%(levelname)s: %(message)s",
    )
    try:
        run(arguments, explicit_options(argv))
    except KeyboardInterrupt:
        print("interrupted; no file was written", file=sys.stderr)
        return INTERRUPTED
    except Exception as error:
        from latentsync.errors import LatentSyncError

        if arguments.verbose or not isinstance(error, LatentSyncError | OSError | MemoryError):
            logging.exception("stopped")
        print(f"error: {error or type(error).__name__}", file=sys.stderr)
        return FAILED
    return 0


if __name__ == "__main__":
    sys.exit(main())
