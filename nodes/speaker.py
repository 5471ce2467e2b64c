"""Another person who speaks in the same clip."""

from dataclasses import dataclass

from . import host, media
from .face_choice import SPEAKERS_FACES, ChosenFace, face, face_details
from .host import io
from .knobs import CATEGORY, check_choices
from .sockets import Speakers


@dataclass(frozen=True, repr=False)
class HostedSpeaker(host.Carried):
    """One of the tuple that LATENTSYNC_SPEAKERS carries. audio: ComfyUI's AUDIO."""

    audio: dict
    face: ChosenFace


class LatentSyncSpeaker(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LatentSyncSpeaker",
            display_name="LatentSync Speaker",
            category=CATEGORY,
            description="One more person who speaks in the clip, with a speech of their own. Link it to speakers of "
            "LatentSync Lip Sync, whose own audio and face are the first speaker's; all speeches are heard together.",
            inputs=[
                io.Audio.Input(
                    "audio", tooltip="What this person says. It begins with the clip: put silence before a later turn."
                ),
                face(everyone=True, default="number"),
                *face_details(number=1),
                Speakers.Input("speakers", optional=True, tooltip="The speakers before, from another such node."),
            ],
            outputs=[Speakers.Output(display_name="speakers")],
        )

    @classmethod
    def validate_inputs(cls, face=None):
        return check_choices(face=(face, SPEAKERS_FACES))

    @classmethod
    def execute(cls, audio, face, face_number=1, face_x=0.5, face_y=0.5, face_picture=None, speakers=()):
        with host.plain_errors():
            media.waveform_of(audio)  # says here what is wrong with it
            one = HostedSpeaker(audio, ChosenFace.of(face, face_number, face_x, face_y, face_picture))
            return io.NodeOutput((*speakers, one))
