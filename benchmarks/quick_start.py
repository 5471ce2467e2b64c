"""How long a new user waits: from opening the page to the playing video of the quick start, in a real browser.

    python -m benchmarks.quick_start [--steps N] [--comfy FOLDER]

The server runs already and has the sample clip (`install.py --samples`); all else is done by clicks, in a new profile.
"""

import argparse
import sys
import time

from tests.comfy.browser import FrontEnd
from tests.comfy.studio import PACK, comfy_argument, studio
from tests.comfy.workflow_sources import file_name

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


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, help="denoising steps (default: the workflow's)")
    comfy_argument(parser)
    given = parser.parse_args()
    with studio(given.comfy) as (server, browser):
        print(f"server ready after {server.start_seconds:.1f} s; now the page is opened")
        watch, front_end = Watch(), FrontEnd(browser, server.url)
        front_end.open()
        watch.reached("the page is ready")
        front_end.load_template(PACK, file_name(WORKFLOW))
        watch.reached("the workflow is open")
        if given.steps:
            front_end.set_widgets({"steps": given.steps})
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


if __name__ == "__main__":
    sys.exit(main())
