"""The clips and the speeches that the example workflows open: drawn avatars, nobody's face and nothing to fetch.

    python install.py --samples [FOLDER]        or, in an environment that has the requirements:
    python -m latentsync.samples [FOLDER]

FOLDER is ComfyUI's input folder; it is found where this project lies in ComfyUI's custom_nodes.
"""

import argparse
import filecmp
import os
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from .errors import LatentSyncError, OutputError
from .given_paths import given_path
from .media.output_file import writing_errors, written_whole
from .synthetic.clips import AvatarClip
from .synthetic.files import write_clip, write_speech
from .synthetic.scenes import Actor, Scene, Shot, write_scene

VIDEO, SPEECH, SECOND_SPEECH = "latentsync_sample.mp4", "latentsync_speech.wav", "latentsync_speech_2.wav"
TWO_PEOPLE = "latentsync_two_people.mp4"  # without sound
NAMES = (VIDEO, SPEECH, SECOND_SPEECH, TWO_PEOPLE)
# Far from the seeds of training and of the held-out list, beside the demo's.
IDENTITY, OWN_SPEECH, NEW_SPEECHES = 4_000_002, 4_100_000, {SPEECH: 4_200_000, SECOND_SPEECH: 4_200_001}
DURATION = 3.0  # s, short enough to wait for on a CPU
SIDE = 512  # px
LEFT_AND_RIGHT = (4_000_011, 4_000_006)
TWO_SIZE = (432, 768)  # height and width, px


@dataclass(frozen=True)
class Samples:
    """What `write_samples` found and did; together all files: clip, speech, second speech, clip of two people."""

    written: tuple[Path, ...]
    kept: tuple[Path, ...]  # were there already, byte for byte


def write_samples(folder: Path) -> Samples:
    """Put the clip and the speeches into ``folder``, each complete or not at all.

    A file of the same name is left alone: if it is the same one that is fine, else OutputError is raised before
    anything is written. Raises OutputError also where the folder is not there or cannot be written to.
    """
    if not folder.is_dir():
        raise OutputError(f"'{folder}' is no folder; expected ComfyUI's input folder. Check the path.")
    with tempfile.TemporaryDirectory() as name, writing_errors(folder):
        targets = {file: folder / file.name for file in _draw(Path(name))}
        kept = [target for target in targets.values() if os.path.lexists(target)]
        strange = [str(target) for file, target in targets.items() if target in kept and not _same(file, target)]
        if strange:
            raise OutputError(
                f"Another file of that name is there already: {', '.join(strange)}. Nothing was written. If you do not "
                "need it (it may be the sample of another version), delete or rename it and try again."
            )
        written = {file: target for file, target in targets.items() if target not in kept}
        for file, target in written.items():
            with written_whole(target) as part:
                shutil.copyfile(file, part)
        return Samples(tuple(written.values()), tuple(kept))


def host_input(pack: Path) -> Path:
    """The input folder of the ComfyUI whose custom_nodes ``pack`` lies in. Raises OutputError."""
    folder = pack.parents[1] / "input"
    if pack.parent.name != "custom_nodes" or not folder.is_dir():
        raise OutputError(
            f"ComfyUI's input folder could not be found: expected {pack} to lie in ComfyUI's custom_nodes, with a "
            "folder 'input' beside that. Name it: python install.py --samples /path/to/ComfyUI/input"
        )
    return folder


def _same(file: Path, other: Path) -> bool:
    return other.is_file() and filecmp.cmp(file, other, shallow=False)


def _draw(folder: Path) -> list[Path]:
    """The files, drawn into a folder of their own; the clip has the sound of what it says."""
    avatar, own = AvatarClip(IDENTITY, OWN_SPEECH, DURATION), folder / "own.wav"
    write_speech(avatar, own)
    write_clip(avatar, folder / VIDEO, SIDE, audio=own)
    for name, seed in NEW_SPEECHES.items():
        write_speech(AvatarClip(IDENTITY, seed, DURATION), folder / name)
    two = (Actor(AvatarClip(seed, OWN_SPEECH + place, DURATION)) for place, seed in enumerate(LEFT_AND_RIGHT))
    write_scene(Scene((Shot(DURATION, tuple(two)),), *TWO_SIZE), folder / TWO_PEOPLE)
    return [folder / name for name in NAMES]


def main(argv: list[str] | None = None) -> int:
    """Write the samples, say where they are, return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=given_path, nargs="?", help="ComfyUI's input folder")
    try:
        # Not resolved: the pack may be a link in custom_nodes.
        pack = Path(os.path.abspath(__file__)).parents[1]
        made = write_samples(parser.parse_args(argv).folder or host_input(pack))
    except (LatentSyncError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for what, files in (("already there", made.kept), ("written", made.written)):
        for file in files:
            print(f"{what}: {file}")
    print("Now open one of this pack's workflows: ComfyUI's menu, Browse Templates, this pack's name on the left.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
