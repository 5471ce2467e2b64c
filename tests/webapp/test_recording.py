"""Camera and microphone: the browser's are a drawn face that comes from a file, and a speech."""

from pathlib import Path

import av
import pytest

from latentsync.media.video_reader import probe_video, read_frames
from tests.comfy.browser import launched
from tests.webapp.app_page import AppPage

RECORDED = 1200  # ms


@pytest.fixture(scope="module")
def recording_browser(browser, talk, words, tmp_path_factory):
    """A browser with a camera that sees `talk` and a microphone that hears `words`, again and again."""
    film = write_y4m(talk, tmp_path_factory.mktemp("camera") / "camera.y4m")
    devices = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")
    files = (f"--use-file-for-fake-video-capture={film}", f"--use-file-for-fake-audio-capture={words}")
    opened = launched(browser.browser_type, *devices, *files)
    yield opened
    opened.close()


def test_what_is_recorded_is_lip_synced(recording_browser, app, tmp_path):
    page = AppPage(recording_browser, app.url, permissions=["camera", "microphone"])
    page.record_video(RECORDED)
    page.wait_for_faces()
    assert page.faces.count() == 1
    page.record_speech(RECORDED)
    page.set_quick(1)
    page.press("preview")
    page.wait_until_made()
    saved = probe_video(page.save("Save the video", tmp_path))
    assert 0.5 < saved.duration < 4
    page.close()
    assert (page.problems, page.foreign) == ([], [])


def write_y4m(video: Path, path: Path) -> Path:
    """The form in which Chromium's camera takes a film."""
    with path.open("wb") as file:
        for frame in read_frames(video):
            if not frame.index:
                file.write(
                    f"YUV4MPEG2 W{frame.pixels.shape[1]} H{frame.pixels.shape[0]} F25:1 Ip A1:1 C420jpeg\n".encode()
                )
            planes = av.VideoFrame.from_ndarray(frame.pixels).reformat(format="yuv420p").to_ndarray()
            file.write(b"FRAME\n" + planes.tobytes())
    return path
