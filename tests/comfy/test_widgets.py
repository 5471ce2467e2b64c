"""The pack's widgets in ComfyUI's own front end: they are used as a user would, in both renderers and themes."""

import contextlib
import json

import cv2
import numpy as np
import pytest
from playwright.sync_api import Error

from latentsync.faces.edge import shape_of_mask
from latentsync.model.loading import bundled_model
from latentsync.model.masks import generation_mask
from tests.comfy.browser import CHINESE, LIGHT, NODES_2
from tests.comfy.graphs import all_in_one, node, stages

FRAMES = 20
LIP_SYNC = {
    **all_in_one("talk.mp4", "speech.wav", steps=1, start=0.4, duration=FRAMES / 25),
    "report": node("LatentSyncReport", report=["sync", 1]),
}
BLEND = {**stages("talk.mp4", "speech.wav", count=3, steps=1), "see": node("PreviewImage", images=["put", 0])}
CLIP = {"filename": "talk.mp4", "subfolder": "", "type": "input"}
GONE = {"filename": "gone.mp4", "subfolder": "", "type": "temp"}
RENDERERS = [{}, LIGHT, NODES_2, {**NODES_2, **LIGHT}]
NAMES = ["classic", "classic_light", "nodes_2", "nodes_2_light"]


def report_payload(count: int = 100, **changed) -> dict:
    """A report as the node sends it: a face in all but frames 40 to 51, faded before."""
    times = np.arange(count) / 25
    found = (np.arange(count) < 40) | (np.arange(count) >= 52)
    curve = 0.1 + 0.08 * np.sin(9 * times)
    opening = [round(float(value), 4) if ok else None for value, ok in zip(curve, found, strict=True)]
    frames = {
        "time": times.round(4).tolist(),
        "detected": found.astype(int).tolist(),
        "confidence": (0.9 * found).round(3).tolist(),
        "source_opening": opening,
        "opening": opening[::-1],
        "faded": [0.5 if 36 <= index < 40 else 0.0 for index in range(count)],
    }
    frames |= {"yaw": [12.4] * count, "voice": [float(index >= 20) for index in range(count)], "restored": [0] * count}
    report = {"version": 2, "fps": 25, "duration": count / 25, "num_frames": count, "num_faces": int(found.sum())}
    waveform = {"rate": 50, "peaks": np.abs(np.sin(times.repeat(2) * 7)).round(3).tolist()}
    files = {"video": None, "source": None, "audio": None, "source_start": 0}
    return {
        **report,
        "seconds": 3.0,
        "warnings": [],
        "faces": [face_of(frames)],
        "waveform": waveform,
        **files,
        **changed,
    }


def face_of(frames: dict, index: int = 0) -> dict:
    return {"index": index, "choice": "largest", "frames": frames}


def show(front_end, node_type: str, key: str, *payloads: dict) -> None:
    """Give a node what a run would have sent; several where the node ran for each of a list."""
    front_end.page.evaluate(
        "([type, key, payloads]) => app.graph.nodes.find(n => n.type === type).onExecuted({[key]: payloads})",
        [node_type, key, payloads],
    )
    front_end.page.wait_for_timeout(400)


def open_panel(front_end, node_type: str):
    """Brings a node into view at its natural size; returns its widget on the page. `panel` is its object there."""
    front_end.page.evaluate(
        """type => {
            const node = app.graph.nodes.find(n => n.type === type);
            Object.assign(app.canvas.ds, {scale: 1, offset: [-node.pos[0] + 120, -node.pos[1] + 90]});
            app.canvas.setDirty(true, true);
            window.panel = node.latentsync.panel;
        }""",
        node_type,
    )
    front_end.page.wait_for_timeout(300)
    front_end.page.evaluate(  # Nodes 2.0 may show it elsewhere than the graph says
        """() => {
            const box = (panel.element.closest(".lg-node") ?? panel.element).getBoundingClientRect();
            if (panel.element.closest(".lg-node") && box.width) {
                app.canvas.ds.offset[0] += 120 - box.left;
                app.canvas.ds.offset[1] += 90 - box.top;
                app.canvas.setDirty(true, true);
            }
        }"""
    )
    front_end.page.wait_for_timeout(300)
    front_end.page.evaluate(  # many widgets may stand above it
        """() => {
            const below = panel.element.getBoundingClientRect().bottom + 20 - window.innerHeight;
            if (below > 0) {
                app.canvas.ds.offset[1] -= below;
                app.canvas.setDirty(true, true);
            }
        }"""
    )
    front_end.page.wait_for_timeout(300)
    return front_end.page.evaluate_handle("() => panel.element").as_element()


def ink(front_end, canvas: str) -> float:
    """Share of a canvas's pixels that are drawn on."""
    return front_end.page.evaluate(
        """expression => {
            const canvas = eval(expression);
            const {data} = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
            return data.filter((value, i) => i % 4 === 3 && value > 0).length / (data.length / 4);
        }""",
        canvas,
    )


def centre(handle, across: float = 0.5, down: float = 0.5) -> tuple[float, float]:
    box = handle.bounding_box()
    return box["x"] + across * box["width"], box["y"] + down * box["height"]


@pytest.fixture
def lip_synced(front_end):
    front_end.load_prompt(LIP_SYNC)
    assert front_end.queue()["kind"] == "execution_success"
    return front_end


def wait_for_text(element, text, seconds=10.0):
    """Until the element shows it; fails after the browser's usual patience."""
    element.evaluate_handle(
        """async (element, [text, seconds]) => {
            const end = performance.now() + 1000 * seconds;
            while (!element.innerText.includes(text)) {
                if (performance.now() > end) throw new Error(`no "${text}" in: ${element.innerText}`);
                await new Promise(done => setTimeout(done, 20));
            }
        }""",
        [text, seconds],
    )


def act_until_text(act, element, text):
    """What a hand does, again where it missed: on a busy machine the widget may still be moving into its place."""
    for _ in range(10):
        act()
        with contextlib.suppress(Error):
            wait_for_text(element, text, seconds=1.0)
            return
    wait_for_text(element, text)


def test_timeline_and_player_after_a_run(lip_synced):
    page = lip_synced.page
    panel = open_panel(lip_synced, "LatentSyncLipSync")
    assert f"{FRAMES} of {FRAMES} frames with a face" in panel.inner_text()
    assert ink(lip_synced, "panel.timeline.base") > 0.03

    # A click on the timeline shows that frame, in both videos; the source began at `start`.
    timeline = panel.query_selector(".ls-timeline")
    act_until_text(lambda: page.mouse.click(*centre(timeline, across=0.5)), panel, f"frame {FRAMES // 2}")
    page.wait_for_function("() => !panel.player.result.seeking && !panel.player.source.seeking")
    result, source = page.evaluate("[panel.player.result.currentTime, panel.player.source.currentTime]")
    assert int(result * 25) == FRAMES // 2
    assert source - result == pytest.approx(0.4, abs=0.021)

    page.keyboard.press("ArrowRight")
    wait_for_text(panel, f"frame {FRAMES // 2 + 1}")
    act_until_text(lambda: page.mouse.move(*centre(timeline, across=0.99)), panel, f"frame {FRAMES - 1}")

    # The divider is dragged, which moves neither node nor time.
    before = page.evaluate("[...app.graph.nodes.find(n => n.latentsync?.panel === panel).pos]")
    divider = panel.query_selector(".ls-divider")
    page.mouse.move(*centre(divider, down=0.2))
    page.mouse.down()
    page.mouse.move(*centre(panel.query_selector(".ls-picture"), across=0.25, down=0.2), steps=5)
    page.mouse.up()
    assert page.evaluate("panel.player.divided") == pytest.approx(0.25, abs=0.02)
    assert page.evaluate("panel.player.result.paused")
    assert page.evaluate("[...app.graph.nodes.find(n => n.latentsync?.panel === panel).pos]") == before

    # It plays with sound and the source beside it.
    panel.query_selector(".ls-controls button").click()
    page.wait_for_function("() => !panel.player.result.paused")
    assert not page.evaluate("panel.player.result.muted")
    page.keyboard.press("m")
    assert page.evaluate("panel.player.result.muted")
    panel.query_selector(".ls-controls button").click()
    assert page.evaluate("panel.player.result.paused")

    assert "frames with a face" in open_panel(lip_synced, "LatentSyncReport").inner_text()


def test_nothing_goes_into_the_workflow_and_undo_brings_it_back(lip_synced):
    saved = lip_synced.serialised()
    widgets = {node["type"]: node.get("widgets_values") for node in saved["nodes"]}
    assert widgets["LatentSyncReport"] == []
    lip_sync = widgets["LatentSyncLipSync"]
    assert lip_sync[2:13] == [1, 1, 0.5, "largest", 0.4, 0.8, "bounce", "cut", 0, 0, 0.5]  # first the seed, drawn anew
    assert "waveform" not in json.dumps(saved)
    prompt = lip_synced.page.evaluate("async () => (await app.graphToPrompt()).output")
    assert all("latentsync" not in node["inputs"] for node in prompt.values())

    lip_synced.page.evaluate("workflow => app.loadGraphData(workflow, false)", saved)  # as undo does
    lip_synced.page.wait_for_timeout(800)
    for node_type in ("LatentSyncLipSync", "LatentSyncReport"):
        assert "frames with a face" in open_panel(lip_synced, node_type).inner_text()


@pytest.mark.parametrize("settings", RENDERERS, ids=NAMES)
def test_report_in_each_renderer_and_theme(front_end, artefacts, settings):
    front_end.open(settings)
    front_end.load_prompt({"report": {"class_type": "LatentSyncReport", "inputs": {}}})
    assert "Run the graph" in open_panel(front_end, "LatentSyncReport").inner_text()
    report = report_payload(warnings=["12 frames have no face"], video=CLIP, source=CLIP)
    show(front_end, "LatentSyncReport", "latentsync_report", report)
    panel = open_panel(front_end, "LatentSyncReport")
    front_end.page.wait_for_function("() => panel.player.result.videoWidth > 0")
    front_end.page.wait_for_timeout(500)
    text = panel.inner_text()
    assert "88 of 100 frames with a face" in text
    assert "0:01.60 to 0:02.08" in text
    assert "12 frames have no face" in text
    assert ink(front_end, "panel.timeline.base") > 0.05
    inside, outer = panel.query_selector(".ls-warnings").bounding_box(), panel.bounding_box()
    assert inside["y"] + inside["height"] <= outer["y"] + outer["height"] + 1  # nothing is cut off
    assert panel.query_selector(".ls-stage").bounding_box()["height"] > 140
    for frame, words in ((10, "face 90 %"), (38, "face 90 %, faded 50 %, turned 12°"), (45, "no face"), (5, "pause")):
        place = {"handle": panel.query_selector(".ls-timeline"), "across": (frame + 0.5) / 100}
        act_until_text(lambda place=place: front_end.page.mouse.move(*centre(**place)), panel, f"frame {frame}")
        wait_for_text(panel, words)
    front_end.screenshot(artefacts / "widgets" / f"report_{NAMES[RENDERERS.index(settings)]}.png")


def test_every_face_has_a_bar_and_its_curves(front_end, artefacts):
    """The second one is shown as it was from frame 60 on, and restored before."""
    payload = report_payload()
    (first,) = payload["faces"]
    second = {**first["frames"], "faded": [float(index >= 60) for index in range(100)], "detected": [1] * 100}
    second |= {"restored": [int(index < 60) for index in range(100)], "opening": [0.2] * 100}
    payload |= {"faces": [first, face_of(second, 1)], "offset": {"ms": 40.0, "confidence": 0.9}}
    payload["stages"] = {"find faces": 1.25}
    front_end.load_prompt({"report": {"class_type": "LatentSyncReport", "inputs": {}}})
    show(front_end, "LatentSyncReport", "latentsync_report", payload)
    panel = open_panel(front_end, "LatentSyncReport")
    text = panel.inner_text()
    for words in ("100 of 100 frames with a face", "restored in 60", "lips 40 ms after the speech", "face 0"):
        assert words in text
    timeline = panel.query_selector(".ls-timeline")
    heights = front_end.page.evaluate("[panel.timeline.height, panel.timeline.base.height / 2]")
    assert heights == [151, 151]
    act_until_text(
        lambda: front_end.page.mouse.click(*centre(timeline, across=0.805, down=143 / 151)), panel, "frame 80 · face 1"
    )
    assert "left as it was" in panel.inner_text()
    assert "restored" not in panel.query_selector(".ls-values").inner_text()
    act_until_text(lambda: front_end.page.mouse.move(*centre(timeline, across=0.305)), panel, "frame 30")
    assert "restored" in panel.query_selector(".ls-values").inner_text()
    panel.query_selector(".ls-details summary").click()
    wait_for_text(panel, "find faces 1.3 s")
    front_end.screenshot(artefacts / "widgets" / "report_two_faces.png")


def test_an_offset_that_is_not_sure_is_not_told(front_end):
    front_end.load_prompt({"report": {"class_type": "LatentSyncReport", "inputs": {}}})
    for confidence in (0.49, 0.5):
        payload = report_payload() | {"offset": {"ms": -260.0, "confidence": confidence}}
        show(front_end, "LatentSyncReport", "latentsync_report", payload)
        text = open_panel(front_end, "LatentSyncReport").inner_text()
        assert ("lips 260 ms before the speech" in text) is (confidence == 0.5)


def test_every_video_of_a_list_is_shown(front_end):
    front_end.load_prompt({"report": {"class_type": "LatentSyncReport", "inputs": {}}})
    payloads = [report_payload(count, video=CLIP, source=CLIP) for count in (60, 70, 80)]
    show(front_end, "LatentSyncReport", "latentsync_report", *payloads)
    panel = open_panel(front_end, "LatentSyncReport")
    for way, number, count in (("Next", 2, 70), ("Next", 3, 80), ("Next", 1, 60), ("Previous", 3, 80)):
        button = panel.query_selector(f"[title='{way} result']")
        button.click()
        wait_for_text(panel, f"result {number} of 3")
        assert f"of {count} frames with a face" in panel.inner_text()
    show(front_end, "LatentSyncReport", "latentsync_report", payloads[0])
    assert "result 1" not in panel.inner_text()


def test_missing_files_get_a_sentence(front_end):
    front_end.load_prompt({"report": {"class_type": "LatentSyncReport", "inputs": {}}})
    for files, sentence, height in (
        ({"video": GONE, "source": CLIP}, "gone.mp4” is not on the server any more", 0),
        ({"video": CLIP, "source": GONE}, "Only the result plays", 100),
    ):
        show(front_end, "LatentSyncReport", "latentsync_report", report_payload(**files))
        panel = open_panel(front_end, "LatentSyncReport")
        panel.query_selector(".ls-note").wait_for_element_state("visible")
        assert sentence in panel.inner_text()
        stage = panel.query_selector(".ls-stage").bounding_box()
        assert (stage["height"] if stage else 0) >= height
        assert ink(front_end, "panel.timeline.base") > 0.05  # the rest is there all the same
    show(front_end, "LatentSyncReport", "latentsync_report", report_payload())
    assert open_panel(front_end, "LatentSyncReport").query_selector(".ls-player").bounding_box() is None

    front_end.load_prompt({"blend": {"class_type": "LatentSyncBlend", "inputs": {"mask_smooth": 0.5}}})
    payload = {"frame": {**GONE, "filename": "gone.jpg"}, "hole": GONE, "size": [64, 64], "side": 30}
    show(front_end, "LatentSyncBlend", "latentsync_blend", payload)
    assert "is not on the server any more" in open_panel(front_end, "LatentSyncBlend").inner_text()
    assert all("404" in problem for problem in front_end.problems)  # the browser notes each file that is not there
    front_end.problems.clear()


def test_a_long_report_is_zoomed_and_drawn_quickly(front_end):
    front_end.load_prompt({"report": {"class_type": "LatentSyncReport", "inputs": {}}})
    show(front_end, "LatentSyncReport", "latentsync_report", report_payload(15_000))  # ten minutes
    panel = open_panel(front_end, "LatentSyncReport")
    assert (
        front_end.page.evaluate(
            """() => Math.min(...[1, 2, 3].map(() => {  // at rest; other programs may take the processor
                const start = performance.now();
                panel.timeline.refresh();
                return performance.now() - start;
            }))"""
        )
        < 200
    )
    timeline = panel.query_selector(".ls-timeline")
    timeline.focus()
    for _ in range(30):
        front_end.page.keyboard.press("+")
    shown = front_end.page.evaluate("panel.timeline.to - panel.timeline.from")
    assert shown == pytest.approx(12 / 25)
    front_end.page.mouse.dblclick(*centre(timeline))
    assert front_end.page.evaluate("panel.timeline.to - panel.timeline.from") == pytest.approx(600)


@pytest.fixture
def blended(front_end):
    front_end.load_prompt(BLEND)
    assert front_end.queue()["kind"] == "execution_success"
    return front_end


def test_blend_preview_is_the_library_s_edge(blended, artefacts):
    open_panel(blended, "LatentSyncBlend")
    blended.page.wait_for_function("() => panel.weights")
    blended.screenshot(artefacts / "widgets" / "blend_classic.png")
    keep = generation_mask(128, bundled_model().blend_mask)
    for feather in (0.0, 0.3, 0.5, 1.0):
        blended.page.evaluate(
            """value => {
                const widget = app.graph.nodes.find(n => n.type === "LatentSyncBlend").widgets[0];
                widget.value = value;
                widget.callback(value);
            }""",
            feather,
        )
        drawn = np.array(blended.page.evaluate("[...panel.weights]"), np.float32).reshape(256, 256)
        expected = cv2.resize(shape_of_mask(keep, feather).alpha(len(keep)), (256, 256), interpolation=cv2.INTER_LINEAR)
        assert np.abs(drawn - expected).mean() < 0.015, feather  # through a picture of 256 px and back
        assert ((drawn > 0) & (drawn < 1)).any() == (feather > 0)
        words = "hard edge" if feather == 0 else f"{10 * feather:g} %"
        assert words in blended.page.evaluate("panel.amount.textContent")


@pytest.mark.parametrize("settings", [{}, NODES_2], ids=["classic", "nodes_2"])
def test_blend_preview_follows_the_widget(front_end, artefacts, settings):
    front_end.open(settings)
    front_end.load_prompt(BLEND)
    assert front_end.queue()["kind"] == "execution_success"
    panel = open_panel(front_end, "LatentSyncBlend")
    front_end.page.wait_for_function("() => panel.weights")
    ramp = "panel.weights.filter(weight => weight > 0 && weight < 1).length"
    before = front_end.page.evaluate(ramp)
    if settings:
        front_end.page.locator(".lg-node", has_text="LatentSync Blend").locator("input").first.click(click_count=3)
        front_end.page.keyboard.type("0.9")
        front_end.page.keyboard.press("Tab")
    else:
        front_end.page.evaluate(
            """() => {
                const widget = app.graph.nodes.find(n => n.type === "LatentSyncBlend").widgets[0];
                widget.setValue(0.9, {e: {}, node: widget.node, canvas: app.canvas});
            }"""
        )
    front_end.page.wait_for_timeout(300)
    assert front_end.page.evaluate(ramp) > 1.3 * before
    value = front_end.page.evaluate("app.graph.nodes.find(n => n.type === 'LatentSyncBlend').widgets[0].value")
    assert value >= 0.9  # Nodes 2.0 edits digit by digit and may end at 1
    assert f"{10 * value:g} %" in panel.inner_text()
    for button, words in ((".ls-choice >> nth=0", "Face"), (".ls-choice >> nth=1", "Tint")):
        front_end.page.locator(".ls-blend").locator(button).click()
        assert words in panel.inner_text()
    front_end.screenshot(artefacts / "widgets" / f"blend_{'nodes_2' if settings else 'classic'}_mask.png")


SHADES = """() => [getComputedStyle(panel.element).getPropertyValue("--ls-source"), panel.timeline.colours.source]"""
ON_DARK, ON_LIGHT = "rgb(86, 180, 233)", "rgb(0, 114, 178)"


def test_colours_follow_the_theme(front_end):
    """Newer front ends have no class for it any more, only the page's color-scheme."""
    front_end.add_node("LatentSyncReport")
    open_panel(front_end, "LatentSyncReport")
    show(front_end, "LatentSyncReport", "latentsync_report", report_payload())
    assert front_end.page.evaluate(SHADES) == [ON_DARK, ON_DARK]
    for palette, expected in (("light", ON_LIGHT), ("dark", ON_DARK)):
        front_end.page.evaluate("id => app.extensionManager.setting.set('Comfy.ColorPalette', id)", palette)
        front_end.page.wait_for_timeout(400)
        assert front_end.page.evaluate(SHADES) == [expected, expected], palette
    front_end.page.evaluate(
        "() => { document.body.classList.remove('dark-theme'); document.documentElement.style.colorScheme = 'dark'; }"
    )
    front_end.page.wait_for_timeout(200)
    assert front_end.page.evaluate(SHADES) == [ON_DARK, ON_DARK]
    front_end.page.evaluate("() => { document.documentElement.style.colorScheme = ''; }")
    front_end.page.evaluate("() => app.extensionManager.command.execute('Comfy.ToggleTheme')")  # light, and dark again
    front_end.page.evaluate("() => app.extensionManager.command.execute('Comfy.ToggleTheme')")


def test_words_in_chinese(front_end):
    front_end.open(CHINESE)
    front_end.load_prompt({"report": {"class_type": "LatentSyncReport", "inputs": {}}})
    assert "运行" in open_panel(front_end, "LatentSyncReport").inner_text()
    show(front_end, "LatentSyncReport", "latentsync_report", report_payload())
    assert "88 帧" in open_panel(front_end, "LatentSyncReport").inner_text()
