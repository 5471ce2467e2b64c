"""Make a store of clips for training from a folder of raw videos.

Stages: probe (broken files are set aside in the metadata, never touched), cut (25 fps, shots, pieces of 5 to 10 s of
one aligned face), quality (size and sharpness), sync (offset of lips and sound), store (sound at 16 kHz, shifted where
it was off; Whisper's features; SyncNet's mel). Writes manifest.parquet and clips/ (see clip_store.py), metadata.parquet
with the reason of every rejection, report.html and report.json. A run that was cut goes on where it was; `work/` in the
output may be deleted when all is done. docs/training.md tells more.

Exit codes: 0 done, 1 failed or nothing was kept (the reason is on standard error), 2 wrong arguments, 130 interrupted.
"""

import argparse
import os
import sys
import time
from pathlib import Path

from latentsync.errors import LatentSyncError, MediaError, ModelNotFoundError, OptionError
from latentsync.given_paths import given_path
from latentsync.model_files import FRAMINGS

from .preparation.settings import LEAST_CONFIDENCE, PrepareSettings

DONE, FAILED, WRONG_ARGUMENTS, INTERRUPTED = 0, 1, 2, 130
ASSETS = Path(__file__).parents[1] / "latentsync" / "assets"
WHISPER, SYNCNET = ASSETS / "tiny" / "whisper" / "tiny.en.pt", ASSETS / "syncnet" / "tiny.safetensors"


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m training_scripts.prepare_data",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "--input",
        type=given_path,
        required=True,
        metavar="DIR",
        help="raw videos, also in folders below; never changed",
    )
    add("--output", type=given_path, required=True, metavar="DIR", help="the store; a cut run goes on")
    add("--engine", choices=["pool", "ray"], default="pool", help="processes of this machine, or Ray (default: pool)")
    add("--ray_address", metavar="ADDRESS", help="of a running cluster, or auto (default: a Ray of this machine)")
    add("--workers", type=int, default=os.cpu_count() or 1, metavar="N", help="processes (default: one a core)")
    add("--resolution", type=int, default=256, metavar="PX", help="side of the aligned faces (default: 256)")
    add("--min_seconds", type=float, default=5.0, metavar="S", help="of a clip (default: 5)")
    add("--max_seconds", type=float, default=10.0, metavar="S", help="of a clip, twice the least or more (default: 10)")
    add("--max_yaw", type=float, default=60.0, metavar="DEGREES", help="faces turned further end a clip (default: 60)")
    add(
        "--det_model",
        type=given_path,
        metavar="FILE",
        help="InsightFace's det_10g.onnx, by which the reference finds faces",
    )
    add("--landmark_model", type=given_path, metavar="FILE", help="InsightFace's 2d106det.onnx, with --det_model")
    add(
        "--framing",
        choices=FRAMINGS,
        default=FRAMINGS[0],
        help="how faces are cut out: as for the released models, or as for models trained before there was a choice "
        f"(default: {FRAMINGS[0]})",
    )
    add("--min_face", type=float, metavar="PX", help="aligned side in the source (default: half of --resolution)")
    add("--min_sharpness", type=float, default=0.12, metavar="X", help="0 takes everything (default: 0.12)")
    add("--hyperiqa", type=given_path, metavar="FILE", help="koniq_pretrained.pkl, to judge the pictures by it too")
    add("--min_iqa", type=float, default=40.0, metavar="X", help="least score by hyperIQA, 0 to 100 (default: 40)")
    add(
        "--sync",
        choices=["syncnet", "syncnet_v2", "loudness", "off"],
        default="syncnet",
        help="what tells the offset of lips and sound: a SyncNet of this pack, the original one (file: --syncnet), "
        "loudness and mouth openings, or nothing (default: syncnet)",
    )
    add("--syncnet", type=given_path, metavar="FILE", help="default: the bundled one, which knows drawn avatars only")
    add(
        "--s3fd",
        type=given_path,
        metavar="FILE",
        help="sfd_face.pth, the face detector beside syncnet_v2 (default: ours)",
    )
    add("--min_confidence", type=float, metavar="X", help=f"of the offset (defaults: {_defaults()})")
    add("--max_offset", type=int, default=6, metavar="FRAMES", help="that are put right; more reject (default: 6)")
    add("--whisper", type=given_path, default=WHISPER, metavar="FILE", help="default: the bundled one")
    add("--crf", type=float, default=13.0, help="x264's quality of the one encode, less is better (default: 13)")
    add(
        "--identity",
        choices=["file", "folder"],
        default="file",
        help="who is held out together: all clips of a file, or of a folder (default: file)",
    )
    return parser


def _defaults() -> str:
    return ", ".join(f"{name} {value:g}" for name, value in LEAST_CONFIDENCE.items())


def settings_of(arguments: argparse.Namespace) -> PrepareSettings:
    """Raises OptionError, ModelNotFoundError."""
    syncnet, sync = arguments.syncnet, arguments.sync
    if sync == "syncnet":
        syncnet = syncnet or SYNCNET
    elif sync == "syncnet_v2" and syncnet is None:
        raise OptionError("--sync syncnet_v2 needs its file: --syncnet syncnet_v2.model")
    elif sync != "syncnet_v2" and syncnet is not None:
        raise OptionError(f"--syncnet {syncnet} is not used by --sync {sync}. Leave one of them out.")
    if arguments.s3fd and sync != "syncnet_v2":
        raise OptionError(f"--s3fd {arguments.s3fd} is not used by --sync {sync}. Leave it out.")
    given = arguments.min_confidence
    return PrepareSettings(
        output=arguments.output.resolve(),
        resolution=arguments.resolution,
        min_seconds=arguments.min_seconds,
        max_seconds=arguments.max_seconds,
        max_yaw=arguments.max_yaw,
        det_model=_absolute(arguments.det_model),
        landmark_model=_absolute(arguments.landmark_model),
        framing=arguments.framing,
        min_face=arguments.resolution / 2 if arguments.min_face is None else arguments.min_face,
        min_sharpness=arguments.min_sharpness,
        hyperiqa=_absolute(arguments.hyperiqa),
        min_iqa=arguments.min_iqa,
        sync=sync,
        syncnet=_absolute(syncnet),
        s3fd=_absolute(arguments.s3fd),
        min_confidence=LEAST_CONFIDENCE.get(sync, 0.0) if given is None else given,
        max_offset=arguments.max_offset,
        whisper=arguments.whisper.resolve(),
        crf=arguments.crf,
        identity=arguments.identity,
    )


def _absolute(path: Path | None) -> Path | None:
    """Workers may work in another folder."""
    return path and path.resolve()


def prepare(arguments: argparse.Namespace) -> int:
    """Raises LatentSyncError."""
    from .preparation.pipeline import Preparation
    from .preparation.probing import SOURCES, find_sources
    from .preparation.report import write_report

    if not arguments.input.is_dir():
        raise OptionError(f"--input {arguments.input} is not a folder; expected one with videos")
    if arguments.workers < 1:
        raise OptionError(f"--workers is {arguments.workers}; expected 1 or more")
    settings = settings_of(arguments)
    if settings.output.is_relative_to(arguments.input.resolve()):
        raise OptionError(
            f"--output {arguments.output} lies in --input, which is never changed. Choose another folder."
        )
    if arguments.ray_address and arguments.engine != "ray":
        raise OptionError("--ray_address goes with --engine ray")
    sources = find_sources(arguments.input.resolve())
    if not sources:
        raise MediaError(f"no video lies in {arguments.input}; expected files such as {', '.join(SOURCES[:5])}")
    check_models(settings)
    engine = _engine(arguments)
    try:
        preparation = Preparation(settings, engine, _log)
        preparation.run(sources)
    finally:
        engine.close()
    report = write_report(preparation)
    for stage, figures in preparation.stages.items():
        if figures["items"]:
            _log(
                f"{stage}: {figures['clips_per_core_hour']} clips per core-hour; last finish after "
                f"{figures['last_finish']:.1f} s, {figures['stretch']:.2f} times the ideal"
            )
    kept = sum(row["status"] == "kept" for row in preparation.rows)
    _log(f"{kept} clips kept, {len(preparation.rows) - kept} parts rejected; see {report}")
    if not kept:
        raise MediaError(f"nothing was kept of {len(sources)} videos; see {report} for the reasons")
    return DONE


def check_models(settings: PrepareSettings) -> None:
    """Load the given files as the stages will, so that a wrong one is told before the work. Raises LatentSyncError.

    The bundled ones are left out: what loads them takes seconds to import.
    """
    from .preparation import cutting, quality, storing, syncing

    if settings.det_model:
        cutting.face_detector(settings.det_model, settings.landmark_model)
    if settings.hyperiqa:
        quality.hyper_iqa(settings.hyperiqa)
    is_own = settings.sync == "syncnet" and settings.syncnet != SYNCNET.resolve()
    if is_own and syncing.stable_syncnet(settings.syncnet).config.latent:
        raise OptionError(f"--syncnet {settings.syncnet} looks at latents; expected a SyncNet that looks at pixels")
    if settings.sync == "syncnet_v2":
        syncing.syncnet_v2(settings.syncnet)
    if settings.s3fd:
        syncing.s3fd(settings.s3fd)
    if settings.whisper != WHISPER.resolve():
        storing.whisper(settings.whisper)


def _engine(arguments: argparse.Namespace):
    if arguments.engine == "ray":
        from .preparation.engines import RayEngine

        return RayEngine(arguments.workers, arguments.ray_address)
    from .preparation.engines import ProcessPool

    return ProcessPool(arguments.workers)


def _log(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


def main(arguments: list[str] | None = None) -> int:
    parsed = build_parser().parse_args(arguments)
    try:
        return prepare(parsed)
    except (OptionError, ModelNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return WRONG_ARGUMENTS
    except (LatentSyncError, OSError, MemoryError) as error:
        print(f"error: {error or 'out of memory; try fewer --workers'}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print("interrupted; the same command goes on", file=sys.stderr)
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
