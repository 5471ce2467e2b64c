"""The app's page in a browser, used as a visitor uses it."""

import time
from pathlib import Path

from playwright.sync_api import Browser, BrowserContext, Locator, Page, expect

from latentsync.presets import PRESETS
from webapp.quality import hint

READY = "#player .ls-empty"  # what the page loads last
PLAYER = "#player .ls-video:not(.ls-source)"


class AppPage:
    """One visitor. problems: what the console complained of; foreign: addresses elsewhere that the page asked for."""

    def __init__(self, browser: Browser, url: str, size: tuple[int, int] = (1280, 900), **options):
        self.url, self.problems, self.foreign = url, [], []
        self.context: BrowserContext = browser.new_context(
            viewport={"width": size[0], "height": size[1]}, accept_downloads=True, **options
        )
        self.page: Page = self.context.new_page()
        self.page.set_default_timeout(60_000)  # a busy machine is slow
        self.page.on("console", lambda said: said.type == "error" and self.problems.append(said.text))
        self.page.on("pageerror", lambda error: self.problems.append(f"{error.message}\n{error.stack or ''}"))
        self.context.route("**/*", self._only_here)
        self.open()

    def _only_here(self, route) -> None:
        address = route.request.url
        if address.startswith((self.url, "data:", "blob:")):
            return route.continue_()
        self.foreign.append(address)
        return route.abort()

    def open(self) -> None:
        self.page.goto(self.url)
        self.page.locator(READY).wait_for(state="attached")

    def close(self) -> None:
        self.context.close()

    # ---- what a visitor does

    def give(self, part: str, file: Path | dict) -> None:
        """part: "video" or "speech"; in place of what is there."""
        clear, upload = (self.page.locator(f"#{part} {css}") for css in ("[aria-label=Clear]", "input[type=file]"))
        clear.or_(upload).first.wait_for(state="attached")
        while clear.count() > 1:  # over what cannot be played lies a complaint, which goes first
            clear.first.click()
            self.page.wait_for_timeout(300)
        if clear.count():
            clear.click()
        upload.first.set_input_files(file)

    def give_both(self, video: Path, speech: Path) -> None:
        """And wait until the faces were looked for."""
        self.give("video", video)
        self.give("speech", speech)
        self.page.locator("#speech audio, #speech #waveform").first.wait_for(state="attached")
        self.wait_for_faces()

    def record_video(self, milliseconds: float) -> None:
        """With the camera."""
        part = self.page.locator("#video")
        part.get_by_label("Capture from camera").click()
        part.get_by_text("Click to Access Webcam").click()
        part.locator(".capture-button").click()
        self.page.wait_for_timeout(milliseconds)
        part.locator(".capture-button").click()

    def record_speech(self, milliseconds: float) -> None:
        """With the microphone."""
        part = self.page.locator("#speech")
        part.get_by_label("Record audio").click()
        part.get_by_role("button", name="Record", exact=True).click()
        self.page.wait_for_timeout(milliseconds)
        part.locator(".stop-button").click()
        part.get_by_label("Trim audio to selection").wait_for()  # it has come

    def example(self, label: str) -> None:
        self.page.get_by_role("button", name=label, exact=True).click()
        self.wait_for_faces()

    def set(self, label: str, value: float) -> None:
        """A number or slider."""
        field = self.field(label)
        field.fill(f"{value:g}")
        field.press("Tab")

    def field(self, label: str) -> Locator:
        """Of a number or slider."""
        return self.page.get_by_label(label).and_(self.page.locator("input[type=number]")).first

    def choose(self, part: str, option: str) -> None:
        """part: "preset" or "model"."""
        self.page.locator(f"#{part} input").click()
        self.page.get_by_role("option", name=option, exact=True).click()

    def open_more(self) -> None:
        self.page.get_by_role("button", name="More settings").click()

    def wait_for_preset(self, preset: str) -> None:
        """Until what it sets has come."""
        self.page.locator("#preset", has_text=hint(preset)).wait_for()

    def set_quick(self, steps: int) -> None:
        """The draft preset with so many steps."""
        self.open_more()
        self.field("Steps").wait_for()  # first: Gradio sets what it has missed a moment after it is there
        self.choose("preset", "Draft")
        expect(self.field("Steps")).to_have_value(f"{PRESETS['draft'].options['num_inference_steps']}")
        self.set("Steps", steps)

    def press(self, button: str) -> None:
        """button: "run", "preview" or "cancel"."""
        self.page.locator(f"#{button}").click()

    # ---- what a visitor sees

    @property
    def faces(self) -> Locator:
        return self.page.locator("#faces .thumbnail-item, #faces .thumbnail-lg")

    @property
    def note(self) -> Locator:
        """What stands below the buttons."""
        return self.page.locator("#progress :is(.app-note, .app-progress)")

    def wait_for_faces(self) -> None:
        """Raises AssertionError with what the page says where it shows none."""
        self.faces.or_(self.page.locator("#faces_note .app-failed")).first.wait_for(timeout=180_000)
        assert self.faces.count(), self.faces_note.inner_text()

    @property
    def faces_note(self) -> Locator:
        """What stands above the faces."""
        return self.page.locator("#faces_note .app-note")

    def toast(self, words: str) -> str:
        """The text of the message with these words that comes up; it is closed again."""
        shown = self.page.locator(".toast-body", has_text=words).first
        shown.wait_for()
        text = shown.inner_text()
        shown.get_by_role("button", name="Close").first.click()
        return text

    def wait_until_made(self, seconds: float = 240) -> float:
        """Until the result can be played; how long that took."""
        started = time.monotonic()
        self.page.locator("#cancel").wait_for()  # it has begun, and what stands there is of this run
        self.page.locator("#progress [role=status]", has_text="made in").wait_for(timeout=1000 * seconds)
        self.page.wait_for_function("css => document.querySelector(css)?.readyState >= 2", arg=PLAYER)
        return time.monotonic() - started

    def played(self) -> dict:
        """Start the result; its width and duration, and where it is, s."""
        self.page.locator("#player .ls-controls button").first.click()
        self.page.wait_for_function("css => document.querySelector(css).currentTime > 0.1", arg=PLAYER)
        return self.page.evaluate(
            "css => { const v = document.querySelector(css); return {width: v.videoWidth, duration: v.duration,"
            " time: v.currentTime, source: document.querySelector('#player .ls-source').videoWidth}; }",
            PLAYER,
        )

    def save(self, words: str, folder: Path) -> Path:
        """Click on a link below the player."""
        with self.page.expect_download() as waiting:
            self.page.get_by_role("link", name=words).click()
        path = folder / waiting.value.suggested_filename
        waiting.value.save_as(path)
        return path
