"""ComfyUI's own front end in a headless Chromium, driven as a user drives it."""

import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from playwright.sync_api import Browser, BrowserType, ConsoleMessage, Page, sync_playwright

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "msedge")
# fmt: off
ARGUMENTS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--autoplay-policy=no-user-gesture-required",
)
# fmt: on
SIZE = (1600, 1000)  # px
DEFAULTS = {
    "Comfy.TutorialCompleted": True,  # else a first start opens the template browser
    "Comfy.Locale": "en",
    "Comfy.ColorPalette": "dark",
    "Comfy.VueNodes.Enabled": False,
    "Comfy.Minimap.Visible": False,
}
NODES_2, LIGHT, CHINESE = {"Comfy.VueNodes.Enabled": True}, {"Comfy.ColorPalette": "light"}, {"Comfy.Locale": "zh"}
# What the front end says by itself where there is no internet and no package of templates and help pages.
NOISE = re.compile(
    r"ERR_(NAME|INTERNET|CONNECTION|BLOCKED|FAILED)"  # no internet
    r"|Content Security Policy|violates the following"  # --disable-api-nodes forbids outside addresses
    r"|/templates/|core workflow templates"  # comfyui-workflow-templates is not installed
    r"|/docs/"  # a help page that is looked up in the locale first
    r"|status of 501|favicon"
    r"|(userdata|user\.css|subgraphs|global_subgraphs|internal).*|404 .*(userdata|user\.css)",  # files of a new user
    re.IGNORECASE,
)
READY = """() => window.app?.extensionManager && app.graph && app.canvas && window.LiteGraph
    && Object.keys(LiteGraph.registered_node_types).length > 100 && !document.querySelector("#splash-loader")"""
GRAPH = """() => {
    const found = {types: [], missing: [], links: app.graph.links.size ?? Object.keys(app.graph.links).length};
    const walk = graph => { for (const node of graph.nodes) {
        found.types.push(node.type);
        if (node.isSubgraphNode?.()) walk(node.subgraph);
        else if (!(node.type in LiteGraph.registered_node_types)) found.missing.push(node.type);
    } };
    walk(app.graph);
    return found;
}"""
QUEUE = """limit => new Promise(done => {
    setTimeout(() => done({kind: "timeout", detail: {}}), limit);
    for (const kind of ["execution_success", "execution_error", "execution_interrupted"])
        app.api.addEventListener(kind, event => done({kind, detail: event.detail}), {once: true});
    app.queuePrompt(0, 1);
})"""


class NoBrowser(Exception):
    """No Chromium is here; the message says how to get one."""


@dataclass(frozen=True)
class Graph:
    """What the front end made of a workflow."""

    types: tuple[str, ...]  # of all nodes, those in subgraphs too
    missing: tuple[str, ...]  # types that no pack here brings
    links: int


@contextmanager
def chromium() -> Iterator[Browser]:
    """The system's browser, else playwright's own. Raises NoBrowser."""
    with sync_playwright() as playwright:
        browser = launched(playwright.chromium)
        try:
            yield browser
        finally:
            browser.close()


def launched(kind: BrowserType, *arguments: str) -> Browser:
    """A browser with more arguments, to be closed. Raises NoBrowser."""
    own = Path(kind.executable_path)
    program = next(filter(None, map(shutil.which, PROGRAMS)), None) or (str(own) if own.exists() else None)
    if program is None:
        raise NoBrowser("no Chromium: install one, or run: python -m playwright install chromium")
    return kind.launch(executable_path=program, headless=True, args=[*ARGUMENTS, *arguments])


# A help page left open would lie over the nodes of the next test.
CLOSE_SIDEBAR = """() => {
    const bar = app.extensionManager.sidebarTab;
    if (bar.activeSidebarTab) bar.toggleSidebarTab(bar.activeSidebarTab.id);
}"""


class FrontEnd:
    """One page. ``problems`` collects what the console and the page complain of, less the known noise."""

    def __init__(self, browser: Browser, url: str, size: tuple[int, int] = SIZE):
        self.url, self.problems, self.noise = url, [], []
        self._page = browser.new_page(viewport={"width": size[0], "height": size[1]})
        self._page.set_default_timeout(90_000)  # a busy machine is slow
        self._page.on("console", self._hear)
        self._page.on("pageerror", lambda error: self._note(f"{error.message}\n{error.stack or ''}"))
        self._page.add_init_script("localStorage.setItem('vueNodesBannerDismissed', 'true')")  # an advertisement
        self._starting, self._settings, self._is_new = True, {}, True

    @property
    def page(self) -> Page:
        """Opened with the defaults at the first use, unless `open` was called with others before."""
        if self._is_new:
            self.open()
        return self._page

    def renew(self) -> None:
        """The next use begins with an empty canvas; settings are changed then only if they have to be."""
        self._is_new = True
        self.problems.clear()

    def _hear(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self._note(f"{message.text} {message.location.get('url', '')}")

    def _note(self, text: str) -> None:
        # While the front end starts it complains of itself; then only what comes from a pack's scripts counts.
        own = self._starting and not re.search(r"/extensions/(?!core/)", text)
        (self.noise if own or NOISE.search(text) else self.problems).append(text)

    def open(self, settings: dict | None = None) -> float:
        """An empty canvas with exactly these settings beside the defaults; seconds until it was ready, 0 if it was."""
        self._is_new = False
        wanted, started = {**DEFAULTS, **(settings or {})}, time.monotonic()
        if self._settings != wanted:
            self._starting = True
            # Told to the server before the page asks for them: a new user is otherwise greeted with dialogs.
            told = self.page.request.post(f"{self.url}/settings", data=wanted)
            if not told.ok:
                raise RuntimeError(f"the server did not take the settings: {told.status} {told.text()}")
            self.page.goto(self.url, wait_until="domcontentloaded")
            self.page.wait_for_function(READY, timeout=120_000)
            self.page.wait_for_timeout(1000)
            self._settings = wanted
        self.page.keyboard.press("Escape")
        self.page.evaluate("() => { app.graph.clear(); app.canvas.deselectAll?.(); }")
        self.page.evaluate(CLOSE_SIDEBAR)
        self.page.wait_for_timeout(300)
        self._starting = False
        self.problems.clear()
        return time.monotonic() - started

    # Workflows

    def load_template(self, pack: str, name: str) -> Graph:
        """Through the template browser, by clicking."""
        self.page.evaluate("() => app.extensionManager.command.execute('Comfy.BrowseTemplates')")
        for text in (pack, name):
            self.page.locator(".p-dialog-mask").get_by_text(text, exact=True).first.click()  # not a tab
        self.page.wait_for_function("() => app.graph.nodes.length > 0")
        return self._settled()

    def load_workflow(self, workflow: dict) -> Graph:
        """A workflow in the front end's own form."""
        self.page.evaluate("workflow => app.loadGraphData(workflow)", workflow)
        return self._settled()

    def load_prompt(self, prompt: dict) -> Graph:
        """A graph in the API's form; the front end lays it out."""
        self.page.evaluate("prompt => app.loadApiJson(prompt, 'prompt')", prompt)
        self.page.evaluate("() => app.graph.arrange(60)")
        return self._settled()

    def _settled(self) -> Graph:
        self.page.wait_for_timeout(700)
        self.fit()
        return self.graph()

    def graph(self) -> Graph:
        found = self.page.evaluate(GRAPH)
        return Graph(tuple(found["types"]), tuple(found["missing"]), found["links"])

    def fit(self) -> None:
        """All nodes in view."""
        self.page.evaluate("() => app.extensionManager.command.execute('Comfy.Canvas.FitView')")
        self.page.wait_for_timeout(500)

    def serialised(self) -> dict:
        """The workflow as the front end would save it."""
        return self.page.evaluate("() => app.graph.serialize()")

    def set_widgets(self, values: dict) -> None:
        """Give every widget of these names this value."""
        self.page.evaluate(
            """values => { for (const node of app.graph.nodes) for (const widget of node.widgets ?? [])
                if (widget.name in values) widget.value = values[widget.name]; }""",
            values,
        )

    def queue(self, timeout: float = 240) -> dict:
        """Run it: {"kind": execution_success, execution_error, execution_interrupted, rejected or timeout, "detail"}.

        A prompt that the server takes only in part counts as rejected.
        """
        with self.page.expect_response(
            lambda answer: answer.request.method == "POST" and answer.url.split("?")[0].endswith("/prompt")
        ) as waiting:
            self.page.evaluate(f"limit => {{ window.queueEnd = ({QUEUE})(limit); }}", timeout * 1000)
        answer = waiting.value
        body = answer.json()
        if answer.status != 200 or body.get("node_errors"):
            return {"kind": "rejected", "detail": body}
        end = self.page.evaluate("() => window.queueEnd")
        self.page.wait_for_timeout(1000)
        return end

    # Looking

    def screenshot(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=path)

    def open_help(self, node_type: str) -> str:
        """The text of a node's help page, opened by its button."""
        self.page.evaluate(
            "type => { app.canvas.deselectAll(); app.canvas.selectNode(app.graph.nodes.find(n => n.type === type)) }",
            node_type,
        )
        # Not by the mouse: an open help page may lie above the button.
        self.page.locator('[data-testid="info-button"]').first.dispatch_event("click")
        content = self.page.locator(".node-help-content").first
        content.locator("h1, h2, table, p").first.wait_for()
        self.page.wait_for_timeout(500)
        return content.inner_text()

    def node_title(self, node_type: str) -> str:
        return self.page.evaluate("type => app.graph.nodes.find(node => node.type === type).title", node_type)

    def add_node(self, node_type: str, at: tuple[float, float] = (0, 0)) -> None:
        self.page.evaluate(
            "([type, at]) => { const node = LiteGraph.createNode(type); node.pos = at; app.graph.add(node) }",
            [node_type, list(at)],
        )

    def playing_videos(self, address: str = "", patience: float = 30.0) -> list[dict]:
        """Start every video whose address matches the expression, muted; those whose time moves, as soon as there are
        any, or none after ``patience`` seconds: {"src", "width" in px, "duration" and "time" in s}."""
        return self.page.evaluate(
            """async ([address, patience]) => {
                const starts = new Map(), until = performance.now() + 1000 * patience;
                while (performance.now() < until) {
                    for (const video of document.querySelectorAll("video")) {
                        const source = video.currentSrc || video.src;
                        if (!source || !new RegExp(address).test(source)) continue;
                        if (!starts.has(video)) starts.set(video, video.currentTime);
                        video.muted = true;
                        if (video.paused) video.play().catch(() => {});
                    }
                    await new Promise(done => setTimeout(done, 200));
                    const playing = [...starts].filter(([v, at]) => v.videoWidth && v.currentTime !== at).map(([v]) =>
                        ({src: v.currentSrc || v.src, width: v.videoWidth, duration: v.duration, time: v.currentTime}));
                    if (playing.length) return playing;
                }
                return [];
            }""",
            [address, patience],
        )
