"""Intact files of every kind that the project reads, small, and made by the project itself or by PyAV's encoders."""

import json
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch
from diffusers import AutoencoderTiny
from PIL import Image

from latentsync.faces.scan import scan_faces
from latentsync.faces.scan_cache import ScanSettings, TrackCache
from latentsync.model.checkpoints import save_unet
from latentsync.model.loading import save_lora
from latentsync.model_files import BUNDLED_RESTORER
from latentsync.sync.syncnet import BUNDLED_SYNCNET
from latentsync.synthetic.clips import AvatarClip
from latentsync.synthetic.speech import SAMPLE_RATE
from tests.small_model import small_unet, small_vae, write_small_model, write_whisper

SIDE, NUM_FRAMES, FPS = 192, 12, 25  # px: the smallest side at which the tracker finds the avatar
# suffix, video codec, its pixel format and options, audio codec
CLIPS = {
    "h264.mp4": ("libx264", "yuv420p", {"crf": "28"}, "aac"),
    "h264.mov": ("libx264", "yuv420p", {"crf": "28", "bf": "0"}, "pcm_s16le"),
    "hevc.mp4": ("libx265", "yuv420p", {"crf": "30", "x265-params": "log-level=none"}, "aac"),
    "hevc.mkv": ("libx265", "yuv420p", {"crf": "30", "x265-params": "log-level=none"}, "flac"),
    "vp9.webm": ("libvpx-vp9", "yuv420p", {"crf": "40", "cpu-used": "8"}, "libopus"),
    "h264.mkv": ("libx264", "yuv444p", {"crf": "28"}, "libmp3lame"),
    "mjpeg.avi": ("mjpeg", "yuvj420p", {}, "pcm_s16le"),
}
SOUNDS = {"wav": "pcm_s16le", "flac": "flac", "mp3": "libmp3lame", "m4a": "aac", "ogg": "libopus"}


@dataclass(frozen=True)
class Sample:
    """An intact file: `kind` tells which readers it goes to (readers.py); `companions` lie beside it, unharmed."""

    name: str
    kind: str
    content: bytes
    companions: tuple[tuple[str, bytes], ...] = ()


def make_samples(folder: Path) -> list[Sample]:
    """All of them, in an order that never changes; `folder` is used for the making."""
    avatar = AvatarClip(identity_seed=3, speech_seed=3, duration=1.0)
    frames = [avatar.frame(index, SIDE, SIDE) for index in range(NUM_FRAMES)]
    waveform = avatar.speech.waveform[: round(0.5 * SAMPLE_RATE)]
    made = []
    for name, settings in CLIPS.items():
        made.append(("video", _clip(folder / name, frames, waveform, *settings)))
    for suffix, codec in SOUNDS.items():
        made.append(("sound", _sound(folder / f"speech.{suffix}", waveform, codec)))
    made += [("picture", path) for path in _pictures(folder, frames[0])]
    samples = [Sample(path.name, kind, path.read_bytes()) for kind, path in made]
    samples += _checkpoints(folder) + _descriptions(folder) + _draft_decoder(folder) + _tables()
    return [*samples, _tracks(folder, folder / "h264.mp4", frames)]


def _clip(path, frames, waveform, codec, pixel_format, options, audio_codec) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=FPS, options=options)
        stream.width, stream.height, stream.pix_fmt = SIDE, SIDE, pixel_format
        stream.codec_context.gop_size = 6  # several key frames, so that seeking has something to find
        sound = _sound_stream(container, audio_codec)
        for index, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels).reformat(format=pixel_format)
            frame.pts, frame.time_base = index, Fraction(1, FPS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
        _encode_sound(container, sound, waveform)
    return path


def _sound(path, waveform, codec) -> Path:
    with av.open(str(path), "w") as container:
        _encode_sound(container, _sound_stream(container, codec), waveform)
    return path


def _sound_stream(container, codec):
    stream = container.add_stream(codec, rate=48_000)
    stream.layout = "mono"
    return stream


def _encode_sound(container, stream, waveform) -> None:
    # The encoders cut and convert what they are given.
    source = av.AudioFrame.from_ndarray(waveform[None].astype(np.float32), "fltp", "mono")
    source.sample_rate, source.pts, source.time_base = SAMPLE_RATE, 0, Fraction(1, SAMPLE_RATE)
    container.mux(stream.encode(source))
    container.mux(stream.encode())


def _pictures(folder: Path, pixels: np.ndarray) -> list[Path]:
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[120:, 40:150] = 255
    images = {
        "mask.png": Image.fromarray(mask),
        "mask16.png": Image.fromarray(mask.astype(np.uint16) * 257),
        "mask.jpg": Image.fromarray(mask),
        "person.png": Image.fromarray(pixels),
        "person.webp": Image.fromarray(pixels),
    }
    for name, image in images.items():
        image.save(folder / name)
    return [folder / name for name in images]


def _checkpoints(folder: Path) -> list[Sample]:
    unet, model = small_unet(), write_small_model(folder / "model")
    # Small enough that damage meets headers as often as tensors.
    tiny = small_unet(block_out_channels=(8, 8), norm_num_groups=4, motion_norm_num_groups=4)
    save_unet(tiny, folder / "unet.safetensors", resolution=64)
    save_unet(tiny, folder / "unet.pt")
    state = torch.load(folder / "unet.pt", weights_only=True)
    torch.save(state, folder / "unet_legacy.pt", _use_new_zipfile_serialization=False)
    write_whisper(folder / "whisper.pt", width=64)
    whisper = torch.load(folder / "whisper.pt", weights_only=True)
    torch.save(whisper, folder / "whisper_legacy.pt", _use_new_zipfile_serialization=False)
    vae_config = (model / "vae" / "config.json").read_bytes()
    vae = (model / "vae" / "diffusion_pytorch_model.safetensors").read_bytes()
    torch.save(small_vae().state_dict(), folder / "vae.pt")
    layer = next(name for name, module in unet.named_modules() if name.endswith("attn1.to_q"))
    width = unet.get_submodule(layer).weight.shape[1]
    adapter = {f"{layer}.lora_A.weight": torch.ones(2, width), f"{layer}.lora_B.weight": torch.ones(width, 2)}
    save_lora(folder / "lora.safetensors", adapter, {"peft_type": "LORA", "r": 2, "lora_alpha": 2})
    described = json.dumps({"num_attention_heads": 2, "norm_num_groups": 4, "motion_norm_num_groups": 4}).encode()
    vae_beside = (("config.json", vae_config),)
    files = [
        ("unet.safetensors", "unet", ()),
        ("unet.pt", "unet", (("unet.json", described),)),
        ("unet_legacy.pt", "unet", (("unet_legacy.json", described),)),
        ("whisper.pt", "whisper", ()),
        ("whisper_legacy.pt", "whisper", ()),
        ("vae.pt", "vae", vae_beside),
        ("lora.safetensors", "lora", ()),
    ]
    samples = [Sample(name, kind, (folder / name).read_bytes(), beside) for name, kind, beside in files]
    samples.append(Sample("diffusion_pytorch_model.safetensors", "vae", vae, vae_beside))
    samples.append(Sample("syncnet.safetensors", "syncnet", BUNDLED_SYNCNET.read_bytes()))
    samples.append(Sample("restorer.safetensors", "restorer", BUNDLED_RESTORER.read_bytes()))
    return samples + _onnx(folder)


def _onnx(folder: Path) -> list[Sample]:
    try:
        from tests.unit.test_onnx_faces import detection_model, landmark_model
    except BaseException as missing:  # pytest's Skipped, where onnx or onnxruntime are not there
        if isinstance(missing, KeyboardInterrupt):
            raise
        return []
    return [
        Sample("det.onnx", "detector", detection_model(folder / "det.onnx").read_bytes()),
        Sample("landmarks.onnx", "landmarks", landmark_model(folder / "landmarks.onnx").read_bytes()),
    ]


def _descriptions(folder: Path) -> list[Sample]:
    """JSON files beside weights that are whole."""
    unet = (folder / "unet.safetensors").read_bytes()
    vae = (folder / "model" / "vae" / "diffusion_pytorch_model.safetensors").read_bytes()
    lora = (folder / "lora.safetensors").read_bytes()
    sidecar = {"resolution": 64, "num_attention_heads": 2, "norm_num_groups": 4, "prediction_type": "epsilon"}
    adapter = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "alpha_pattern": {}, "bias": "none"}
    model = {"name": "small", "unet": "unet.safetensors", "vae": "vae", "whisper": "whisper.pt", "resolution": 64}

    def json_sample(name: str, kind: str, content: dict, *beside: tuple[str, bytes]) -> Sample:
        return Sample(name, kind, json.dumps(content, indent=1).encode(), beside)

    vae_config = json.loads((folder / "model" / "vae" / "config.json").read_text(encoding="utf-8"))
    return [
        json_sample("weights.json", "unet_sidecar", sidecar, ("weights.safetensors", unet)),
        json_sample("config.json", "vae_config", vae_config, ("diffusion_pytorch_model.safetensors", vae)),
        json_sample("adapter_config.json", "adapter_config", adapter, ("plain.safetensors", _without_metadata(lora))),
        json_sample("config.json", "model_description", model),
        json_sample("downloads.json", "manifest", _manifest()),
    ]


def _draft_decoder(folder: Path) -> list[Sample]:
    """Weights and description are damaged in turn."""
    torch.manual_seed(0)
    widths = {"encoder_block_out_channels": (8,) * 4, "decoder_block_out_channels": (8,) * 4}
    AutoencoderTiny(**widths).save_pretrained(folder / "draft")
    names = ("config.json", "diffusion_pytorch_model.safetensors")
    files = {name: (folder / "draft" / name).read_bytes() for name in names}
    return [
        Sample(name, "draft_decoder", files[name], tuple(item for item in files.items() if item[0] != name))
        for name in names
    ]


def _tables() -> list[Sample]:
    """A job file, what became of its runs, and a report."""
    rows = ["video_path,audio_path,video_out_path,seed,face,length,no_track_cache,start"]
    rows += [f"clip{i}.mp4,speech.wav,out{i}.mp4,{i},left,loop,yes,0.5" for i in range(4)]
    outcomes = [{"line": 2, "video_path": "a", "video_out_path": "b", "status": "done", "warnings": ["x"]}]
    results = {"version": 1, "jobs": outcomes}
    report = {"version": 2, "source": {"video": "clip.mp4", "start": 0.5, "frames": list(range(8))}, "faces": []}
    return [
        Sample("jobs.csv", "jobs", "\n".join(rows).encode()),
        Sample("results.json", "batch_results", json.dumps(results).encode()),
        Sample("result.json", "report", json.dumps(report).encode()),
    ]


def _without_metadata(content: bytes) -> bytes:
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    header.pop("__metadata__", None)
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + content[8 + length :]


def _manifest() -> dict:
    from latentsync.model_files import MANIFEST

    return json.loads(MANIFEST.read_text(encoding="utf-8"))


def _tracks(folder: Path, video: Path, frames: list[np.ndarray]) -> Sample:
    from latentsync.faces.finder import FaceTracker
    from latentsync.media.video_reader import VideoFrame

    clip = scan_faces((VideoFrame(frame, i / FPS, i, i, i) for i, frame in enumerate(frames)), FaceTracker("cpu"))
    cache = TrackCache(folder / "cache")
    cache.store(video, ScanSettings("FaceTracker"), clip, whole=True)
    (kept,) = (folder / "cache").glob("*.npz")
    return Sample(kept.name, "tracks", kept.read_bytes(), (("h264.mp4", video.read_bytes()),))
