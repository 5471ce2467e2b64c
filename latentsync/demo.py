"""Try the whole product without a download: a drawn avatar says another speech.

    python -m latentsync.demo --output output/demo

Draws an avatar that no training clip has, writes it and another speech as files, and gives both to the command line
as a user would; arguments not known here go there too, e.g. --inference_steps 10. Beside the result lies a picture of
source and output. Drawn avatars have an exact truth: the last row shows the same avatar drawn with the new speech's own
lips. --animation also writes source and output as a moving picture that any web page shows.
"""

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from .contact_sheet import evenly_spaced, labelled_sheet, strip
from .errors import LatentSyncError, ModelNotFoundError
from .given_paths import given_path
from .media.output_file import written_whole
from .media.video_reader import probe_video, read_frames
from .model.loading import find_model
from .synthetic.clips import AvatarClip
from .synthetic.files import write_clip, write_speech

COMMAND_LINE = Path(__file__).resolve().parents[1] / "main.py"
# Far from the seeds of training and of the held-out list (benchmarks/measure.py).
IDENTITY, OWN_SPEECH, NEW_SPEECH = 4_000_000, 4_100_000, 4_200_000
DURATION = 4.0  # s
COLUMNS = 8
MOVING_SIDE, MOVING_EVERY = 288, 2  # px high, and of how many frames one is kept, in the moving picture


def check_model(model: str) -> None:
    """Raises ModelNotFoundError where the model's files are not all there."""
    try:
        files = find_model(model, COMMAND_LINE.parent / "checkpoints")
        missing = [path for path in (files.unet, files.vae, files.whisper) if not path.exists()]
        if missing:
            raise ModelNotFoundError(f"the model {model!r} lacks {missing[0]}")
    except ModelNotFoundError as error:
        raise ModelNotFoundError(
            f"{error}. The bundled model comes with the repository: get it again with git or as an archive, or train "
            "it (docs/models.md)"
        ) from error


def make_demo(folder: Path, model: str = "tiny", options: Sequence[str] = ()) -> tuple[Path, Path]:
    """Make the clip, run the command line on it with ``options`` added; returns the result and the picture.

    Raises LatentSyncError's subclasses, and CalledProcessError where the command line fails (it has said why).
    """
    check_model(model)
    folder.mkdir(parents=True, exist_ok=True)
    own, new = (AvatarClip(IDENTITY, speech, DURATION) for speech in (OWN_SPEECH, NEW_SPEECH))
    source, own_speech, new_speech, result = (
        folder / name for name in ("source.mp4", "source_speech.wav", "new_speech.wav", "lip_synced.mp4")
    )
    write_speech(own, own_speech)
    write_speech(new, new_speech)
    write_clip(own, source, audio=own_speech)
    command = [sys.executable, COMMAND_LINE, "--model", model]
    files = ["--video_path", source, "--audio_path", new_speech, "--video_out_path", result]
    subprocess.run([*map(str, command + files), *options], check=True)  # noqa: S603 (the user's own)
    picture = folder / "side_by_side.png"
    write_picture(picture, source, result, new)
    return result, picture


def write_picture(path: Path, source: Path, result: Path, truth: AvatarClip) -> None:
    """Source, output and truth at the same moments."""
    before, after = ([frame.pixels for frame in read_frames(file)] for file in (source, result))
    moments = evenly_spaced(min(len(before), len(after), truth.num_frames), COLUMNS)
    height, width = after[0].shape[:2]
    rows: dict[str, list[np.ndarray]] = {
        "source": [before[i] for i in moments],
        "output": [after[i] for i in moments],
        "drawn with\nthe new lips": [truth.frame(i, height, width) for i in moments],
    }
    Image.fromarray(labelled_sheet(rows)).save(path)


def write_animation(path: Path, source: Path, result: Path) -> None:
    """Source and output beside each other, as an animated WebP without sound."""
    fps = float(probe_video(result).fps)
    pairs = zip(read_frames(source), read_frames(result), strict=False)
    frames = [
        Image.fromarray(strip([before.pixels, after.pixels], MOVING_SIDE))
        for index, (before, after) in enumerate(pairs)
        if index % MOVING_EVERY == 0
    ]
    with written_whole(path) as part:
        settings = {"duration": round(1000 * MOVING_EVERY / fps), "loop": 0, "quality": 60, "method": 6}
        frames[0].save(part, "WEBP", save_all=True, append_images=frames[1:], **settings)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=given_path, default=Path("output/demo"), help="folder (default: output/demo)")
    parser.add_argument("--model", default="tiny", help="as of main.py (default: the bundled one)")
    parser.add_argument("--animation", action="store_true", help="also write side_by_side.webp")
    arguments, options = parser.parse_known_args(argv)
    try:
        result, picture = make_demo(arguments.output, arguments.model, options)
        if arguments.animation:
            write_animation(picture.with_suffix(".webp"), result.with_name("source.mp4"), result)
    except subprocess.CalledProcessError as error:
        return error.returncode
    except (LatentSyncError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    print(f"video:        {result.resolve()}\nside by side: {picture.resolve()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
