"""Make workflows/*.json from `workflow_sources`, saved by ComfyUI's own front end.

    python -m tests.comfy.save_workflows [NAME ...]

The pictures beside them are made by `python -m tests.comfy.screenshots`.
"""

import argparse
import json
import sys
import uuid

from tests.comfy.browser import FrontEnd
from tests.comfy.setup_host import ROOT
from tests.comfy.studio import comfy_argument, studio
from tests.comfy.workflow_sources import WORKFLOWS, Workflow, file_name

FOLDER = ROOT / "workflows"
TITLE_HEIGHT, MARGIN = 30, 20  # px of a node's title; around the nodes of a group
# Places and titles, and a note; seeds stay as they are, so that runs are cached.
LAY_OUT = """([nodes, note]) => {
    for (const [id, {place: [x, y, width, height], title}] of Object.entries(nodes)) {
        const node = app.graph.getNodeById(+id);
        node.pos = [x, y];
        node.setSize([width, Math.max(height, node.computeSize()[1])]);
        if (title) node.title = title;
        const after = node.widgets?.find(widget => widget.name === "control_after_generate");
        if (after) after.value = "fixed";
    }
    const [x, y, width, height] = note.place;
    const drawn = LiteGraph.createNode("MarkdownNote");
    app.graph.add(drawn);
    drawn.pos = [x, y];
    drawn.setSize([width, height]);
    drawn.title = "Read me";
    drawn.widgets[0].value = note.text;
    app.graph.setDirtyCanvas(true, true);
}"""
# Frames around groups of nodes, as large as these are after they were loaded.
FRAME = """groups => {
    for (const {title, colour, nodes} of groups) {
        const group = new LiteGraph.LGraphGroup(title);
        const boxes = nodes.map(id => app.graph.getNodeById(+id));
        const left = Math.min(...boxes.map(n => n.pos[0])) - MARGIN;
        const top = Math.min(...boxes.map(n => n.pos[1])) - TITLE - MARGIN - 30;
        group.pos = [left, top];
        group.size = [Math.max(...boxes.map(n => n.pos[0] + n.size[0])) + MARGIN - left,
                      Math.max(...boxes.map(n => n.pos[1] + n.size[1])) + MARGIN - top];
        group.color = colour;
        group.font_size = 22;
        app.graph.add(group);
    }
}""".replace("MARGIN", str(MARGIN)).replace("TITLE", str(TITLE_HEIGHT))


def saved(front_end: FrontEnd, name: str, workflow: Workflow) -> dict:
    """The workflow as the front end saves it, always the same."""
    front_end.open()
    front_end.load_prompt(workflow.prompt())
    nodes = {key: {"place": placed.place, "title": placed.title} for key, placed in workflow.nodes.items()}
    groups = [{"title": group.title, "colour": group.colour, "nodes": group.nodes} for group in workflow.groups]
    front_end.page.evaluate(LAY_OUT, [nodes, {"text": workflow.note, "place": workflow.note_place}])
    front_end.page.wait_for_timeout(500)
    front_end.page.evaluate("() => app.loadGraphData(JSON.parse(JSON.stringify(app.graph.serialize())))")
    front_end.page.wait_for_timeout(2000)  # players come, and nodes grow with them
    front_end.page.evaluate(FRAME, groups)
    graph = json.loads(front_end.page.evaluate("() => JSON.stringify(app.graph.serialize())"))  # as its own Save does
    graph["id"] = str(uuid.uuid5(uuid.NAMESPACE_URL, name))
    graph.get("extra", {}).pop("ds", None)  # where the canvas stood: the template browser shows all of it
    return graph


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", choices=[*WORKFLOWS, []], metavar="NAME", help="default: all")
    comfy_argument(parser)
    given = parser.parse_args()
    FOLDER.mkdir(exist_ok=True)
    with studio(given.comfy) as (server, browser):
        front_end = FrontEnd(browser, server.url)
        for name in given.names or WORKFLOWS:
            path = FOLDER / f"{file_name(name)}.json"
            text = json.dumps(saved(front_end, name, WORKFLOWS[name]), indent=1, ensure_ascii=False)
            path.write_text(text + "\n", encoding="utf-8")
            print(f"{path}  {len(text)} bytes", flush=True)
        for problem in front_end.problems:
            print(problem, file=sys.stderr)
    return 1 if front_end.problems else 0


if __name__ == "__main__":
    sys.exit(main())
