"""The app as a whole: the page with its handlers, and the server it is on."""

import os
from dataclasses import dataclass

import gradio as gr

from latentsync.faces.scan_cache import TrackCache, cache_folder
from latentsync.presets import DEFAULT_PRESET

from .input_events import InputEvents
from .lip_sync_run import Workshop
from .model_cache import ModelCache
from .page import STYLE, THEME, lay_out
from .quality import chosen_options
from .results import NAME, UPLOAD, Results, remove_old
from .routes import app_arguments
from .run_events import RunEvents
from .settings import AppSettings


@dataclass(frozen=True)
class App:
    """A page that was built; `launch` serves it."""

    settings: AppSettings
    page: gr.Blocks
    inputs: InputEvents
    runs: RunEvents
    workshop: Workshop

    def launch(self, server_name: str, port: int | None, share: bool) -> tuple[str, str | None]:
        """Serve in threads of its own; the address here and the public one. Raises OSError where the port is taken."""
        _, here, public = self.page.launch(
            server_name=server_name,
            server_port=port,
            share=share,
            prevent_thread_lock=True,
            quiet=True,
            show_error=False,
            max_file_size=self.settings.limits.upload_mb * 2**20,
            allowed_paths=[],
            run_history=False,
            footer_links=[],
            enable_monitoring=False,
            ssr_mode=False,
            mcp_server=False,
            pwa=False,
            theme=THEME,
            css_paths=[STYLE],
            app_kwargs=app_arguments(self.workshop.results),
        )
        return here, public

    def close(self) -> None:
        """Stop what is at work and the server."""
        self.runs.runs.close()
        self.inputs.scans.close()
        self.page.close(verbose=False)


def build(settings: AppSettings) -> App:
    """Raises OptionError for a device that is not there, ModelNotFoundError for a named model."""
    models = ModelCache(settings)
    cache = TrackCache(cache_folder())
    workshop = Workshop(models, Results(settings.results), settings.limits)
    inputs, runs = InputEvents(settings, models, cache), RunEvents(workshop)

    def leave(request: gr.Request) -> None:
        inputs.leave(request.session_hash)
        runs.runs.stop(request.session_hash)

    def tidy() -> None:
        for root, names in ((settings.uploads, UPLOAD), (settings.faces, NAME), (settings.results, NAME)):
            remove_old(root, names, settings.keep_hours)

    tidy()
    for folder in (settings.uploads, settings.faces, settings.results):
        folder.mkdir(parents=True, exist_ok=True)
    os.environ["GRADIO_TEMP_DIR"] = str(settings.uploads)
    with gr.Blocks(title="LatentSync", analytics_enabled=False) as page:
        options = chosen_options(DEFAULT_PRESET, models.defaults(models.models[0][1]), {})
        parts = lay_out(models.models, models.restorers if settings.enable_sr else None, settings.limits, options)
        cards, chosen = gr.State([]), gr.State(0)
        inputs.connect(parts, cards, chosen)
        runs.connect(parts, cards, chosen)
        page.unload(leave)
        page.load(tidy, api_visibility="private")  # a long running server is tidied by its visitors
    page.queue(api_open=False, default_concurrency_limit=None, max_size=200)
    return App(settings, page, inputs, runs, workshop)
