"""What happens when a video, a speech or a choice comes in."""

import json
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import gradio as gr

from latentsync.errors import LatentSyncError
from latentsync.faces.scan_cache import TrackCache

from . import progress_panel, quality, results
from .examples import EXAMPLES, Example
from .face_cards import FaceCard, face_cards
from .media_limits import check_speech, check_video
from .messages import as_toast, is_stop, visitor_message
from .model_cache import BUNDLED, NO_RESTORER, ModelCache
from .page import QUIET, Parts, model_hint
from .run_queue import QueuedWork, RunQueue
from .settings import AppSettings

TELL_EVERY = 0.5  # s
LEVEL = ("num_inference_steps", "guidance_scale", "silence")  # what the page sets with a preset
NO_FACE = "No face was found in the beginning of this video. It must be visible, from the front or half turned."


class InputEvents:
    """`scans`: finds faces for one visitor after the other."""

    def __init__(self, settings: AppSettings, models: ModelCache, cache: TrackCache):
        self._settings, self._models, self._cache = settings, models, cache
        self.scans = RunQueue(settings.limits.waiting)
        self._shown: dict[str, str | None] = {}  # by visitor, whose faces are on the page

    def connect(self, parts: Parts, cards: gr.State, chosen: gr.State) -> None:
        """Tie the handlers to the page. cards: the faces that were found; chosen: which of them speaks."""
        found = [parts.faces, parts.faces_note, parts.everyone, cards, chosen]
        parts.video.change(self.find_faces, parts.video, found, trigger_mode="multiple", **QUIET)
        parts.faces.select(self.choose_face, cards, [chosen, parts.faces_note], **QUIET)
        parts.speech.change(self.hear, parts.speech, None, **QUIET)
        for button, example in zip(parts.examples, EXAMPLES, strict=True):
            filled = [parts.video, parts.speech, parts.model, parts.faces_note]
            button.click(self.filler(example), None, filled, **QUIET)
        level = [*(parts.settings[name] for name in LEVEL), parts.preset, parts.model]
        for choice in (parts.preset, parts.model):
            choice.change(None, [parts.preset, parts.model], level, js=level_script(parts, self._models), **QUIET)
        if parts.restorer is not None:
            details = [parts.strength, parts.ratio, parts.fidelity]
            parts.restorer.change(restorer_details, parts.restorer, details, **QUIET)

    async def find_faces(self, video: str | None, request: gr.Request) -> AsyncIterator[tuple]:
        """Check a video that has come, and show who is in it."""

        def shown(note: str, cards: list[FaceCard] | None = None) -> tuple:
            several = len(cards or ()) > 1
            pictures = [(card.picture, card.label) for card in cards or ()]
            gallery = gr.Gallery(value=pictures, visible=bool(cards), selected_index=0 if cards else None)
            return gallery, note, gr.Checkbox(value=False, visible=several), cards or [], 0

        owner = request.session_hash
        if self._shown.get(owner) == video:  # the browser tells of some videos twice
            yield tuple(gr.skip() for _ in range(5))
            return
        self._shown[owner] = video
        yield shown(progress_panel.NOTHING)
        self.scans.stop(owner)  # of another video; nothing comes between this and `submit`
        if video is None:
            return
        job = None
        try:
            job = self.scans.submit(owner, lambda job: self._look(Path(video), job))
            async for _ in job.until_done(TELL_EVERY):
                seen = f", {job.state} frames so far" if job.state else ""
                yield shown(progress_panel.done(f"Looking for faces{seen} …"))
            cards = job.future.result()
        except Exception as error:
            if is_stop(error):  # another video has come
                return
            words = visitor_message(error, {Path(video): Path(video).name})
            yield shown(progress_panel.failed(words))
            raise as_toast(words) from error
        finally:
            if job is not None:
                job.stop()
        yield shown(progress_panel.done(speaks(cards, 0)) if cards else progress_panel.failed(NO_FACE), cards)

    def leave(self, owner: str) -> None:
        """The page was closed or loaded anew."""
        self.scans.stop(owner)
        self._shown.pop(owner, None)

    def _look(self, video: Path, job: QueuedWork) -> list[FaceCard]:
        def on_frame(index: int) -> None:
            job.state = index + 1
            job.check()

        check_video(video, self._settings.limits)
        folder = results.new_folder(self._settings.faces)
        return face_cards(video, folder, self._models.finder(), self._cache, on_frame)

    def choose_face(self, cards: list[FaceCard], event: gr.SelectData) -> tuple[int, str]:
        """A face was clicked on."""
        index = event.index if isinstance(event.index, int) and 0 <= event.index < len(cards) else 0
        return index, progress_panel.done(speaks(cards, index))

    def hear(self, speech: str | None) -> None:
        """Check a speech that has come."""
        if speech is None:
            return
        try:
            check_speech(speech, self._settings.limits)
        except Exception as error:
            raise as_toast(visitor_message(error, {Path(speech): Path(speech).name})) from error

    def filler(self, example: Example) -> Callable[[], Iterator[tuple]]:
        """A handler that fills in an example."""

        def fill_in() -> Iterator[tuple]:
            yield gr.skip(), gr.skip(), gr.skip(), progress_panel.done("Drawing the example …")
            try:
                video, speech = example.files(self._settings.examples)
            except LatentSyncError as error:
                raise as_toast(visitor_message(error)) from error
            yield str(video), str(speech), BUNDLED, progress_panel.NOTHING

        return fill_in


def level_script(parts: Parts, models: ModelCache) -> str:
    """What a preset sets, which may then be changed, and what to know of preset and model: (preset, model) => values.

    In the browser, as a late answer of the server would put back what a visitor has changed meanwhile.
    """

    def level(preset: str, model: str) -> tuple:
        options = quality.chosen_options(preset, models.defaults(model), {})
        hints = ({"__type__": "update", "info": hint} for hint in (quality.hint(preset), model_hint(model)))
        return *(getattr(options, name) for name in LEVEL), *hints

    keys = [key for _, key in parts.model.choices]
    table = {preset: {key: level(preset, key) for key in keys} for _, preset in parts.preset.choices}
    return f"(preset, model) => ({json.dumps(table)})[preset][model]"


def restorer_details(restorer: str) -> tuple:
    """The sliders that mean something for it."""
    used = gr.Slider(visible=restorer != NO_RESTORER)
    return used, used, gr.Slider(visible=restorer == "CodeFormer")


def speaks(cards: list[FaceCard], index: int) -> str:
    return f"{cards[index].label} speaks." + (" Click on another to change that." if len(cards) > 1 else "")
