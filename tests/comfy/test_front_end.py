"""The pack's nodes in the front end: drawn with every widget, in both renderers and themes, with their help."""

import json

import pytest

from tests.comfy.browser import LIGHT, NODES_2
from tests.comfy.conftest import PACK
from tests.comfy.setup_host import ROOT
from tests.comfy.test_pack import NODES

SEED_WIDGET = "control_after_generate"  # the front end adds it below a seed
WIDGET_KINDS = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"}
LABELS = """type => { const node = app.graph.nodes.find(node => node.type === type);
    return {title: node.title, widgets: node.widgets?.map(w => [w.name, w.label ?? w.name]) ?? [],
            inputs: node.inputs.map(i => i.name), outputs: node.outputs.map(o => o.type)}; }"""


def texts() -> dict:
    return json.loads((ROOT / "locales" / "en" / "nodeDefs.json").read_text(encoding="utf-8"))


def add_all(front_end) -> None:
    for index, name in enumerate(NODES):
        front_end.add_node(name, at=(index % 6 * 480, index // 6 * 620))
    front_end.fit()


def test_every_node_is_drawn_with_its_widgets(front_end, server):
    """In English: release 1.32.9 of the front end loads other languages after the packs' texts, and drops these."""
    add_all(front_end)
    known, said = server.nodes(PACK), texts()
    for name in NODES:
        drawn = front_end.page.evaluate(LABELS, name)
        inputs = {**known[name]["input"].get("required", {}), **known[name]["input"].get("optional", {})}
        assert drawn["title"] == said[name]["display_name"]
        assert set(inputs) <= {widget for widget, _ in drawn["widgets"]} | set(drawn["inputs"])
        values = {label for label, (kind, _) in inputs.items() if kind in WIDGET_KINDS or isinstance(kind, list)}
        assert values <= {widget for widget, _ in drawn["widgets"]}
        assert drawn["outputs"] == NODES[name]
        for widget, label in drawn["widgets"]:
            if widget in values:
                assert label == said[name]["inputs"][widget]["name"]


@pytest.mark.parametrize("settings", [NODES_2, {**NODES_2, **LIGHT}, LIGHT], ids=["nodes 2", "nodes 2 light", "light"])
def test_other_renderers_draw_them_too(front_end, settings):
    front_end.open({**settings, "LiteGraph.Canvas.MinFontSizeForLOD": 0})  # words also where they are small
    add_all(front_end)
    assert set(front_end.graph().types) == set(NODES)
    if settings.get("Comfy.VueNodes.Enabled"):
        titles = front_end.page.locator("[data-node-id]").all_inner_texts()
        for name, said in texts().items():
            if name in NODES:
                assert any(said["display_name"] in title for title in titles)


def test_a_workflow_saved_before_the_inputs_came_loads(front_end, samples):
    """As release 1.0.0 saved it: every value is where it was, and what has come since has its default."""
    old = json.loads((ROOT / "tests" / "comfy" / "old_workflow.json").read_text(encoding="utf-8"))
    graph = front_end.load_workflow(old)
    assert graph.missing == ()
    assert graph.links == len(old["links"])
    (before,), (after,) = (
        [node for node in workflow["nodes"] if node["type"] == "LatentSyncLipSync"]
        for workflow in (old, front_end.serialised())
    )
    values = after["widgets_values"]
    assert values[: len(before["widgets_values"])] == before["widgets_values"]
    assert values[len(before["widgets_values"]) :] == [
        0,
        0.5,
        0.5,
        "close",
        2,
        1,
        "feather",
        "drawn",
        60,
        0.16,
        "custom",
        True,
        "",
    ]
    linked = {slot["name"]: slot["link"] for slot in before["inputs"] if slot.get("link")}
    assert {slot["name"]: slot["link"] for slot in after["inputs"] if slot.get("link")} == linked


SHOWN = """() => { const node = app.graph.nodes[0];
    return node.widgets.filter(w => node.isWidgetVisible(w) && w.name !== "latentsync").map(w => w.name); }"""
CHOOSE = """values => { for (const [name, value] of Object.entries(values)) {
    const widget = app.graph.nodes[0].widgets.find(widget => widget.name === name);
    widget.value = value;
    widget.callback?.(value);
} }"""


@pytest.mark.parametrize("settings", [{}, NODES_2], ids=["classic", "nodes 2"])
def test_the_preset_comes_first_and_hides_what_it_decides(front_end, settings):
    front_end.open(settings)
    front_end.add_node("LatentSyncLipSync")
    front_end.page.wait_for_timeout(300)
    values = front_end.serialised()["nodes"][0]["widgets_values"]
    assert values[:4] == [1247, "randomize", 25, 1.5]  # as every release saves them
    assert values[21:24] == ["balanced", True, ""]
    shown = front_end.page.evaluate(SHOWN)
    assert shown[:4] == ["preset", "seed", "control_after_generate", "guidance_scale"]
    assert not {"steps", "face_number", "face_x", "face_y"} & set(shown)
    front_end.page.evaluate(CHOOSE, {"preset": "custom", "face": "point"})
    front_end.page.wait_for_timeout(300)
    shown = front_end.page.evaluate(SHOWN)
    assert {"steps", "face_x", "face_y"} < set(shown)
    assert "face_number" not in shown
    if settings and front_end.page.evaluate("() => 'visibility' in app.graph.nodes[0].widgets[0]"):  # not in 1.32
        words = front_end.page.locator(".lg-node").first.inner_text().split("\n")
        names = [word for word in words if word in {*shown, "face_number"}]
        assert names[0] == "preset"
        assert {"steps", "face_x", "face_y"} < set(names)
        assert "face_number" not in names
    front_end.page.evaluate(CHOOSE, {"steps": 30, "preset": "reference", "face": "number"})
    shown = front_end.page.evaluate(SHOWN)
    assert {"steps", "face_number"} < set(shown)  # what was changed wins over the preset
    assert not {"guidance_scale", "mask_smooth", "silence", "face_x"} & set(shown)
    saved = front_end.serialised()
    front_end.load_workflow(saved)
    assert front_end.page.evaluate(SHOWN) == shown
    assert front_end.serialised()["nodes"][0]["widgets_values"] == saved["nodes"][0]["widgets_values"]


def test_a_prompt_without_a_preset_opens_as_none(front_end):
    front_end.load_prompt({"1": {"class_type": "LatentSyncLipSync", "inputs": {"steps": 7}}})
    (node,) = front_end.page.evaluate("async () => (await app.graphToPrompt()).output").values()
    assert (node["inputs"]["preset"], node["inputs"]["steps"]) == ("custom", 7)


def test_advanced_widgets_are_shown_when_asked_for(front_end):
    """They are part of the graph all the same."""
    front_end.add_node("LatentSyncFacePrepare")
    seen = """() => { const node = app.graph.nodes[0];
        return [node.size[1], node.widgets.filter(w => !node.isWidgetVisible(w)).map(w => w.name)]; }"""
    height, hidden = front_end.page.evaluate(seen)
    details = ["face_number", "face_x", "face_y"]  # of other choices of face
    assert hidden == [*details, "max_yaw", "fade"]
    front_end.page.wait_for_timeout(300)
    ends = "app.graph.nodes[0].widgets.map(widget => widget.y + widget.computedHeight)"
    assert max(front_end.page.evaluate(ends)) <= height  # and leave no gap
    front_end.page.evaluate("() => app.graph.nodes[0].toggleAdvanced()")
    taller, hidden = front_end.page.evaluate(seen)
    assert hidden == details
    assert taller > height
    prompt = front_end.page.evaluate("async () => (await app.graphToPrompt()).output")
    (node,) = prompt.values()
    assert (node["inputs"]["max_yaw"], node["inputs"]["fade"]) == (60, 0.16)


def test_help_opens_beside_the_node(front_end):
    add_all(front_end)
    for name in NODES:
        text = front_end.open_help(name)
        page = (ROOT / "web" / "docs" / f"{name}.md").read_text(encoding="utf-8")
        assert page.splitlines()[0].lstrip("# ").strip() in text
        assert len(text) > 300


def test_a_mistake_is_shown_on_the_node(front_end):
    """A graph of an older pack: the answer of the server names the value, and nothing runs."""
    front_end.load_prompt(
        {
            "model": {
                "class_type": "LatentSyncModelLoader",
                "inputs": {
                    "model": "gone.pt",
                    "vae": "auto",
                    "whisper": "auto",
                    "precision": "auto",
                    "resolution": "auto",
                },
            },
            "speech": {"class_type": "LoadAudio", "inputs": {"audio": "speech.wav"}},
            "clip": {"class_type": "LoadVideo", "inputs": {"file": "talk.mp4"}},
            "sync": {
                "class_type": "LatentSyncLipSync",
                "inputs": {"video": ["clip", 0], "audio": ["speech", 0], "model": ["model", 0]},
            },
        }
    )
    end = front_end.queue()
    assert end["kind"] == "rejected"
    assert "'gone.pt' is not there any more" in json.dumps(end["detail"])
    shown = front_end.page.locator("body").inner_text()
    assert "gone.pt" in shown
    front_end.problems.clear()  # the server's refusal is on the console as well
    front_end.page.keyboard.press("Escape")
