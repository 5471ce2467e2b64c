"""Runs in a process of ComfyUI's, started by test_inside_host.py: what no graph shows of nodes/media.py and host.py.

    python inside_host.py PACK_ROOT CLIP BASE_FOLDER

Working directory: ComfyUI's. Fails by an assertion; prints the last line "all right".
"""

import asyncio
import dataclasses
import importlib
import importlib.util
import sys
import weakref
from collections.abc import Mapping
from fractions import Fraction
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace

ROOT, CLIP = Path(sys.argv[1]), sys.argv[2]
sys.argv = ["main.py", "--cpu", "--base-directory", sys.argv[3]]
sys.path.insert(0, ".")

import comfy.options  # noqa: E402

comfy.options.enable_args_parsing()

import av  # noqa: E402
import comfy.model_management as management  # noqa: E402
import comfy.model_patcher  # noqa: E402
import comfy.utils  # noqa: E402
import comfy_api.latest  # noqa: E402, F401
import comfy_execution.caching as caching  # noqa: E402
import folder_paths  # noqa: E402
import numpy as np  # noqa: E402
import psutil  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402
from torch.overrides import TorchFunctionMode  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402

SHARED = (management, comfy.utils, folder_paths, torch.nn.functional)  # that other packs use too
BEFORE = [{name: value for name, value in vars(module).items() if callable(value)} for module in SHARED]
FOLDERS = (folder_paths.get_temp_directory(), folder_paths.get_input_directory(), folder_paths.get_output_directory())

# What only running nodes need does not load in this process until a check says so: the pack starts all the same.
BROKEN = {"diffusers", "accelerate", "spandrel", "kornia", "cv2", "scipy"}  # unless the host has loaded it by now
SHELF = Path(sys.argv[-1]) / "broken_packages"
SHELF.mkdir()
for name in BROKEN:
    (SHELF / f"{name}.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')")
HAD = set(sys.modules)
sys.path.insert(0, str(SHELF))
spec = importlib.util.spec_from_file_location("pack", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)])
sys.modules["pack"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sys.modules["pack"])
NODES = asyncio.run(asyncio.run(sys.modules["pack"].comfy_entrypoint()).get_node_list())
SCHEMAS = [node.GET_SCHEMA() for node in NODES]
ADDED = {name for name in set(sys.modules) - HAD if name.partition(".")[0] != "pack"}
LOADER = next(node for node in NODES if node.__name__ == "LatentSyncModelLoader")
try:
    LOADER.execute("tiny (bundled)", "auto", "auto", "auto", "auto")
    FAILURE = ""
except ImportError as error:
    FAILURE = str(error)
sys.path.remove(str(SHELF))

host, media = (importlib.import_module(f"pack.nodes.{name}") for name in ("host", "media"))
reader = importlib.import_module("pack.latentsync.media.video_reader")
audio_reader = importlib.import_module("pack.latentsync.media.audio_reader")


def check_start() -> None:
    """All nodes are there although packages do not load; the one that runs says which, and what to do."""
    assert len(SCHEMAS) == len({schema.node_id for schema in SCHEMAS}) >= 12
    foreign = sorted(name for name in ADDED if name.partition(".")[0] not in sys.stdlib_module_names)
    assert not foreign, f"imported for the schemas alone: {foreign}"
    assert "does not load (RuntimeError: operator torchvision::nms does not exist)" in FAILURE, FAILURE
    assert "python -m pip install" in FAILURE
    with host.plain_errors():
        importlib.import_module("pack.latentsync.model.loading")


def check_nothing_is_replaced() -> None:
    """Packs that put their own functions or folders in the place of the host's break it for all others."""
    asyncio.run(importlib.import_module("pack.nodes.extension").LatentSyncExtension().get_node_list())
    for module, before in zip(SHARED, BEFORE, strict=True):
        changed = [name for name, value in before.items() if vars(module).get(name) is not value]
        assert not changed, f"{module.__name__}: {changed}"
    folders = folder_paths.get_temp_directory(), folder_paths.get_input_directory(), folder_paths.get_output_directory()
    assert folders == FOLDERS


class Cut(host.InputImpl.VideoFromFile):
    """Frames 5 to 14 of a file, as hosts cut it that do not tell where."""

    def get_duration(self):
        return 0.4

    def get_components(self):
        whole = super().get_components()
        return type(whole)(images=whole.images[5:15], audio=None, frame_rate=whole.frame_rate)


class Trimmed(host.InputImpl.VideoFromFile):
    """A part of a file, with what newer hosts' VIDEO says of it; a duration of 0 goes to the end."""

    def __init__(self, file, start_time, duration):
        super().__init__(file)
        self.window = start_time, duration

    def get_active_trim_window(self):
        return self.window

    def has_pending_frame_edits(self):
        return False

    def get_components(self):
        raise AssertionError("all frames at once")


class Cropped(Trimmed):
    """The upper left quarter, which newer hosts cut out as they decode."""

    def __init__(self, file):
        super().__init__(file, 0.0, 0.0)

    def has_pending_frame_edits(self):
        return True

    def get_components(self):
        whole = host.InputImpl.VideoFromFile.get_components(self)
        _, height, width, _ = whole.images.shape
        images = whole.images[:, : height // 2, : width // 2]
        return type(whole)(images=images, audio=None, frame_rate=whole.frame_rate)


class CroppedUntold(Cropped):
    """The same by the size alone, as the hosts before those."""

    has_pending_frame_edits = property()  # hasattr() says that it is not there

    def as_cropped(self):
        raise NotImplementedError

    def get_dimensions(self):
        return tuple(side // 2 for side in super().get_dimensions())


def seen(path) -> tuple[list, list]:
    """Pixels and times of a file's frames."""
    frames = list(reader.read_frames(path))
    return [frame.pixels for frame in frames], [frame.time for frame in frames]


def check_videos() -> None:
    with media.as_file(host.InputImpl.VideoFromFile(CLIP)) as video:
        assert video.path == video.heard == Path(CLIP)
    assert Path(CLIP).exists(), "the user's own file"
    content = Path(CLIP).read_bytes()
    with media.as_file(host.InputImpl.VideoFromFile(BytesIO(content))) as video:
        assert video.path.read_bytes() == content
    assert not video.path.exists()
    for part in (Cut(CLIP), Cropped(CLIP), CroppedUntold(CLIP)):
        wanted = part.get_components().images.mul(255).round().byte().numpy()
        with media.as_file(part) as video:
            assert np.array_equal(seen(video.path)[0], wanted), "spilled without loss"
            assert reader.probe_video(video.path).fps == part.get_frame_rate()
            assert video.heard is None
        assert not video.path.exists()


def check_trimmed_videos() -> None:
    """As much as the host shows of it, without holding all of it in memory."""
    uneven = Path(folder_paths.get_temp_directory()) / "uneven.mp4"
    with av.open(str(uneven), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.codec_context.time_base = 64, 48, Fraction(1, 1000)
        for number, pts in enumerate((0, 40, 80, 200, 240, 280, 320, 500)):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 20 * number + 40, np.uint8))
            frame.pts, frame.time_base = pts, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    for file, window, begins in (
        (CLIP, (0.2, 0.4), 0.2),
        (CLIP, (0.21, 0.09), 0.24),
        (CLIP, (0.0, 0.5), 0.0),
        (CLIP, (1.3, 0.0), 1.32),
        (str(uneven), (0.1, 0.3), None),
    ):
        whole, times = seen(file)
        end = window[0] + window[1] if window[1] else 1e9
        wanted = [place for place, time in enumerate(times) if window[0] - 1e-6 <= time < end - 1e-6]
        for source in (file, BytesIO(Path(file).read_bytes())):
            with media.as_file(Trimmed(source, *window)) as video:
                pixels, shown = seen(video.path)
                assert np.array_equal(pixels, [whole[place] for place in wanted]), (file, window)
                assert np.allclose(shown, [times[place] - times[wanted[0]] for place in wanted], atol=1e-4)
                assert begins is None or (round(video.start, 6), video.duration) == (begins, window[1] or None)
                assert video.heard.read_bytes() == Path(file).read_bytes()
            assert not video.path.exists()
            assert video.heard.exists() == isinstance(source, str)
    uneven.unlink()
    score = importlib.import_module("pack.nodes.sync_score")
    with score.heard_clip(Trimmed(CLIP, 0.5, 1.0), 25.0, None) as (frames, waveform):
        assert len(list(frames())) == 25
        assert np.array_equal(waveform, audio_reader.read_audio(CLIP, start=0.52, duration=1.0))


def check_masks() -> None:
    """One for all frames as a picture, one for each as a video with the very levels."""
    masks = torch.linspace(0, 1, 50).round(decimals=2)[:, None, None].expand(50, 256, 256)
    with media.as_mask_file(masks, Path(CLIP)) as path:
        levels = np.array([frame[0, 0] for frame in seen(path)[0]])
        assert np.array_equal(levels, np.repeat((masks[:, 0, :1] * 255).round().byte().numpy(), 3, axis=1))
    with media.as_mask_file(masks[:1], Path(CLIP)) as path:
        assert path.suffix == ".png"
    with pytest.raises(ValueError, match="3 masks, but the video has 50"), media.as_mask_file(masks[:3], Path(CLIP)):
        raise AssertionError("not reached")


class Lazy(Mapping):
    """As VideoHelperSuite gives the sound of a clip: read when it is looked at, by a program that may fail."""

    def __init__(self, error):
        self.error = error

    def __getitem__(self, name):
        raise self.error

    def __iter__(self):
        return iter(("waveform", "sample_rate"))

    def __len__(self):
        return 2


def check_sounds() -> None:
    samples = torch.randn(1, 2, 4410) * 2  # also beyond full scale
    with media.as_wav({"waveform": samples, "sample_rate": 44100}) as path:
        read = audio_reader.read_audio(path, sample_rate=44100, mono=False)
        assert np.array_equal(read, samples[0].numpy()), "every bit"
    assert not path.exists()
    for waveform in (samples[0], samples[0, 0], samples[0].numpy()):  # as some packs give it
        other = {"waveform": waveform, "sample_rate": 44100}
        assert torch.equal(media.waveform_of(other)[0], torch.atleast_2d(torch.as_tensor(waveform)))
        assert media.one_sound(other)["waveform"].shape == (1, len(media.waveform_of(other)[0]), 4410)
    usual = {"waveform": samples, "sample_rate": 44100}
    assert media.one_sound(usual) is usual
    with pytest.raises(management.InterruptProcessingException):
        media.waveform_of(Lazy(management.InterruptProcessingException()))
    for audio, said in (
        (None, "silent"),
        ({"waveform": torch.zeros(2, 1, 5), "sample_rate": 8000}, "batch of 2 sounds.*run once for each"),
        ({"waveform": torch.zeros(1, 1, 1, 5), "sample_rate": 8000}, r"expected \(1, channels, samples\)"),
        ({"waveform": torch.zeros(1, 5), "sample_rate": None}, "the sample rate None"),
        ({"samples": torch.zeros(1, 5)}, "a dict without waveform"),
        (b"RIFF", "a bytes without waveform"),
        (
            Lazy(Exception("failed to extract audio from /secret/clip.mp4")),
            "most likely its clip has no sound. Link a Load Audio",
        ),
        ({"waveform": torch.zeros(1, 1, 0), "sample_rate": 8000}, "empty"),
        ({"waveform": torch.zeros(1, 1, 5), "sample_rate": 1}, "1 samples a second in 1 channels"),
        ({"waveform": torch.zeros(1, 65, 5), "sample_rate": 8000}, "65 channels"),
        ({"waveform": torch.zeros(1, 1, 1).expand(1, 1, 10**9), "sample_rate": 8000}, "24 hours"),
    ):
        with pytest.raises(ValueError, match=said) as raised:
            media.waveform_of(audio)
        assert "secret" not in str(raised.value)


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


def check_messages() -> None:
    """They name files, never the folders of this machine, and are left alone otherwise."""
    models, home = folder_paths.models_dir, Path.home()
    for given, shown in (
        (f"'{models}/latentsync/a b/u.pt' is cut", "'u.pt' is cut"),
        (f"{models}/vae/x.safetensors: no", "x.safetensors: no"),
        (f"no face in '{home}/o'neil/talk.mp4'; choose", "no face in 'o'neil/talk.mp4'; choose"),
        ("'C:\\Users\\me too\\talk.mp4' and D:/x/y.wav", "'talk.mp4' and y.wav"),
        ("No such file or directory: '/srv/some where/a.wav'", "No such file or directory: 'a.wav'"),
        ("by /opt/models/syncnet.pt", "by syncnet.pt"),
        *((text, text) for text in ("0 / 5 at 1/8", "https://a.org/b/c.pt", "'and/or' w/h 16:9", "checkpoints/vae/a")),
    ):
        assert host.without_folders(given) == shown
    with pytest.raises(ValueError, match=r"^no face in 'a\.mp4'$"), host.plain_errors():
        raise reader.MediaError(f"no face in '{folder_paths.get_input_directory()}/mine/a.mp4'")
    model = importlib.import_module("pack.nodes.hosted_model").HostedModel(*["x" * 99] * 4)
    assert repr(model) == "HostedModel", "the host sends it with every error"


def check_weights() -> None:
    """With --cache-ram the host drops first what weighs most: the pack's objects tell as much as they hold."""
    hosted_model, audio = (importlib.import_module(f"pack.nodes.{name}") for name in ("hosted_model", "audio"))
    nets = [torch.nn.Linear(size, size, bias=False) for size in (1000, 300, 100)]
    model = hosted_model.HostedModel(None, *map(host.ManagedModule.patcher, nets))
    speech = audio.HostedSpeech(SimpleNamespace(features=torch.zeros(5, 100, 384)), "close")
    track = importlib.import_module("pack.latentsync.run.stages").FaceTrack
    arrays = [name for name, kind in track.__annotations__.items() if "ndarray" in str(kind)]
    values = dict.fromkeys(track.__annotations__) | {name: np.zeros((10, 1000), np.float32) for name in arrays}
    held = {"model": (model, 4_400_000), "speech": (speech, 768_000), "faces": (track(**values), 40_000 * len(arrays))}
    for name, (output, size) in held.items():
        assert output.get_ram_usage() == size, name
    cache = caching.RAMPressureCache(caching.CacheKeySetID)
    cache.cache_key_set = SimpleNamespace(get_data_key=lambda node: node)
    for name, (output, _) in held.items():
        cache.used_generation[name], cache.timestamps[name] = 0, 0.0
        cache.cache[name] = ([[output]], {})
    free = iter([0.0] * 3 + [100.0] * 9)  # GiB, until one output is gone
    psutil.virtual_memory = lambda: SimpleNamespace(available=next(free) * 2**30)
    cache.poll(10.0)
    assert sorted(cache.cache) == ["faces", "speech"], "the model is the heaviest"


def check_settings() -> None:
    """A new row of the table is an input, and a preset means what it means on the command line."""
    options, arguments, meant = (
        importlib.import_module(f"pack.latentsync.{name}") for name in ("options", "cli.arguments", "cli.run")
    )
    knobs, presets = (importlib.import_module(f"pack.{name}") for name in ("nodes.knobs", "latentsync.presets"))
    row = options.Setting(1, tooltip="Made up for this.", name="made_up", widget="made_up", kind=int, low=0, high=9)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(options.SETTINGS, "made_up", dataclasses.replace(row, nodes=("file", "frames")))
        for node in NODES:
            if node.__name__.startswith("LatentSyncLipSync"):
                last = node.define_schema().inputs[-1]
                assert (last.id, last.default, last.min, last.max, last.optional) == ("made_up", 1, 0, 9, True)
    model = SimpleNamespace(name="one", defaults={"guidance_scale": 2.5})
    for node in NODES:
        inputs = {one.id: one.default for one in node.GET_SCHEMA().inputs if hasattr(one, "default")}
        if "preset" not in inputs:
            continue
        widgets = {row.widget for row in options.SETTINGS.values()} - {"fps"}
        inputs = {name: value for name, value in inputs.items() if name in widgets}
        for preset in presets.PRESETS:
            argv = ["--video_path", "v", "--audio_path", "a", "--video_out_path", "o", "--preset", preset]
            given = arguments.parse(argv)
            chosen, said = knobs.decided(preset, inputs, model)
            assert chosen == meant.options_of(*given, model.defaults), preset
            assert len(said) == (preset not in ("reference", "draft")), said
        by_hand = inputs | {"steps": 24, "guidance_scale": 1.4}
        chosen, said = knobs.decided("fast", by_hand, model)
        assert (chosen.num_inference_steps, chosen.guidance_scale, chosen.scheduler, said) == (24, 1.4, "dpmpp_2m", [])
        chosen, said = knobs.decided(presets.CUSTOM, inputs, model)
        assert (chosen, said) == (options.LipSyncOptions(), [])


def check_formats_of_presets() -> None:
    """reference computes in float32 and draft with the draft decoder, where the loader leaves that open."""
    folder = Path(sys.argv[-1]) / "taesd"
    narrow = {"encoder_block_out_channels": (8,) * 4, "decoder_block_out_channels": (8,) * 4}
    importlib.import_module("diffusers").AutoencoderTiny(**narrow).save_pretrained(folder)
    models, choices = (
        importlib.import_module(f"pack.{name}") for name in ("latentsync.model.loading", "nodes.model_choices")
    )
    files = dataclasses.replace(models.bundled_model(), draft_decoder=folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(choices, "model_files", lambda *_: files)
        patch.setattr(host, "auto_dtype", lambda: torch.bfloat16)
        left, chosen = (LOADER.execute("tiny", "auto", "auto", kind, "auto").result[0] for kind in ("auto", "bf16"))
    full = left.for_preset("reference")
    assert [full.model.dtype, left.model.dtype, left.for_preset("quality")] == [torch.float32, torch.bfloat16, left]
    assert full is left.for_preset("reference")
    assert chosen.for_preset("reference") is chosen
    draft = left.for_preset("draft")
    assert (draft.unet, left.for_preset("balanced").model.draft_decoder) == (left.unet, None)
    with draft.on_device("vae") as ready:
        assert ready.draft_decoder is draft.model.draft_decoder
    assert left.get_ram_usage() > 2 * full.unet.model_size()


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


def check_full_memory() -> None:
    """However it is said, the host takes it for what it is; whatever else is wrong stays as it was."""
    for error in (
        RuntimeError("MPS backend out of memory"),
        torch.cuda.OutOfMemoryError("CUDA out of memory"),
        MemoryError(),
    ):
        with pytest.raises(management.OOM_EXCEPTION, match="choose the precision fp8"), host.plain_errors():
            raise error
    with pytest.raises(RuntimeError, match=r"^mat1 and mat2$") as raised, host.plain_errors():
        raise RuntimeError("mat1 and mat2")
    assert not isinstance(raised.value, management.OOM_EXCEPTION)
    with pytest.raises(management.InterruptProcessingException), host.plain_errors():
        raise management.InterruptProcessingException


class LiveBytes(TorchDispatchMode):
    """Inside, `peak` is the most that tensors made here take at once, those of a network aside; of any device."""

    def __init__(self, network):
        super().__init__()
        self.now = self.peak = 0
        kept = (*network.parameters(), *network.buffers())
        self._sizes = {tensor.untyped_storage()._cdata: 0 for tensor in kept}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        for tensor in torch.utils._pytree.tree_leaves(made):
            storage = tensor.untyped_storage() if isinstance(tensor, torch.Tensor) else None
            if storage is not None and storage._cdata not in self._sizes:
                self._sizes[storage._cdata] = storage.nbytes()
                self.now += storage.nbytes()
                self.peak = max(self.peak, self.now)
                weakref.finalize(storage, self._drop, storage._cdata)
        return made

    def _drop(self, storage: int) -> None:
        self.now -= self._sizes.pop(storage, 0)


class FusedAttention(TorchFunctionMode):
    """Attention as kernels of GPUs do it, which never hold the whole matrix."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is torch.nn.functional.scaled_dot_product_attention:
            query, _, value = args[:3]
            return query.new_empty(*query.shape[:-1], value.shape[-1])
        return func(*args, **(kwargs or {}))


def check_memory() -> None:
    """What ComfyUI is asked to keep free is what the released architecture takes, by the shapes of all its tensors."""
    hosted, unets = (
        importlib.import_module(f"pack.{name}") for name in ("nodes.hosted_model", "latentsync.model.unet")
    )
    networks, side, meta = importlib.import_module("diffusers"), 256, torch.device("meta")
    with meta:
        unet = unets.LatentSyncUNet().half().eval()
        kinds = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
        vae = networks.AutoencoderKL(**kinds, block_out_channels=(128, 256, 512, 512), layers_per_block=2).half().eval()

    def taken(network, work, *shapes) -> int:
        inputs = [torch.empty(shape, dtype=torch.float16, device=meta) for shape in shapes]
        with torch.no_grad(), FusedAttention(), LiveBytes(network) as live:
            work(*inputs)
        return live.peak

    latents = importlib.import_module("pack.latentsync.model.vae").STABLE_DIFFUSION
    model = SimpleNamespace(unet=unet, vae=vae, dtype=torch.float16, resolution=side, latents=latents)
    asked = hosted.HostedModel(model, None, None, None).memory_required
    small, frames = side // 8, 16
    need = taken(unet, lambda x, tokens: unet(x, 500, tokens), (2, 13, frames, small, small), (2 * frames, 50, 384))
    assert need < asked(("unet",), frames, True) < 1.3 * need, need
    need = taken(vae, lambda latents: vae.decode(latents).sample, (frames, 4, small, small))
    assert need < asked(("vae",), frames, True) < 1.5 * need, need


def check_formats() -> None:
    """ComfyUI's word where it was told, else what the card is fast with; the card is described, not there."""
    args = importlib.import_module("comfy.cli_args").args
    cards = [("NVIDIA GeForce GTX 1080", 6, 1), ("NVIDIA GeForce GTX 1660", 7, 5), ("NVIDIA GeForce RTX 3060", 8, 6)]
    own, told = [], []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(management, "get_torch_device", lambda: torch.device("cuda", 0))
        patch.setattr(management, "cpu_state", management.CPUState.GPU)
        patch.setattr(management, "get_free_memory", lambda *_, **__: 8e9)
        patch.setattr(management, "get_total_memory", lambda *_, **__: 8e9)
        patch.setattr(torch.cuda, "is_bf16_supported", lambda *_, **__: True)
        for name, major, minor in cards:
            facts = SimpleNamespace(name=name, major=major, minor=minor, total_memory=8e9)
            patch.setattr(torch.cuda, "get_device_properties", lambda *_, facts=facts: facts)
            patch.setattr(torch.cuda, "get_device_name", lambda *_, facts=facts: facts.name)
            patch.setattr(torch.cuda, "get_device_capability", lambda *_, facts=facts: (facts.major, facts.minor))
            own.append(host.auto_dtype())
            with pytest.MonkeyPatch.context() as option:
                option.setattr(args, "fp16_unet", True)
                told.append(host.auto_dtype())
    assert own == [torch.float32, torch.float32, torch.float16]
    assert told == [torch.float16] * 3
    assert host.auto_dtype() == torch.float32  # on the CPU, as ComfyUI has it


check_start()
check_nothing_is_replaced()
check_full_memory()
check_formats()
check_memory()
check_names()
check_messages()
check_settings()
check_formats_of_presets()
check_weights()
check_large_pictures()
check_videos()
check_trimmed_videos()
check_masks()
check_sounds()
check_decoders_that_crash()
check_devices()
print("all right")
