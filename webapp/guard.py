"""What Gradio's server would do and this page never needs is refused, and browsers are told to load nothing else."""

import json
import re
from urllib.parse import unquote

from starlette.datastructures import MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

ADDRESS = re.compile(r"/(file|proxy)=[a-z][a-z0-9+.-]+:", re.IGNORECASE)  # one letter is a drive of Windows
MAX_BODY = 2**20  # bytes of an event's values; files come another way
REFUSED = PlainTextResponse("Addresses are not fetched here.", 403)
HEADERS = {
    # Gradio writes scripts into its page and makes some from text; all else comes from this server or not at all.
    "Content-Security-Policy": "default-src 'self' data: blob: 'unsafe-inline' 'unsafe-eval'; frame-ancestors 'self'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",  # addresses of results are told to nobody
}


class Guard:
    """Keeps Gradio from fetching addresses that a visitor names, which would make the server a way into its network."""

    def __init__(self, app: ASGIApp):
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        path = unquote(scope["path"])
        if ADDRESS.search(path):
            return await REFUSED(scope, receive, answer)
        if scope["method"] != "POST" or path.endswith("/upload"):
            return await self._app(scope, receive, answer)
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if len(body) > MAX_BODY:
                return await PlainTextResponse("That is too much at once.", 413)(scope, receive, answer)
            if message["type"] == "http.disconnect" or not message.get("more_body"):
                break
        if _names_an_address(body):
            return await REFUSED(scope, receive, answer)
        given = False

        async def again() -> Message:
            nonlocal given
            if given:
                return await receive()
            given = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self._app(scope, again, answer)


def _names_an_address(body: bytes) -> bool:
    """Whether a file among the values is somewhere else than here."""
    try:
        waiting = [json.loads(body)] if body else []
    except (ValueError, RecursionError):
        return False  # Gradio refuses it
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            if isinstance(path := value.get("path"), str) and "://" in path:
                return True
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value
    return False
