"""Arguments, messages, exit codes and the choice of the model."""

import json
import re
import shutil
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from PIL import Image

import main
from latentsync.cli import arguments as command_line
from latentsync.cli.arguments import build_parser, explicit_options
from latentsync.cli.run import ProgressBar, models_of, options_of
from latentsync.commands import OUT_OF_MEMORY, complain
from latentsync.files import sha256_of
from latentsync.media.audio_reader import probe_audio
from latentsync.media.length_modes import LENGTH_MODES
from latentsync.media.video_reader import probe_video
from latentsync.model import loading
from latentsync.model.checkpoints import save_unet
from latentsync.model.loading import bundled_model
from latentsync.options import SETTINGS, LipSyncOptions, Setting
from latentsync.presets import DEFAULT_PRESET, PRESETS, apply_preset
from latentsync.run import engine
from latentsync.run.report import read_provenance
from tests.cli.conftest import arguments
from tests.small_model import small_unet, small_vae, write_whisper
from tests.unit.test_errors import FULL

SOME = ["--video_path=main.py", "--audio_path=main.py", "--video_out_path=x.mp4"]  # files that are there
FILES = ["--video_path", "v.mp4", "--audio_path", "a.wav", "--video_out_path", "o.mp4"]


def options(*argv: object) -> LipSyncOptions:
    given = [*FILES, *map(str, argv)]
    return options_of(build_parser().parse_args(given), explicit_options(given))


def test_help_names_every_option_and_the_exit_codes(capsys):
    with pytest.raises(SystemExit) as stop:
        main.main(["--help"])
    assert stop.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    names = "video_path audio_path video_out_path superres mask_smooth sr_ratio inference_steps guidance_scale seed"
    names += " report model resolution device dtype fps start duration quiet verbose preset checkpoints det_model"
    names += " landmark_model length tail output_audio audio_offset_ms face track fade max_yaw no_track_cache silence"
    names += " mask_shape blend_method protect sr_strength codeformer_fidelity"
    names += " scheduler guidance_interval cache_interval chunk_overlap decoder low_memory"
    for name in names.split():
        assert f"--{name}" in text
    assert "130 interrupted" in text


def test_presets_are_the_librarys():
    assert options() == options("--preset", "balanced") == apply_preset(LipSyncOptions(), DEFAULT_PRESET)
    assert options("--preset", "quality") == LipSyncOptions()
    assert options("--preset", "reference") == LipSyncOptions(num_inference_steps=20).as_reference()
    assert tuple(PRESETS) == command_line.PRESETS
    assert len({options("--preset", name) for name in PRESETS}) == len(PRESETS)


def test_a_new_row_of_the_table_is_an_option(monkeypatch, capsys):
    row = Setting(3, "made up for this", group="time", name="made_up", option="made_up", kind=int, low=0, high=9)
    monkeypatch.setitem(SETTINGS, "made_up", row)
    assert build_parser().parse_args([*FILES, "--made_up", "5"]).made_up == 5
    with pytest.raises(SystemExit):
        build_parser().parse_args(["--help"])
    assert "made up for this (default: 3)" in capsys.readouterr().out


def test_defaults_of_a_model_count_unless_another_value_is_given():
    def guidance(*argv: str) -> float:
        given = [*FILES, *argv]
        return options_of(
            build_parser().parse_args(given), explicit_options(given), bundled_model().defaults
        ).guidance_scale

    assert (guidance(), guidance("--guidance_scale", "1.5"), guidance("--preset", "draft")) == (2.5, 1.5, 1.0)


def test_the_reference_is_computed_in_full_precision_unless_told_otherwise():
    def dtype(*argv: str) -> str:
        return models_of(build_parser().parse_args([*FILES, *argv])).dtype

    assert dtype() == dtype("--preset", "draft") == "auto"
    assert dtype("--preset", "reference") == "float32"
    assert dtype("--preset", "reference", "--dtype", "bfloat16") == "bfloat16"


def test_the_draft_decoder_is_for_drafts_or_on_demand():
    def decoder(*argv: str) -> str:
        return models_of(build_parser().parse_args([*FILES, *argv])).decoder

    assert decoder() == decoder("--preset", "quality") == "vae"
    assert decoder("--preset", "draft") == "auto"
    assert decoder("--decoder", "draft") == "draft"
    assert decoder("--preset", "draft", "--decoder", "vae") == "vae"


def test_results_are_marked_unless_asked_otherwise(lip_sync, out):
    assert (options().marking, options("--no_marking").marking) == (True, False)
    assert options("--preset", "reference").marking
    assert lip_sync("--visible_mark", "AI-generated").code == 0
    assert read_provenance(out)["tool"] == "latentsync-nodes"
    assert lip_sync("--no_marking").code == 0
    assert read_provenance(out) is None


@pytest.mark.parametrize("preset_first", [True, False])
def test_an_explicit_option_beats_the_preset_in_any_order(preset_first):
    def both(*explicit: object) -> LipSyncOptions:
        preset = ["--preset", "reference"]
        return options(*preset, *explicit) if preset_first else options(*explicit, *preset)

    reference = LipSyncOptions().as_reference()
    assert both("--fps", "30000/1001").fps == Fraction(30000, 1001)
    assert both("--fps=29.97").fps == Fraction(30000, 1001)
    assert both("--mask_smooth", "0.5").blend == "mask"  # also when it is given its default
    assert both("--inference_steps", 3, "--seed", 9).num_inference_steps == 3
    assert both("--seed", 9).blend == both("--start", 1).blend == reference.blend == "reference"
    assert both("--chunk_overlap", 4).chunk_overlap == 4
    assert both("--inference_steps", 25).num_inference_steps == 25
    assert both("--scheduler", "unipc", "--cache_interval", 2).scheduler == "unipc"
    assert both("--guidance_interval", 0, 0.5).guidance_interval == (0.0, 0.5)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--silence", "mute"], "invalid choice: 'mute'"),
        (["--track", "a.wav"], "expected a face and its speech, such as 0=a.wav or left=a.wav, got 'a.wav'"),
        (["--preset", "fastest"], "invalid choice: 'fastest'"),
        (["--scheduler", "euler"], "invalid choice: 'euler'"),
        (["--guidance_interval", "0.5"], "expected 2 arguments"),
        (["--sr_ratio", "5"], "invalid choice"),
        (["--sr_backend", "onnx"], "invalid choice: 'onnx'"),
        (["--inference_steps", "many"], "invalid int value"),
        (["--fps", "0"], "more than 0 frames per second, got '0'"),
        (["--fps", "fast"], "expected a number such as 25 or 30000/1001, got 'fast'"),
        (["--fps", "1/0"], "expected a number"),
        (["--length", "mirror"], "invalid choice: 'mirror'"),
        (["--tail", "fade"], "invalid choice: 'fade'"),
        (["--quiet", "--verbose"], "not allowed with"),
        (["--unknown"], "there is no option --unknown ("),
        (
            ["--unknown=1", "--video-path", "v.mp4"],
            "--unknown, there is no option --video-path: did you mean --video_path?",
        ),
        (["--steps", "5"], "did you mean --inference_steps?"),
        (["--num_inference_steps=5"], "did you mean --inference_steps?"),
        (["--guidence_scale", "2"], "did you mean --guidance_scale?"),
        (["--out", "r.mp4"], "there is no option --out: did you mean --video_out_path?"),
        (["--output", "r.mp4"], "there is no option --output: did you mean --video_out_path?"),
        (["--track", "0=https://example.com/a.mp4"], "is a web address"),
    ],
)
def test_wrong_arguments_exit_with_2(given, message, capsys):
    with pytest.raises(SystemExit) as stop:
        main.main([*FILES, *given])
    assert stop.value.code == 2
    err = capsys.readouterr().err
    assert message in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize(
    ("given", "code", "message"),
    [
        (["--video_path", "gone.mp4", *FILES[2:]], 1, "No such file: 'gone.mp4'"),
        (["--video_path=main.py", "--audio_path", "gone.wav", "--video_out_path=x.mp4"], 1, "No such file: 'gone.wav'"),
        (["--video_path=main.py", "--audio_path=main.py", "--video_out_path", "."], 1, "The output '.' is a folder"),
        (["--video_path=main.py", "--audio_path=main.py", "--video_out_path=x.avi"], 1, "format to write from 'x.avi'"),
        (["--batch", "gone.csv"], 2, "there is no job file gone.csv"),
        (
            [*SOME, "--model", "tinny"],
            1,
            "with one. Did you mean 'tiny'?",
        ),
        ([*SOME, "--model", "lattentsync"], 1, "Did you mean 'latentsync'?"),
        ([*SOME, "--model", "docs/models.mb"], 1, "Did you mean 'docs/models.md'?"),
        ([*SOME, "--lora", "dosc/own.safetensors"], 1, "--lora at 'dosc/own.safetensors'. Did you mean 'docs'?"),
        ([*SOME, "--checkpoints", "gone"], 2, "--checkpoints gone is not a folder"),
        ([*SOME, "--superres", "gone.pth"], 1, "there is no restorer gone.pth"),
        (
            [*SOME, "--det_model=main.py", "--landmark_model=gone.onnx"],
            1,
            "no file for --landmark_model at 'gone.onnx'",
        ),
        ([*SOME, "--face", "gone.png"], 2, "no picture of the person at 'gone.png'"),
        ([*SOME, "--report=x.json", "--sync_score=gone.pt"], 2, "no SyncNet for --sync_score (auto, off or a file) at"),
    ],
)
def test_a_mistyped_path_is_told_before_torch_is_loaded(given, code, message):
    run = without_torch(given)
    assert run.returncode == code
    assert run.stderr.startswith("error: ")
    assert message in run.stderr
    assert len(run.stderr.splitlines()) == 1


def test_missing_files_of_all_rows_are_told_before_torch_is_loaded(tmp_path):
    source = f"{Path(main.__file__).parent / 'main.py'}"
    rows = [f"{source},{source},good.mp4,", f"gone.mp4,{source},b.mp4,", f"{source},{source},c.mp4,gone/unet.pt"]
    table = tmp_path / "jobs.csv"
    table.write_text("\n".join(["video_path,audio_path,video_out_path,model", *rows]))
    run = without_torch(["--batch", str(table)])
    assert run.returncode == 2
    assert "2 rows of" in run.stderr
    assert f"  line 3: No such file: '{tmp_path / 'gone.mp4'}'" in run.stderr
    assert f"  line 4: there is no model at {tmp_path / 'gone/unet.pt'}" in run.stderr


def without_torch(given: list[str]) -> subprocess.CompletedProcess:
    """What main.py says, which must not have loaded torch."""
    script = "import sys, main; code = main.main(); assert 'torch' not in sys.modules; sys.exit(code)"
    command = [sys.executable, "-c", script, *given]
    return subprocess.run(command, capture_output=True, text=True, cwd=Path(main.__file__).parent)


def test_missing_files_in_the_arguments(capsys):
    with pytest.raises(SystemExit) as stop:
        main.main(["--video_path", "v.mp4"])
    assert stop.value.code == 2
    assert "required: --video_out_path" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--track", "0=a.wav"], "give either --audio_path with one speech, or --track WHICH=FILE for each person"),
        (["--face", "middle"], "unknown choice of the face 'middle'; expected largest, left"),
        (["--face", "7"], "there is no face 7; the clip has 1 face, largest first: 0 at "),
        (["--face", "0.9,0.9"], "no face comes to the point"),
        (["--face", "who.png"], "no picture of the person at 'who.png'"),
        (["--sr_strength", "2"], "sr_strength is 2;"),
        (["--fade", "-1"], "fade is -1;"),
        (["--visible_mark", "\t"], "visible_mark is '\\t'; expected 1 to 100 letters"),
        (["--max_yaw", "0"], "max_yaw is 0;"),
        (["--superres", "tiny", "--codeformer_fidelity", "2"], "fidelity of CodeFormer is 2.0"),
        (["--superres", "tiny", "--sr_backend", "package"], "the backend 'package' is for GFPGAN and CodeFormer only"),
        (
            ["--model", "tiny", "--low_memory", "offload", "--device", "cpu"],
            "low_memory is 'offload', but the networks",
        ),
        (["--model", "tiny", "--decoder", "draft"], "the model tiny has no draft decoder; choose decoder 'vae'"),
        (["--cache_interval", "0"], "cache_interval is 0; expected 1 (off)"),
        (["--guidance_interval", "1", "0"], "guidance_interval is (1.0, 0.0); expected two shares of the steps"),
        (["--chunk_overlap", "9"], "chunk_overlap is 9; expected 0 to 8"),
        (["--inference_steps", "0"], "inference_steps is 0; expected a whole number from 1 to 999"),
        (["--guidance_scale", "nan"], "guidance_scale is nan"),
        (["--mask_smooth", "2"], "mask_smooth is 2;"),
        (["--seed", "-2"], "seed is -2"),
        (["--fps", "1000"], "fps is 1000"),
        (["--start", "-1"], "start is -1"),
        (["--duration", "inf"], "duration is inf"),
        (["--audio_offset_ms", "20000"], "audio_offset_ms is 20000; expected -10000 to 10000 milliseconds"),
        (["--length", "trim", "--tail", "keep"], "Take tail 'cut', or another length: bounce, loop or hold"),
        (["--resolution", "100"], "resolution 100 was given; expected a positive multiple of 8"),
        (["--device", "cuda:99"], "the device 'cuda:99' cannot be used here"),
        (["--device", "fast"], "the device 'fast' cannot be used here"),
        (["--det_model", "det_10g.onnx"], "--det_model and --landmark_model belong together"),
        (["--checkpoints", "no/such/folder"], "no/such/folder is not a folder"),
    ],
)
def test_impossible_values_exit_with_2_and_a_message(refused, given, message):
    assert message in refused(*given, code=2)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_cuda_where_there_is_none(refused):
    assert re.search("the device 'cuda' cannot be used here .*; try auto or cpu", refused("--device", "cuda", code=2))


def test_a_successful_run_says_what_it_did(lip_sync, small_model_folder, out):
    done = lip_sync("--seed", 5, "--dtype", "bfloat16")
    assert done.code == 0
    assert done.out == f"{out}\n"  # for scripts: the result and nothing else
    assert f"model: small ({small_model_folder / 'unet.safetensors'}), 64 px, cpu, bfloat16\n" in done.err
    assert re.search(r"5 frames in \d+\.\d s, seed 5", done.err)
    assert "100%" in done.err
    assert "5/5 frames" in done.err
    assert "float32: []" not in done.err


def test_quiet_prints_nothing_on_success(lip_sync):
    assert lip_sync("--quiet") == (0, "", "")


def test_a_random_seed_is_told(lip_sync):
    seeds = [re.search(r"seed (\d+)", lip_sync("--seed", -1).err).group(1) for _ in range(2)]
    assert seeds[0] != seeds[1]


def test_preview_window_and_rate(lip_sync, speech, out):
    done = lip_sync("--start", 0.2, "--duration", 0.16, "--fps", 50, audio=speech(0.48))
    assert re.search(r"^8 frames in", done.err, re.MULTILINE)
    assert probe_video(out).fps == 50


def test_every_length_of_the_library_can_be_given():
    given = [options("--length", mode).length for mode in LENGTH_MODES]
    assert given == list(LENGTH_MODES)
    assert options("--tail", "keep").tail == "keep"
    assert options("--audio_offset_ms", "-40.5").audio_offset_ms == -40.5
    assert options("--preset", "reference", "--length", "loop").length == "loop"


def test_a_kept_tail_and_another_sound(lip_sync, speech, out):
    done = lip_sync("--tail", "keep", "--output_audio", speech(0.48), audio=speech(0.2))
    assert done.code == 0
    assert re.search(r"^12 frames in .*, 7 after the speech, seed", done.err, re.MULTILINE)
    assert "warning: the output audio lasts 0.48 s and the speech 0.20 s" in done.err
    assert probe_audio(out).duration == pytest.approx(0.48, abs=0.07)


def test_report_of_every_frame(avatar_video, speech, out, small_model_folder, capfd):
    path = out.parent / "frames" / "report.json"
    given = arguments(avatar_video, speech(0.2), out, "--model", small_model_folder, "--report", path)
    assert main.main(given) == 0
    content = json.loads(path.read_text(encoding="utf-8"))
    assert (content["num_frames"], content["num_faces"], content["fps"]) == (5, 5, 25.0)
    frames = content["faces"][0]["frames"]
    assert frames["time"] == [0.0, 0.04, 0.08, 0.12, 0.16]
    assert None not in frames["source_opening"] + frames["yaw"]
    assert any(opening is not None for opening in frames["opening"])
    assert content["settings"]["seed"] == 1247
    assert content["model"]["files"] == {"unet.safetensors": sha256_of(small_model_folder / "unet.safetensors")}
    assert {"find faces", "listen", "generate", "paste", "decode", "encode"} <= set(content["stages"])
    assert content["faces_found"].startswith("1 face, largest first: 0 at ")
    assert sorted(file.name for file in path.parent.iterdir()) == ["report.json", "report.png"]
    assert Image.open(path.with_suffix(".png")).size == (1280, 360)
    assert capfd.readouterr().out.strip() == str(out)


def test_two_people_with_a_speech_each(two_people, speech, out, small_model_folder, capfd):
    path = out.parent / "report.json"
    tracks = ["--track", f"left={speech(0.2)}", "--track", f"right={speech(0.36, 6)}"]
    options = ["--inference_steps", "1", "--guidance_scale", "1", "--model", small_model_folder, "--report", path]
    given = ["--video_path", two_people, "--video_out_path", out, *tracks, *options]
    assert main.main([*map(str, given)]) == 0
    content = json.loads(path.read_text(encoding="utf-8"))
    assert [face["choice"] for face in content["faces"]] == ["left", "right"]
    assert sorted(face["index"] for face in content["faces"]) == [0, 1]
    assert content["num_frames"] == 9  # of the longer speech
    assert probe_audio(out).duration == pytest.approx(0.36, abs=0.07)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--track", "0={a}", "--track", "largest={a}"], "the faces '0' and 'largest' are the same"),
        (["--audio_path", "{a}", "--track", "0={a}"], "give either --audio_path"),
        (["--face", "left", "--track", "0={a}"], "--face goes with --audio_path"),
        (["--track", "0={a}", "--track", "5={a}"], "there is no face 5; the clip has 2 faces"),
    ],
)
def test_speakers_that_cannot_be(two_people, speech, out, small_model_folder, capfd, given, message):
    given = [part.format(a=speech(0.2)) for part in given]
    files = ["--video_path", two_people, "--video_out_path", out, "--model", small_model_folder]
    assert main.main([*map(str, files), *given, "--quiet"]) == 2
    assert message in capfd.readouterr().err
    assert not out.exists()


def test_a_second_speech_on_the_same_video_needs_no_search(lip_sync, speech, monkeypatch, track_cache_folder):
    scans = []
    scan = engine.scan_faces
    monkeypatch.setattr(engine, "scan_faces", lambda *given, **more: scans.append(given) or scan(*given, **more))
    assert lip_sync("--no_track_cache").code == 0
    assert len(scans) == 1
    for file in track_cache_folder.rglob("*.npz"):
        file.unlink()
    for seed in (5, 6):
        assert lip_sync(audio=speech(0.2, seed)).code == 0
    assert len(scans) == 2


def test_what_is_protected_stays(lip_sync, avatar_video, out, tmp_path):
    mask = tmp_path / "mask.png"
    Image.new("L", (192, 192), 255).save(mask)
    assert lip_sync("--protect", mask).code == 0
    Image.new("L", (96, 192), 255).save(mask)
    assert "192" in lip_sync("--protect", mask).err


def test_reports_that_cannot_be_written_are_refused_before_any_work(refused, avatar_video, speech, tmp_path):
    assert "ending in one of: .json" in refused("--report", tmp_path / "report.txt")
    (tmp_path / "folder.json").mkdir()
    assert "is a folder" in refused("--report", tmp_path / "folder.json")


def test_a_failed_run_leaves_no_report(refused, tmp_path):
    refused("--report", tmp_path / "new" / "report.json", video=tmp_path / "none.mp4")


def test_unforeseen_errors_show_where_they_come_from(avatar_video, speech, out, small_model_folder, monkeypatch, capfd):
    def broken(*_, **__):
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("latentsync.run.engine.lip_sync", broken)
    assert main.main(arguments(avatar_video, speech(0.2), out, "--model", small_model_folder, "--quiet")) == 1
    err = capfd.readouterr().err
    assert "Traceback" in err
    assert "in broken" in err
    assert err.endswith("error: a bug\n")


def test_verbose_shows_where_a_foreseen_error_comes_from(speech, out, tmp_path, capfd):
    assert main.main(arguments(tmp_path / "none.mp4", speech(0.2), out, "--verbose")) == 1
    err = capfd.readouterr().err
    assert "Traceback" in err
    assert "error: No such file" in err


@pytest.mark.parametrize("error", FULL.values(), ids=FULL)
def test_full_memory_is_explained(error, capsys):
    assert complain(error, verbose=False) == 1
    assert capsys.readouterr().err == f"error: {OUT_OF_MEMORY}\n"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (
            "raise RuntimeError('operator torchvision::nms does not exist')",
            "diffusers does not load (RuntimeErr",
        ),
        ("raise OSError('libcudart.so.13: cannot open')", "package diffusers does not load (OSError: libcudart"),
        ("import absent_package", "package absent_package is missing"),
        ("version = 0", "package diffusers does not load (ImportError: cannot import name"),
    ],
)
def test_a_package_that_does_not_load_is_named(body, said, tmp_path, monkeypatch, capsys):
    """Whatever it raises, without a stack trace."""
    (tmp_path / "diffusers.py").write_text(body)
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.partition(".")[0] == "diffusers"]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(Exception) as caught:  # noqa: PT011
        from diffusers import AutoencoderKL  # noqa: F401
    assert complain(caught.value, verbose=False) == 1
    err = capsys.readouterr().err
    assert said in err
    assert "python -m pip install" in err
    assert len(err.splitlines()) == 1
    assert str(tmp_path) not in err


def test_progress_bar_counts_steps_and_averages(monkeypatch, capfd):
    from latentsync.run.progress import Progress

    bar = ProgressBar()
    bar._interval = 0.0
    bar(Progress(frames_done=0, frames_total=100, step=5, num_steps=25, seconds=10.0, fraction=0.05))
    bar.close()
    shown = capfd.readouterr().err.rpartition("\r")[2]
    assert "0/100 frames, step 5/25" in shown
    assert "  5%" in shown
    assert re.search(r"00:10 gone, 03:[01]\d left,  ?0\.5\d? frames/s", shown), shown


@pytest.fixture
def checkpoints(tmp_path):
    """A folder in the released layout, small inside."""
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    save_unet(small_unet(), folder / "latentsync_unet.pt")
    small_vae().save_pretrained(folder / "vae")
    write_whisper(folder / "whisper" / "tiny.pt")
    (folder / "latentsync_unet.json").write_text(json.dumps({"num_attention_heads": 2, "norm_num_groups": 8}))
    return folder


def test_the_default_model_is_the_one_in_checkpoints_and_is_told(lip_sync, checkpoints, speech):
    unsaid = lip_sync("--checkpoints", checkpoints, model=None, audio=speech(0.04))
    assert unsaid.code == 0
    assert f"model: latentsync_unet.pt ({checkpoints / 'latentsync_unet.pt'}), 512 px" in unsaid.err
    assert unsaid.err.count("warning: latentsync_unet.pt does not say its resolution; 512") == 1
    said = lip_sync("--checkpoints", checkpoints, "--resolution", 64, model=None)
    assert "latentsync_unet.pt), 64 px" in said.err
    assert "does not say" not in said.err


def test_without_checkpoints_the_bundled_model_is_taken_and_told(lip_sync, tmp_path, small_model_folder, monkeypatch):
    monkeypatch.setattr(loading, "BUNDLED", small_model_folder)
    (tmp_path / "empty").mkdir()
    done = lip_sync("--checkpoints", tmp_path / "empty", model=None)
    assert f"note: no model in {tmp_path / 'empty'}; the bundled one is taken" in done.err
    assert "note: no model" not in lip_sync(model="tiny").err


def test_released_unet_without_its_whisper(refused, checkpoints):
    shutil.rmtree(checkpoints / "whisper")
    message = refused("--checkpoints", checkpoints, model=None)
    assert "needs OpenAI's multilingual Whisper tiny.pt at" in message
    assert "tiny.en is another model" in message


class Malice:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return open, (str(self.target), "w")


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("sd15", "a Stable Diffusion U-Net for text and images"),
        ("syncnet", "is a SyncNet, not a LatentSync U-Net"),
        ("cut", "is damaged or cut short"),
        ("half", "tensors are missing"),
        ("pickle", "was not loaded, because such a file can run code"),
        ("text", "neither a torch nor a safetensors file"),
        ("page", "a web page, not a model"),
        ("missing", "there is no model at"),
    ],
)
def test_wrong_checkpoint_kinds(refused, checkpoints, tmp_path, kind, message):
    path, trap = checkpoints / "latentsync_unet.pt", tmp_path / "trap"
    if kind == "sd15":
        attention = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight"
        torch.save({"conv_in.weight": torch.zeros(320, 4, 3, 3), attention: torch.zeros(320, 768)}, path)
    elif kind == "syncnet":
        names = ("audio_encoder.down_blocks.0.weight", "visual_encoder.down_blocks.0.weight")
        torch.save({"state_dict": {name: torch.zeros(2) for name in names}}, path)
    elif kind == "cut":
        path.write_bytes(path.read_bytes()[:-5000])
    elif kind == "half":
        content = torch.load(path, weights_only=True)["state_dict"]
        torch.save({key: value for key, value in content.items() if ".norm2." not in key}, path)
    elif kind == "pickle":
        torch.save({"state_dict": Malice(trap)}, path)
    elif kind == "text":
        path.write_text("not a model")
    elif kind == "page":
        path.write_text("<!DOCTYPE html><html>sign in</html>")
    else:
        path.unlink()
    assert message in refused(model=path)
    assert not trap.exists()
