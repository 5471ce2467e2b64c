"""Every graph in workflows/ loads through the template browser as it was saved, and runs."""

import json
import re
from pathlib import Path

import pytest
from PIL import Image

from latentsync.samples import NAMES
from tests.comfy.conftest import PACK
from tests.comfy.setup_host import ROOT

FOLDER = ROOT / "workflows"
WORKFLOWS = sorted(FOLDER.glob("*.json"))
DRAWN_BY_THE_FRONT_END = {"Note", "MarkdownNote", "Reroute", "PrimitiveNode"}
QUICK = {"steps": 2, "guidance_scale": 1.0}  # the lips need not be good here; the rest of the graph stays as it is

each = pytest.mark.parametrize("path", WORKFLOWS, ids=[path.stem for path in WORKFLOWS])


def read(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def widget_values(workflow: dict) -> dict[int, list]:
    """By node; without those of upload buttons and players, which the front end writes in more than one way."""
    return {
        node["id"]: [value for value in node.get("widgets_values") or [] if value not in (None, "")]
        for node in workflow["nodes"]
    }


@each
def test_it_is_a_template_with_a_picture(server, path):
    assert path.stem in server.get("/workflow_templates")[PACK]
    picture = Image.open(path.with_suffix(".jpg"))  # the front end asks for no other format
    assert min(picture.size) >= 200
    content = server.get_bytes(f"/api/workflow_templates/{PACK}/{path.stem}.jpg")
    assert content == path.with_suffix(".jpg").read_bytes()


@each
def test_it_says_what_it_does(path):
    notes = [node for node in read(path)["nodes"] if node["type"] in ("Note", "MarkdownNote")]
    assert any(len(str(note["widgets_values"][0])) > 100 for note in notes)


@each
def test_it_needs_no_other_pack(server, path):
    known = server.nodes()
    types = {node["type"] for node in read(path)["nodes"]} - DRAWN_BY_THE_FRONT_END
    assert types <= set(known)
    modules = {known[name]["python_module"] for name in types}
    assert {module for module in modules if module.startswith("custom_nodes")} == {f"custom_nodes.{PACK}"}


@each
def test_no_group_cuts_through_a_node(path):
    for group in read(path)["groups"]:
        left, top, width, height = group["bounding"]
        for node in read(path)["nodes"]:
            (x, y), (w, h) = node["pos"], node["size"]
            inside = left <= x and x + w <= left + width and top <= y - 30 and y + h <= top + height
            apart = x + w <= left or left + width <= x or y + h <= top or top + height <= y - 30
            assert inside or apart, (group["title"], node["type"])


@each
def test_no_node_covers_another(path):
    """Nodes that show a picture or a video grow below their end, so they need room there."""
    boxes = [(n["id"], *n["pos"], n["pos"][0] + n["size"][0], n["pos"][1] + n["size"][1]) for n in read(path)["nodes"]]
    for index, (a, left, top, right, bottom) in enumerate(boxes):
        for b, other_left, other_top, other_right, other_bottom in boxes[index + 1 :]:
            apart = right <= other_left or other_right <= left or bottom <= other_top - 30 or other_bottom <= top - 30
            assert apart, f"node {a} covers node {b}"


def test_the_template_browser_finds_them(front_end, samples):
    front_end.page.evaluate("() => app.extensionManager.command.execute('Comfy.BrowseTemplates')")
    search = front_end.page.get_by_placeholder(re.compile("search", re.I)).locator("visible=true").last
    for word in ("lip", "sync", "dub", "speech", "LatentSync"):
        search.fill(word)
        front_end.page.wait_for_timeout(900)
        for path in WORKFLOWS:
            assert front_end.page.get_by_text(path.stem, exact=True).count(), (word, path.stem)
    front_end.page.get_by_text(WORKFLOWS[0].stem, exact=True).first.click()  # which closes the browser
    front_end.page.wait_for_function("() => app.graph.nodes.length > 0")


def test_missing_samples_are_two_clicks_away(front_end, server, samples):
    """One writes them, Run is the other; nothing of the user's is touched."""
    files = [server.base / "input" / name for name in NAMES]
    before = {file: file.read_bytes() for file in files}
    for file in files:
        file.unlink()
    try:
        files[1].write_bytes(b"mine")
        code, answer = server.post("/latentsync/samples", {})
        assert (code, files[1].name in answer["error"], str(server.base) in answer["error"]) == (409, True, False)
        assert files[1].read_bytes() == b"mine"
        assert not files[0].exists()
        files[1].unlink()
        assert server.get("/latentsync/samples") == {"missing": list(NAMES)}
        quick_start = next(path for path in WORKFLOWS if path.stem.startswith("quick_start"))
        front_end.page.evaluate("() => app.refreshComboInNodes()")
        front_end.load_workflow(read(quick_start))
        front_end.page.locator(".ls-offer button:visible").first.click()
        gone = "() => [...document.querySelectorAll('.ls-offer')].every(offer => offer.hidden)"
        front_end.page.wait_for_function(gone)
        assert {file: file.read_bytes() for file in files} == before
        lists = (
            "() => app.graph.nodes.flatMap(n => n.widgets ?? []).filter(w => String(w.value).startsWith('latentsync_'))"
        )
        chosen = front_end.page.evaluate(f"({lists})().map(w => [w.value, w.options.values.includes(w.value)])")
        assert sorted(chosen) == [["latentsync_sample.mp4", True], ["latentsync_speech.wav", True]]
    finally:
        for file, content in before.items():
            file.write_bytes(content)
        front_end.problems.clear()  # the players asked for the files while they were not there


@each
def test_it_loads_and_runs(front_end, samples, artefacts, path):
    workflow = read(path)
    graph = front_end.load_template(PACK, path.stem)
    assert graph.missing == ()
    assert sorted(graph.types) == sorted(node["type"] for node in workflow["nodes"])
    assert graph.links == len(workflow["links"])
    assert widget_values(front_end.serialised()) == widget_values(workflow)
    assert front_end.problems == []
    front_end.set_widgets(QUICK)
    end = front_end.queue(timeout=280)
    assert end["kind"] == "execution_success", end["detail"]
    results = front_end.playing_videos("type=(output|temp)")
    front_end.screenshot(artefacts / "workflows" / f"{path.stem}.png")
    assert results
