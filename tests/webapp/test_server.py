"""What the server gives and refuses, asked without a browser."""

import http.client
import json
import re
import subprocess
import sys
from urllib.parse import quote, urlsplit

import pytest

from latentsync.commands import FAILED
from latentsync.errors import OptionError
from tests.webapp.served import ROOT
from webapp.app import build
from webapp.command_line import build_parser, serve
from webapp.settings import AppSettings


@pytest.fixture
def ask(app):
    """`ask(path, body=None)`: status, headers and text; the path is sent as it is."""
    address = urlsplit(app.url)

    def request(path: str, body: bytes | None = None, **headers):
        connection = http.client.HTTPConnection(address.hostname, address.port, timeout=30)
        try:
            kind = {"Content-Type": "application/json"} | headers
            connection.request("GET" if body is None else "POST", path, body, kind)
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read().decode("utf-8", "replace")
        finally:
            connection.close()

    return request


@pytest.fixture(scope="module")
def result(app) -> str:
    """The name of a run's folder, with a video in it and a file that is not for visitors."""
    folder = app.folder / "results" / ("A" * 22)
    folder.mkdir()
    (folder / "lip_synced.mp4").write_bytes(b"0123456789")
    (folder / "secret.txt").write_text("secret")
    return folder.name


def test_a_result_is_given_by_its_name(ask, result):
    status, headers, text = ask(f"/results/{result}/lip_synced.mp4")
    assert (status, text) == (200, "0123456789")
    assert headers["Cache-Control"] == "private, no-store"
    assert headers["X-Content-Type-Options"] == "nosniff"


def test_players_may_ask_for_a_part(ask, result):
    status, _, text = ask(f"/results/{result}/lip_synced.mp4", Range="bytes=2-4")
    assert (status, text) == (206, "234")


@pytest.mark.parametrize(
    "path",
    [
        "/results/{result}/secret.txt",
        "/results/{result}/..%2f{result}%2flip_synced.mp4",
        "/results/../results/{result}/secret.txt",
        "/results/..%2f..%2f..%2fmain.py/x",
        "/results/.%2e/uploads",
        "/results/BBBBBBBBBBBBBBBBBBBBBB/lip_synced.mp4",
        "/widgets/../main.py",
        "/widgets/..%2f..%2fmain.py",
        "/widgets/js/..%2f..%2f..%2fmain.py",
        "/widgets/docs/LatentSyncLipSync.md",
        "/gradio_api/file={root}/main.py",
        "/gradio_api/file=main.py",
        "/gradio_api/file=/etc/passwd",
        "/gradio_api/file={folder}/results/{result}/lip_synced.mp4",
        "/gradio_api/file={folder}/uploads/../results/{result}/secret.txt",
        "/gradio_api/file=http://127.0.0.1:1/",
        "/gradio_api/file=https%3A//example.com/",
        "/gradio_api/proxy=http://127.0.0.1:1/",
        "/docs",
        "/redoc",
    ],
)
def test_nothing_else_is_given(ask, app, result, path):
    where = {"root": quote(str(ROOT)), "folder": quote(str(app.folder)), "result": result}
    status, _, text = ask(path.format(**where))
    assert status in (403, 404, 405)
    assert not re.search(r"secret$|0123456789|import sys|root:x:", text)


@pytest.mark.parametrize("address", ["http://127.0.0.1:1/x.mp4", "https://example.com/x.mp4"])
def test_no_address_is_fetched_for_a_visitor(ask, address):
    given = {"data": [{"path": address, "meta": {"_type": "gradio.FileData"}}], "fn_index": 0, "session_hash": "x"}
    assert ask("/gradio_api/queue/join", json.dumps(given).encode())[0] == 403


def test_a_path_that_was_not_uploaded_is_refused(ask):
    """Gradio itself sees to that; without it a visitor could have any file of the server looked at."""
    given = {"path": str(ROOT / "docs" / "demo.webp"), "meta": {"_type": "gradio.FileData"}}
    body = {"data": [given], "fn_index": 0, "session_hash": "elsewhere"}
    status, _, text = ask("/gradio_api/queue/join", json.dumps(body).encode())
    if status == 200:
        _, _, text = ask("/gradio_api/queue/data?session_hash=elsewhere")
        assert '"success":false' in text.replace(" ", "")
        assert "frames" not in text


def test_values_have_a_limit(ask):
    assert ask("/gradio_api/queue/join", b"x" * (2**20 + 1))[0] == 413


def test_uploads_have_a_limit(ask, app):
    boundary = "edge"
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="files"; filename="big.mp4"\r\n\r\n'.encode()
    body = head + b"x" * (2**20 * 2 + 1) + f"\r\n--{boundary}--\r\n".encode()
    kind = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
    assert ask("/gradio_api/upload", body, **kind)[0] == 413
    assert not list((app.folder / "uploads").rglob("big.mp4"))


def test_the_page_may_load_nothing_from_elsewhere(ask):
    _, headers, text = ask("/")
    assert headers["Content-Security-Policy"].startswith("default-src 'self' ")
    assert not re.search(r"""(?:src|href)=["']?https?://(?!raw\.githubusercontent)""", text)


def test_events_are_no_public_interface(ask):
    status, _, text = ask("/gradio_api/info")
    assert status in (403, 404) or not json.loads(text)["named_endpoints"]


def test_it_says_who_can_open_the_page(app):
    assert app.url.startswith("http://127.0.0.1:")
    assert "Only this computer can open the page." in app.said


def test_a_port_that_is_taken_is_named(app, tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))  # as `build` sets it, and back
    port = urlsplit(app.url).port
    with pytest.raises(OptionError, match=rf"127\.0\.0\.1, port {port}, cannot be used"):
        serve(build(AppSettings(folder=tmp_path / "files")), build_parser().parse_args(["--port", str(port)]))


def test_without_gradio_it_says_how_to_get_it():
    script = "import sys; sys.modules['gradio'] = None; from webapp.command_line import main; sys.exit(main([]))"
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, timeout=300)
    assert ended.returncode == FAILED
    assert 'pip install "gradio>=' in ended.stderr
