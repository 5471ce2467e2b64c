"""The whole run in one node, from file to file."""

from . import host, media
from .host import io
from .knobs import CATEGORY, DEFAULTS, FACES, check_choices, face, guidance_scale, mask_smooth, seed, steps
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
            "the sound's sample rate stay; the result is as long as the speech, a shorter video is played forward and "
            "backward.",
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
            ],
            outputs=[
                io.Video.Output(display_name="video"),
                Report.Output(display_name="report", tooltip="What happened in each frame, for LatentSync Report."),
            ],
            is_output_node=True,  # its own player shows the result
        )

    @classmethod
    def validate_inputs(cls, face=None):
        return check_choices(face=(face, FACES))

    @classmethod
    def execute(
        cls, video, audio, model, seed, steps, guidance_scale, mask_smooth, face, start, duration
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
            )
            result, progress = host.temp_path(".mp4"), host.Progress()
            with (
                media.as_wav(audio) as speech,
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
                    detector=FaceTracker(loaded.device, choose=face),
                    measure_opening=True,
                    on_progress=lambda state: progress.update(state.fraction),
                    on_preview=progress.show,
                    should_stop=host.stop_if_interrupted,
                )
            hosted = HostedReport(report, host.file_reference(result), source.reference, start)
            return io.NodeOutput(host.InputImpl.VideoFromFile(str(result)), hosted, ui=hosted.ui())
