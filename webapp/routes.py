"""What the page fetches beside Gradio's own files."""

from pathlib import Path

from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

from .guard import Guard
from .results import Results
from .settings import ROOT

WIDGETS, OWN = ROOT / "web", Path(__file__).parent / "static"  # ComfyUI's widgets, of which the player is one
PRIVATE = {"Cache-Control": "private, no-store"}


def routes(results: Results) -> list[BaseRoute]:
    """Results by the unguessable name of their run, and the scripts of the page."""

    def result(request: Request) -> Response:
        path = results.file(**request.path_params)
        if path is None:
            return PlainTextResponse("This result is not there (any more).", 404)
        return FileResponse(path, headers=PRIVATE)

    def host(_: Request) -> Response:
        return FileResponse(OWN / "host.js")

    def style(_: Request) -> Response:
        return FileResponse(WIDGETS / "latentsync.css")

    return [
        Route("/results/{folder}/{name}", result),
        Route("/widgets/js/host.js", host),  # in place of ComfyUI's
        Mount("/widgets/js", StaticFiles(directory=WIDGETS / "js")),
        Route("/widgets/latentsync.css", style),
        Mount("/widgets", StaticFiles(directory=OWN)),
    ]


def app_arguments(results: Results) -> dict:
    """For Blocks.launch(app_kwargs=...)."""
    return {"routes": routes(results), "middleware": [Middleware(Guard)], "docs_url": None, "redoc_url": None}
