"""The sample files on the page's demand: what `install.py --samples` writes, into ComfyUI's input folder.

GET  /latentsync/samples   {"missing": [name, ..]}
POST /latentsync/samples   writes those that are missing, answers as GET; 409 {"error": words} where nothing was written
"""

import asyncio
import os

from . import host

PATH = "/latentsync/samples"


def offer_samples() -> None:
    """Answer at PATH, where ComfyUI has a server."""
    routes, one_at_a_time = host.routes(), asyncio.Lock()
    if routes is None:
        return
    from aiohttp import web

    @routes.get(PATH)
    async def tell(_: object) -> object:
        from ..latentsync.samples import NAMES

        folder = host.input_folder()
        return web.json_response({"missing": [name for name in NAMES if not (folder / name).exists()]})

    @routes.post(PATH)
    async def write(request: object) -> object:
        from ..latentsync.errors import LatentSyncError
        from ..latentsync.samples import write_samples

        folder = host.input_folder()
        async with one_at_a_time:
            try:
                await asyncio.to_thread(write_samples, folder)
            except LatentSyncError as error:  # without the server's own paths
                words = str(error).replace(f"{folder}{os.sep}", "").replace(str(folder), "input")
                return web.json_response({"error": words}, status=409)
        return await tell(request)
