"""ComfyUI with this pack and the tests' clips, to be looked at in a browser or asked by other programs.

    python -m tests.comfy.serve [--base FOLDER] [--input FILE ...] [--models FOLDER] [-- ARGUMENTS OF COMFYUI]

Prints the address and stays until it is interrupted. What it writes goes to --base (default: output/comfy).
"""

import argparse
import signal
import sys
import tempfile
import time
from pathlib import Path

from tests.comfy import media
from tests.comfy.server import ComfyServer, link_folder
from tests.comfy.setup_host import FOLDER, ROOT


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, default=ROOT / "output" / "comfy")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where setup_host.py put ComfyUI")
    parser.add_argument("--input", type=Path, action="append", default=[], help="a file for input/")
    parser.add_argument("--models", type=Path, help="a folder to take the place of models/")
    parser.add_argument("--pack", type=Path, action="append", default=[], help="another pack to load")
    parser.add_argument("--port", type=int, default=8188)
    parser.add_argument("arguments", nargs="*", help="for ComfyUI itself, behind --")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    given.base.mkdir(parents=True, exist_ok=True)
    if given.models and not (given.base / "models").exists():
        link_folder(given.base / "models", given.models.resolve())
    packs = {"latentsync-nodes": ROOT, "other_pack": Path(__file__).parent / "other_pack"}
    packs |= {pack.name: pack for pack in given.pack}
    server = ComfyServer(
        given.base, packs, folder=given.folder.resolve(), port=given.port, arguments=[*given.arguments]
    )
    with tempfile.TemporaryDirectory() as name:
        for file in [*media.draw_clips(Path(name)).folder.iterdir(), *given.input]:
            server.add_input(file)
    with server:
        print(f"{server.url}  up in {server.start_seconds:.1f} s; log: {server.log}", flush=True)
        for line in server.failed_imports():
            print(line, file=sys.stderr, flush=True)
        try:
            while server.process.poll() is None:
                time.sleep(0.3)
        except KeyboardInterrupt:
            pass
    return 0


if __name__ == "__main__":
    sys.exit(main())
