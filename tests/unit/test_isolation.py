"""Files that crash a decoder: seen in a process of its own, told as an error of the file."""

import signal
import subprocess
import sys

import pytest

from latentsync.errors import AudioError, MediaError
from latentsync.media import isolation
from latentsync.media.isolation import check_apart, decode_beginning
from tests.unit.media_clips import sine, write_clip, write_pcm


@pytest.fixture
def clip(tmp_path):
    return write_clip(tmp_path / "a clip, 'quoted'.mp4", tone=300)


def dying(program: str):
    return lambda path, budget: [sys.executable, "-c", program]


def test_a_whole_file_is_decoded(clip, tmp_path, monkeypatch):
    started = []
    run = subprocess.run
    monkeypatch.setattr(
        subprocess, "run", lambda *words, **options: started.append(run(*words, **options)) or started[-1]
    )
    check_apart(clip)
    assert [done.returncode for done in started] == [0]
    check_apart(clip)  # known by size and time
    assert len(started) == 1
    assert decode_beginning(str(clip), 10.0) > 12
    check_apart(write_pcm(tmp_path / "a.wav", sine(300, 0.5, 16_000)[None], 16_000), AudioError)
    assert [done.returncode for done in started] == [0, 0]


def test_what_is_wrong_otherwise_is_left_to_the_readers(clip, tmp_path):
    clip.write_bytes(clip.read_bytes()[:700])
    check_apart(clip)
    check_apart(tmp_path / "missing.mp4")
    check_apart(tmp_path)
    text = tmp_path / "text.mp4"
    text.write_text("no media", encoding="utf-8")
    check_apart(text)


@pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX's")
@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGABRT, signal.SIGILL])
def test_a_crash_is_an_error_of_the_file(clip, monkeypatch, number):
    monkeypatch.setattr(isolation, "_command", dying(f"import os; os.kill(os.getpid(), {int(number)})"))
    with pytest.raises(AudioError, match=rf"crashes the decoder \(-{int(number)}\): it is damaged"):
        check_apart(clip, AudioError, budget=float(number))


def test_a_hang_and_a_glutton_are_errors_of_the_file(clip, monkeypatch):
    monkeypatch.setattr(isolation, "PATIENCE", 0.5)
    monkeypatch.setattr(isolation, "_command", dying("import time; time.sleep(60)"))
    with pytest.raises(MediaError, match=r"could not be read within 0\.5 s"):
        check_apart(clip, budget=1.0)
    monkeypatch.setattr(isolation, "PATIENCE", 60)
    monkeypatch.setattr(isolation, "_command", dying("import sys; sys.exit(3)"))
    with pytest.raises(MediaError, match="takes more than 8 GB"):
        check_apart(clip, budget=2.0)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the limit may not hold")
def test_memory_is_limited(clip):
    program = "from latentsync.media.isolation import limit_memory; limit_memory(1 << 30); bytearray(2 << 30)"
    done = subprocess.run([sys.executable, "-c", program], cwd=isolation._ROOT, capture_output=True)
    assert b"MemoryError" in done.stderr


def test_an_installation_that_cannot_do_it_stops_nobody(clip, monkeypatch, caplog):
    monkeypatch.setattr(isolation, "_command", dying("raise ImportError('no av')"))
    check_apart(clip, budget=4.0)
    assert "no av" in caplog.text


def test_little_is_imported_there():
    program = (
        "import sys, latentsync.media.isolation; print(*{'torch', 'diffusers', 'transformers'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=isolation._ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == ""
