"""Pictures of the page for docs/, from a real run of an example.

    python -m tests.webapp.screenshots [--output docs/screenshots] [--preset NAME]

After a change of the page or of the bundled model: run it again and look at every picture.
"""

import argparse
import io
import sys
import tempfile
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
LARGEST = 190_000  # bytes a picture
MOMENT = 0.4  # of the video


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "screenshots", help="folder")
    parser.add_argument("--preset", choices=list(LABELS), default="quality", help="default: quality")
    given = parser.parse_args()
    given.output.mkdir(parents=True, exist_ok=True)
    one, _, two = (example.label for example in EXAMPLES)
    with (
        tempfile.TemporaryDirectory() as folder,
        served(Path(folder) / "app", "--enable_sr") as app,
        chromium() as browser,
    ):
        visit(browser, app.url, given.output / "gradio.jpg", "light", DESKTOP, two, given.preset)
        visit(browser, app.url, given.output / "gradio_dark.jpg", "dark", DESKTOP, one, given.preset)
        visit(browser, app.url, given.output / "gradio_phone.jpg", "light", PHONE, one, "draft")
    return 0


def visit(
    browser: Browser, url: str, file: Path, scheme: str, size: tuple[int, int], example: str, preset: str
) -> None:
    """One picture of a finished run; beside it one of the run at work (name_running.jpg)."""
    page = AppPage(browser, url, size, color_scheme=scheme, is_mobile=size == PHONE, device_scale_factor=1)
    page.example(example)
    page.choose("preset", LABELS[preset])
    page.wait_for_preset(preset)
    page.press("run")
    page.page.locator("#progress .app-look").wait_for(timeout=600_000)
    take(page, file.with_name(f"{file.stem}_running.jpg"))
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
