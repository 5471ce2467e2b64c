"""One app and the clips that are given to it."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from latentsync.synthetic.clips import AvatarClip
from latentsync.synthetic.files import write_clip, write_speech
from tests.webapp.app_page import AppPage
from tests.webapp.served import Served, served

IDENTITY, OWN, OTHER = 1_000_001, 2_000_001, 3_000_001  # seeds that training does not draw
SECONDS = 0.8
SIDE = 192  # px
LONGEST = 5.0  # s that the app under test takes


@pytest.fixture(scope="session")
def app(tmp_path_factory) -> Iterator[Served]:
    """With restoration, and limits that are quickly reached."""
    limits = ("--max_seconds", f"{LONGEST:g}", "--max_side", "600", "--max_waiting", "1", "--max_upload_mb", "2")
    with served(tmp_path_factory.mktemp("app") / "files", "--enable_sr", *limits) as running:
        yield running
        assert running.process.poll() is None, "the server ended by itself"


@pytest.fixture(scope="session")
def talk(tmp_path_factory) -> Path:
    """A drawn face that says something."""
    path = tmp_path_factory.mktemp("talk") / "talk & walk.mp4"
    write_clip(AvatarClip(IDENTITY, OWN, SECONDS), path, side=SIDE)
    return path


@pytest.fixture(scope="session")
def words(tmp_path_factory) -> Path:
    """What it shall say."""
    path = tmp_path_factory.mktemp("words") / "words.wav"
    write_speech(AvatarClip(IDENTITY, OTHER, SECONDS), path)
    return path


@pytest.fixture
def visit(browser, app) -> Iterator[Callable[..., AppPage]]:
    """`visit()`: a visitor of the app. No page may complain, or ask for anything elsewhere."""
    pages: list[AppPage] = []

    def come(**options) -> AppPage:
        pages.append(AppPage(browser, app.url, **options))
        return pages[-1]

    yield come
    for page in pages:
        page.close()
    assert [page.problems for page in pages if page.problems] == []
    assert [page.foreign for page in pages if page.foreign] == []
