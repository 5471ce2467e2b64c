"""A file server on 127.0.0.1 that misbehaves on demand."""

import contextlib
import hashlib
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

CONTENT = bytes(hashlib.shake_256(b"a model").digest(300_000))


@dataclass
class Behaviour:
    """What the server does; changed by tests while it runs."""

    content: bytes = CONTENT
    etag: str | None = '"one"'
    ranges: bool = True  # else it answers 200 with everything
    obeys_if_range: bool = True
    cuts: list[int] = field(default_factory=list)  # bytes after which connection 1, 2, ... is closed
    statuses: list[int] = field(default_factory=list)  # answers of request 1, 2, ... before it serves
    length: int | None = None  # told instead of the true one; -1: none
    headers: dict[str, str] = field(default_factory=dict)
    redirect: str | None = None
    redirect_code: int = 302
    before_block: Callable[[int], None] = lambda sent: None
    block: int = 50_000
    requests: list[tuple[str, str | None]] = field(default_factory=list)  # path and Range


class _Handler(BaseHTTPRequestHandler):
    behaviour: Behaviour

    def do_GET(self):
        it = self.behaviour
        it.requests.append((self.path, self.headers.get("Range")))
        if it.statuses and (status := it.statuses.pop(0)) != 200:
            self.send_response(status)
            self.send_header("Content-Length", "0")
            for name, value in it.headers.items():
                self.send_header(name, value)
            self.end_headers()
            return
        if it.redirect:
            self.send_response(it.redirect_code)
            self.send_header("Location", it.redirect + self.path)
            self.end_headers()
            return
        found = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        start = int(found[1]) if found and it.ranges else 0
        if_range = self.headers.get("If-Range")
        if it.obeys_if_range and if_range and if_range != it.etag:
            start = 0
        if start and start >= len(it.content):
            self.send_response(416)
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        total = len(it.content)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
        if it.length != -1:
            self.send_header("Content-Length", str((it.length or total) - start))
        if it.etag:
            self.send_header("ETag", it.etag)
        for name, value in it.headers.items():
            self.send_header(name, value)
        self.end_headers()
        self._send(it.content[start:], it.cuts.pop(0) if it.cuts else None)

    def _send(self, body: bytes, cut: int | None) -> None:
        body = body if cut is None else body[:cut]
        with contextlib.suppress(OSError):
            for sent in range(0, len(body), self.behaviour.block):
                self.behaviour.before_block(sent)
                self.wfile.write(body[sent : sent + self.behaviour.block])
        self.close_connection = True

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def serving(behaviour: Behaviour) -> Iterator[str]:
    """Serves on a free port; yields the address."""
    handler = type("Handler", (_Handler,), {"behaviour": behaviour})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
