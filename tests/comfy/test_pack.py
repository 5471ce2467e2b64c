"""The pack in the host: it loads, lists its nodes, and every input says what it does."""

import pytest

from tests.comfy.conftest import PACK
from tests.comfy.setup_host import ROOT

NODES = {
    "LatentSyncModelLoader": ["LATENTSYNC_MODEL"],
    "LatentSyncAudioEncode": ["LATENTSYNC_AUDIO"],
    "LatentSyncFacePrepare": ["LATENTSYNC_FACES", "IMAGE", "IMAGE", "MASK", "MASK", "BOUNDING_BOX"],
    "LatentSyncSampler": ["LATENTSYNC_FACES", "IMAGE"],
    "LatentSyncBlend": ["IMAGE", "MASK"],
    "LatentSyncLipSync": ["VIDEO", "LATENTSYNC_REPORT"],
    "LatentSyncLipSyncImages": ["IMAGE", "AUDIO", "MASK", "BOUNDING_BOX", "FLOAT", "STRING"],
    "LatentSyncMatchLength": ["IMAGE", "AUDIO", "FLOAT"],
    "LatentSyncReport": ["IMAGE", "STRING", "STRING"],
    "LatentSyncSyncScore": ["FLOAT", "FLOAT", "IMAGE", "STRING"],
    "LatentSyncSpeaker": ["LATENTSYNC_SPEAKERS"],
    "LatentSyncRestoreLoader": ["LATENTSYNC_RESTORER"],
    "LatentSyncFaceRestore": ["LATENTSYNC_FACES", "IMAGE", "INT"],
}


@pytest.fixture(scope="module")
def nodes(server) -> dict[str, dict]:
    return server.nodes(PACK)


def test_it_is_imported_without_a_word(server):
    assert server.failed_imports() == []
    boot = server.log_text().partition("To see the GUI")[0]
    assert "Traceback" not in boot
    # The host names the folders it runs in, and the checkout may be called like the pack.
    said = [line for line in boot.replace(str(ROOT), "").splitlines() if "latentsync" in line.lower()]
    # Its own name in the host's list of import times, and the tests' extra_model_paths.yaml.
    assert [line for line in said if "seconds:" not in line and "extra search path" not in line] == []


def test_the_ids_of_nodes_and_what_they_give_are_permanent(nodes):
    assert {name: known["output"] for name, known in nodes.items() if name in NODES} == NODES


@pytest.mark.parametrize("name", NODES)
def test_a_node_explains_itself(nodes, name):
    known = nodes[name]
    assert known["category"].split("/")[0] == "LatentSync"
    assert known["display_name"] != name
    assert len(known["description"]) > 40
    inputs = {**known["input"].get("required", {}), **known["input"].get("optional", {})}
    assert inputs
    for label, (kind, said) in inputs.items():
        assert len(said.get("tooltip", "")) > 20, label
        if kind in ("INT", "FLOAT"):
            assert {"default", "min", "max"} <= set(said), label


@pytest.mark.parametrize("name", NODES)
def test_defaults_survive_the_number_boxes(nodes, name):
    """The front end rounds to multiples of `step`."""
    inputs = {**nodes[name]["input"].get("required", {}), **nodes[name]["input"].get("optional", {})}
    for label, (kind, said) in inputs.items():
        if kind == "FLOAT":
            steps = (said["default"] - said["min"]) / said["step"]
            assert steps == pytest.approx(round(steps), abs=1e-6), label
            assert said["step"] <= 0.05, label
        elif kind == "COMBO" or isinstance(kind, list):
            options = said["options"] if kind == "COMBO" else kind
            assert said.get("default", options[0]) in options, label


def test_models_of_the_user_are_listed(server, nodes):
    """From models/latentsync, and from a folder that extra_model_paths.yaml names."""
    assert "latentsync" in server.get("/models")
    said = nodes["LatentSyncModelLoader"]["input"]["required"]["model"]
    options = said[1]["options"] if said[0] == "COMBO" else said[0]
    assert {"mine/", "elsewhere/", "tiny (bundled)"} <= set(options)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_every_node_is_translated_completely(server, nodes, language):
    said = server.get("/i18n")[language]["nodeDefs"]
    for name in NODES:
        inputs = {**nodes[name]["input"].get("required", {}), **nodes[name]["input"].get("optional", {})}
        entry = said[name]
        assert entry["display_name"]
        assert entry["description"]
        assert set(entry["inputs"]) >= set(inputs), name
        assert all(text["name"] and text["tooltip"] for text in entry["inputs"].values()), name


@pytest.mark.parametrize("name", NODES)
def test_there_is_a_help_page(server, name):
    page = ROOT / "web" / "docs" / f"{name}.md"
    assert page.is_file()
    text = server.get_bytes(f"/extensions/{PACK}/docs/{name}.md").decode("utf-8")
    assert text.startswith("#")
    inputs = server.get(f"/object_info/{name}")[name]["input"]
    for label in {**inputs.get("required", {}), **inputs.get("optional", {})}:
        assert label.replace("_", " ") in text.replace("_", " "), f"{label} is not explained"


def test_scripts_are_served_once(server):
    scripts = [script for script in server.get("/extensions") if "latentsync" in script.lower()]
    assert scripts
    assert all(script.startswith(f"/extensions/{PACK}/") for script in scripts)
    assert len(scripts) == len(set(scripts))
