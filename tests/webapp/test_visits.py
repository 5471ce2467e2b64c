"""The app in a browser, with the bundled model: what visitors do and see."""

import json

import numpy as np

from latentsync.media.video_reader import probe_video, read_frames
from latentsync.media.video_writer import write_wav
from tests.unit.media_clips import write_clip
from tests.webapp.app_page import AppPage
from tests.webapp.conftest import LONGEST, SECONDS, SIDE
from webapp.app import build
from webapp.settings import AppSettings

ENDLESS = 60  # steps; nobody waits for the end of them


def test_from_upload_to_the_saved_video(visit, talk, words, tmp_path, app):
    page = visit()
    page.give_both(talk, words)
    assert page.faces.count() == 1
    page.set_quick(1)
    page.press("run")
    page.wait_until_made()
    played = page.played()
    assert (played["width"], played["source"]) == (SIDE, SIDE)
    saved = page.save("Save the video", tmp_path)
    assert saved.name == "lip_synced.mp4"
    assert abs(probe_video(saved).duration - SECONDS) < 0.05
    assert not same_pictures(saved, talk)
    report = json.loads(page.save("Report (JSON)", tmp_path).read_text(encoding="utf-8"))
    assert report["num_faces"] == report["num_frames"] == round(SECONDS * 25)
    assert report["settings"]["num_inference_steps"] == 1
    assert str(app.folder) not in json.dumps(report)  # nothing of where the server keeps its files
    # The timeline of the same report.
    page.page.locator("#player .ls-timeline").focus()
    page.page.keyboard.press("End")
    assert page.page.locator("#player .ls-summary").inner_text().startswith("20 of 20 frames with a face")


def test_what_is_changed_after_a_preset_stays(visit):
    """However late the server answers."""
    page, late = visit(), []
    page.open_more()
    page.field("Steps").wait_for()
    page.context.route("**/queue/join*", lambda request: late.append(request))
    page.choose("preset", "Draft")
    page.set("Steps", 1)
    for request in late:
        request.continue_()
    page.wait_for_preset("draft")
    page.page.wait_for_timeout(300)
    assert page.field("Weight of the speech").input_value() == "1"
    assert page.field("Steps").input_value() == "1"


def test_a_preview_shows_the_part_that_was_asked_for(visit, talk, words):
    page = visit()
    page.give_both(talk, words)
    page.set_quick(1)
    page.set("Preview from", 0.4)
    page.press("preview")
    page.wait_until_made()
    assert "Preview of 0.4 s" in page.note.inner_text()
    assert abs(page.played()["duration"] - 0.4) < 0.05


def test_one_run_at_a_time_and_nobody_in_the_others_way(visit, talk, words, app):
    """The first works, the second waits, the third is refused; closing a page and Cancel end their own runs only."""
    before = set((app.folder / "results").iterdir())
    first, second, third = visit(), visit(), visit()
    for page in (first, second, third):
        page.give_both(talk, words)
        page.set_quick(ENDLESS)
    first.press("run")
    first.note.filter(has_text="frames").wait_for()
    assert first.page.locator("#run").is_disabled()
    second.press("run")
    second.note.filter(has_text="Waiting: 1 run is before yours").wait_for()
    third.press("run")
    third.toast("As many as may are waiting already (1)")
    assert third.page.locator("#run").is_enabled()
    first.page.goto("about:blank")  # the visitor leaves: the next one's turn
    first.problems.clear()  # that its connection broke off
    second.note.filter(has_text="frames").wait_for()
    second.press("cancel")
    second.note.filter(has_text="Stopped.").wait_for()
    assert second.page.locator("#run").is_enabled()
    assert not second.page.locator("#cancel").is_visible()
    assert second.page.locator("#player .ls-empty").is_visible()
    assert set((app.folder / "results").iterdir()) == before  # nothing is left of either


def test_what_cannot_be_used_is_named(visit, words, tmp_path, app):
    page = visit()
    page.press("run")
    page.toast("A video of someone talking is missing")
    page.give("video", {"name": "tom &amp; tim.mp4", "mimeType": "video/mp4", "buffer": b"this is no video" * 100})
    told = page.toast("is not a video")
    assert "tom &amp; tim.mp4" in told  # as it is called: a name is no HTML
    assert str(app.folder) not in told
    page.give("video", write_clip(tmp_path / "long.mp4", pictures=round(25 * LONGEST) + 5, size=(32, 32)))
    page.toast("this page takes up to 5 s")
    page.give("video", write_clip(tmp_path / "wide.mp4", pictures=2, size=(640, 32)))
    page.toast("640 x 32 px")
    page.give("video", write_clip(tmp_path / "nobody.mp4", pictures=5, size=(64, 64)))
    page.faces_note.filter(has_text="No face was found").wait_for()
    page.give("speech", words)
    page.press("run")
    told = page.toast("no face was found in any of the 5 frames of 'nobody.mp4'")
    assert str(app.folder) not in told
    page.give("speech", write_wav_of(tmp_path / "long.wav", LONGEST + 1))
    page.toast("this page takes up to 5 s")
    page.problems.clear()  # the browser's own complaint about the broken video


def test_a_face_is_chosen_by_a_click(visit, two_people, words, tmp_path):
    page = visit()
    page.give_both(two_people, words)
    assert page.faces.count() == 2
    page.faces.nth(1).click()
    page.faces_note.filter(has_text="Face 2 speaks").wait_for()
    page.set_quick(1)
    page.press("run")
    page.wait_until_made()
    report = json.loads(page.save("Report (JSON)", tmp_path).read_text(encoding="utf-8"))
    assert [face["index"] for face in report["faces"]] == [1]


def test_nothing_is_wider_than_a_phone(visit, talk, words):
    page = visit(size=(390, 844), is_mobile=True, has_touch=True)
    page.give_both(talk, words)
    assert page.page.evaluate("[innerWidth, document.documentElement.scrollWidth]") == [390, 390]


def test_restoration_is_offered_where_it_was_enabled(visit):
    page = visit().page
    assert page.get_by_text("Face restoration").is_visible()
    assert not page.get_by_label("Strength").first.is_visible()
    page.locator("#restorer input").click()
    page.get_by_role("option", name="For drawn faces (bundled)").click()
    page.get_by_label("Strength").first.wait_for()
    assert not page.get_by_label("Faithfulness").first.is_visible()  # CodeFormer's alone


def test_restoration_is_hidden_else(browser, tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))  # as `build` sets it, and back
    app = build(AppSettings(folder=tmp_path / "files", checkpoints=tmp_path))
    try:
        page = AppPage(browser, app.launch("127.0.0.1", None, share=False)[0])
        assert page.page.get_by_text("More settings").is_visible()
        for words in ("Face restoration", "Restorer", "GFPGAN", "CodeFormer", "Faithfulness"):
            assert page.page.get_by_text(words).count() == 0
        page.close()
        assert (page.problems, page.foreign) == ([], [])
    finally:
        app.close()


def write_wav_of(path, seconds):
    write_wav(path, np.zeros(round(16_000 * seconds), np.float32), 16_000)
    return path


def same_pictures(one, other) -> bool:
    pairs = zip(read_frames(one), read_frames(other), strict=False)
    return max(float(np.abs(a.pixels.astype(int) - b.pixels).mean()) for a, b in pairs) < 0.5
