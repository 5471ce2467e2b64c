"""Finding the face in each frame and turning it upright for the model."""

import logging
import math

import torch

from . import host, media
from .face_choice import FACES, ChosenFace, face, face_details
from .host import io
from .knobs import CATEGORY, DEFAULTS, check_choices, fps, knobs
from .sockets import Boxes, Faces, Model

logger = logging.getLogger(__name__)
MISSING = ["keep", "error"]
BOXES = "Around the face, in each frame; empty where there is none. For any node that takes bounding boxes."


class LatentSyncFacePrepare(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LatentSyncFacePrepare",
            display_name="LatentSync Face Prepare",
            category=CATEGORY,
            description="Finds the faces of a clip, follows one of them, over cuts too, and cuts it out upright at the "
            "model's size. Only the crops travel on; the frames are needed again for LatentSync Blend.",
            inputs=[
                io.Image.Input(
                    "frames", tooltip="The frames of the clip, in order, from Get Video Components or any video loader."
                ),
                Model.Input("model", tooltip="The model whose face size and mask are used."),
                face(),
                *knobs("smoothing", "mask", optional=False),
                io.Combo.Input(
                    "missing_faces",
                    options=MISSING,
                    default=MISSING[0],
                    tooltip="What to do with frames without a usable face: keep leaves them as they are, error stops "
                    "and names the first one.",
                ),
                fps(
                    "Frames per second of the frames, by which smoothing and fading reckon. Link it from Get Video "
                    "Components."
                ),
                *face_details(),
                *knobs("max_yaw", "fade"),
            ],
            outputs=[
                Faces.Output(display_name="faces"),
                io.Image.Output(display_name="aligned", tooltip="The upright faces, one a frame; black where none is."),
                io.Image.Output(display_name="masked", tooltip="The same with the part that is made anew in grey."),
                io.Mask.Output(display_name="mask", tooltip="1 where the face is made anew; one mask for all frames."),
                # New ones come last, or links of saved graphs would end at others.
                io.Mask.Output(
                    display_name="frame_mask",
                    tooltip="The same in the frames: one mask a frame, of its size.",
                ),
                Boxes.Output(display_name="boxes", tooltip=BOXES),
            ],
            hidden=list(host.HIDDEN),
        )

    @classmethod
    def validate_inputs(cls, face=None, smoothing=None, mask=None, missing_faces=None):
        return check_choices(
            face=(face, FACES),
            smoothing=smoothing,
            mask=mask,
            missing_faces=(missing_faces, MISSING),
        )

    @classmethod
    def execute(
        cls,
        frames,
        model,
        face,
        smoothing,
        mask,
        missing_faces,
        fps,
        face_number=0,
        face_x=0.5,
        face_y=0.5,
        face_picture=None,
        max_yaw=DEFAULTS.max_yaw,
        fade=DEFAULTS.fade,
    ) -> io.NodeOutput:
        host.refuse_batches(cls.hidden, "frames")
        with host.plain_errors():
            from ..latentsync.faces.finder import FaceTracker
            from ..latentsync.options import LipSyncOptions
            from ..latentsync.run.stages import frame_masks, prepare_faces

            images = media.checked_images(frames, "frames")
            progress = host.Progress()
            with ChosenFace.of(face, face_number, face_x, face_y, face_picture).as_text() as chosen:
                track = prepare_faces(
                    media.ByteFrames(images),
                    model.model.resolution,
                    LipSyncOptions(smoothing=smoothing, mask=mask, max_yaw=max_yaw, fade=fade),
                    # Two nets of a few megabytes, gone after this node: not worth ComfyUI's management.
                    finder=FaceTracker(host.compute_device()),
                    face=chosen,
                    fps=fps,
                    missing=missing_faces,
                    blend_mask=model.model.blend_mask,
                    framing=model.model.framing,
                    on_frame=lambda index: progress.update((index + 1) / len(images)),
                )
            for notice in track.notices:
                logger.warning("LatentSync: %s", notice)
            hole = torch.from_numpy(track.hole())[None]
            masks = torch.from_numpy(frame_masks(track, LipSyncOptions(mask_smooth=0)))
            pictures = media.as_images(track.aligned), media.as_images(track.masked())
            return io.NodeOutput(track, *pictures, hole, masks, frame_boxes(track))


def frame_boxes(track) -> list[list[dict]]:
    """The boxes of a FaceTrack as BOUNDING_BOX has them: a list for each frame, empty where there is none."""
    return [
        [{"x": x0, "y": y0, "width": x1 - x0, "height": y1 - y0, "label": "face", "score": score}]
        if math.isfinite(x0)
        else []
        for (x0, y0, x1, y1), score in zip(track.boxes.tolist(), track.confidence.tolist(), strict=True)
    ]
