"""Pictures of every workflow and widget for docs/, of nodes for their help pages, and the thumbnails beside the
workflows, from real runs.

    python -m tests.comfy.screenshots [--output docs/screenshots] [--steps N] [NAME ...]

Each workflow is opened in the template browser and run; NAME restricts it to some of them. --steps replaces the
workflows' own number for a quick look. After a change of the bundled model or of a widget: run it again and look.
"""

import argparse
import io
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

from PIL import Image

from latentsync.samples import TWO_PEOPLE, VIDEO
from tests.comfy.browser import LIGHT, NODES_2, FrontEnd
from tests.comfy.server import ComfyServer
from tests.comfy.setup_host import ROOT
from tests.comfy.studio import PACK, comfy_argument, studio
from tests.comfy.thumbnails import encoded, thumbnail
from tests.comfy.workflow_sources import WORKFLOWS, file_name

SIZE = (1920, 1080)  # px of the browser's window
TALL = {"width": SIZE[0], "height": 1500}  # the same for pictures of one node: the longest has to fit
AT = (300, 150)  # px, where such a node is put: below the name of the workflow
# Every word is drawn, however small; no frame counter in the corner.
CLEAR = {"LiteGraph.Canvas.MinFontSizeForLOD": 0, "LiteGraph.Canvas.LowQualityRenderingZoomThreshold": 0.1}
CLEAR |= {"Comfy.Graph.CanvasInfo": False}
LARGEST = 138_000  # bytes a picture
LARGEST_NODE, LARGEST_HELP = 70_000, 58_000  # bytes a picture of one node, in docs and in web/docs
MARGIN = 14  # px around a node
SHOW_MASK = 'panel.element.querySelectorAll(".ls-choice")[1].click()'
# name: workflow, type of node, settings of the front end, what is done on the page before
WIDGETS = {
    "lip_sync": ("quick_start", "LatentSyncLipSync", {}, ""),
    "lip_sync_light": ("quick_start", "LatentSyncLipSync", LIGHT, ""),
    "lip_sync_nodes_2": ("quick_start", "LatentSyncLipSync", NODES_2, ""),
    "report_node": ("report", "LatentSyncReport", {}, ""),
    "speakers": ("two_speakers", "LatentSyncLipSync", {}, ""),
    "blend_edge": ("wireable_stages", "LatentSyncBlend", {}, ""),
    "blend_mask": ("wireable_stages", "LatentSyncBlend", {}, SHOW_MASK),
}
# Type of the node whose help page shows it: workflow.
HELP = {"LatentSyncLipSync": "quick_start", "LatentSyncReport": "report", "LatentSyncSpeaker": "two_speakers"}
HELP |= dict.fromkeys(
    ("LatentSyncModelLoader", "LatentSyncAudioEncode", "LatentSyncFacePrepare", "LatentSyncBlend"),
    "wireable_stages",
)
WAIT_FOR_MEDIA = """() => [...document.querySelectorAll("video")].every(v => !v.currentSrc || v.readyState >= 2)
    && [...document.images].every(i => i.complete)"""
SEEK = """time => { for (const node of app.graph.nodes) {
    const player = node.latentsync?.panel?.player;
    if (player?.result?.videoWidth) { player.pause(); player.seek(time); }
} }"""


def files_of(output: object, server: ComfyServer) -> Iterator[Path]:
    """The files that a node's ui output names, in its order."""
    if isinstance(output, dict):
        if {"filename", "type"} <= set(output):
            yield server.base / output["type"] / output.get("subfolder", "") / output["filename"]
        for value in output.values():
            yield from files_of(value, server)
    elif isinstance(output, list):
        for value in output:
            yield from files_of(value, server)


def write(content: bytes, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    print(f"{path}  {len(content) / 1000:.0f} kB", flush=True)


class Photographer:
    """Takes pictures of one front end."""

    def __init__(self, server: ComfyServer, front_end: FrontEnd, folder: Path, steps: int | None):
        self.server, self.front_end, self.folder, self.steps = server, front_end, folder, steps

    @property
    def page(self):
        return self.front_end.page

    def keep(self, path: Path, clip: dict | None = None, largest: int = LARGEST) -> None:
        """The window, or a part of it, as JPEG."""
        shot = self.page.screenshot(**({"clip": clip} if clip else {}))
        write(encoded(Image.open(io.BytesIO(shot)), largest), path)

    def run(self, name: str) -> dict[str, list[Path]]:
        """Open a workflow as a user does, and run it; what its nodes wrote. Raises RuntimeError."""
        graph = self.front_end.load_template(PACK, file_name(name))
        if graph.missing:
            raise RuntimeError(f"{name}: the front end does not know {', '.join(graph.missing)}")
        if self.steps:
            self.front_end.set_widgets({"steps": self.steps})
        end = self.front_end.queue(timeout=1800)
        if end["kind"] != "execution_success":
            raise RuntimeError(f"{name}: {end}")
        self.page.wait_for_timeout(1500)
        self.page.wait_for_function(WAIT_FOR_MEDIA)
        self.page.evaluate(SEEK, 1.0)
        self.page.wait_for_timeout(1000)
        outputs = self.page.evaluate("() => app.nodeOutputs")
        return {node: list(files_of(output, self.server)) for node, output in outputs.items()}

    def workflow(self, name: str) -> None:
        """The whole graph after its run, and its thumbnail."""
        self.front_end.open(CLEAR)
        outputs = self.run(name)
        self.front_end.fit()
        self.page.wait_for_timeout(700)
        self.keep(self.folder / f"workflow_{name}.jpg")
        source = self.server.base / "input" / (TWO_PEOPLE if name == "two_speakers" else VIDEO)
        write(thumbnail(name, source, outputs), ROOT / "workflows" / f"{file_name(name)}.jpg")

    def widget(self, name: str) -> None:
        """A node as the documents show it."""
        workflow, node_type, settings, action = WIDGETS[name]
        self.keep(self.folder / f"widget_{name}.jpg", self.node(workflow, node_type, settings, action), LARGEST_NODE)

    def help(self, node_type: str) -> None:
        """A node as its help page shows it."""
        path = ROOT / "web" / "docs" / f"{node_type}.jpg"
        self.keep(path, self.node(HELP[node_type], node_type), LARGEST_HELP)

    def node(self, workflow: str, node_type: str, settings: Mapping = MappingProxyType({}), action: str = "") -> dict:
        """Where the window shows one node after its run, at its own size."""
        self.page.set_viewport_size(TALL)
        self.front_end.open({**CLEAR, **settings})
        self.run(workflow)
        box = self.page.evaluate(
            """([type, margin, x, y]) => {
                const node = app.graph.nodes.find(n => n.type === type);
                app.canvas.deselectAll?.();
                Object.assign(app.canvas.ds, {scale: 1, offset: [-node.pos[0] + x, -node.pos[1] + y]});
                app.canvas.setDirty(true, true);
                window.panel = node.latentsync?.panel;
                const rect = app.canvas.canvas.getBoundingClientRect();
                return {x: rect.x + x - margin, y: rect.y + y - 30 - margin,
                        width: node.size[0] + 2 * margin, height: node.size[1] + 30 + 2 * margin};
            }""",
            [node_type, MARGIN, *AT],
        )
        if action:
            self.page.evaluate(f"() => {{ {action} }}")
        self.page.wait_for_timeout(1200)
        box["height"] = min(box["height"], TALL["height"] - box["y"])
        return box

    def templates(self, name: str) -> None:
        """What the template browser shows of this pack."""
        self.front_end.open(CLEAR)
        self.page.evaluate("() => app.extensionManager.command.execute('Comfy.BrowseTemplates')")
        self.page.get_by_text(PACK, exact=True).first.click()
        self.page.wait_for_function(WAIT_FOR_MEDIA)
        self.page.wait_for_timeout(2500)
        self.keep(self.folder / f"{name}.jpg")
        self.page.keyboard.press("Escape")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = dict.fromkeys(WORKFLOWS, Photographer.workflow) | dict.fromkeys(WIDGETS, Photographer.widget)
    kinds |= dict.fromkeys(HELP, Photographer.help)
    kinds["templates"] = Photographer.templates
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(kinds)}")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "screenshots")
    parser.add_argument("--steps", type=int, help="denoising steps in place of each workflow's own")
    comfy_argument(parser)
    given = parser.parse_args()
    with studio(given.comfy) as (server, browser):
        problems = []
        for name, kind in kinds.items():
            if given.names and name not in given.names:
                continue
            # Each in a new page: others' tabs would be seen, and what had no thumbnail before is remembered as such.
            front_end = FrontEnd(browser, server.url, SIZE)
            kind(Photographer(server, front_end, given.output, given.steps), name)
            problems += front_end.problems
            front_end.page.close()
        for problem in problems:
            print(problem, file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
