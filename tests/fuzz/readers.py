"""What the project does with each kind of file: through the library, and through the command line.

A reader may return or raise a LatentSyncError; anything else is a fault. It runs in the fuzzer's child process.
"""

import contextlib
import io
import os
from collections.abc import Callable
from fractions import Fraction
from functools import cache
from itertools import islice
from pathlib import Path

import numpy as np

from eval.eval_quality import _report_beside as clip_pair_of
from latentsync.cli.arguments import build_parser
from latentsync.cli.job_file import read_rows
from latentsync.cli.worker import read_results
from latentsync.errors import LatentSyncError
from latentsync.faces.choice import choose
from latentsync.faces.people import ClipFaces
from latentsync.faces.place import place
from latentsync.faces.scan_cache import ScanSettings, TrackCache
from latentsync.media.audio_reader import probe_audio, read_audio_blocks
from latentsync.media.video_reader import probe_video, read_frames, read_playback, video_length
from latentsync.model.checkpoints import load_unet, read_unet_facts
from latentsync.model.loading import bundled_model, described_model, load_model, merge_lora, read_lora
from latentsync.model.vae import load_draft_decoder, load_vae
from latentsync.model.whisper import load_whisper
from latentsync.model_files import read_manifest, wanted_models
from latentsync.options import LipSyncOptions
from latentsync.restoration.restorers import load_restorer
from latentsync.run.report import read_provenance
from latentsync.run.timeline import Timeline, protect_masks
from latentsync.sync.syncnet import load_syncnet
from tests.small_model import small_unet, write_small_model

from .samples import FPS, NUM_FRAMES, SIDE

MOST_FRAMES = 400  # taken of a video that was damaged into a longer one
MOST_BLOCKS = 4000  # of sound, an hour


def _each(*reads: Callable[[], object]) -> None:
    """All of them, whatever those before said; the first error is raised in the end."""
    first = None
    for read in reads:
        try:
            read()
        except LatentSyncError as error:
            first = first or error
    if first is not None:
        raise first


def read_video(path: Path) -> None:
    def frames(read, **settings) -> None:
        for frame in islice(read(path, **settings), MOST_FRAMES):
            assert frame.pixels.dtype == np.uint8
            assert frame.pixels.ndim == 3

    _each(
        lambda: probe_video(path),
        lambda: video_length(path),
        lambda: frames(read_frames),
        lambda: frames(read_frames, start=0.2, duration=0.2, fps=Fraction(30)),
        lambda: frames(lambda path: islice(read_playback(path, "bounce"), 3 * NUM_FRAMES)),
        lambda: read_sound(path),
        lambda: read_provenance(path),
    )


def read_sound(path: Path) -> None:
    def blocks(**settings) -> None:
        for block in islice(read_audio_blocks(path, **settings), MOST_BLOCKS):
            assert np.isfinite(block).all()

    _each(lambda: probe_audio(path), blocks, lambda: blocks(sample_rate=48_000, mono=False, start=0.1))


def read_picture(path: Path) -> None:
    def masks() -> None:
        running = protect_masks(path, _whole_clip(), _clip_facts(), _timeline(), LipSyncOptions())
        for mask in islice(running, NUM_FRAMES):
            assert mask.shape == (SIDE, SIDE)
            assert np.isfinite(mask).all()

    _each(masks, lambda: choose(_whole_scan(), str(path), _finder()))


def read_tracks(path: Path) -> None:
    """The cache never raises: what it cannot use is searched again. What it gives has to be usable."""
    cache = TrackCache(path.parent / "cache")
    video = path.parent / "h264.mp4"
    kept = cache._path(video, ScanSettings("FaceTracker"))
    kept.parent.mkdir()
    os.replace(path, kept)
    try:
        clip = cache.load(video, ScanSettings("FaceTracker"))
        if clip is None:
            raise LatentSyncError("not used")
        for face in range(len(clip.until(0.2).paths)):
            place(clip.until(0.2).paths[face], clip, 64, LipSyncOptions()).at(0)
        choose(clip, "left", None)
    finally:
        os.replace(kept, path)
        kept.parent.rmdir()


def read_unet(path: Path) -> None:
    _each(lambda: read_unet_facts(path), lambda: load_unet(path))


def read_lora_file(path: Path) -> None:
    merge_lora(small_unet(), read_lora(path), 0.5)


def read_detector(path: Path) -> None:
    from latentsync.faces.insightface import InsightFaceDetector

    files = {name: _folder() / name for name in ("det.onnx", "landmarks.onnx")} | {path.name: path}
    detector = InsightFaceDetector(files["det.onnx"], files["landmarks.onnx"])
    detector.detect(np.full((SIDE, SIDE, 3), 200, np.uint8))


def read_description(path: Path) -> None:
    model = _folder() / "model"
    trial = path.parent / "described"
    trial.mkdir()
    try:
        (trial / "config.json").write_bytes(path.read_bytes())
        for name in ("unet.safetensors", "vae"):
            (trial / name).symlink_to(model / name)
        (trial / "whisper.pt").symlink_to(bundled_model().whisper)
        load_model(described_model(trial))
    finally:
        for file in trial.iterdir():
            file.unlink()
        trial.rmdir()


def read_jobs(path: Path) -> None:
    arguments = build_parser().parse_args(["--batch", str(path)])
    read_rows(path, arguments, {"batch"})


READERS: dict[str, Callable[[Path], object]] = {
    "video": read_video,
    "sound": read_sound,
    "picture": read_picture,
    "unet": read_unet,
    "whisper": load_whisper,
    "vae": load_vae,
    "syncnet": load_syncnet,
    "restorer": load_restorer,
    "lora": read_lora_file,
    "detector": read_detector,
    "landmarks": read_detector,
    "unet_sidecar": lambda path: read_unet(path.parent / "weights.safetensors"),
    "vae_config": lambda path: load_vae(path.parent),
    "adapter_config": lambda path: read_lora_file(path.parent / "plain.safetensors"),
    "model_description": read_description,
    "manifest": lambda path: wanted_models(["latentsync-1.6"], read_manifest(path)),
    "tracks": read_tracks,
    "draft_decoder": lambda path: load_draft_decoder(path.parent),
    "jobs": read_jobs,
    "batch_results": read_results,
    "report": lambda path: clip_pair_of(path.with_suffix(".mp4")),
}
# Where a file of a kind goes on the command line, in place of the whole one.
FLAGS = {
    "video": "--video_path",
    "sound": "--audio_path",
    "picture": "--protect",
    "restorer": "--superres",
    "lora": "--lora",
    "unet": "--model",
    "model_description": "--model",
}


def read_by_command_line(path: Path, kind: str) -> None:
    """A run of main.py in this process, of 2 frames; its failure is raised with what it said."""
    import main

    model, clip, speech = _folder() / "model", _whole_clip(), _folder() / "speech.wav"
    result = path.parent / "result.mp4"
    settings = {"--video_path": clip, "--audio_path": speech, "--video_out_path": result, "--model": model}
    settings |= {"--checkpoints": model, FLAGS[kind]: path.parent if kind == "model_description" else path}
    words = [str(word) for pair in settings.items() for word in pair]
    words += ["--duration", "0.08", "--inference_steps", "1", "--guidance_scale", "1", "--no_track_cache"]
    told = io.StringIO()
    with contextlib.redirect_stderr(told), contextlib.redirect_stdout(told):
        code = main.main([*words, "--quiet"])
    if code == 0:
        probe_video(result)
        result.unlink()
        return
    said = told.getvalue()
    assert not result.exists(), "a file was left though the run failed"
    assert "Traceback" not in said, said[-3000:]
    assert "error: " in said, said[-3000:]
    raise LatentSyncError(said.rpartition("error: ")[2].strip())


@cache
def _folder() -> Path:
    """Whole files that are read along with the damaged one; the fuzzer has put the samples there."""
    folder = Path(os.environ["LATENTSYNC_FUZZ_SAMPLES"])
    if not (folder / "model" / "config.json").is_file():
        write_small_model(folder / "model")
    return folder


def _whole_clip() -> Path:
    return _folder() / "h264.mp4"


@cache
def _clip_facts():
    return probe_video(_whole_clip())


@cache
def _finder():
    from latentsync.faces.finder import FaceTracker

    return FaceTracker("cpu")


def _timeline() -> Timeline:
    facts, rate = _clip_facts(), Fraction(FPS)
    return Timeline(rate, facts.time_base, 1.0, 1.0, NUM_FRAMES, Fraction(0), Fraction(1), True)


@cache
def _whole_scan() -> ClipFaces:
    from latentsync.faces.scan import scan_faces

    return scan_faces(read_frames(_whole_clip()), _finder())
