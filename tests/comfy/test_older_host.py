"""The pack in an install of a year ago under the newest front end: PyAV 16.1, and torchvision 0.25, which turns PyAV's
logging on."""

import os
import subprocess
import sys

import pytest

from tests.comfy import graphs
from tests.comfy.browser import FrontEnd
from tests.comfy.conftest import PACK
from tests.comfy.graphs import node, save_video, write
from tests.comfy.media import Streams
from tests.comfy.server import ComfyServer
from tests.comfy.setup_host import FOLDER, ROOT, front_end_of, older_of, packages_of
from tests.comfy.test_pack import NODES

PACKAGES = os.pathsep.join(map(str, (older_of(FOLDER), packages_of(FOLDER))))
VERSIONS = "import torchvision, av.logging; print(torchvision.__version__[:6], av.__version__, av.logging.get_level())"


@pytest.fixture(scope="module")
def older(tmp_path_factory, clips):
    packs = {PACK: ROOT, "other_pack": ROOT / "tests" / "comfy" / "other_pack"}
    base, env = tmp_path_factory.mktemp("older"), {"PYTHONPATH": PACKAGES}
    with ComfyServer(base, packs, env=env, front_end_root=front_end_of(FOLDER)) as running:
        for file in clips.folder.iterdir():
            running.add_input(file)
        yield running


def test_it_is_what_it_is_to_be(older):
    done = subprocess.run(
        [sys.executable, "-c", VERSIONS], env={**os.environ, "PYTHONPATH": PACKAGES}, capture_output=True, text=True
    )
    assert done.stdout.split() == ["0.25.0", "16.1.0", "16"], done.stderr[-2000:]
    assert set(NODES) <= set(older.nodes(PACK))
    assert "IMPORT FAILED" not in older.log_text()


def test_a_video_is_made_to_speak_again_and_again(older, clips):
    for seed in (1, 2, 3):  # without the remedy of latentsync/media/video_decoder.py the first hangs
        run = older.run(graphs.all_in_one(clips.talk, clips.speech, duration=0.4, steps=1, seed=seed))
        assert run.status == "success", run.message
        assert Streams.of(next(file for file in run.files if file.parent.name == "output")).num_frames == 10


def test_every_stage_runs(older, clips):
    graph = graphs.stages(clips.talk, clips.speech, count=6, steps=1)
    graph["video"] = node("CreateVideo", images=["put", 0], fps=["parts", 2], audio=["speech", 0])
    run = older.run({**graph, "save": save_video(["video", 0], "staged"), "write": write("put", images=["put", 0])})
    assert run.status == "success", run.message


def test_the_newest_front_end_draws_every_node(older, browser, artefacts):
    page = FrontEnd(browser, older.url)
    page.open()
    for index, name in enumerate(NODES):
        page.add_node(name, at=(index % 6 * 480, index // 6 * 620))
    page.fit()
    page.screenshot(artefacts / "pages" / "newest_front_end.png")
    assert set(page.graph().types) == set(NODES)
    assert page.problems == []
