"""Running the command line inside this process, and checking what must hold whatever happens."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

import main


class Outcome(NamedTuple):
    """Exit code, standard output and standard error."""

    code: int
    out: str
    err: str


def tree(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))


def state(path: Path) -> tuple | None:
    return (path.read_bytes(), path.stat().st_mtime_ns) if path.is_file() else None


def arguments(video: Path, audio: Path, out: Path, *options: object) -> list[str]:
    """The command line with these files; few steps, unless others are among the options."""
    files = ["--video_path", video, "--audio_path", audio, "--video_out_path", out]
    return [str(part) for part in (*files, "--inference_steps", 1, "--guidance_scale", 1, *options)]


@pytest.fixture
def out(tmp_path) -> Path:
    """Where results go: in a folder that does not exist yet."""
    return tmp_path / "result" / "out.mp4"


@pytest.fixture
def lip_sync(small_model_folder, avatar_video, speech, out, tmp_path, capfd) -> Callable[..., Outcome]:
    """`lip_sync(*options, video=, audio=, output=, model=)` runs `main.main`.

    Checked every time: the inputs are as before; a failure leaves no file or folder behind; success leaves only the
    result; nobody sees a stack trace.
    """

    def run(*options, video=avatar_video, audio=None, output=out, model=small_model_folder) -> Outcome:
        audio = speech(0.2) if audio is None else audio
        chosen = () if model is None else ("--model", model)
        inputs, before = [state(video), state(audio)], tree(tmp_path)
        capfd.readouterr()
        code = main.main(arguments(video, audio, output, *chosen, *options))
        outcome = Outcome(code, *capfd.readouterr())
        assert [state(video), state(audio)] == inputs
        assert tree(tmp_path) - before == ({output, *output.parents} & tree(tmp_path) - before if code == 0 else set())
        assert code != 0 or output.is_file()
        assert "Traceback" not in outcome.err
        return outcome

    return run


@pytest.fixture
def refused(lip_sync) -> Callable[..., str]:
    """`refused(*options, code=1, **files)`: the one line of error that a failing run prints."""

    def run(*options, code: int = 1, **files) -> str:
        outcome = lip_sync("--quiet", *options, **files)
        assert outcome.code == code, outcome
        assert outcome.out == ""
        lines = outcome.err.strip().splitlines()
        assert len(lines) == 1, outcome.err
        assert lines[0].startswith("error: ")
        return lines[0]

    return run
