"""A ComfyUI of its own with the sample clip and a browser, for the programs that make workflows and pictures."""

import argparse
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser

from latentsync.samples import write_samples
from tests.comfy.browser import chromium
from tests.comfy.server import ComfyServer
from tests.comfy.setup_host import FOLDER, ROOT

PACK = "latentsync-nodes"


@contextmanager
def studio(comfy: Path = FOLDER) -> Iterator[tuple[ComfyServer, Browser]]:
    """A running server with nothing but this pack and its samples, and a browser; both end with the block."""
    with tempfile.TemporaryDirectory() as base:
        server = ComfyServer(Path(base), {PACK: ROOT}, folder=Path(comfy).resolve())
        write_samples(server.base / "input")
        with server, chromium() as browser:
            yield server, browser


def comfy_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--comfy", type=Path, default=FOLDER, help="where setup_host.py put ComfyUI (default: .comfy)")
