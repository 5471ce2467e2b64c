"""Putting the generated faces back into the frames."""

import torch

from . import host, media
from .blend_preview import edge_preview
from .host import io
from .knobs import CATEGORY, DEFAULTS, check_choices, knobs
from .sockets import Faces


class LatentSyncBlend(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LatentSyncBlend",
            display_name="LatentSync Blend",
            category=CATEGORY,
            description="Puts the generated faces back into the frames they came from. Outside the soft-edged mouth "
            "region every pixel keeps its value. Frames without a face pass unchanged.",
            inputs=[
                io.Image.Input("frames", tooltip="The same frames that LatentSync Face Prepare was given."),
                Faces.Input("faces", tooltip="The generated faces, from LatentSync Sampler."),
                *knobs("mask_smooth", optional=False),
                io.Image.Input(
                    "crops",
                    optional=True,
                    tooltip="Pictures to put in instead of the generated faces, such as the sampler's crops after an "
                    "upscaler or a colour correction: square, of any size, one a frame.",
                ),
                io.Mask.Input(
                    "protect",
                    optional=True,
                    tooltip="Where the mask is 1 the frame stays as it is, such as a hand or a microphone before the "
                    "mouth. One mask, or one a frame, of the frames' size.",
                ),
                *knobs("blend_method", "mask_shape", hidden=False),
            ],
            outputs=[
                io.Image.Output(display_name="images"),
                io.Mask.Output(
                    display_name="mask", tooltip="How much of each pixel is generated, one mask a frame, of its size."
                ),
            ],
            is_output_node=True,  # the edge is drawn on the node, and again where the graph ran before
        )

    @classmethod
    def validate_inputs(cls, blend_method=None, mask_shape=None):
        return check_choices(blend_method=blend_method, mask_shape=mask_shape)

    @classmethod
    def execute(
        cls,
        frames,
        faces,
        mask_smooth,
        crops=None,
        protect=None,
        blend_method=DEFAULTS.blend_method,
        mask_shape=DEFAULTS.mask_shape,
    ) -> io.NodeOutput:
        with host.plain_errors():
            from ..latentsync.errors import FrameCountError
            from ..latentsync.options import LipSyncOptions
            from ..latentsync.run.stages import blend_faces, frame_masks

            images = media.checked_images(frames, "frames")
            if len(images) != faces.num_frames:
                raise FrameCountError(
                    f"there are {len(images)} frames, but the faces are those of {faces.num_frames}; expected the same "
                    "frames that LatentSync Face Prepare was given"
                )
            if crops is not None:
                crops = media.checked_images(crops, "crops")[..., :3].cpu().float()
            progress = host.Progress()
            blended = images.clone()  # keeps a fourth channel too
            options = LipSyncOptions(mask_smooth=mask_smooth, blend_method=blend_method, mask_shape=mask_shape)
            protect = None if protect is None else protect.cpu().float().numpy()
            results = blend_faces(media.float_frames(images), faces, options=options, crops=crops, protect=protect)
            for index, frame in enumerate(results):
                blended[index, ..., :3] = torch.from_numpy(frame)
                progress.update((index + 1) / len(images))
            masks = torch.from_numpy(frame_masks(faces, options, protect=protect))
            return io.NodeOutput(blended, masks, ui=edge_preview(images, faces, mask_shape))
