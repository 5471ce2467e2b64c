"""Frames and speech made equally long, before anything is generated."""

from fractions import Fraction

import torch

from ..latentsync.options import SETTINGS
from . import host, media
from .host import io
from .knobs import CATEGORY, check_choices, choices, fps, knob, knobs


class LatentSyncMatchLength(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LatentSyncMatchLength",
            display_name="LatentSync Match Length",
            category=CATEGORY,
            description="Makes frames and speech equally long: repeats, leaves out or spreads frames for a speech of "
            "another length, before LatentSync Face Prepare. Frame rate and sample rate stay; no frame is blended or "
            "changed.",
            inputs=[
                io.MultiType.Input(
                    "frames",
                    types=[io.Image, io.Video],
                    tooltip="The clip: frames from any video loader, or a video, whose own frame rate is then used.",
                ),
                io.Audio.Input("audio", tooltip="The speech whose length is wanted."),
                knob(SETTINGS["length"], "mode", optional=False),
                *knobs("tail", optional=False),
                fps("Frames per second of frames; a video brings its own. Link it from Get Video Components."),
            ],
            outputs=[
                io.Image.Output(display_name="frames", tooltip="As many frames as the sound lasts."),
                io.Audio.Output(
                    display_name="audio",
                    tooltip="The speech; cut off with trim, followed by silence where keep shows more frames.",
                ),
                io.Float.Output(display_name="fps", tooltip="The frame rate, unchanged."),
            ],
            hidden=list(host.HIDDEN),
        )

    @classmethod
    def validate_inputs(cls, mode=None, tail=None):
        return check_choices(mode=(mode, choices("length")), tail=tail)

    @classmethod
    def execute(cls, frames, audio, mode, tail, fps) -> io.NodeOutput:
        host.refuse_batches(cls.hidden, "frames")
        with host.plain_errors():
            from ..latentsync.media.video_reader import exact_rate

            rate = exact_rate(fps)
            if not isinstance(frames, torch.Tensor):
                parts = frames.get_components()
                frames, rate = parts.images, Fraction(parts.frame_rate)
                fps = float(rate)
            images = media.checked_images(frames, "frames")
            images, audio, _ = matched(images, audio, mode, tail, rate)
            return io.NodeOutput(images, audio, fps)


def matched(images: torch.Tensor, audio, mode: str, tail: str, rate: Fraction) -> tuple[torch.Tensor, dict, list[int]]:
    """Frames and sound made equally long, and which of the frames they are, see LengthMode. Raises ValueError."""
    from ..latentsync.media.length_modes import source_indices
    from ..latentsync.run.speech import frames_in

    audio = media.one_sound(audio)
    seconds = Fraction(audio["waveform"].shape[-1], int(audio["sample_rate"]))
    wanted = frames_in(float(seconds), rate)
    indices = source_indices(len(images), wanted, mode, tail, exact=seconds * rate)
    lasts = Fraction(len(indices)) / rate
    if (mode == "trim" and lasts < seconds) or len(indices) > wanted:
        audio = media.fitted_sound(audio, lasts)
    return media.chosen_images(images, indices), audio, indices
