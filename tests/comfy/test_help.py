"""Help pages: every node has one, it names every input, and the front end shows it with its picture."""

import re
from pathlib import Path

import pytest
from PIL import Image

from tests.comfy.conftest import PACK

DOCS = Path(__file__).parents[2] / "web" / "docs"
LARGEST_PICTURE = 60_000  # bytes


@pytest.fixture(scope="module")
def nodes(server) -> dict[str, dict]:
    return server.nodes(PACK)


def test_every_node_has_a_page_and_every_page_a_node(nodes):
    assert {page.stem for page in DOCS.glob("*.md")} == set(nodes)


def test_pages_name_inputs_and_outputs_as_the_nodes_do(nodes):
    for name, node in nodes.items():
        page = (DOCS / f"{name}.md").read_text(encoding="utf-8")
        assert page.startswith(f"# {node['display_name']}\n"), name
        named = set(re.findall(r"\*\*(\w+)\*\*", page))
        inputs = {key for kind in ("required", "optional") for key in node["input"].get(kind, {})}
        assert inputs | set(node["output_name"]) <= named, (name, (inputs | set(node["output_name"])) - named)
        assert "## Common mistakes" in page


def test_pictures_are_there_and_small():
    for page in DOCS.glob("*.md"):
        pictures = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", page.read_text(encoding="utf-8"))
        assert pictures, page.name
        for picture in pictures:
            assert (DOCS / picture).stat().st_size <= LARGEST_PICTURE, picture
            with Image.open(DOCS / picture) as image:
                assert min(image.size) >= 120, picture


def test_the_front_end_shows_page_and_picture(front_end, nodes):
    for name in nodes:
        front_end.page.evaluate("() => app.graph.clear()")
        front_end.add_node(name)
        front_end.fit()  # the help button is above the node
        text = front_end.open_help(name)
        assert "Common mistakes" in text
        assert "|" not in text  # tables are tables
        image = front_end.page.locator(".node-help-content img").first
        image.scroll_into_view_if_needed()
        front_end.page.wait_for_function("() => document.querySelector('.node-help-content img').naturalWidth > 0")
