"""How long a new user waits, in a real browser: for ComfyUI's quick start, and for the page of gradio_app.py.

    python -m benchmarks.browser comfyui [--steps N] [--comfy FOLDER]
    python -m benchmarks.browser page [--example NAME] [--preset NAME] [--steps N]

Each says more with --help.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

from latentsync.media.video_reader import probe_video
from tests.comfy.browser import FrontEnd, NoBrowser, chromium
from tests.comfy.studio import PACK, comfy_argument, studio
from tests.comfy.workflow_sources import file_name
from tests.webapp.app_page import AppPage
from tests.webapp.served import served
from webapp.examples import EXAMPLES
from webapp.quality import LABELS

from . import run_command

WORKFLOW = "quick_start"
LIMIT = 1800  # s
PLAYER = """() => app.graph.nodes.find(n => n.type === "LatentSyncLipSync").latentsync.panel.player.result"""
PLAYING = f"""() => {{ const video = ({PLAYER})();
    return !video.paused && video.currentTime > 0.1 && video.videoWidth > 0; }}"""
SHOW_PLAYER = """() => { const node = app.graph.nodes.find(n => n.type === "LatentSyncLipSync");
    app.canvas.centerOnNode(node); }"""


class Watch:
    """Prints what was reached, with the seconds since the one before and since the beginning."""

    def __init__(self):
        self.started = self.last = time.monotonic()

    def reached(self, what: str) -> None:
        now = time.monotonic()
        print(f"{now - self.started:7.1f} s  (+{now - self.last:.1f})  {what}", flush=True)
        self.last = now


def comfyui_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--steps", type=int, help="denoising steps (default: the workflow's)")
    comfy_argument(parser)


def comfyui(arguments: argparse.Namespace) -> int:
    """From opening ComfyUI's page to the playing video of the quick start.

    The server runs already and has the sample clip (`install.py --samples`); all else is done by clicks, in a new
    profile.
    """
    with studio(arguments.comfy) as (server, browser):
        print(f"server ready after {server.start_seconds:.1f} s; now the page is opened")
        watch, front_end = Watch(), FrontEnd(browser, server.url)
        front_end.open()
        watch.reached("the page is ready")
        front_end.load_template(PACK, file_name(WORKFLOW))
        watch.reached("the workflow is open")
        if arguments.steps:
            front_end.set_widgets({"steps": arguments.steps})
        page = front_end.page
        page.evaluate(
            """() => { window.runEnd = new Promise(done => {
                for (const kind of ["execution_success", "execution_error", "execution_interrupted"])
                    app.api.addEventListener(kind, event => done({kind, detail: event.detail}), {once: true});
            }); }"""
        )
        page.locator('[data-testid="queue-button"]').get_by_text("Run").first.click()
        page.wait_for_function("() => app.progressState ?? app.runningNodeId != null", timeout=60_000)
        watch.reached("Run was clicked, the first node works")
        page.set_default_timeout(LIMIT * 1000)
        end = page.evaluate("() => window.runEnd")
        if end["kind"] != "execution_success":
            print(end, file=sys.stderr)
            return 1
        watch.reached("the run is done")
        page.evaluate(SHOW_PLAYER)
        page.wait_for_function(f"() => ({PLAYER})().readyState >= 3")
        page.locator(".ls-controls button").first.click()
        page.wait_for_function(PLAYING, timeout=60_000)
        watch.reached("the video plays")
        for problem in front_end.problems:
            print(problem, file=sys.stderr)
        return 1 if front_end.problems else 0


def page_options(parser: argparse.ArgumentParser) -> None:
    names = [example.label for example in EXAMPLES]
    parser.add_argument("--example", choices=names, default=names[0], help=f"default: {names[0]}")
    parser.add_argument("--preset", choices=list(LABELS), default="balanced", help="default: balanced")
    parser.add_argument("--steps", type=int, help="denoising steps (default: the preset's)")


def page(arguments: argparse.Namespace) -> int:
    """From starting gradio_app.py to the playing video and the saved file.

    The app is started as a user does and driven by clicks in a new profile: an example is filled in, its first face
    stays chosen, then a preview and the whole video are made.
    """
    with tempfile.TemporaryDirectory() as folder, chromium() as browser:
        watch = Watch()
        with served(Path(folder) / "app", "--enable_sr") as app:
            watch.reached("the app is started")
            shown = AppPage(browser, app.url)
            watch.reached("the page is ready")
            drive(shown, arguments, watch, Path(folder))
            for problem in (*shown.problems, *shown.foreign):
                print(problem, file=sys.stderr)
            shown.close()
            return 1 if shown.problems or shown.foreign else 0


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


COMMANDS = {"comfyui": (comfyui_options, comfyui), "page": (page_options, page)}

if __name__ == "__main__":
    try:
        sys.exit(run_command(__doc__, COMMANDS))
    except NoBrowser as error:
        sys.exit(f"error: {error}")
