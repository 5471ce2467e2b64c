"""The whole run in one node, from file to file."""

import contextlib

from . import host, media
from .host import io
from .knobs import (
    CATEGORY,
    DEFAULTS,
    FACES,
    LENGTHS,
    TAILS,
    audio_offset_ms,
    check_choices,
    face,
    guidance_scale,
    length,
    mask_smooth,
    seed,
    steps,
    tail,
)
from .report import HostedReport
from .sockets import Model, Report


class LatentSyncLipSync(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LatentSyncLipSync",
            display_name="LatentSync Lip Sync",
            category=CATEGORY,
            description="Makes the person in a video speak the audio. The video is read from its file and written to "
            "a new one a few frames at a time, so long clips need no more memory than short ones. Frame rate, size and "
            "the sound's sample rate stay; the result is as long as the speech, and a shorter video goes back and "
            "forth unless length says otherwise.",
            inputs=[
                io.Video.Input(
                    "video",
                    tooltip="Someone talking, face visible. From Load Video it is streamed from "
                    "its file; from Create Video its frames are in memory already.",
                ),
                io.Audio.Input("audio", tooltip="The speech to be spoken. It becomes the sound of the result."),
                Model.Input("model", tooltip="From Load LatentSync Model."),
                seed(),
                steps(),
                guidance_scale(),
                mask_smooth(),
                face(),
                io.Float.Input(
                    "start",
                    default=DEFAULTS.start,
                    min=0.0,
                    max=86_400.0,
                    step=0.01,
                    round=False,
                    tooltip="For a quick look: begin so many seconds into video and speech. 0 begins at the beginning.",
                ),
                io.Float.Input(
                    "duration",
                    default=DEFAULTS.duration or 0.0,
                    min=0.0,
                    max=86_400.0,
                    step=0.01,
                    round=False,
                    tooltip="For a quick look: length in seconds. 0 goes to the end of the speech.",
                ),
                length("length", optional=True),
                tail(optional=True),
                audio_offset_ms(),
                io.Audio.Input(
                    "output_audio",
                    optional=True,
                    tooltip="Another sound for the result than the speech, which then only moves the lips: link the "
                    "vocals to audio and the whole mix here. Cut off or followed by silence where it is not as long as "
                    "the result.",
                ),
            ],
            outputs=[
                io.Video.Output(display_name="video"),
                Report.Output(display_name="report", tooltip="What happened in each frame, for LatentSync Report."),
            ],
            is_output_node=True,  # its own player shows the result
        )

    @classmethod
    def validate_inputs(cls, face=None, length=None, tail=None):
        return check_choices(face=(face, FACES), length=(length, LENGTHS), tail=(tail, TAILS))

    @classmethod
    def execute(
        cls,
        video,
        audio,
        model,
        seed,
        steps,
        guidance_scale,
        mask_smooth,
        face,
        start,
        duration,
        length=DEFAULTS.length,
        tail=DEFAULTS.tail,
        audio_offset_ms=DEFAULTS.audio_offset_ms,
        output_audio=None,
    ) -> io.NodeOutput:
        with host.plain_errors():
            from ..latentsync.engine import lip_sync
            from ..latentsync.faces.tracking import FaceTracker
            from ..latentsync.options import LipSyncOptions

            options = LipSyncOptions(
                num_inference_steps=steps,
                guidance_scale=guidance_scale,
                seed=seed,
                mask_smooth=mask_smooth,
                start=start,
                duration=duration or None,
                length=length,
                tail=tail,
                audio_offset_ms=audio_offset_ms,
            )
            result, progress = host.temp_path(".mp4"), host.Progress()
            with (
                media.as_wav(audio) as speech,
                contextlib.nullcontext() if output_audio is None else media.as_wav(output_audio) as heard,
                media.as_file(video) as source,
                model.on_device(
                    "unet", "vae", "whisper", num_frames=options.chunk_frames, guided=guidance_scale > 1
                ) as loaded,
            ):
                report = lip_sync(
                    source.path,
                    speech,
                    result,
                    loaded,
                    options,
                    output_audio=heard,
                    detector=FaceTracker(loaded.device, choose=face),
                    measure_opening=True,
                    on_progress=lambda state: progress.update(state.fraction),
                    on_preview=progress.show,
                    should_stop=host.stop_if_interrupted,
                )
            hosted = HostedReport(report, host.file_reference(result), source.reference, start, length)
            return io.NodeOutput(host.InputImpl.VideoFromFile(str(result)), hosted, ui=hosted.ui())
