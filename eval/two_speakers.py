"""Two people in one picture, each with a speech of their own, in one pass: who follows which speech.

    python -m eval.two_speakers

Pearson r of each mouth's opening in the result, as the face mesh sees it, with the true lips of both speeches.
"""

import argparse
import json
import logging
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from latentsync.engine import lip_sync
from latentsync.given_paths import given_path
from latentsync.media.output_file import written_whole
from latentsync.metrics.faces import correlation
from latentsync.model.loading import bundled_model, load_model
from latentsync.options import LipSyncOptions
from latentsync.speakers import Speaker
from latentsync.synthetic.clips import AvatarClip
from latentsync.synthetic.files import write_speech
from latentsync.synthetic.scenes import scene_of_two, write_scene

PEOPLE = (1_000_001, 1_000_002)  # identity seeds that no model was trained on; in the source they say other words
SPEECHES = (3_000_006, 3_000_004)  # whose lips have nothing in common, so that what is heard of the other shows
SIDES = ("left", "right")


@dataclass(frozen=True)
class SpeakerScore:
    """r_own, r_other: of the side's mouth in the result with the lips of its own speech and of the other's."""

    side: str
    r_own: float
    r_other: float


def score(duration: float, options: LipSyncOptions) -> tuple[list[SpeakerScore], float]:
    """The scores, and how alike the true lips of the two speeches are (r)."""
    words = [AvatarClip(0, seed, duration) for seed in SPEECHES]
    lips = [clip.lips[:, 0] for clip in words]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_scene(scene_of_two(*PEOPLE, duration=duration), folder / "two.mp4")
        speakers = [Speaker(folder / f"{side}.wav", side) for side in SIDES]
        for clip, speaker in zip(words, speakers, strict=True):
            write_speech(clip, speaker.audio_path)
        model = load_model(bundled_model())
        report = lip_sync(folder / "two.mp4", speakers, folder / "out.mp4", model, options, measure_opening=True)
    scores = []
    for own, face in enumerate(report.faces):
        seen = np.array([np.nan if frame.opening is None else frame.opening for frame in face.frames])
        r = [correlation(seen, true) for true in lips]
        scores.append(SpeakerScore(SIDES[own], r[own], r[1 - own]))
    return scores, correlation(*lips)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--duration", type=float, default=4.0, help="s (default: 4)")
    parser.add_argument("--inference_steps", type=int, default=8)
    parser.add_argument("--output", type=given_path, default=Path("output/two_speakers.json"))
    arguments = parser.parse_args()
    scores, likeness = score(arguments.duration, LipSyncOptions(num_inference_steps=arguments.inference_steps))
    print("| face | r with its own speech | r with the other's |\n|---|---|---|")
    for one in scores:
        print(f"| {one.side} | {one.r_own:.2f} | {one.r_other:+.2f} |")
    print(f"r of the two speeches' true lips: {likeness:+.2f}")
    with written_whole(arguments.output) as part:
        part.write_text(json.dumps({"scores": [asdict(one) for one in scores], "likeness": likeness}, indent=1))


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    main()
