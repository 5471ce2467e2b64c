"""install.py --samples, as users start it: inside ComfyUI's folder, beside it, twice, and where it cannot work."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from latentsync import samples
from latentsync.media.audio_reader import probe_audio
from latentsync.media.video_reader import read_frames

ROOT = Path(__file__).parents[2]
SPOKEN = [samples.VIDEO, samples.SPEECH, samples.SECOND_SPEECH]
NAMES = [*SPOKEN, samples.TWO_PEOPLE]


def run(*arguments: str | Path, script: Path = ROOT / "install.py", options: tuple[str, ...] = ("-I",), cwd="/"):
    """-I as in ComfyUI's portable version, whose Python looks neither here nor beside the script."""
    return subprocess.run(
        [sys.executable, *options, script, "--samples", *arguments], capture_output=True, text=True, cwd=cwd
    )


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("input")
    (folder / "mine.txt").write_text("not touched")
    return folder, run(folder)


def test_clips_and_speeches_of_one_length(made):
    folder, first = made
    assert (first.returncode, first.stderr) == (0, "")
    assert sorted(path.name for path in folder.iterdir()) == sorted([*NAMES, "mine.txt"])
    assert all(f"written: {folder / name}" in first.stdout for name in NAMES)
    for name, size in ((samples.VIDEO, (samples.SIDE, samples.SIDE)), (samples.TWO_PEOPLE, samples.TWO_SIZE)):
        frames = [frame.pixels for frame in read_frames(folder / name)]
        assert len(frames) == 25 * samples.DURATION
        assert frames[0].shape == (*size, 3)
    for name in SPOKEN:  # the clip speaks too
        assert probe_audio(folder / name).duration == pytest.approx(samples.DURATION, abs=0.1)
    assert (folder / samples.SPEECH).read_bytes() != (folder / samples.SECOND_SPEECH).read_bytes()


def test_again_changes_nothing_and_says_so(made):
    folder, _ = made
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    again = run(folder)
    assert (again.returncode, again.stderr) == (0, "")
    assert all(f"already there: {folder / name}" in again.stdout for name in NAMES)
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before


def test_a_file_of_another_content_is_kept_and_nothing_written(tmp_path):
    (tmp_path / samples.SPEECH).write_bytes(b"somebody's recording")
    refused = run(tmp_path)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert f"Another file of that name is there already: {tmp_path / samples.SPEECH}" in refused.stderr
    assert contents(tmp_path) == {samples.SPEECH: b"somebody's recording"}


@pytest.mark.skipif(os.name == "nt", reason="links need rights there")
def test_comfy_is_found_around_the_pack_even_if_it_is_linked_there(made, tmp_path):
    for name in ("custom_nodes", "input"):
        (tmp_path / name).mkdir()
    (tmp_path / "custom_nodes" / "some-name").symlink_to(ROOT, target_is_directory=True)
    found = run(script=tmp_path / "custom_nodes" / "some-name" / "install.py")
    assert (found.returncode, found.stderr) == (0, "")
    assert sorted(contents(tmp_path / "input")) == sorted(NAMES)
    assert {name: content for name, content in contents(made[0]).items() if name in NAMES} == contents(
        tmp_path / "input"
    )


@pytest.mark.parametrize("with_comfy", [False, True])
def test_without_an_input_folder_the_command_is_told(tmp_path, with_comfy):
    """Elsewhere on the disk, and in a folder of packs that has no input folder beside it."""
    pack = tmp_path / ("custom_nodes" if with_comfy else "projects") / "pack"
    with pytest.raises(samples.OutputError, match=r"install\.py --samples /path/to/ComfyUI/input"):
        samples.host_input(pack)
    (tmp_path / "input").mkdir()
    if with_comfy:
        assert samples.host_input(pack) == tmp_path / "input"
    else:
        with pytest.raises(samples.OutputError, match=r"expected .* to lie in ComfyUI's custom_nodes"):
            samples.host_input(pack)


def test_a_folder_that_is_not_there_is_not_made(tmp_path):
    refused = run(tmp_path / "inptu")
    assert refused.returncode == 1
    assert "inptu' is no folder" in refused.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="nothing is forbidden to this user")
def test_a_folder_that_is_closed_is_told(tmp_path):
    tmp_path.chmod(0o500)
    refused = run(tmp_path)
    tmp_path.chmod(0o700)
    assert refused.returncode == 1
    assert refused.stderr.startswith("error: ")
    assert "Traceback" not in refused.stderr


def test_a_python_without_the_packages_is_told_which_one_to_use(tmp_path):
    refused = run(tmp_path, options=("-S", "-I"))  # no site-packages
    assert refused.returncode == 1
    assert "Start this with the Python that ComfyUI runs in" in refused.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_cut_run_leaves_no_file_under_its_name(tmp_path, monkeypatch):
    folder = tmp_path / "input"
    folder.mkdir()

    def half(source, target):
        Path(target).write_bytes(Path(source).read_bytes()[:100])
        raise KeyboardInterrupt

    monkeypatch.setattr(samples.shutil, "copyfile", half)
    with pytest.raises(KeyboardInterrupt):
        samples.write_samples(folder)
    assert contents(folder) == {}
