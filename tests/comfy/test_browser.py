"""The driver of the front end, on native nodes and the other pack: if one of these fails, look here first."""

from tests.comfy.browser import CHINESE, NODES_2

GRAPH = {
    "load": {"class_type": "LoadVideo", "inputs": {"file": "talk.mp4"}},
    "save": {
        "class_type": "SaveVideo",
        "inputs": {"video": ["load", 0], "filename_prefix": "browser", "format": "auto", "codec": "auto"},
    },
}


def test_a_graph_is_loaded_run_and_played(front_end):
    graph = front_end.load_prompt(GRAPH)
    assert sorted(graph.types) == ["LoadVideo", "SaveVideo"]
    assert (graph.missing, graph.links) == ((), 1)
    assert front_end.queue()["kind"] == "execution_success"
    assert front_end.graph().types == graph.types
    assert front_end.playing_videos()


def test_a_missing_node_is_seen(front_end):
    graph = front_end.load_workflow(
        {"nodes": [{"id": 1, "type": "NobodyHasThis", "pos": [0, 0], "size": [100, 100]}], "links": [], "version": 0.4}
    )
    assert graph.missing == ("NobodyHasThis",)
    front_end.page.keyboard.press("Escape")
    front_end.problems.clear()  # it says so on the console too


def test_a_refused_graph_is_seen(front_end):
    settings = {key: value for key, value in GRAPH["save"]["inputs"].items() if key != "video"}
    front_end.load_prompt({"save": {**GRAPH["save"], "inputs": settings}})
    assert front_end.queue()["kind"] == "rejected"
    front_end.page.keyboard.press("Escape")
    front_end.problems.clear()


def test_complaints_on_the_console_are_heard(front_end):
    front_end.page.evaluate("() => console.error('a script of some pack failed')")
    assert any("some pack failed" in problem for problem in front_end.problems)
    front_end.problems.clear()


def test_the_settings_are_those_asked_for(front_end):
    front_end.open({**NODES_2, **CHINESE})
    get = "id => app.extensionManager.setting.get(id)"
    assert front_end.page.evaluate(get, "Comfy.VueNodes.Enabled") is True
    assert front_end.page.evaluate(get, "Comfy.Locale") == "zh"
    front_end.open()
    assert front_end.page.evaluate(get, "Comfy.Locale") == "en"
