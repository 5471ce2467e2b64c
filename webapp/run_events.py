"""What happens from the click on a button to the result in the player."""

import asyncio
import html
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import gradio as gr

from latentsync.errors import OptionError
from latentsync.options import SETTINGS, Setting
from latentsync.run.speech import Speaker
from latentsync.session import RunRequest

from . import progress_panel, quality, results
from .face_cards import FaceCard
from .lip_sync_run import RunResult, Workshop
from .media_limits import check_speech, check_video
from .messages import as_toast, is_stop, visitor_message
from .model_cache import NO_RESTORER
from .page import QUIET, Parts
from .run_queue import RunQueue

TELL_EVERY = 0.4  # s
GIVEN = (
    *("video", "speech", "everyone", "preset", "model", "start", "seconds"),
    *("restorer", "strength", "ratio", "fidelity"),
)


class RunEvents:
    """`runs`: makes one video after the other."""

    def __init__(self, workshop: Workshop):
        self._workshop = workshop
        self.runs = RunQueue(workshop.limits.waiting)

    def connect(self, parts: Parts, cards: gr.State, chosen: gr.State) -> None:
        """Tie the handlers to the page. cards: the faces that were found; chosen: which of them speaks."""
        self._parts, self._names = parts, [name for name in GIVEN if getattr(parts, name) is not None]
        given = [*parts.named(*self._names), *parts.settings.values(), cards, chosen]
        shown = [parts.preview, parts.run, parts.cancel, parts.progress, parts.player, parts.downloads]
        parts.preview.click(self.preview, given, shown, **QUIET)
        parts.run.click(self.run, given, shown, **QUIET)
        parts.cancel.click(self.cancel, None, None, **QUIET | {"queue": False})

    async def preview(self, request: gr.Request, *given) -> AsyncIterator[dict]:
        """A few seconds."""
        async for update in self._make(given, request.session_hash, is_preview=True):
            yield update

    async def run(self, request: gr.Request, *given) -> AsyncIterator[dict]:
        """All of it."""
        async for update in self._make(given, request.session_hash, is_preview=False):
            yield update

    def cancel(self, request: gr.Request) -> None:
        self.runs.stop(request.session_hash)

    async def _make(self, given: tuple, owner: str, is_preview: bool) -> AsyncIterator[dict]:
        """From the request to the result, showing what happens; a visitor who leaves stops it."""
        parts, job, names = self._parts, None, {}
        yield self._buttons(busy=True) | {parts.progress: progress_panel.working(None)}
        try:
            values = dict(zip([*self._names, *parts.settings], given, strict=False))
            request = self._request(values, *given[-2:], is_preview)
            names = {path: path.name for path in request.inputs()}
            await asyncio.to_thread(self._check, request)
            job = self.runs.submit(owner, lambda job: self._workshop.make(request, job))
            async for _ in job.until_done(TELL_EVERY):
                ahead = self.runs.ahead(job)
                yield {parts.progress: progress_panel.waiting(ahead) if ahead else progress_panel.working(job.state)}
            made = job.future.result()
        except Exception as error:
            words, stopped = visitor_message(error, names), is_stop(error)
            panel = progress_panel.done(words) if stopped else progress_panel.failed(words)
            yield self._buttons(busy=False) | {parts.progress: panel}
            if stopped:
                return
            raise as_toast(words) from error
        finally:
            if job is not None:
                job.stop()
        report = made.report
        what = f"Preview of {report.duration:.1f} s" if is_preview else f"{report.duration:.1f} s of video"
        yield self._buttons(busy=False) | {
            parts.progress: progress_panel.done(f"{what} made in {progress_panel.clock(report.seconds)}."),
            parts.player: json.dumps(made.shown()),
            parts.downloads: links(made),
        }
        for warning in report.warnings:
            gr.Warning(html.escape(warning))

    def _buttons(self, busy: bool) -> dict:
        parts = self._parts
        usable = gr.Button(interactive=not busy)
        return {parts.preview: usable, parts.run: usable, parts.cancel: gr.Button(visible=busy)}

    def _request(self, given: dict, cards: list[FaceCard], chosen: int, is_preview: bool) -> RunRequest:
        """Return what a visitor asks for; of the result it has the name alone.

        Raises OptionError where something is missing or out of its range.
        """
        for name, what in (("video", "a video of someone talking"), ("speech", "a speech")):
            if not given[name]:
                raise OptionError(f"{what} is missing: upload or record one, or click on an example")
        face = cards[chosen].choice if 0 <= chosen < len(cards) else "largest"
        fields = {name: _plain(SETTINGS[name], given[name]) for name in self._parts.settings}
        fields |= {"sr_strength": given.get("strength", 1.0), "sr_ratio": int(given.get("ratio", 2))}
        models, preset = self._workshop.models, given["preset"]
        options = quality.chosen_options(preset, models.defaults(given["model"]), fields)
        if is_preview:
            options = replace(options, start=given["start"] or 0.0, duration=float(given["seconds"]))
        choice = models.choice(given["model"], preset, given.get("restorer", NO_RESTORER), given.get("fidelity", 0.5))
        return RunRequest(
            video_path=Path(given["video"]),
            speakers=(Speaker(Path(given["speech"]), "all" if given["everyone"] else face),),
            video_out_path=Path(results.VIDEO),
            options=options,
            models=choice,
            measure_opening=True,
            keep_work=False,
        )

    def _check(self, request: RunRequest) -> None:
        check_video(request.video_path, self._workshop.limits)
        for sound in request.sounds():
            check_speech(sound, self._workshop.limits)


def _plain(row: Setting, value):
    """What a control gives, as the library has it."""
    if row.kind is str and not row.choices:
        return value.strip() or row.default
    return row.kind(value or 0)


def links(made: RunResult) -> str:
    """To save what was made; none of the values is a visitor's."""
    files = {results.VIDEO: "Save the video", results.REPORT: "Report (JSON)", results.PICTURE: "Report (picture)"}
    anchors = (
        f'<a class="app-save" href="results/{made.folder}/{name}" download="{name}">{words}</a>'
        for name, words in files.items()
    )
    return f'<p class="app-saves">{"".join(anchors)}</p>'
