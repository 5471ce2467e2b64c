"""What a program of its own imports: the names that stay, their cost, and the example of the documents."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import latentsync
from latentsync import errors
from latentsync.media.video_reader import probe_video

ROOT = Path(__file__).parents[2]
MAX_SECONDS = 0.3  # of the processor: a machine with other work is slower by the clock


def test_all_that_stays_is_there():
    for name in latentsync.__all__:
        assert getattr(latentsync, name).__name__ == name
    assert set(latentsync.__all__) <= set(dir(latentsync))
    known = {
        name for name, value in vars(errors).items() if isinstance(value, type) and value.__module__ == errors.__name__
    }
    assert known <= set(latentsync.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'lipsync'"):
        _ = latentsync.lipsync


def test_importing_is_quick_and_torch_comes_with_the_first_use():
    program = """
import sys, time
before = time.process_time()
import latentsync
spent = time.process_time() - before
heavy = sorted({"torch", "numpy", "av"} & set(sys.modules))
latentsync.load_models
print(spent, heavy, "torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    spent, rest = done.stdout.split(" ", 1)
    assert rest.strip() == "[] True"
    assert float(spent) < MAX_SECONDS


def test_the_example_of_the_documents(tmp_path, avatar_video, speech, monkeypatch, capsys):
    example = re.search(r"```python\n(.*?)```", (ROOT / "docs" / "python.md").read_text(encoding="utf-8"), re.DOTALL)[1]
    assert len(example.splitlines()) == 10
    monkeypatch.chdir(tmp_path)
    shutil.copyfile(avatar_video, "talk.mp4")
    shutil.copyfile(speech(0.2), "monday.wav")
    exec(compile(example, "docs/python.md", "exec"), {})  # noqa: S102 (the project's own document)
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("monday.mp4: new lips in 5 of 5 frames")
    assert second.startswith("tuesday: No such file: 'tuesday.wav'")
    assert probe_video("monday.mp4").num_frames == 5
