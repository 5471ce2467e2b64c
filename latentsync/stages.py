"""A run in stages, each of which can be looked at, kept or replaced: prepare faces, sample them, blend them in.

The stages are those of engine.lip_sync, which streams; here a clip's faces are held in memory (never its frames), about
0.2 MB a frame at 256 px before sampling and 1 MB after.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Sized
from dataclasses import replace

import numpy as np
import torch
from einops import rearrange

from .chunks import ChunkGenerator, FaceFrame
from .errors import FaceNotFoundError, FrameCountError, MediaError, OptionError
from .face_locator import FaceLocator, LocatedFace
from .face_track import FaceTrack
from .faces.alignment import Sampling, Smoothing, warp_faces
from .faces.tracking import FaceDetector
from .masks import drawn_mask
from .models import LipSyncModel
from .options import LipSyncOptions
from .pasting import FacePaster
from .pipeline import OnStep, range_warning
from .previews import FacePreview, OnPreview, as_picture
from .speech_features import SpeechFeatures
from .vae import ImageAutoencoder

logger = logging.getLogger(__name__)


def prepare_faces(
    frames: Iterable[np.ndarray],
    model_resolution: int,
    *,
    detector: FaceDetector,
    smoothing: Smoothing = "temporal",
    fps: float = 25.0,
    mask: str = "mask",
    missing: str = "keep",
    blend_mask: str | None = None,
    sampling: Sampling = "quality",
    on_frame: Callable[[int], None] | None = None,
) -> FaceTrack:
    """Find one face in every frame and align it.

    frames: (H, W, 3) uint8 RGB of one size, consecutive; one at a time is looked at. model_resolution: side S, px.
    smoothing, sampling: see faces/alignment.py; fps is what smoothing reckons with. mask, blend_mask: see FaceTrack.
    missing: "keep" leaves frames without a face as they are, "error" refuses them. `on_frame(i)` is called after
    frame i and may raise to stop.

    Raises FaceNotFoundError where no frame has a face, or with "error" where one has none; MediaError for no frames at
    all or frames that differ in size; OptionError.
    """
    if missing not in ("keep", "error"):
        raise OptionError(f"unknown rule for frames without a face {missing!r}: expected 'keep' or 'error'")
    for name in (mask, blend_mask or mask):
        drawn_mask(name)  # raises now rather than after all frames
    locate = FaceLocator(detector, model_resolution, smoothing, fps)
    located: list[LocatedFace | None] = []
    aligned: list[np.ndarray] = []
    size = None
    for index, pixels in enumerate(frames):
        size = size or pixels.shape[:2]
        if pixels.shape[:2] != size:
            raise MediaError(
                f"frame {index} is {_size(pixels.shape)}, but the first one is {_size(size)}; expected one size. "
                "Resize the frames to the same size"
            )
        face = locate.locate(pixels)
        if face is None and missing == "error":
            raise FaceNotFoundError(
                f"no face was found in frame {index} ({index / fps:.2f} s); expected one in every frame. Leave that "
                "frame out, or let frames without a face stay as they are"
            )
        located.append(face)
        aligned.append(
            np.zeros((model_resolution, model_resolution, 3), np.uint8)
            if face is None
            else warp_faces([pixels], face.matrix[None], model_resolution, sampling)[0]
        )
        if on_frame is not None:
            on_frame(index)
    if size is None:
        raise MediaError("there are no frames; expected at least one")
    if not any(located):
        raise FaceNotFoundError(
            f"no face was found in any of the {len(located)} frames; expected a visible face, frontal or half turned, "
            "at least some 50 pixels and a twentieth of the frame wide. Choose other frames"
        )
    nowhere = LocatedFace(np.full((2, 3), np.nan, np.float32), 0.0)
    places = [face or nowhere for face in located]
    return FaceTrack(
        aligned=np.stack(aligned),
        matrices=np.stack([place.matrix for place in places]),
        detected=np.array([face is not None for face in located]),
        confidence=np.array([place.confidence for place in places], np.float32),
        opening=np.array([np.nan if place.opening is None else place.opening for place in places], np.float32),
        frame_size=(int(size[0]), int(size[1])),
        resolution=model_resolution,
        mask=mask,
        blend_mask=blend_mask,
    )


def sample_faces(
    model: LipSyncModel,
    track: FaceTrack,
    speech: SpeechFeatures,
    options: LipSyncOptions,
    *,
    vae: ImageAutoencoder | None = None,
    on_step: OnStep | None = None,
    on_chunk: Callable[[int, int, np.ndarray], None] | None = None,
    on_preview: OnPreview | None = None,
    preview_interval: float = 0.5,
) -> FaceTrack:
    """The track with its faces generated to speak the speech.

    Frame i is at i / speech.fps seconds. The track's frames are made, no more, where the speech is longer; where it is
    shorter, the frames beyond it hear its last moment. Frames without a face are left out and end a chunk, as a cut
    does. The track's mask counts, not that of the options.

    vae: another VAE instead of the model's. `on_step(step, num_steps, latents)` after each denoising step with the
    chunk's latents (1, 4, F, h, w), and `on_chunk(frames_done, num_frames, preview)` with a finished face (S, S, 3)
    uint8, may raise to stop. on_preview, preview_interval: see FacePreview.

    Raises OptionError for a track of another resolution than the model's, LatentSyncError for values that are not
    finite.
    """
    if track.resolution != model.resolution:
        raise OptionError(
            f"the faces were prepared at {track.resolution} px, but {model.name} works at {model.resolution} px; "
            "prepare them with the model that samples them"
        )
    model = model if vae is None else replace(model, vae=vae)
    preview = None if on_preview is None else FacePreview(model, on_preview, preview_interval)
    generator = torch.Generator("cpu").manual_seed(options.seed)
    side = track.resolution
    generated = np.zeros((track.num_frames, 3, side, side), np.float32)
    with torch.inference_mode():
        chunks = ChunkGenerator(model, replace(options, mask=track.mask), generator, on_step, preview)
        for index in range(track.num_frames + 1):
            if index < track.num_frames and track.detected[index]:
                tokens = speech.tokens([index / speech.fps - options.audio_offset_ms / 1000])[0]
                pairs = chunks.push(FaceFrame(track.aligned[index], tokens, payload=index))
            else:
                pairs = chunks.flush()
            finished = []
            for frame, face in pairs:
                generated[frame.payload] = face.numpy()
                finished.append(frame.payload)
            if finished and on_chunk is not None:
                middle = torch.from_numpy(generated[finished[len(finished) // 2]])
                on_chunk(finished[-1] + 1, track.num_frames, as_picture(middle))
    if warning := range_warning(model, chunks.out_of_range):
        logger.warning(warning)
    return replace(track, generated=generated)


def blend_faces(
    frames: Iterable[np.ndarray],
    track: FaceTrack,
    *,
    options: LipSyncOptions | None = None,
    mask_smooth: float | None = None,
    blend_mask: str | None = None,
    crops: np.ndarray | torch.Tensor | None = None,
    protect: np.ndarray | torch.Tensor | None = None,
) -> Iterator[np.ndarray]:
    """Each frame with its generated face; lazily, so that neither the frames nor the results need be held.

    frames: those that the track was prepared from, (H, W, 3) RGB, uint8 or float32 in [0, 1]; results are alike.
    Outside the blend region they have the frame's very bits; a frame without a face is handed on itself.
    mask_smooth, blend_mask: win over those in `options`. crops: (F, S', S', 3) float32 in [0, 1], of any side, instead
    of the track's faces. protect: (F, H, W), (1, H, W) or (H, W) in [0, 1], 1 keeps the frame.

    Raises, at once where the number of frames can be told, FrameCountError for different numbers of frames; MediaError
    for frames of another size; OptionError for a track that was not sampled, or for crops or masks of a wrong shape.
    """
    options = options or LipSyncOptions()
    if mask_smooth is not None:
        options = replace(options, mask_smooth=mask_smooth)
    options = replace(options, mask=track.mask, blend_mask=blend_mask or options.blend_mask)
    if isinstance(frames, Sized) and len(frames) != track.num_frames:
        raise _wrong_count(f"{len(frames)} frames", track)
    side = track.resolution
    if crops is not None:
        crops = torch.as_tensor(crops)
        side = _checked_side(crops, track)
    elif track.generated is None:
        raise OptionError("these faces were not sampled yet, and no crops are given in their place; sample them first")
    if protect is not None:
        protect = _checked_protect(np.asarray(protect), track)
    paster = FacePaster(track.resolution, options, track.blend_mask, side)
    return _blended(frames, track, paster, crops, protect)


def _blended(frames, track: FaceTrack, paster: FacePaster, crops, protect) -> Iterator[np.ndarray]:
    count = 0
    for index, frame in enumerate(frames):
        count = index + 1
        if index >= track.num_frames:
            raise _wrong_count("more frames", track)
        if frame.shape[:2] != track.frame_size:
            raise MediaError(
                f"frame {index} is {_size(frame.shape)}, but the faces were found in frames of "
                f"{_size(track.frame_size)}; blend into the same frames"
            )
        if not track.detected[index]:
            yield frame
            continue
        if crops is None:
            face = torch.from_numpy(track.generated[index])
        else:
            face = rearrange(crops[index].float().cpu(), "h w c -> c h w") * 2 - 1
        kept = None if protect is None else protect[index if len(protect) > 1 else 0]
        yield paster(frame, face, track.aligned[index], track.matrices[index], kept)
    if count < track.num_frames:
        raise _wrong_count(f"{count} frames", track)


def _checked_side(crops: torch.Tensor, track: FaceTrack) -> int:
    if crops.ndim != 4 or crops.shape[3] != 3 or crops.shape[1] != crops.shape[2] or not crops.is_floating_point():
        raise OptionError(
            f"the crops have the shape {tuple(crops.shape)} and type {crops.dtype}; expected square RGB pictures of "
            "floats in 0..1, (F, side, side, 3)"
        )
    if len(crops) != track.num_frames:
        raise _wrong_count(f"{len(crops)} crops", track)
    return crops.shape[1]


def _checked_protect(protect: np.ndarray, track: FaceTrack) -> np.ndarray:
    protect = protect[None] if protect.ndim == 2 else protect
    if protect.ndim != 3 or protect.shape[1:] != track.frame_size:
        raise OptionError(
            f"the protecting mask has the shape {protect.shape}; expected the frames' {_size(track.frame_size)} px, "
            "one mask or one a frame"
        )
    if len(protect) not in (1, track.num_frames):
        raise _wrong_count(f"{len(protect)} protecting masks", track)
    return protect


def _wrong_count(given: str, track: FaceTrack) -> FrameCountError:
    return FrameCountError(
        f"{given} were given, but the faces are those of {track.num_frames} frames; expected as many, in the same order"
    )


def _size(shape: tuple) -> str:
    return f"{shape[1]} x {shape[0]}"
