"""The whole run in one node, from file to file."""

import contextlib

from . import host, media
from .face_choice import SPEAKERS_FACES, ChosenFace, face, face_details
from .host import io
from .hosted_restorer import linked_restorer
from .knobs import (
    CATEGORY,
    CUSTOM,
    PRESET_NAMES,
    SYNONYMS,
    check_choices,
    decided,
    knobs,
    others,
    preset,
)
from .report import HostedReport
from .restoration import restorer_input
from .sockets import Model, Report, Speakers


def stage_text(state) -> str:
    """A line for the node: what a run (progress.Progress) is at."""
    if state.stage != "generate":
        return "looking for faces"
    if not state.step:
        return f"{state.frames_done} of about {state.frames_total} frames made"
    return f"{state.frames_done} of about {state.frames_total} frames made, step {state.step} of {state.num_steps}"


class LatentSyncLipSync(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        schema = io.Schema(
            node_id="LatentSyncLipSync",
            display_name="LatentSync Lip Sync",
            category=CATEGORY,
            description="Makes the person in a video speak the audio. The video is read from its file and written to "
            "a new one a few frames at a time, so long clips need no more memory than short ones. Frame rate, size and "
            "the sound's sample rate stay; the result is as long as the speech, and a shorter video goes back and "
            "forth unless length says otherwise.",
            **host.found_by(*SYNONYMS, essentials="Video Generation"),
            inputs=[
                io.Video.Input(
                    "video",
                    tooltip="Someone talking, face visible. From Load Video it is streamed from "
                    "its file; from Create Video its frames are in memory already.",
                ),
                io.Audio.Input("audio", tooltip="The speech to be spoken. It becomes the sound of the result."),
                Model.Input("model", tooltip="From Load LatentSync Model."),
                *knobs("seed", "num_inference_steps", "guidance_scale", "mask_smooth", optional=False),
                face(everyone=True),
                *knobs("start", "duration", optional=False),
                *knobs("length", "tail", "audio_offset_ms"),
                io.Audio.Input(
                    "output_audio",
                    optional=True,
                    tooltip="Another sound for the result than the speech, which then only moves the lips: link the "
                    "vocals to audio and the whole mix here. Cut off or followed by silence where it is not as long as "
                    "the result.",
                ),
                *face_details(),
                *knobs("silence"),
                Speakers.Input(
                    "speakers",
                    optional=True,
                    tooltip="More people of the same clip with speeches of their own, from LatentSync Speaker. Audio "
                    "and face of this node are the first of them; all speeches are heard together.",
                ),
                io.Mask.Input(
                    "protect",
                    optional=True,
                    tooltip="Where the mask is 1 the source stays, such as a hand or a microphone before the mouth. "
                    "One mask, or one for each frame of the video, of its size.",
                ),
                restorer_input(optional=True),
                *knobs("sr_ratio", "sr_strength", "blend_method", "mask_shape", "max_yaw", "fade"),
                preset(),
                *knobs("marking", "visible_mark"),
            ],
            outputs=[
                io.Video.Output(display_name="video"),
                Report.Output(display_name="report", tooltip="What happened in each frame, for LatentSync Report."),
            ],
            is_output_node=True,  # its own player shows the result
            hidden=list(host.HIDDEN),
        )
        schema.inputs += others("file", schema.inputs)
        return schema

    @classmethod
    def validate_inputs(
        cls, face=None, length=None, tail=None, silence=None, blend_method=None, mask_shape=None, preset=None
    ):
        return check_choices(
            face=(face, SPEAKERS_FACES),
            length=length,
            tail=tail,
            silence=silence,
            blend_method=blend_method,
            mask_shape=mask_shape,
            preset=(preset, PRESET_NAMES),
        )

    @classmethod
    def execute(
        cls,
        video,
        audio,
        model,
        face,
        output_audio=None,
        face_number=0,
        face_x=0.5,
        face_y=0.5,
        face_picture=None,
        speakers=(),
        protect=None,
        restorer=None,
        preset=CUSTOM,
        **settings,
    ) -> io.NodeOutput:
        """settings: the inputs that are made from the table of settings."""
        host.refuse_batches(cls.hidden, "video")
        with host.plain_errors(), contextlib.ExitStack() as stack:
            from ..latentsync.run.engine import run
            from ..latentsync.run.speech import Speaker
            from ..latentsync.session import RunRequest, Session

            model = model.for_preset(preset)
            options, notices = decided(preset, settings, model.model)
            result, progress = host.temp_path(".mp4"), host.Progress()
            chosen = ChosenFace.of(face, face_number, face_x, face_y, face_picture)
            people = tuple(
                Speaker(stack.enter_context(media.as_wav(sound)), stack.enter_context(who.as_text()))
                for sound, who in ((audio, chosen), *((speaker.audio, speaker.face) for speaker in speakers))
            )
            several = len(people) > 1 or face == "all"
            progress.say("listening")
            source = stack.enter_context(media.as_file(video))
            heard = None if output_audio is None else stack.enter_context(media.as_wav(output_audio))
            kept = None if protect is None else stack.enter_context(media.as_mask_file(protect, source.path))
            hosted = stack.enter_context(linked_restorer(restorer))
            loaded = stack.enter_context(
                model.on_device(
                    *("unet", "vae", "whisper"),
                    num_frames=options.chunk_frames * (options.clips_at_once if several else 1),
                    guided=options.guidance_scale > 1,
                    beside=hosted,
                )
            )
            request = RunRequest(
                source.path, people, result, options, output_audio=heard, protect=kept, measure_opening=True
            )
            session = Session(loaded, hosted and hosted.at(loaded.device), preset=preset)
            report = run(
                session,
                request,
                on_progress=lambda state: (progress.say(stage_text(state)), progress.update(state.fraction)),
                on_preview=progress.show,
                should_stop=host.stop_if_interrupted,
            )
            report.warnings[:] = map(host.without_folders, (*notices, *source.notices, *report.warnings))
            hosted_report = HostedReport(
                report, host.file_reference(result), source.reference, options.start, options.length
            )
            return io.NodeOutput(host.InputImpl.VideoFromFile(str(result)), hosted_report, ui=hosted_report.ui())
