"""The whole run in one node on frames in memory, for graphs that are made of pictures."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import torch

from . import host, media
from .face_choice import FACES, ChosenFace, face, face_details
from .faces import BOXES, frame_boxes
from .host import io
from .knobs import (
    CATEGORY,
    PRESET_NAMES,
    SYNONYMS,
    check_choices,
    decided,
    fps,
    knobs,
    others,
    preset,
)
from .match_length import matched
from .sockets import Boxes, Model

FOUND, MADE = 0.2, 0.9  # how far the bar is when the faces are found, and when they are made


class LatentSyncLipSyncImages(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        chosen_preset = preset()
        chosen_preset.optional = False  # no graph was saved without it: it stands above what it decides
        schema = io.Schema(
            node_id="LatentSyncLipSyncImages",
            display_name="LatentSync Lip Sync Images",
            category=CATEGORY,
            description="Makes the person in a batch of frames speak the audio, for graphs that are made of pictures: "
            "frames and sound go in and come out. All frames are in memory at once; LatentSync Lip Sync reads a video "
            "a few frames at a time.",
            **host.found_by(*SYNONYMS),
            inputs=[
                io.Image.Input(
                    "frames", tooltip="The frames of the clip, in order, from Get Video Components or any video loader."
                ),
                io.Audio.Input("audio", tooltip="The speech to be spoken."),
                Model.Input("model", tooltip="From Load LatentSync Model."),
                fps(
                    "Frames per second of the frames. Link it from Get Video Components: a wrong value makes the lips "
                    "run ahead of the sound or fall behind."
                ),
                chosen_preset,
                *knobs("seed", optional=False),
                face(),
                *knobs("length", "tail", "mask_smooth", optional=False),
                *knobs("silence", "audio_offset_ms"),
                *face_details(),
                io.Mask.Input(
                    "protect",
                    optional=True,
                    tooltip="Where the mask is 1 the frames stay, such as a hand or a microphone before the mouth. One "
                    "mask, or one for each frame that is given, of their size.",
                ),
                *knobs("num_inference_steps", "guidance_scale", optional=False, hidden=True),
                *knobs("blend_method", "mask_shape", "max_yaw", "fade"),
            ],
            outputs=[
                io.Image.Output(display_name="frames", tooltip="The frames with the generated mouths."),
                io.Audio.Output(display_name="audio", tooltip="The speech, as long as the frames."),
                io.Mask.Output(
                    display_name="mask", tooltip="How much of each pixel is generated, one mask a frame, of its size."
                ),
                Boxes.Output(display_name="boxes", tooltip=BOXES),
                io.Float.Output(display_name="fps", tooltip="The frame rate, unchanged."),
                io.String.Output(display_name="text", tooltip="In how many frames a face was made, and what to know."),
            ],
            hidden=list(host.HIDDEN),
        )
        schema.inputs += others("frames", schema.inputs)
        return schema

    @classmethod
    def validate_inputs(
        cls, preset=None, face=None, length=None, tail=None, silence=None, blend_method=None, mask_shape=None
    ):
        return check_choices(
            preset=(preset, PRESET_NAMES),
            face=(face, FACES),
            length=length,
            tail=tail,
            silence=silence,
            blend_method=blend_method,
            mask_shape=mask_shape,
        )

    @classmethod
    def execute(
        cls,
        frames,
        audio,
        model,
        fps,
        preset,
        face,
        face_number=0,
        face_x=0.5,
        face_y=0.5,
        face_picture=None,
        protect=None,
        **settings,
    ) -> io.NodeOutput:
        """settings: the inputs that are made from the table of settings."""
        host.refuse_batches(cls.hidden, "frames")
        with host.plain_errors():
            from ..latentsync.faces.finder import FaceTracker
            from ..latentsync.media.video_reader import exact_rate
            from ..latentsync.run.speech import encode_speech, frames_in
            from ..latentsync.run.stages import blend_faces, frame_masks, prepare_faces, sample_faces

            model = model.for_preset(preset)
            options, notices = decided(preset, settings, model.model)
            given = media.checked_images(frames, "frames")
            images, sound, indices = matched(given, audio, options.length, options.tail, exact_rate(fps))
            sound = media.fitted_sound(sound, Fraction(len(images)) / exact_rate(fps))
            if protect is not None and protect.ndim == 3 and len(protect) == len(given) > 1:
                protect = protect[indices]  # one for each frame that is given
            kept = None if protect is None else protect.cpu().float().numpy()
            progress = host.Progress()
            with ChosenFace.of(face, face_number, face_x, face_y, face_picture).as_text() as chosen:
                track = prepare_faces(
                    media.ByteFrames(images),
                    model.model.resolution,
                    options,
                    finder=FaceTracker(host.compute_device()),
                    face=chosen,
                    fps=fps,
                    blend_mask=model.model.blend_mask,
                    framing=model.model.framing,
                    on_frame=lambda index: progress.update(FOUND * (index + 1) / len(images)),
                )
            waveform, sample_rate = media.waveform_of(audio)
            spoken = np.arange(len(images)) < frames_in(waveform.shape[-1] / sample_rate, exact_rate(fps))
            track = replace(track, weights=np.where(spoken, track.weights, 0))  # the rest with tail "keep"
            with model.on_device("whisper") as loaded, host.interruptible(loaded.whisper):
                speech = encode_speech(loaded, waveform, sample_rate, fps, silence=options.silence)
            guided = options.guidance_scale > 1
            with model.on_device("unet", "vae", num_frames=options.chunk_frames, guided=guided) as loaded:
                track = sample_faces(
                    loaded,
                    track,
                    speech,
                    options,
                    on_step=host.stop_if_interrupted,
                    on_chunk=lambda done, count, picture: progress.update(
                        FOUND + (MADE - FOUND) * done / count, picture
                    ),
                    on_preview=progress.show,
                )
            made = images.clone()  # keeps a fourth channel too
            blended = blend_faces(media.float_frames(images), track, options=options, protect=kept)
            for index, frame in enumerate(blended):
                made[index, ..., :3] = torch.from_numpy(frame)
                progress.update(MADE + (1 - MADE) * (index + 1) / len(images))
            masks = torch.from_numpy(frame_masks(track, options, protect=kept))
            shown = int((track.weights > 0).sum())
            text = [f"a face was made in {shown} of {len(images)} frames"]
            said = (*notices, *model.model.warnings, model.model.faces_notice, *track.notices, *speech.notices)
            text += [host.without_folders(line) for line in said if line]
            return io.NodeOutput(made, sound, masks, frame_boxes(track), fps, "\n".join(text))
