"""One ComfyUI for all tests here, with this pack and another one, and the clips they work on."""

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from latentsync.model.loading import BUNDLED
from latentsync.samples import write_samples
from latentsync.synthetic.clips import AvatarClip
from tests.comfy import media
from tests.comfy.browser import FrontEnd
from tests.comfy.server import ComfyServer, link_folder
from tests.comfy.setup_host import FOLDER, ROOT, is_complete

PACK = "latentsync-nodes"  # the folder's name under custom_nodes; the pack must work under any
OTHER_PACK = "other_pack"
ARTEFACTS = ROOT / "output" / "tests" / "comfy"  # pictures and videos to look at; git ignores them


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything in this folder is marked; where there is no ComfyUI it is skipped, but never where it has to be."""
    here = [item for item in items if Path(__file__).parent in item.path.parents]
    for item in here:
        item.add_marker(pytest.mark.comfy)
        if not is_complete(FOLDER) and not os.environ.get("LATENTSYNC_COMFY_REQUIRED"):
            reason = "no ComfyUI in .comfy; with a network: python tests/comfy/setup_host.py"
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def artefacts() -> Path:
    ARTEFACTS.mkdir(parents=True, exist_ok=True)
    return ARTEFACTS


@pytest.fixture(scope="session")
def clips(tmp_path_factory) -> media.Clips:
    """Drawn once; every test reads the same files."""
    return media.draw_clips(tmp_path_factory.mktemp("clips"))


@pytest.fixture(scope="session")
def server(tmp_path_factory, clips, artefacts) -> Iterator[ComfyServer]:
    base, extra = tmp_path_factory.mktemp("comfy"), tmp_path_factory.mktemp("extra")
    packs = {PACK: ROOT, OTHER_PACK: Path(__file__).parent / OTHER_PACK}
    # Two more copies of the bundled model, where users keep theirs.
    (base / "models" / "latentsync").mkdir(parents=True)
    link_folder(base / "models" / "latentsync" / "mine", BUNDLED)
    link_folder(extra / "elsewhere", BUNDLED)
    paths = extra / "paths.yaml"
    paths.write_text(yaml.safe_dump({"shelf": {"latentsync": str(extra)}}), encoding="utf-8")
    running = ComfyServer(base, packs, arguments=["--extra-model-paths-config", str(paths)])
    for file in clips.folder.iterdir():
        running.add_input(file)
    try:
        with running:
            yield running
    finally:
        shutil.copyfile(running.log, artefacts / "server.log")


@pytest.fixture(scope="session")
def samples(server) -> None:
    """The files that the example workflows open, as the user gets them with install.py --samples."""
    write_samples(server.base / "input")


@pytest.fixture(scope="session")
def page(browser, server) -> FrontEnd:
    return FrontEnd(browser, server.url)


@pytest.fixture
def front_end(page, artefacts, request) -> Iterator[FrontEnd]:
    """The front end with an empty canvas; `front_end.open(settings)` changes theme, language or renderer.

    At its end the test fails if the console complained of anything; a picture of the page is kept in any case.
    """
    page.renew()
    yield page
    page.screenshot(artefacts / "pages" / f"{re.sub(r'[^A-Za-z0-9]+', '_', request.node.name)}.png")
    assert page.problems == []


@pytest.fixture(scope="session")
def spoken(clips) -> AvatarClip:
    """The clip whose speech is given: what the lips should do is known."""
    return clips.speech_of
