"""Generated faces made sharper and larger: loading a network for it, and using it between sampler and blend."""

from . import host, media, restorer_choices
from .host import io
from .hosted_restorer import HostedRestorer, linked_restorer
from .knobs import CATEGORY, advanced, check_choices, knobs
from .sockets import Faces, Restorer


def restorer_input(*, optional: bool = False) -> io.MultiType.Input:
    return io.MultiType.Input(
        "restorer",
        types=[Restorer, io.UpscaleModel],
        optional=optional,
        tooltip="Makes the generated part of the face sharper: from Load LatentSync Restorer, or any upscale model "
        "from Load Upscale Model.",
    )


class LatentSyncRestoreLoader(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LatentSyncRestoreLoader",
            display_name="Load LatentSync Restorer",
            category=CATEGORY,
            description="Loads a network that restores generated faces: GFPGAN, CodeFormer, another restoration or "
            "upscale model, or the small bundled one. Nothing is downloaded.",
            inputs=[
                io.Combo.Input(
                    "restorer",
                    options=restorer_choices.restorer_names(),
                    default=restorer_choices.BUNDLED,
                    tooltip="From models/facerestore_models, models/upscale_models or the pack's checkpoints folder; "
                    "the bundled one is made for drawn faces.",
                ),
                io.Float.Input(
                    "codeformer_fidelity",
                    default=0.5,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="For CodeFormer only: 0 restores the most and may change the person, 1 stays nearest to "
                    "the generated face.",
                ),
                advanced(
                    io.Combo.Input(
                        "backend",
                        options=restorer_choices.BACKENDS,
                        default=restorer_choices.BACKENDS[0],
                        optional=True,  # graphs made before it was there lack it
                        tooltip="Who builds GFPGAN's or CodeFormer's network: spandrel, or its authors' own package "
                        "(gfpgan, codeformer-pip), which has to be installed. The results are the same.",
                    )
                ),
            ],
            outputs=[Restorer.Output(display_name="restorer")],
        )

    @classmethod
    def validate_inputs(cls, restorer=None, backend=None):
        try:
            if restorer is not None:  # None where it comes by a link
                restorer_choices.restorer_path(restorer)
        except restorer_choices.ModelNotFoundError as gone:
            return str(gone)
        return check_choices(backend=(backend, restorer_choices.BACKENDS))

    @classmethod
    def execute(cls, restorer, codeformer_fidelity, backend=restorer_choices.BACKENDS[0]) -> io.NodeOutput:
        with host.plain_errors():
            from ..latentsync.restoration.restorers import load_restorer

            loaded = load_restorer(
                restorer_choices.restorer_path(restorer) or "tiny",
                device=host.offload_device(),
                dtype=host.auto_dtype(),
                fidelity=codeformer_fidelity,
                backend=backend,
            )
            return io.NodeOutput(HostedRestorer.of(loaded))


class LatentSyncFaceRestore(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LatentSyncFaceRestore",
            display_name="LatentSync Face Restore",
            category=CATEGORY,
            description="Restores the generated faces before LatentSync Blend puts them back: only what was generated, "
            "without flicker, and as sharp and grainy as the source. Faces that their frame shows no larger than they "
            "were generated are only resized.",
            inputs=[
                io.Image.Input("frames", tooltip="The same frames that LatentSync Face Prepare was given."),
                Faces.Input("faces", tooltip="The generated faces, from LatentSync Sampler."),
                restorer_input(),
                *knobs("sr_ratio", "sr_strength", optional=False, hidden=False),
            ],
            outputs=[
                Faces.Output(display_name="faces"),
                io.Image.Output(display_name="crops", tooltip="The restored faces, upright, one a frame."),
                io.Int.Output(display_name="restored", tooltip="How many faces were restored, not only resized."),
            ],
        )

    @classmethod
    def execute(cls, frames, faces, restorer, sr_ratio, sr_strength) -> io.NodeOutput:
        with host.plain_errors():
            from ..latentsync.options import LipSyncOptions
            from ..latentsync.run.stages import restore_faces

            images, progress = media.checked_images(frames, "frames"), host.Progress()
            with (
                linked_restorer(restorer) as hosted,
                host.on_device([hosted.patcher], hosted.memory_required) as device,
            ):
                track, count = restore_faces(
                    media.ByteFrames(images),
                    faces,
                    hosted.at(device),
                    LipSyncOptions(sr_ratio=sr_ratio, sr_strength=sr_strength),
                    on_frame=lambda index: progress.update((index + 1) / len(images)),
                )
            return io.NodeOutput(track, media.as_images(track.crops()), count)
