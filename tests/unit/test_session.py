"""What is loaded for a run, and the request of a run."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from latentsync.model import loading
from latentsync.options import LipSyncOptions
from latentsync.run.speech import Speaker
from latentsync.session import ModelChoice, RunRequest, SessionCache

ROOT = Path(__file__).parents[2]


def test_arguments_stay_in_the_command_line():
    """No Namespace leaves it: the library and its hosts know requests (test_floors sees to the imports)."""
    own_parsers = (ROOT / "latentsync" / "cli", ROOT / "webapp" / "command_line.py")
    files = [path for part in ("latentsync", "nodes", "webapp") for path in (ROOT / part).rglob("*.py")]
    texts = {path: path.read_text(encoding="utf-8") for path in files}
    found = {path for path, text in texts.items() if re.search(r"\bNamespace\b", text)}
    assert {path.name for path in found if path.is_relative_to(own_parsers[0])} >= {"arguments.py", "run.py"}
    assert not [path for path in found if not any(path.is_relative_to(own) for own in own_parsers)]


@pytest.fixture
def request_of_a_run(avatar_video, speech, small_model_folder) -> RunRequest:
    choice = ModelChoice(model=small_model_folder, device="cpu")
    return RunRequest(
        avatar_video, (Speaker(speech(0.2)),), Path("o.mp4"), LipSyncOptions(), choice, output_audio=speech(0.12)
    )


def test_equal_requests_are_one_run_wherever_their_files_lie(request_of_a_run, tmp_path):
    one = request_of_a_run
    (tmp_path / "video.mp4").write_bytes(one.video_path.read_bytes())
    moved = replace(one, video_path=tmp_path / "video.mp4", video_out_path=tmp_path / "x.mp4")
    assert one.identity() == moved.identity()
    assert one.identity(sync_score="auto") != one.identity() != one.identity(sync_score="off")


@pytest.mark.parametrize(
    "change",
    [
        {"options": LipSyncOptions(seed=2)},
        {"output_audio": None},
        {"threads": 2},
        {"protect": ROOT / "docs" / "quality.md"},
        {"models": {"device": "auto"}},
        {"models": {"superres": "tiny"}},
        {"models": {"codeformer_fidelity": 0.1}},
        {"models": {"model": "tiny"}},
        {"speakers": "left"},
        {"video_path": ROOT / "docs" / "quality.md"},
    ],
    ids=str,
)
def test_what_a_result_depends_on_makes_another_run(request_of_a_run, change):
    one = request_of_a_run
    if isinstance(change.get("models"), dict):
        change = {"models": replace(one.models, **change["models"])}
    if "speakers" in change:
        change = {"speakers": (replace(one.speakers[0], face=change["speakers"]),)}
    assert replace(one, **change).identity() != one.identity()


def test_what_equal_choices_share_is_loaded_once(small_model_folder, monkeypatch):
    loaded, said, load = [], [], loading.load_model
    monkeypatch.setattr(loading, "load_model", lambda *given, **more: loaded.append(given) or load(*given, **more))
    cache, choice = SessionCache(said.append), ModelChoice(model=small_model_folder, device="cpu", dtype="float32")
    first = cache.session(choice)
    assert len(said) == 1
    restored = cache.session(replace(choice, superres="tiny"))
    assert restored.model is first.model
    assert restored.restorer.name.lower().startswith("tiny")
    assert len(loaded) == 1
    assert said[1:] == [f"super-resolution: {restored.restorer.name} ({restored.restorer.path})"]
    assert cache.session(replace(choice, dtype="bfloat16")).model is not first.model
    assert len(loaded) == 2


def test_options_of_a_session_are_its_presets(small_model_folder):
    session = SessionCache().session(ModelChoice(model=small_model_folder, device="cpu"))
    assert session.options().scheduler == "dpmpp_2m"  # balanced
    fast = replace(session, preset="fast", model=replace(session.model, defaults={"guidance_scale": 2.5}))
    assert (fast.options().num_inference_steps, fast.options().guidance_scale) == (8, 2.5)
    assert (fast.options(num_inference_steps=3, guidance_scale=1.5).num_inference_steps) == 3
    assert fast.options(guidance_scale=1.5).guidance_scale == 1.5
