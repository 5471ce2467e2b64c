"""How well the lips of a clip go with its sound."""

import contextlib
from collections.abc import Iterator

import numpy as np
import torch

from . import host, media, syncnet_choices
from .face_choice import FACES, ChosenFace, face, face_details
from .host import io
from .knobs import CATEGORY, check_choices, fps

MEMORY = 1 << 30  # bytes for what the released SyncNet computes with


class LatentSyncSyncScore(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        names = syncnet_choices.syncnet_names()
        return io.Schema(
            node_id="LatentSyncSyncScore",
            display_name="LatentSync Sync Score",
            category=CATEGORY,
            description="Tells how well the lips of a clip go with the sound, as a SyncNet sees it: a score, and how "
            "much the lips come after the sound. Nothing of the clip is changed.",
            inputs=[
                io.MultiType.Input(
                    "frames",
                    types=[io.Image, io.Video],
                    tooltip="The clip: frames, or a video, whose own frame rate and sound are then used.",
                ),
                io.Combo.Input(
                    "syncnet",
                    options=names,
                    default=names[0],
                    tooltip="Who judges: stable_syncnet.pt from models/latentsync or from the pack's checkpoints "
                    "folder, for real faces, or the small bundled one, which knows drawn avatars only.",
                ),
                face(),
                fps("Frames per second of frames; a video brings its own. Link it from Get Video Components."),
                io.Audio.Input(
                    "audio",
                    optional=True,
                    tooltip="The sound to judge by. A video need not have it linked: its own is taken.",
                ),
                *face_details(),
            ],
            outputs=[
                io.Float.Output(
                    display_name="score",
                    tooltip="0 where no shift of the sound fits better than others; more is better.",
                ),
                io.Float.Output(
                    display_name="offset_ms", tooltip="How much the lips come after the sound; negative: before it."
                ),
                io.Image.Output(display_name="picture", tooltip="How well each shift of the sound fits, as a curve."),
                io.String.Output(display_name="text", tooltip="The figures in words, and what to know of them."),
            ],
            hidden=list(host.HIDDEN),
            is_output_node=True,
        )

    @classmethod
    def validate_inputs(cls, syncnet=None, face=None):
        try:
            if syncnet is not None:  # None where it comes by a link
                syncnet_choices.syncnet_path(syncnet)
        except syncnet_choices.ModelNotFoundError as gone:
            return str(gone)
        return check_choices(face=(face, FACES))

    @classmethod
    def execute(
        cls, frames, syncnet, face, fps, audio=None, face_number=0, face_x=0.5, face_y=0.5, face_picture=None
    ) -> io.NodeOutput:
        host.refuse_batches(cls.hidden, "frames")
        with host.plain_errors():
            from ..latentsync.sync.score import clip_text, described_syncnet, frames_sync, sync_picture
            from ..latentsync.sync.syncnet import load_syncnet

            path = syncnet_choices.syncnet_path(syncnet)
            network = host.ManagedModule.patcher(load_syncnet(path))
            chosen = ChosenFace.of(face, face_number, face_x, face_y, face_picture)
            with (
                chosen.as_text() as words,
                heard_clip(frames, fps, audio) as (shown, waveform),
                host.on_device([network], MEMORY),
            ):
                found = frames_sync(shown, waveform, network.model.module, words)
            score = found.score
            picture = media.as_images(np.ascontiguousarray(sync_picture(score))[None])
            text = host.without_folders(clip_text(found, described_syncnet(path)))
            shown = host.temp_path(".png")
            media.write_picture(picture[0], shown)
            ui = {"images": [host.file_reference(shown)], "text": (text,)}  # the host itself draws pictures on a node
            return io.NodeOutput(float(score.confidence), float(score.offset_ms), picture, text, ui=ui)


@contextlib.contextmanager
def heard_clip(frames, fps: float, audio) -> Iterator[tuple]:
    """IMAGE or VIDEO -> what gives its frames at 25 a second anew each time, and its sound (T,) float32 at 16 kHz."""
    from ..latentsync.media.video_reader import probe_video, read_frames
    from ..latentsync.sync.syncnet import FPS

    if isinstance(frames, torch.Tensor):
        images = media.checked_images(frames, "frames")
        yield lambda: media.frames_at(images, fps, FPS), _waveform(audio)
        return
    with media.as_file(frames) as file:
        if audio is None and file.heard is not None and probe_video(file.heard).has_audio:
            waveform = _samples(file.heard, start=file.start, duration=file.duration)
        else:
            waveform = _waveform(frames.get_components().audio if audio is None and file.heard is None else audio)
        yield lambda: (_checked(frame) for frame in read_frames(file.path, fps=FPS)), waveform


def _checked(frame):
    host.stop_if_interrupted()
    return frame


def _waveform(audio) -> np.ndarray:
    with media.as_wav(audio) as path:
        return _samples(path)


def _samples(path, **part) -> np.ndarray:
    from ..latentsync.media.audio_reader import read_audio
    from ..latentsync.sync.syncnet import SAMPLE_RATE

    return read_audio(path, sample_rate=SAMPLE_RATE, **part)
