"""A real ComfyUI as a process, with a base directory and packs of its own."""

import asyncio
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import aiohttp

from tests.comfy.setup_host import FOLDER, comfy_of, packages_of

ARGUMENTS = ("--cpu", "--disable-api-nodes")  # the latter also forbids the browser any outside address
BOOT_SECONDS = 240
PICTURE_WITH_METADATA, TEXT, PICTURE = 4, 3, 1  # kinds of binary messages
ENDS = ("execution_success", "execution_error", "execution_interrupted")


class ServerError(RuntimeError):
    """The server did not start or ended by itself; the message has the end of its log."""


@dataclass(frozen=True)
class Preview:
    """A picture that the server sent while a graph ran."""

    node: str | None  # id of the node, None if the host did not say
    encoded: bytes  # JPEG or PNG


@dataclass(frozen=True)
class Run:
    """What became of one graph."""

    status: str  # success, partial (the host dropped a branch), invalid (nothing ran), error, interrupted
    outputs: dict = field(default_factory=dict)  # node id -> what it sent to the front end
    node_errors: dict = field(default_factory=dict)  # node id -> why the host refused it
    error: dict = field(default_factory=dict)  # of the node that failed: node_id, exception_type, exception_message ..
    executed: tuple[str, ...] = ()  # node ids in order
    cached: tuple[str, ...] = ()  # node ids that were not run again
    events: tuple[tuple[str, dict], ...] = ()
    previews: tuple[Preview, ...] = ()
    texts: tuple[tuple[str, str], ...] = ()  # (node id, the line that it showed)
    files: tuple[Path, ...] = ()  # what the outputs name, saved or temporary
    seconds: float = 0.0
    peak_rss: float | None = None  # MiB, of the server while this ran; None where the system does not tell

    @property
    def message(self) -> str:
        """Everything that was said about what went wrong, in one text."""
        said = [self.error.get("exception_message") or self.error.get("message") or ""]
        for node in self.node_errors.values():
            said += [f"{e['message']}: {e['details']}" for e in node["errors"]]
        return "\n".join(filter(None, said))

    def progress(self, node: str) -> list[float]:
        """How far the node said it was, 0..1, at every message while it ran."""
        return [value for kind, data in self.events if (value := progress_of(kind, data, node)) >= 0]


def progress_of(kind: str, data: dict, node: str) -> float:
    """How far a message says that a node is, 0..1; -1 where it says nothing of it."""
    state = data["nodes"].get(node) if kind == "progress_state" else None
    return state["value"] / state["max"] if state else -1.0


class ComfyServer:
    """``with ComfyServer(base, packs={"name": folder}) as server: server.run(graph)``

    base: a folder that becomes input/, output/, models/ .. of this server alone. packs: linked into
    custom_nodes/ under their names. folder: where `setup_host` put ComfyUI. env: added to the server's environment.
    front_end_root: static/ of another comfyui-frontend-package than the installed one.
    """

    def __init__(
        self,
        base: Path,
        packs: dict[str, Path],
        *,
        folder: Path = FOLDER,
        python: str = sys.executable,
        arguments: Sequence[str] = (),
        env: dict[str, str] | None = None,
        port: int = 0,
        front_end_root: Path | None = None,
    ):
        self.base, self.comfy, self.python, self.arguments = Path(base).resolve(), comfy_of(folder), python, arguments
        for name in ("custom_nodes", "input", "output", "temp", "user", "models"):
            (self.base / name).mkdir(parents=True, exist_ok=True)
        for name, pack in packs.items():
            link_folder(self.base / "custom_nodes" / name, Path(pack).resolve())
        if front_end_root:
            self.arguments = [*arguments, "--front-end-root", str(Path(front_end_root).resolve())]
        self.log = self.base / "server.log"
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        paths = [str(packages_of(folder)), os.environ.get("PYTHONPATH", "")]
        self.env = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": os.pathsep.join(filter(None, paths))}
        self.env["LATENTSYNC_CACHE"] = str(self.base / "cache")  # where the pack keeps what it knows of clips
        self.env.update({"PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8", **(env or {})})
        self.process: subprocess.Popen | None = None
        self.start_seconds = 0.0  # from the start of the process to the first answer

    def __enter__(self) -> "ComfyServer":
        # fmt: off
        command = [
            self.python, "main.py", "--listen", "127.0.0.1", "--port", str(self.port), "--disable-auto-launch",
            "--base-directory", str(self.base), "--database-url", "sqlite:///:memory:", *ARGUMENTS, *self.arguments,
        ]
        # fmt: on
        started = time.monotonic()
        with self.log.open("w") as log:
            self.process = subprocess.Popen(command, cwd=self.comfy, stdout=log, stderr=subprocess.STDOUT, env=self.env)
        while True:
            try:
                self.get("/system_stats")
                break
            except OSError:
                if self.process.poll() is not None or time.monotonic() - started > BOOT_SECONDS:
                    self.stop()
                    raise ServerError(f"ComfyUI did not start:\n{self.log_text()[-4000:]}") from None
                time.sleep(0.05)
        self.start_seconds = time.monotonic() - started
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        if self.process is None or self.process.poll() is not None:
            return
        self.process.terminate()
        try:
            self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    # Asking

    def get(self, path: str):
        with urllib.request.urlopen(self.url + path, timeout=60) as answer:
            return json.load(answer)

    def get_bytes(self, path: str) -> bytes:
        with urllib.request.urlopen(self.url + path, timeout=60) as answer:
            return answer.read()

    def post(self, path: str, body: dict) -> tuple[int, dict]:
        head = {"Content-Type": "application/json"}
        request = urllib.request.Request(self.url + path, json.dumps(body).encode(), head)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, json.loads(answer.read() or b"{}")
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read() or b"{}")

    def nodes(self, pack: str | None = None) -> dict[str, dict]:
        """What the host knows of its nodes, by id; of one pack if named."""
        known = self.get("/object_info")
        return {k: v for k, v in known.items() if pack is None or v["python_module"] == f"custom_nodes.{pack}"}

    def log_text(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")

    def failed_imports(self) -> list[str]:
        return [line for line in self.log_text().splitlines() if "IMPORT FAILED" in line]

    def add_input(self, file: Path, name: str | None = None) -> str:
        """Copy a file into input/; returns the name that LoadVideo and the like take."""
        name = name or file.name
        shutil.copyfile(file, self.base / "input" / name)
        return name

    # Memory

    def rss(self, row: str = "VmRSS") -> float | None:
        """Resident MiB now, or with VmHWM the peak since `reset_peak`; None where /proc does not tell."""
        try:
            lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        except OSError:
            return None
        return next((int(line.split()[1]) / 1024 for line in lines if line.startswith(row)), None)

    def reset_peak(self) -> None:
        """Count the peak anew, so that it is one graph's and not that of all before."""
        try:
            Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")
        except OSError:
            return  # not Linux: rss() says None there too

    # Running

    def run(self, graph: dict, *, timeout: float = 300, interrupt: Callable[[str, dict], bool] | None = None) -> Run:
        """Run a graph in the API's form to its end. ``interrupt(kind, data)``: asked at every message until it says
        True, then the run is interrupted. Raises TimeoutError, ServerError."""
        # In a thread of its own: a browser driven from this one keeps an event loop running here.
        with ThreadPoolExecutor(1) as thread:
            return thread.submit(asyncio.run, asyncio.wait_for(self._run(graph, interrupt), timeout)).result()

    async def _run(self, graph: dict, interrupt: Callable[[str, dict], bool] | None) -> Run:
        client, events, previews, texts = uuid.uuid4().hex, [], [], []
        self.reset_peak()
        started = time.monotonic()
        async with (
            aiohttp.ClientSession() as http,
            http.ws_connect(f"{self.url}/ws?clientId={client}", max_msg_size=0) as socket_,
        ):
            await socket_.send_json({"type": "feature_flags", "data": {"supports_preview_metadata": True}})
            code, answer = self.post("/prompt", {"prompt": graph, "client_id": client})
            if code != 200:
                return Run("invalid", error=answer["error"], node_errors=answer["node_errors"])
            while not (events and events[-1][0] in ENDS):
                message = await socket_.receive()
                if message.type == aiohttp.WSMsgType.BINARY:
                    previews += preview_of(message.data)
                    texts += text_of(message.data)
                    continue
                if message.type != aiohttp.WSMsgType.TEXT:
                    raise ServerError(f"the connection ended while a graph ran:\n{self.log_text()[-4000:]}")
                kind, body = message.json()["type"], message.json()["data"]
                if body.get("prompt_id", answer["prompt_id"]) != answer["prompt_id"]:
                    continue
                events.append((kind, body))
                if interrupt and interrupt(kind, body):
                    interrupt = None
                    self.post("/interrupt", {"prompt_id": answer["prompt_id"]})
        run = self._conclude(events, previews, answer["node_errors"], time.monotonic() - started)
        return replace(run, texts=tuple(texts))

    def _conclude(self, events: list, previews: list[Preview], node_errors: dict, seconds: float) -> Run:
        kind, last = events[-1]
        status = kind.removeprefix("execution_")
        outputs = {body["node"]: body["output"] or {} for kind, body in events if kind == "executed"}
        named = (
            item
            for output in outputs.values()
            for group in output.values()
            if isinstance(group, list)
            for item in group
            if isinstance(item, dict) and {"filename", "type"} <= set(item)
        )
        return Run(
            # The host runs what is left when it drops a branch, and calls that a success.
            status="partial" if node_errors and status == "success" else status,
            outputs=outputs,
            node_errors=node_errors,
            error=last if status == "error" else {},
            executed=tuple(body["node"] for kind, body in events if kind == "executing" and body["node"]),
            cached=tuple(node for kind, body in events if kind == "execution_cached" for node in body["nodes"]),
            events=tuple(events),
            previews=tuple(previews),
            files=tuple(self.base / i["type"] / i.get("subfolder", "") / i["filename"] for i in named),
            seconds=seconds,
            peak_rss=self.rss("VmHWM"),
        )


def preview_of(message: bytes) -> list[Preview]:
    """The picture of a binary message, if it is one."""
    kind = int.from_bytes(message[:4], "big")
    if kind == PICTURE_WITH_METADATA:
        length = int.from_bytes(message[4:8], "big")
        metadata = json.loads(message[8 : 8 + length])
        return [Preview(metadata.get("node_id"), message[8 + length :])]
    return [Preview(None, message[8:])] if kind == PICTURE else []


def text_of(message: bytes) -> list[tuple[str, str]]:
    """The node and the line of a binary message, if it is one of text."""
    if int.from_bytes(message[:4], "big") != TEXT:
        return []
    length = int.from_bytes(message[4:8], "big")
    return [(message[8 : 8 + length].decode(), message[8 + length :].decode())]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def link_folder(place: Path, target: Path) -> None:
    """A folder that is another one: a symbolic link, on Windows a junction, which needs no rights."""
    if place.exists():
        return
    if os.name == "nt":
        import _winapi

        _winapi.CreateJunction(str(target), str(place))
    else:
        place.symlink_to(target, target_is_directory=True)
