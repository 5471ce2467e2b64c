"""Runs in a process of ComfyUI's, started by test_inside_host.py: what no graph shows of nodes/media.py and host.py.

    python inside_host.py PACK_ROOT CLIP BASE_FOLDER

Working directory: ComfyUI's. Fails by an assertion; prints the last line "all right".
"""

import asyncio
import importlib
import importlib.util
import sys
from io import BytesIO
from pathlib import Path

ROOT, CLIP = Path(sys.argv[1]), sys.argv[2]
sys.argv = ["main.py", "--cpu", "--base-directory", sys.argv[3]]
sys.path.insert(0, ".")

import comfy.options  # noqa: E402

comfy.options.enable_args_parsing()

import comfy.model_management as management  # noqa: E402
import comfy.utils  # noqa: E402
import folder_paths  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402

SHARED = (management, comfy.utils, folder_paths, torch.nn.functional)  # that other packs use too
BEFORE = [{name: value for name, value in vars(module).items() if callable(value)} for module in SHARED]
FOLDERS = (folder_paths.get_temp_directory(), folder_paths.get_input_directory(), folder_paths.get_output_directory())

spec = importlib.util.spec_from_file_location("pack", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)])
sys.modules["pack"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sys.modules["pack"])
host, media = (importlib.import_module(f"pack.nodes.{name}") for name in ("host", "media"))
reader = importlib.import_module("pack.latentsync.media.video_reader")
audio_reader = importlib.import_module("pack.latentsync.media.audio_reader")


def check_nothing_is_replaced() -> None:
    """Packs that put their own functions or folders in the place of the host's break it for all others."""
    asyncio.run(importlib.import_module("pack.nodes.extension").LatentSyncExtension().get_node_list())
    for module, before in zip(SHARED, BEFORE, strict=True):
        changed = [name for name, value in before.items() if vars(module).get(name) is not value]
        assert not changed, f"{module.__name__}: {changed}"
    folders = folder_paths.get_temp_directory(), folder_paths.get_input_directory(), folder_paths.get_output_directory()
    assert folders == FOLDERS


class Cut(host.InputImpl.VideoFromFile):
    """Frames 5 to 14 of a file, as newer hosts cut it."""

    def get_duration(self):
        return 0.4

    def get_components(self):
        whole = super().get_components()
        return type(whole)(images=whole.images[5:15], audio=None, frame_rate=whole.frame_rate)


def check_videos() -> None:
    with media.as_file(host.InputImpl.VideoFromFile(CLIP)) as video:
        assert video.path == Path(CLIP)
    assert Path(CLIP).exists(), "the user's own file"
    content = Path(CLIP).read_bytes()
    with media.as_file(host.InputImpl.VideoFromFile(BytesIO(content))) as video:
        assert video.path.read_bytes() == content
    assert not video.path.exists()
    cut = Cut(CLIP)
    wanted = cut.get_components().images.mul(255).round().byte().numpy()
    with media.as_file(cut) as video:
        frames = [frame.pixels for frame in reader.read_frames(video.path)]
        assert np.array_equal(frames, wanted), "spilled without loss"
        assert reader.probe_video(video.path).fps == cut.get_frame_rate()
    assert not video.path.exists()


def check_sounds() -> None:
    samples = torch.randn(1, 2, 4410) * 2  # also beyond full scale
    with media.as_wav({"waveform": samples, "sample_rate": 44100}) as path:
        read = audio_reader.read_audio(path, sample_rate=44100, mono=False)
        assert np.array_equal(read, samples[0].numpy()), "every bit"
    assert not path.exists()
    for audio, said in (
        (None, "silent"),
        ({"waveform": torch.zeros(2, 1, 5), "sample_rate": 8000}, "2 sounds"),
        ({"waveform": torch.zeros(1, 1, 0), "sample_rate": 8000}, "empty"),
        ({"waveform": torch.zeros(1, 1, 5), "sample_rate": 1}, "1 samples a second in 1 channels"),
        ({"waveform": torch.zeros(1, 65, 5), "sample_rate": 8000}, "65 channels"),
        ({"waveform": torch.zeros(1, 1, 1).expand(1, 1, 10**9), "sample_rate": 8000}, "24 hours"),
    ):
        with pytest.raises(ValueError, match=said):
            media.waveform_of(audio)


def check_devices() -> None:
    """The meta device stands for a GPU: nothing can be computed there, but everything can be moved to it."""
    meta = torch.device("meta")
    management.get_torch_device = lambda: meta
    for state in (management.VRAMState.NORMAL_VRAM, management.VRAMState.LOW_VRAM, management.VRAMState.NO_VRAM):
        for free in (50e9, 1e6):
            management.vram_state = state
            management.current_loaded_models.clear()
            management.get_free_memory = lambda _=None, torch_free_too=False, free=free: (
                (free, free) if torch_free_too else free
            )
            net = torch.nn.Sequential(torch.nn.Linear(1000, 1000), torch.nn.BatchNorm1d(3))
            patcher = host.ManagedModule.patcher(net)
            host.load([patcher], 1e9)
            assert {tensor.device for tensor in net.state_dict().values()} == {meta}, (state, free)
            assert [loaded.model for loaded in management.current_loaded_models] == [patcher], "known to the host"


def check_names() -> None:
    """A graph may come from anywhere: the names in it lead to no file outside the folders of models."""
    choices, restorers, syncnets = (
        importlib.import_module(f"pack.nodes.{name}")
        for name in ("model_choices", "restorer_choices", "syncnet_choices")
    )
    root = host.model_roots()[0]
    outside = root.parent / "outside"
    outside.mkdir(parents=True)
    root.mkdir(exist_ok=True)
    (outside / "config.json").write_text('{"name": "x", "unet": "x", "vae": "x", "whisper": "x"}', encoding="utf-8")
    (outside / "stable_syncnet.pt").write_bytes(b"x")
    inside = root / "mine"
    inside.mkdir()
    assert choices.unet_path("mine/") == inside
    names = [
        "../outside/",
        "mine/../../outside/",
        f"{outside}/",
        "/",
        "../",
        "checkpoints/../../",
        "checkpoints/../main.py",
    ]
    names += [f"../outside/{file.name}" for file in outside.iterdir()] + [str(file) for file in outside.iterdir()]
    looks = (choices.unet_path, choices.vae_path, choices.whisper_path, choices.lora_path, syncnets.syncnet_path)
    for name in (*names, "..\\outside\\", "a\0b"):
        for look in (*looks, restorers.restorer_path):
            with pytest.raises(choices.ModelNotFoundError):
                look(name)
        for folder in host.RESTORER_FOLDERS:
            with pytest.raises(choices.ModelNotFoundError):
                restorers.restorer_path(f"{folder}/{name}")


def check_large_pictures() -> None:
    with pytest.raises(ValueError, match="67 million pixels at most"):
        media.checked_images(torch.zeros(1, 1, 1, 1).expand(1, 9000, 9000, 3), "frames")


def check_decoders_that_crash() -> None:
    """The file is looked at in a process of its own, whose death is an error of the file."""
    isolation = importlib.import_module("pack.latentsync.media.isolation")
    isolation.check_apart(CLIP, budget=1.0)
    isolation._command = lambda path, budget: [sys.executable, "-c", "import os; os.abort()"]
    isolation._reason.cache_clear()
    with (
        pytest.raises(reader.MediaError, match="crashes the decoder"),
        media.as_file(host.InputImpl.VideoFromFile(CLIP)),
    ):
        raise AssertionError("not reached")


check_nothing_is_replaced()
check_names()
check_large_pictures()
check_videos()
check_sounds()
check_decoders_that_crash()
check_devices()
print("all right")
