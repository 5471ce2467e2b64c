"""Pictures of the page for docs/, from a real run of an example.

    python -m tests.webapp.screenshots [--output docs/screenshots] [--preset NAME] [NAME ...]

NAME restricts it to some pictures. After a change of the page or of the bundled model: run it again and look at each.
"""

import argparse
import io
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser

from tests.comfy.browser import chromium
from tests.comfy.thumbnails import encoded
from tests.webapp.app_page import PLAYER, AppPage
from tests.webapp.served import ROOT, served
from webapp.examples import EXAMPLES
from webapp.quality import LABELS

DESKTOP, PHONE = (1280, 900), (390, 844)  # px


@dataclass(frozen=True)
class Picture:
    """scheme: light or dark; example: which one; is_running: taken while the run is at work."""

    scheme: str = "light"
    size: tuple[int, int] = DESKTOP
    example: int = 0
    is_running: bool = False


PICTURES = {
    "gradio": Picture(example=2),
    "gradio_running": Picture(example=2, is_running=True),
    "gradio_dark": Picture("dark"),
    "gradio_phone": Picture(size=PHONE),
}
LARGEST = 190_000  # bytes a picture
MOMENT = 0.4  # of the video


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", choices=[*PICTURES, []], metavar="NAME", help=", ".join(PICTURES))
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "screenshots", help="folder")
    parser.add_argument("--preset", choices=list(LABELS), default="balanced", help="default: balanced")
    given = parser.parse_args()
    given.output.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory() as folder,
        served(Path(folder) / "app", "--enable_sr") as app,
        chromium() as browser,
    ):
        for name in given.names or PICTURES:
            visit(browser, app.url, given.output / f"{name}.jpg", PICTURES[name], given.preset)
    return 0


def visit(browser: Browser, url: str, file: Path, picture: Picture, preset: str) -> None:
    """One picture of a finished run, or of one at work."""
    is_phone = picture.size == PHONE
    page = AppPage(browser, url, picture.size, color_scheme=picture.scheme, is_mobile=is_phone, has_touch=is_phone)
    page.example(EXAMPLES[picture.example].label)
    page.choose("preset", LABELS[preset])
    page.wait_for_preset(preset)
    page.press("run")
    if picture.is_running:
        page.page.locator("#progress .app-look").wait_for(timeout=600_000)
    else:
        page.wait_until_made(1800)
        page.page.evaluate(
            "([css, share]) => { const v = document.querySelector(css); v.currentTime = share * v.duration; }",
            [PLAYER, MOMENT],
        )
        page.page.wait_for_timeout(1500)
    take(page, file)
    page.close()


def take(page: AppPage, file: Path) -> None:
    picture = Image.open(io.BytesIO(page.page.screenshot(full_page=True))).convert("RGB")
    file.write_bytes(encoded(picture, LARGEST))
    print(f"{file}: {picture.width} x {picture.height} px, {file.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    sys.exit(main())
