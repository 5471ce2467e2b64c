"""What the nodes tell the front end about themselves."""

import json
from dataclasses import fields

import pytest

from latentsync.cli.arguments import build_parser
from latentsync.faces.align import Smoothing
from latentsync.faces.choice import PLACES
from latentsync.media.length_modes import LENGTH_MODES, TAIL_MODES
from latentsync.model.masks import MASK_NAMES
from latentsync.options import SCHEDULERS, SETTINGS, LipSyncOptions
from latentsync.presets import CUSTOM, DEFAULT_PRESET, PRESETS
from latentsync.restoration.restorers import Backend
from tests.comfy.conftest import PACK
from tests.comfy.setup_host import ROOT

NODES = {
    "LatentSyncModelLoader",
    "LatentSyncAudioEncode",
    "LatentSyncFacePrepare",
    "LatentSyncSampler",
    "LatentSyncBlend",
    "LatentSyncLipSync",
    "LatentSyncLipSyncImages",
    "LatentSyncMatchLength",
    "LatentSyncReport",
    "LatentSyncSpeaker",
    "LatentSyncSyncScore",
    "LatentSyncRestoreLoader",
    "LatentSyncFaceRestore",
}
# Input of a node -> option of the library, and of the command line where it has one.
OPTIONS = {
    "seed": ("seed", "seed"),
    "steps": ("num_inference_steps", "inference_steps"),
    "guidance_scale": ("guidance_scale", "guidance_scale"),
    "mask_smooth": ("mask_smooth", "mask_smooth"),
    "start": ("start", "start"),
    "duration": ("duration", "duration"),
    "length": ("length", "length"),
    "tail": ("tail", "tail"),
    "audio_offset_ms": ("audio_offset_ms", "audio_offset_ms"),
    "chunk_overlap": ("chunk_overlap", "chunk_overlap"),
    "scheduler": ("scheduler", "scheduler"),
    "cache_interval": ("cache_interval", "cache_interval"),
    "smoothing": ("smoothing", None),
    "mask": ("mask", None),
    "silence": ("silence", "silence"),
    "blend_method": ("blend_method", "blend_method"),
    "mask_shape": ("mask_shape", "mask_shape"),
    "max_yaw": ("max_yaw", "max_yaw"),
    "fade": ("fade", "fade"),
    "marking": ("marking", None),
    "visible_mark": ("visible_mark", "visible_mark"),
    "sr_ratio": ("sr_ratio", "sr_ratio"),
    "sr_strength": ("sr_strength", "sr_strength"),
}


@pytest.fixture(scope="module")
def nodes(server) -> dict[str, dict]:
    return server.nodes(PACK)


def inputs_of(node: dict) -> dict[str, tuple[str, dict]]:
    """The type and settings of every input that a user sees."""
    groups = (node["input"].get(kind, {}) for kind in ("required", "optional"))
    return {name: tuple(spec) for group in groups for name, spec in group.items()}


def test_exactly_the_nodes_that_work_are_listed(nodes):
    assert set(nodes) == NODES
    assert {node["category"] for node in nodes.values()} == {"LatentSync"}


def test_defaults_are_the_command_lines(nodes):
    options = LipSyncOptions()
    arguments = vars(build_parser().parse_args(["--video_path", "v", "--audio_path", "a", "--video_out_path", "o.mp4"]))
    compared = set()
    for node, name, settings in every_input(nodes):
        if name in OPTIONS and node != "LatentSyncModelLoader":
            option, argument = OPTIONS[name]
            nothing = "" if name == "visible_mark" else 0
            assert settings["default"] == (getattr(options, option) or nothing), (node, name)
            if argument:
                assert settings["default"] == (arguments[argument] or nothing), (node, name)
            compared.add(name)
    assert compared == set(OPTIONS)
    loader = inputs_of(nodes["LatentSyncModelLoader"])
    assert (arguments["dtype"], arguments["resolution"]) == ("auto", None)
    assert (loader["precision"][1]["default"], loader["resolution"][1]["default"]) == ("auto", "auto")
    assert (loader["lora"][1]["default"], arguments["lora"]) == ("none", None)
    assert loader["lora_strength"][1]["default"] == arguments["lora_strength"]
    restorer = inputs_of(nodes["LatentSyncRestoreLoader"])
    assert restorer["codeformer_fidelity"][1]["default"] == arguments["codeformer_fidelity"]
    assert restorer["backend"][1]["default"] == arguments["sr_backend"]


def test_choices_are_the_librarys(nodes):
    prepare = inputs_of(nodes["LatentSyncFacePrepare"])
    assert set(prepare["mask"][1]["options"]) == set(MASK_NAMES)
    assert set(prepare["smoothing"][1]["options"]) == set(Smoothing.__args__)
    places = {*PLACES, "number", "point"}
    for node, choices in (
        ("LatentSyncFacePrepare", places - {"all"}),  # one face at a time
        ("LatentSyncSyncScore", places - {"all"}),
        ("LatentSyncLipSyncImages", places - {"all"}),
        ("LatentSyncLipSync", places),
        ("LatentSyncSpeaker", places),
    ):
        assert set(inputs_of(nodes[node])["face"][1]["options"]) == choices
    assert inputs_of(nodes["LatentSyncRestoreLoader"])["backend"][1]["options"] == list(Backend.__args__)
    for node in ("LatentSyncBlend", "LatentSyncLipSync", "LatentSyncLipSyncImages"):
        for name in ("blend_method", "mask_shape"):
            assert tuple(inputs_of(nodes[node])[name][1]["options"]) == SETTINGS[name].choices
    for node in ("LatentSyncAudioEncode", "LatentSyncLipSync", "LatentSyncLipSyncImages"):
        assert tuple(inputs_of(nodes[node])["silence"][1]["options"]) == SETTINGS["silence"].choices
    for node, name in (
        ("LatentSyncLipSync", "length"),
        ("LatentSyncLipSyncImages", "length"),
        ("LatentSyncMatchLength", "mode"),
    ):
        assert tuple(inputs_of(nodes[node])[name][1]["options"]) == LENGTH_MODES
        assert tuple(inputs_of(nodes[node])["tail"][1]["options"]) == TAIL_MODES
    sampler = inputs_of(nodes["LatentSyncSampler"])
    assert tuple(sampler["scheduler"][1]["options"]) == SCHEDULERS
    interval = sampler["guidance_start"][1]["default"], sampler["guidance_end"][1]["default"]
    assert interval == LipSyncOptions().guidance_interval
    newest = inputs_of(nodes["LatentSyncLipSync"])
    assert list(newest)[-3:] == ["preset", "marking", "visible_mark"]  # at the end, or old graphs' widgets would move
    assert newest["preset"][1]["default"] == DEFAULT_PRESET  # of new nodes; a prompt without one means custom
    assert newest["preset"][1]["options"] == [CUSTOM, *PRESETS]
    decides = newest["preset"][1]["latentsync_decides"]
    assert decides[CUSTOM] == {}
    assert decides["balanced"] == {"steps": 10}
    assert decides["draft"] == {"steps": 5, "guidance_scale": 1.0}
    assert {"steps", "silence", "fade", "max_yaw", "mask_smooth"} < set(decides["reference"])
    overlap = sampler["chunk_overlap"][1]
    assert overlap["max"] == LipSyncOptions().chunk_frames // 2


def test_the_node_of_pictures_begins_at_the_usual_preset(nodes):
    shown = inputs_of(nodes["LatentSyncLipSyncImages"])
    widgets = [name for name, (kind, _) in shown.items() if kind not in ("IMAGE", "AUDIO", "LATENTSYNC_MODEL", "MASK")]
    assert widgets[:2] == ["fps", "preset"]
    assert shown["preset"][1]["default"] == DEFAULT_PRESET
    assert {"steps", "guidance_scale"} <= {name for name, (_, told) in shown.items() if told.get("advanced")}


def test_new_outputs_stand_behind_those_of_saved_graphs(nodes):
    """Links of a graph name outputs by their places."""
    assert nodes["LatentSyncFacePrepare"]["output_name"][:4] == ["faces", "aligned", "masked", "mask"]
    assert nodes["LatentSyncBlend"]["output_name"][0] == "images"


def test_every_limit_is_within_the_librarys(nodes):
    """What the widget lets through, the library takes."""
    known = {field.name for field in fields(LipSyncOptions)}
    for _, name, settings in every_input(nodes):
        option = OPTIONS.get(name, (None,))[0]
        if option in known and "max" in settings:
            for value in (settings["min"], settings["max"]):
                LipSyncOptions(**{option: None if option == "duration" and not value else value})


def test_every_input_says_what_it_does(nodes):
    for node, name, settings in every_input(nodes):
        assert len(settings.get("tooltip", "")) > 20, (node, name)
    assert all(len(node["description"]) > 40 for node in nodes.values())


def test_number_widgets_do_not_snap(nodes):
    """The front end rounds to `step`: 29.97 and 23.976 have to pass."""
    for node, name, settings in every_input(nodes):
        if "step" in settings:
            assert settings["step"] <= (0.001 if name == "fps" else 0.01), (node, name)


def test_english_texts_are_the_schemas(nodes):
    """The front end takes the translation's text even in English, so the two may not drift apart."""
    texts = json.loads((ROOT / "locales" / "en" / "nodeDefs.json").read_text(encoding="utf-8"))
    assert texts.keys() == nodes.keys()
    for name, node in nodes.items():
        text = texts[name]
        assert (text["display_name"], text["description"]) == (node["display_name"], node["description"])
        tooltips = {i: settings["tooltip"] for i, (_, settings) in inputs_of(node).items()}
        assert {i: said["tooltip"] for i, said in text["inputs"].items()} == tooltips
        assert [said["name"] for said in text["outputs"].values()] == node["output_name"]
        assert [said.get("tooltip") for said in text["outputs"].values()] == node["output_tooltips"]


def every_input(nodes):
    for node in nodes:
        for name, (_, settings) in inputs_of(nodes[node]).items():
            yield node, name, settings


@pytest.mark.parametrize("language", ["en", "zh"])
def test_every_connection_type_of_the_pack_has_a_label(nodes, language):
    kinds = {kind for node in nodes.values() for kind in node["output"] if str(kind).startswith("LATENTSYNC_")}
    texts = json.loads((ROOT / "locales" / language / "main.json").read_text(encoding="utf-8"))
    assert set(texts["dataTypes"]) == kinds
