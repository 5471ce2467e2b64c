"""The speech as the model hears it."""

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from . import host, media
from .host import io
from .knobs import CATEGORY, DEFAULTS, check_choices, fps, knobs
from .sockets import Audio, Model

if TYPE_CHECKING:
    from ..latentsync.run.speech import SpeechFeatures

logger = logging.getLogger(__name__)


@dataclass(frozen=True, repr=False)
class HostedSpeech(host.Carried):
    """What LATENTSYNC_AUDIO carries. silence: what is to happen in pauses, see LipSyncOptions."""

    features: "SpeechFeatures"
    silence: str

    def get_ram_usage(self) -> int:
        return self.features.features.nbytes


class LatentSyncAudioEncode(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LatentSyncAudioEncode",
            display_name="LatentSync Audio Encode",
            category=CATEGORY,
            description="Turns speech into what the lip-sync model is conditioned on. Any sample rate and number of "
            "channels; the sound itself is not changed. Encode another speech to give the same faces another take.",
            inputs=[
                Model.Input("model", tooltip="The model whose Whisper listens, from Load LatentSync Model."),
                io.Audio.Input("audio", tooltip="The speech. One sound; music and noise in it disturb the lips."),
                fps(
                    "Frames per second of the frames that are to speak. Link it from Get Video Components: a wrong "
                    "value makes the lips run ahead of the sound or fall behind."
                ),
                *knobs("silence"),
            ],
            outputs=[Audio.Output(display_name="audio")],
        )

    @classmethod
    def validate_inputs(cls, silence=None):
        return check_choices(silence=silence)

    @classmethod
    def execute(cls, model, audio, fps, silence=DEFAULTS.silence) -> io.NodeOutput:
        with host.plain_errors():
            from ..latentsync.run.speech import encode_speech

            waveform, sample_rate = media.waveform_of(audio)
            with model.on_device("whisper") as loaded, host.interruptible(loaded.whisper):
                features = encode_speech(loaded, waveform, sample_rate, fps, silence=silence)
            for notice in features.notices:
                logger.warning("LatentSync: %s", notice)
            return io.NodeOutput(HostedSpeech(features, silence))
