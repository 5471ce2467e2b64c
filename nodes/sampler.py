"""Making the faces speak."""

import logging

import torch

from . import host, media
from .host import io
from .knobs import CATEGORY, DEFAULTS, advanced, check_choices, guidance_interval, knobs, settings_of
from .sockets import Audio, Faces, Model

logger = logging.getLogger(__name__)


class LatentSyncSampler(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LatentSyncSampler",
            display_name="LatentSync Sampler",
            category=CATEGORY,
            description="Generates the mouth region of each face so that it speaks the audio. Frames without a face "
            "are left out; where the speech is longer than the clip only the clip's frames are made.",
            inputs=[
                Model.Input("model", tooltip="The same model that LatentSync Face Prepare was given."),
                Faces.Input("faces", tooltip="The faces, from LatentSync Face Prepare."),
                Audio.Input("audio", tooltip="The speech, from LatentSync Audio Encode."),
                *knobs("seed", "num_inference_steps", "guidance_scale", "scheduler", "chunk_overlap", optional=False),
                io.Vae.Input(
                    "vae",
                    optional=True,
                    tooltip="A VAE from Load VAE in place of the model's own. It must be the one the model was trained "
                    "with: sd-vae-ft-mse for released models.",
                ),
                *knobs("audio_offset_ms", "cache_interval"),
                *map(advanced, guidance_interval()),
            ],
            outputs=[
                Faces.Output(display_name="faces"),
                io.Image.Output(
                    display_name="crops",
                    tooltip="The generated faces, upright, one a frame; black where there is none. Change them with "
                    "any image node and link them to LatentSync Blend.",
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, scheduler=None):
        return check_choices(scheduler=scheduler)

    @classmethod
    def execute(
        cls,
        model,
        faces,
        audio,
        vae=None,
        guidance_start=DEFAULTS.guidance_interval[0],
        guidance_end=DEFAULTS.guidance_interval[1],
        **settings,
    ) -> io.NodeOutput:
        with host.plain_errors():
            from ..latentsync.options import LipSyncOptions
            from ..latentsync.run.stages import sample_faces

            options = LipSyncOptions(
                guidance_interval=(guidance_start, guidance_end), silence=audio.silence, **settings_of(settings)
            )
            parts = ("unet", "vae") if vae is None else ("unet",)
            hold = {"num_frames": options.chunk_frames, "guided": options.guidance_scale > 1}
            if vae is not None:
                vae = host.native_vae(
                    vae,
                    model.model.latents,
                    lambda: host.load([model.unet], model.memory_required(parts, **hold)),
                )
                with model.on_device("vae") as loaded:
                    check_vae(loaded, vae, faces)
            with model.on_device(*parts, **hold) as loaded:
                progress = ChunkProgress(options, faces.num_frames)
                if loaded.faces_notice:  # frames do not tell whether they are of a clip that is known to be drawn
                    progress.bar.say(loaded.faces_notice)
                    logger.warning("LatentSync: %s", loaded.faces_notice)
                generated = sample_faces(
                    loaded,
                    faces,
                    audio.features,
                    options,
                    vae=vae,
                    on_step=progress.on_step,
                    on_chunk=progress.on_chunk,
                    on_preview=progress.bar.show,
                )
            return io.NodeOutput(generated, media.as_images(generated.crops()))


class ChunkProgress:
    """The sampler's steps and finished frames as one bar."""

    def __init__(self, options, num_frames: int):
        self.bar = host.Progress()
        self._frames_a_chunk = options.chunk_frames - options.chunk_overlap
        self._done, self._total = 0, num_frames

    def on_step(self, step: int, num_steps: int, latents) -> None:
        coming = min(self._frames_a_chunk, self._total - self._done) * (step + 1) / num_steps
        self.bar.update((self._done + coming) / self._total)

    def on_chunk(self, frames_done: int, num_frames: int, preview) -> None:
        self._done = frames_done
        self.bar.update(frames_done / num_frames, preview)


MIN_LIKENESS = 0.9  # correlation of two VAEs' latents; another number format alone stays above 0.999


def check_vae(model, vae, faces) -> None:
    """Raises ValueError where the linked VAE sees a face otherwise than the model's own: the U-Net would be lost."""
    from ..latentsync.model.vae import encode, to_pixels

    first = int(faces.detected.argmax())
    pixels = to_pixels(torch.from_numpy(faces.aligned[first : first + 1]))
    own, linked = (
        encode(kind, pixels.to(model.device), sample=False).float().cpu().flatten() for kind in (model.vae, vae)
    )
    likeness = torch.corrcoef(torch.stack([own, linked]))[0, 1].item()
    if not likeness >= MIN_LIKENESS:
        raise ValueError(
            f"the linked VAE is not the one that {model.name} was trained with: their latents of the same face have a "
            f"correlation of {likeness:.2f}, expected about 1. Link that VAE, or leave the socket empty"
        )
