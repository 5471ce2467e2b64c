"""Lip-sync a video to a speech from the command line.

Exit codes: 0 done, 1 the work failed (message on standard error), 2 wrong arguments, 130 interrupted (Ctrl-C), 143
terminated. Unless it is 0, no file was written, but for the video where only its report could not be.
"""

import argparse
import contextlib
import logging
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

ROOT = Path(__file__).resolve().parent
BLEND_METHOD = "feather"  # LipSyncOptions' own, which is not imported for --help
FAILED, WRONG_ARGUMENTS, KILLED = 1, 2, 128  # KILLED plus the signal's number
OUT_OF_MEMORY = "not enough memory. Close other programs, or try a shorter --duration, --dtype float16 or --device cpu"


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="main.py",
        description="Make the person in a video speak another speech.",
        epilog="Exit codes: 0 done, 1 failed (the reason is on standard error), 2 wrong arguments, 130 interrupted, "
        "143 terminated.",
    )
    files = parser.add_argument_group("files")
    files.add_argument("--video_path", type=Path, required=True, help="video of someone talking")
    files.add_argument("--audio_path", type=Path, help="speech: an audio file, or a video with sound")
    files.add_argument("--video_out_path", type=Path, required=True, help="result (.mp4, .mov, .mkv, .webm)")
    files.add_argument(
        "--report",
        type=Path,
        metavar="FILE.json",
        help="also write what happened: settings, versions, times, and for each frame the face, its yaw, the mouth's "
        "opening, voice or pause; with a picture of it beside (FILE.png)",
    )
    files.add_argument(
        "--output_audio",
        type=Path,
        metavar="FILE",
        help="sound of the result in place of the speech, which then only moves the lips (vocals drive, the mix is "
        "heard); cut off or followed by silence where it is not as long as the result",
    )
    files.add_argument(
        "--sync_score",
        default="auto",
        metavar="auto|off|FILE",
        help="let the report tell how the lips go with the sound, as a SyncNet sees the first 20 s: auto takes the "
        "bundled one for the bundled model, else stable_syncnet.pt of --checkpoints if it is there (default: auto)",
    )
    faces = parser.add_argument_group("faces")
    faces.add_argument(
        "--face",
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
        help="in place of --audio_path, once for each person: --track left=a.wav --track right=b.wav. All are heard",
    )
    faces.add_argument(
        "--fade",
        type=float,
        default=0.16,
        metavar="SECONDS",
        help="a face that is lost, covered, tiny or turned away gives way to the source this gently (default: 0.16)",
    )
    faces.add_argument(
        "--max_yaw", type=float, default=60.0, metavar="DEGREES", help="faces turned further stay (default: 60)"
    )
    faces.add_argument(
        "--no_track_cache",
        action="store_true",
        help="find the faces anew; else a second speech on the same video takes them from the user's cache folder",
    )
    times = parser.add_argument_group("time")
    times.add_argument(
        "--length",
        choices=["bounce", "loop", "hold", "trim", "speed"],
        default="bounce",
        help="a video shorter than the speech: bounce goes back and forth, loop begins again, hold stands still at the "
        "last frame, trim ends the result there; speed makes the video slower or faster, so that it lasts as long as "
        "the speech (default: bounce)",
    )
    times.add_argument(
        "--tail",
        choices=["cut", "keep"],
        default="cut",
        help="a video longer than the speech: cut ends with the speech, keep lets the rest through as it is, in "
        "silence (default: cut)",
    )
    times.add_argument(
        "--audio_offset_ms",
        type=float,
        default=0.0,
        metavar="MS",
        help="let the lips come so much later than in the speech, whose sound stays; negative: earlier (default: 0)",
    )
    times.add_argument(
        "--silence",
        choices=["close", "source", "off"],
        default="close",
        help="in pauses of the speech, also over music or noise: close the mouth, let the source's picture through, or "
        "leave it to the model (default: close)",
    )
    times.add_argument(
        "--fps", type=parse_fps, help="output frame rate, e.g. 25 or 30000/1001 (default: the source's own)"
    )
    times.add_argument("--start", type=float, default=0.0, help="preview: begin here, in seconds (default: 0)")
    times.add_argument("--duration", type=float, help="preview: length in seconds (default: the whole speech)")
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
        "--mask_shape",
        choices=["drawn", "landmarks"],
        default="drawn",
        help="the new part is as the model's mask, or as the face's own jaw and cheeks (default: drawn)",
    )
    quality.add_argument(
        "--blend_method",
        choices=["feather", "multiband", "poisson"],
        default=BLEND_METHOD,
        help=f"how the edge is hidden (default: {BLEND_METHOD})",
    )
    quality.add_argument(
        "--protect",
        type=Path,
        metavar="FILE",
        help="picture, or video as long as the source, white where the source always stays (a hand, a microphone)",
    )
    quality.add_argument(
        "--superres",
        default="none",
        metavar="NAME",
        help="restore the generated face: none, GFPGAN, CodeFormer, tiny (bundled, for drawn faces), or the file of "
        "any restoration or upscale model that spandrel reads (default: none)",
    )
    quality.add_argument(
        "--sr_backend",
        choices=["spandrel", "package"],
        default="spandrel",
        help="who builds GFPGAN's or CodeFormer's network: spandrel, or its authors' own package (gfpgan, "
        "codeformer-pip), which has to be installed; the results are the same (default: spandrel)",
    )
    quality.add_argument(
        "--sr_ratio", type=int, choices=[1, 2, 3, 4], default=2, help="working size of --superres (default: 2)"
    )
    quality.add_argument("--sr_strength", type=float, default=1.0, help="of --superres: 0 none to 1 whole (default: 1)")
    quality.add_argument(
        "--codeformer_fidelity", type=float, default=0.5, help="0 most restored to 1 most faithful (default: 0.5)"
    )
    quality.add_argument(
        "--preset",
        choices=["default", "reference"],
        default="default",
        help="reference: reproduce the reference implementation (25 fps, 16-frame chunks without overlap, sampled "
        "posteriors, whole face square blended); an explicit --fps or --mask_smooth wins over it",
    )
    model = parser.add_argument_group("model")
    model.add_argument(
        "--model",
        help="'tiny' (bundled), a U-Net file or a folder (default: the one in --checkpoints if there, else tiny)",
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
    model.add_argument(
        "--lora", type=Path, metavar="FILE", help="adapter of one speaker, made by training_scripts.train_lora"
    )
    model.add_argument(
        "--lora_strength", type=float, default=1.0, help="of --lora: 0 none to 1 as it was trained (default: 1)"
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


def parse_track(text: str) -> tuple[str, Path]:
    """ "0=a.wav" -> ("0", a.wav); raises argparse's error for anything else."""
    face, equals, path = text.partition("=")
    if not (face and equals and path):
        raise argparse.ArgumentTypeError(f"expected a face and its speech, such as 0=a.wav or left=a.wav, got {text!r}")
    return face, Path(path)


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


def speakers_of(arguments: argparse.Namespace, given: set[str]):
    """The Speakers of the command line. Raises OptionError."""
    from latentsync.errors import OptionError
    from latentsync.speakers import Speaker

    if bool(arguments.track) == bool(arguments.audio_path):
        raise OptionError("give either --audio_path with one speech, or --track WHICH=FILE for each person")
    if arguments.track and "face" in given:
        raise OptionError("--face goes with --audio_path; with --track the face stands before the =")
    tracks = arguments.track or [(arguments.face, arguments.audio_path)]
    return [Speaker(path, face) for face, path in tracks]


def make_finder(arguments: argparse.Namespace):
    """The face finder the user asked for; None for the built-in one."""
    from latentsync.errors import OptionError

    if arguments.det_model is None and arguments.landmark_model is None:
        return None
    if arguments.det_model is None or arguments.landmark_model is None:
        raise OptionError("--det_model and --landmark_model belong together: give both or neither")
    from latentsync.faces.onnx import InsightFaceDetector

    return InsightFaceDetector(arguments.det_model, arguments.landmark_model)


def make_restorer(arguments: argparse.Namespace, device, dtype):
    """The restorer the user asked for; None for none."""
    if arguments.superres == "none":
        return None
    from latentsync.restoration.restorers import load_restorer

    return load_restorer(
        arguments.superres,
        folders=[arguments.checkpoints],
        device=device,
        dtype=dtype,
        fidelity=arguments.codeformer_fidelity,
        backend=arguments.sr_backend,
    )


def run(arguments: argparse.Namespace, given: set[str]) -> None:
    """Check everything that can be checked, then load, then work."""
    from latentsync.errors import OptionError
    from latentsync.media.output_file import check_output

    if "checkpoints" in given and not arguments.checkpoints.is_dir():
        raise OptionError(f"--checkpoints {arguments.checkpoints} is not a folder; expected the one with the models")
    options = options_of(arguments, given)
    finder = make_finder(arguments)
    speakers = speakers_of(arguments, given)
    sounds = [speaker.audio_path for speaker in speakers]
    sounds += [arguments.output_audio] if arguments.output_audio else []
    inputs = (arguments.video_path, *sounds, *([arguments.protect] if arguments.protect else []))
    check_output(arguments.video_out_path, inputs)
    if arguments.report is not None:
        check_output(arguments.report, inputs, suffixes=[".json"])
        if arguments.sync_score not in ("auto", "off") and not Path(arguments.sync_score).is_file():
            raise OptionError(f"--sync_score is {arguments.sync_score}; expected auto, off or the file of a SyncNet")
        check_output(arguments.report.with_suffix(".png"), inputs, suffixes=[".png"])
    from latentsync.engine import lip_sync
    from latentsync.media.audio_reader import probe_audio
    from latentsync.media.video_reader import probe_video
    from latentsync.models import BUNDLED, choose_device, choose_dtype, find_model, load_model
    from latentsync.tracks.cache import TrackCache, cache_folder

    probe_video(arguments.video_path)
    for sound in sounds:
        probe_audio(sound)
    say = (lambda text: None) if arguments.quiet else (lambda text: print(text, file=sys.stderr))
    device = choose_device(arguments.device)
    dtype = choose_dtype(arguments.dtype, device)
    restorer = make_restorer(arguments, device, dtype)
    files = find_model(arguments.model, arguments.checkpoints)
    model = load_model(
        files,
        device=device,
        dtype=dtype,
        resolution=arguments.resolution,
        lora=arguments.lora,
        lora_strength=arguments.lora_strength,
    )
    say(
        f"model: {model.name} ({files.unet}), {model.resolution} px, {device}, "
        f"{str(model.dtype).removeprefix('torch.')}"
    )
    if arguments.lora is not None:
        say(f"adapter: {arguments.lora} at strength {arguments.lora_strength:g}")
    if restorer is not None:
        say(f"super-resolution: {restorer.name} ({restorer.path})")
    if arguments.model is None and files.unet.parent == BUNDLED:
        say(f"note: no model in {arguments.checkpoints}; the bundled one is made for drawn faces, not for real ones")
    for warning in model.warnings:
        say(f"warning: {warning}")
    bar = None if arguments.quiet else ProgressBar()
    try:
        report = lip_sync(
            arguments.video_path,
            speakers,
            arguments.video_out_path,
            model,
            options,
            output_audio=arguments.output_audio,
            finder=finder,
            restorer=restorer,
            protect=arguments.protect,
            track_cache=None if arguments.no_track_cache else TrackCache(cache_folder()),
            on_progress=bar,
            measure_opening=arguments.report is not None,
        )
    finally:
        if bar is not None:
            bar.close()
    if arguments.report is not None:
        path = syncnet_of(arguments, model)
        if path is not None:
            from latentsync.metrics.report_sync import with_sync

            report = with_sync(report, path, device)
            say(report.sync.text())
        write_report(report, arguments.report)
    for warning in report.warnings[len(model.warnings) :]:
        say(f"warning: {warning}")
    unchanged = report.num_frames - report.num_faces - report.num_tail
    note = f", {unchanged} without a usable face left as they were" if unchanged else ""
    note += f", {report.num_tail} after the speech" if report.num_tail else ""
    say(f"{report.num_frames} frames in {report.seconds:.1f} s{note}, seed {options.seed}")
    if not arguments.quiet:
        print(report.path)


def syncnet_of(arguments: argparse.Namespace, model) -> Path | None:
    """The SyncNet for the report; None for none."""
    from latentsync.metrics.report_sync import syncnet_for

    if arguments.report is None or arguments.sync_score == "off":
        return None
    return syncnet_for(model, arguments.checkpoints) if arguments.sync_score == "auto" else Path(arguments.sync_score)


def write_report(report, path: Path) -> None:
    """The report as JSON, and its picture beside it; each complete or not at all. Raises OutputError."""
    import json

    from PIL import Image

    from latentsync.media.output_file import written_whole
    from latentsync.report import report_picture

    with written_whole(path) as part:
        part.write_text(json.dumps(report.to_json(path.absolute().parent)), encoding="utf-8")
    with written_whole(path.with_suffix(".png")) as part:
        Image.fromarray(report_picture(report)).save(part, format="PNG")


class ProgressBar:
    """A bar with frames per second and time left, on standard error.

    Frames come in chunks, with nothing in between for minutes on a slow machine. So the steps of the chunk in work
    count as shares of its frames, and the speed is the average of the run so far.
    """

    FORMAT = "{percentage:3.0f}%|{bar}| {desc} [{elapsed} gone, {remaining} left, {rate_noinv_fmt}]"

    def __init__(self):
        from tqdm import tqdm

        self._bar = tqdm(
            total=1, unit=" frames", smoothing=0, bar_format=self.FORMAT, dynamic_ncols=True, file=sys.stderr
        )
        self._interval = 0.1 if sys.stderr.isatty() else 10.0  # s; every line stays in a log
        self._shown = time.monotonic()

    def __call__(self, progress) -> None:
        now = time.monotonic()
        if now - self._shown < self._interval and progress.frames_done < progress.frames_total:
            return
        self._shown = now
        self._bar.total = progress.frames_total
        self._bar.n = progress.fraction * progress.frames_total
        step = f", step {progress.step}/{progress.num_steps}" if progress.step else ""
        self._bar.set_description_str(f"{progress.frames_done}/{progress.frames_total} frames{step}", refresh=False)
        self._bar.refresh()

    def close(self) -> None:
        self._bar.close()


@contextlib.contextmanager
def clean_stops() -> Iterator[None]:
    """Inside, being terminated or losing the terminal raises KeyboardInterrupt, so that nothing is left behind."""

    def interrupt(number: int, _) -> None:
        raise KeyboardInterrupt(number)

    before = {}
    if threading.current_thread() is threading.main_thread():
        for name in ("SIGTERM", "SIGHUP", "SIGBREAK"):
            number = getattr(signal, name, None)
            if number is not None and signal.getsignal(number) == signal.SIG_DFL:  # nohup's choice is kept
                before[number] = signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def complain(error: Exception, verbose: bool) -> int:
    """Tell the user what went wrong, with the stack trace where that was not foreseen; returns the exit code."""
    from latentsync.errors import LatentSyncError, OptionError

    memory_is_full = isinstance(error, MemoryError) or (
        # torch's own errors, on GPUs and on the CPU
        isinstance(error, RuntimeError) and any(part in str(error) for part in ("out of memory", "can't allocate"))
    )
    if verbose or not (memory_is_full or isinstance(error, LatentSyncError | OSError)):
        traceback.print_exception(error)
    message = OUT_OF_MEMORY if memory_is_full else str(error)
    print(f"error: {message or type(error).__name__}", file=sys.stderr)
    return WRONG_ARGUMENTS if isinstance(error, OptionError) else FAILED


def main(argv: list[str] | None = None) -> int:
    """Run and return the exit code; wrong arguments and --help exit at once, as argparse does."""
    argv = sys.argv[1:] if argv is None else argv
    arguments = build_parser().parse_args(argv)
    logging.basicConfig(
        level=logging.DEBUG if arguments.verbose else logging.ERROR if arguments.quiet else logging.WARNING,
        format="%(levelname)s: %(message)s",
    )
    try:
        with clean_stops():
            run(arguments, explicit_options(argv))
    except KeyboardInterrupt as stop:
        print("interrupted; no file was written", file=sys.stderr)
        return KILLED + (stop.args[0] if stop.args else signal.SIGINT)
    except Exception as error:
        return complain(error, arguments.verbose)
    return 0


if __name__ == "__main__":
    sys.stdout.reconfigure(errors="backslashreplace")  # a path the terminal cannot show is no reason to fail
    sys.exit(main())
