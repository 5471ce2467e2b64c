"""How long a visitor of the page waits: from starting the app to the playing video and the saved file, in a browser.

    python -m benchmarks.gradio_run [--example NAME] [--preset NAME] [--steps N]

The app is started as a user does and driven by clicks in a new profile: an example is filled in, its first face stays
chosen, then a preview and the whole video are made.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from latentsync.media.video_reader import probe_video
from tests.comfy.browser import NoBrowser, chromium
from tests.webapp.app_page import AppPage
from tests.webapp.served import served
from webapp.examples import EXAMPLES
from webapp.quality import LABELS

from .quick_start import Watch

LIMIT = 1800.0  # s for a run


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [example.label for example in EXAMPLES]
    parser.add_argument("--example", choices=names, default=names[0], help=f"default: {names[0]}")
    parser.add_argument("--preset", choices=list(LABELS), default="balanced", help="default: balanced")
    parser.add_argument("--steps", type=int, help="denoising steps (default: the preset's)")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, chromium() as browser:
        watch = Watch()
        with served(Path(folder) / "app", "--enable_sr") as app:
            watch.reached("the app is started")
            page = AppPage(browser, app.url)
            watch.reached("the page is ready")
            drive(page, given, watch, Path(folder))
            for problem in (*page.problems, *page.foreign):
                print(problem, file=sys.stderr)
            page.close()
            return 1 if page.problems or page.foreign else 0


def drive(page: AppPage, given: argparse.Namespace, watch: Watch, folder: Path) -> None:
    page.example(given.example)
    watch.reached(f"the example is drawn and its {page.faces.count()} face(s) found")
    if given.steps:
        page.open_more()
    page.choose("preset", LABELS[given.preset])
    page.wait_for_preset(given.preset)
    if given.steps:
        page.set("Steps", given.steps)
    page.set("Preview length", 1)
    for button, what in (("preview", "a preview of 1 s"), ("run", "the whole video")):
        page.press(button)
        page.wait_until_made(LIMIT)
        watch.reached(f"{what}: {page.note.inner_text()}")
    played = page.played()
    watch.reached(f"it plays: {played['duration']:.2f} s, {played['width']} px wide")
    saved = page.save("Save the video", folder)
    facts = probe_video(saved)
    watch.reached(f"it is saved: {facts.num_frames} frames, {saved.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    try:
        sys.exit(main())
    except NoBrowser as error:
        sys.exit(f"error: {error}")
