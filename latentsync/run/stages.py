"""A run in stages, each of which can be looked at, kept or replaced: prepare faces, sample them, blend them in.

The stages are those of engine.lip_sync, which streams; here a clip's faces are held in memory (never its frames), about
0.2 MB a frame at 256 px before sampling and 1 MB after.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Sized
from dataclasses import dataclass, replace

import numpy as np
import torch
from einops import rearrange

from ..errors import FaceNotFoundError, FrameCountError, MediaError, OptionError
from ..faces.align import resized_matrix, warp_faces
from ..faces.blend import FacePaster
from ..faces.choice import choice_notice, find_person, parse_choice
from ..faces.detect import LOWER_FACE
from ..faces.finder import FaceFinder
from ..faces.place import cover_notice, filled_gaps
from ..media.video_reader import VideoFrame
from ..model.device import float32_products, own_threads
from ..model.loading import LipSyncModel
from ..model.masks import drawn_mask, generation_mask
from ..model.vae import ImageAutoencoder
from ..model_files import Framing
from ..options import LipSyncOptions
from ..restoration.restore import FaceRestoration
from ..restoration.restorers import Restorer
from .chunks import ChunkGenerator, Denoiser, FaceFrame, generate_alone
from .progress import FacePreview, OnPreview, as_picture
from .speech import SpeechFeatures
from .steps import OnStep

# The face of a clip, frame by frame: what the stages of a run hand to each other.


@dataclass(frozen=True)
class FaceTrack:
    """One face through F frames of H x W px. Arrays are shared between tracks: treat them as read-only.

    aligned     (F, S, S, 3) uint8 RGB, the face on the model's square; zeros where there is none
    matrices    (F, 2, 3) float32, frame px to canvas px (faces/align.py); NaN where there is no face
    detected    (F,) bool, where the face can be generated
    weights     (F,) float32, 0..1: how much of the generated face shows; falls towards frames without a usable one
    stretches   (F,) int, equal for frames that follow each other without a loss or a cut
    confidence  (F,) float32, 0..1 that it is a face; 0 where there is none
    opening     (F,) float32, of the source's mouth in units of the distance of the outer eye corners; NaN where unknown
    yaw         (F,) float32 degrees, positive turned to the picture's right; NaN where unknown
    contours    (F, K, 2) float32 px, the landmarks facemesh.LOWER_FACE; NaN where unknown
    frame_size  (H, W) px
    resolution  S, px
    mask        name of the mask whose hole is generated, see model/masks.py
    generated   (F, 3, S', S') float32 RGB, about [-1, 1] and not clamped, zeros where there is no face; S' is S, or
                more after restoration; None before sampling
    blend_mask  name of the mask whose hole is pasted, as it suits the model; None for `mask`
    notices     what a person should know of the choice of the face
    framing     by which points the faces were aligned, see faces/detect.py; None for a detector's own
    boxes       (F, 4) float32 px, x0 y0 x1 y1 around the landmarks; NaN where there is no face; None if not kept
    """

    aligned: np.ndarray
    matrices: np.ndarray
    detected: np.ndarray
    weights: np.ndarray
    stretches: np.ndarray
    confidence: np.ndarray
    opening: np.ndarray
    yaw: np.ndarray
    contours: np.ndarray
    frame_size: tuple[int, int]
    resolution: int
    mask: str
    generated: np.ndarray | None = None
    blend_mask: str | None = None
    framing: Framing | None = None
    notices: tuple[str, ...] = ()
    boxes: np.ndarray | None = None

    @property
    def num_frames(self) -> int:
        return len(self.detected)

    @property
    def num_faces(self) -> int:
        return int(self.detected.sum())

    def get_ram_usage(self) -> int:
        """Bytes of the arrays, under the name by which ComfyUI asks what it may drop when memory is short."""
        return sum(array.nbytes for array in vars(self).values() if isinstance(array, np.ndarray))

    def hole(self) -> np.ndarray:
        """(S, S) float32 in [0, 1]: 1 where the face is generated."""
        return (1 - generation_mask(self.resolution, self.mask)).clamp(0, 1).numpy()

    def masked(self) -> np.ndarray:
        """(F, S, S, 3) uint8: the aligned faces with a grey hole, as the model sees them; zeros without a face."""
        hole = self.hole()[..., None]
        masked = np.zeros_like(self.aligned)
        for index in np.flatnonzero(self.detected):
            masked[index] = np.rint(self.aligned[index] * (1 - hole) + 127.5 * hole)
        return masked

    def crops(self) -> np.ndarray | None:
        """(F, S', S', 3) float32 in [0, 1]: generated faces as pictures; black without a face. None before sampling."""
        if self.generated is None:
            return None
        side = self.generated.shape[-1]
        crops = np.zeros((self.num_frames, side, side, 3), np.float32)
        for index in np.flatnonzero(self.detected):
            crops[index] = np.clip((self.generated[index].transpose(1, 2, 0) + 1) / 2, 0, 1)
        return crops


# The stages

logger = logging.getLogger(__name__)


@own_threads()
def prepare_faces(
    frames: Iterable[np.ndarray],
    model_resolution: int,
    options: LipSyncOptions = LipSyncOptions(),  # noqa: B008 (frozen)
    *,
    finder: FaceFinder,
    face: str = "largest",
    fps: float = 25.0,
    missing: str = "keep",
    blend_mask: str | None = None,
    framing: Framing = "insightface",
    on_frame: Callable[[int], None] | None = None,
) -> FaceTrack:
    """Find the faces of a clip, follow the chosen one and align it.

    frames: (H, W, 3) uint8 RGB of one size, consecutive, in something that can be gone through twice (a list, an array,
    not a generator); one at a time is looked at. model_resolution: side S, px. options: mask, smoothing, sampling, fade
    and max_yaw count. face: see faces.choice. fps is what smoothing and fading reckon with. missing: "keep" leaves
    frames without a usable face as they are, "error" refuses them. blend_mask: see FaceTrack. framing: that of the
    model, see faces/detect.py. `on_frame(i)` is called after frame i was searched and may raise to stop.

    Raises FaceNotFoundError where no frame has a face, or with "error" where one has none; MediaError for no frames at
    all or frames that differ in size; OptionError.
    """
    if missing not in ("keep", "error"):
        raise OptionError(f"unknown rule for frames without a face {missing!r}: expected 'keep' or 'error'")
    if not 1 <= fps <= 240:  # nan is neither
        raise OptionError(f"fps is {fps:g}; expected the frame rate of the frames, 1 to 240")
    if iter(frames) is frames:
        raise OptionError(
            "the frames can be gone through once only; expected a list or an array, as faces are found first"
        )
    for name in (options.mask, blend_mask or options.mask):
        drawn_mask(name)  # raises now rather than after all frames
    person = find_person(_as_video(frames, fps), face, finder, on_frame=on_frame)
    clip, path = person.clip, person.path
    if parse_choice(face).kind == "all" and len(clip.paths) > 1:
        raise OptionError(
            f"{face!r} is {len(clip.paths)} faces; expected one. Prepare each by itself and blend in turn"
        )
    placement = person.placement(model_resolution, options, framing)
    placed = [placement.at(row) for row in range(clip.num_frames)]
    if missing == "error" and None in placed:
        index = placed.index(None)
        raise FaceNotFoundError(
            f"no usable face was found in frame {index} ({index / fps:.2f} s); expected one in every frame. Leave that "
            "frame out, or let frames without a face stay as they are"
        )
    side = model_resolution
    aligned = [
        np.zeros((side, side, 3), np.uint8)
        if found is None
        else warp_faces([pixels], found.matrix[None], side, options.sampling)[0]
        for pixels, found in zip(frames, placed, strict=True)
    ]
    nowhere = np.full((2, 3), np.nan, np.float32)
    unknown = np.full((len(LOWER_FACE), 2), np.nan, np.float32)
    boxes = np.full((clip.num_frames, 4), np.nan, np.float32)
    seen = filled_gaps(path, clip)
    boxes[seen.rows] = seen.box
    detected = np.array([found is not None for found in placed])
    boxes[~detected] = np.nan
    contours = [unknown if found is None or found.contour is None else found.contour for found in placed]
    return FaceTrack(
        aligned=np.stack(aligned),
        matrices=np.stack([nowhere if found is None else found.matrix for found in placed]),
        detected=detected,
        weights=placement.weights.astype(np.float32),
        stretches=placement.stretches,
        confidence=np.array([0.0 if found is None else found.confidence for found in placed], np.float32),
        opening=np.array([np.nan if found is None else _number(found.opening) for found in placed], np.float32),
        yaw=np.array([np.nan if found is None else _number(found.yaw) for found in placed], np.float32),
        contours=np.stack(contours),
        frame_size=clip.frame_size,
        resolution=side,
        mask=options.mask,
        blend_mask=blend_mask,
        framing=framing if path.has_framings else None,
        notices=tuple(filter(None, [choice_notice(clip, face, person.index), cover_notice(path, person.index)])),
        boxes=boxes,
    )


def _as_video(frames: Iterable[np.ndarray], fps: float) -> Iterator[VideoFrame]:
    size = None
    for index, pixels in enumerate(frames):
        size = size or pixels.shape[:2]
        if pixels.shape[:2] != size:
            raise MediaError(
                f"frame {index} is {_size(pixels.shape)}, but the first one is {_size(size)}; expected one size. "
                "Resize the frames to the same size"
            )
        yield VideoFrame(pixels, index / fps, index, index, index)


def _number(value: float | None) -> float:
    return np.nan if value is None else value


@own_threads()
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
    does. The track's mask counts, not that of the options. With silence "source" the weights fall in pauses.

    vae: another VAE instead of the model's. `on_step(step, num_steps, latents)` after each denoising step with the
    chunk's latents (1, C, F, h, w), and `on_chunk(frames_done, num_frames, preview)` with a finished face (S, S, 3)
    uint8, may raise to stop. on_preview, preview_interval: see FacePreview.

    Raises OptionError for a track of another resolution or framing than the model's, BrokenResultError for pictures
    that are none.
    """
    if track.resolution != model.resolution:
        raise OptionError(
            f"the faces were prepared at {track.resolution} px, but {model.name} works at {model.resolution} px; "
            "prepare them with the model that samples them"
        )
    if track.framing not in (None, model.framing):
        raise OptionError(
            f"the faces were prepared for a model with the framing {track.framing}, but {model.name} was trained with "
            f"{model.framing}, which cuts faces out about 4 % larger or smaller; prepare them with the model that "
            "samples them"
        )
    model = model if vae is None else replace(model, vae=vae)
    preview = None if on_preview is None else FacePreview(model, on_preview, preview_interval)
    generator = torch.Generator("cpu").manual_seed(options.seed)
    side = track.resolution
    generated = np.zeros((track.num_frames, 3, side, side), np.float32)
    with torch.inference_mode(), float32_products(options.tf32):
        options = replace(options, mask=track.mask)
        chunks = ChunkGenerator(model, options, generator)
        times = np.arange(track.num_frames) / speech.fps - options.audio_offset_ms / 1000
        weights = track.weights * (speech.voice(times) if options.silence == "source" else 1)

        def frames() -> Iterator[FaceFrame | None]:
            for index in range(track.num_frames):
                if index and track.stretches[index] != track.stretches[index - 1]:
                    yield None
                tokens = speech.tokens([times[index]])[0] if weights[index] > 0 else None
                yield None if tokens is None else FaceFrame(track.aligned[index], tokens, payload=index)

        for pairs in generate_alone(chunks, Denoiser(model, options, on_step, preview), frames()):
            for frame, face in pairs:
                generated[frame.payload] = face.numpy()
            if pairs and on_chunk is not None:
                middle = torch.from_numpy(generated[pairs[len(pairs) // 2][0].payload])
                on_chunk(pairs[-1][0].payload + 1, track.num_frames, as_picture(middle))
    if chunks.warning:
        logger.warning(chunks.warning)
    return replace(track, generated=generated, weights=weights.astype(np.float32))


@own_threads()
def restore_faces(
    frames: Iterable[np.ndarray],
    track: FaceTrack,
    restorer: Restorer,
    options: LipSyncOptions,
    *,
    on_frame: Callable[[int], None] | None = None,
) -> tuple[FaceTrack, int]:
    """The sampled track with its faces restored, S' = S * options.sr_ratio px wide, and how many were.

    frames: as for blend_faces; their sharpness is what the faces are given. options: sr_ratio and sr_strength count.
    `on_frame(i)` is called after frame i and may raise to stop. A face that its frame shows no larger than it was
    generated is only resized. Raises as blend_faces does, and CheckpointError for a restorer that makes no picture.
    """
    if track.generated is None or track.generated.shape[-1] != track.resolution:
        raise OptionError(
            "expected generated faces as the sampler gives them: sample them first, and restore them once"
        )
    restoration = FaceRestoration(restorer, track.resolution, replace(options, mask=track.mask), track.blend_mask)
    side = restoration.side
    restored = np.zeros((track.num_frames, 3, side, side), np.float32)
    count, stretch = 0, None
    for index, frame in _checked_frames(frames, track):
        if track.weights[index] > 0:
            if track.stretches[index] != stretch:
                restoration.reset()
                stretch = track.stretches[index]
            face, matrix = torch.from_numpy(track.generated[index])[None], track.matrices[index]
            faces, _, was_restored = restoration.in_frames(face, [as_levels(frame)], [matrix], options.sampling)
            restored[index] = faces[0].numpy()
            count += int(was_restored[0])
        else:
            stretch = None
        if on_frame is not None:
            on_frame(index)
    return replace(track, generated=restored), count


def as_levels(frame: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8, or float32 in [0, 1] -> uint8."""
    return frame if frame.dtype == np.uint8 else np.rint(frame.clip(0, 1) * 255).astype(np.uint8)


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
    if crops is not None:
        crops = torch.as_tensor(crops)
        side = _checked_side(crops, track)
    elif track.generated is None:
        raise OptionError("these faces were not sampled yet, and no crops are given in their place; sample them first")
    else:
        side = track.generated.shape[-1]
    if protect is not None:
        protect = _checked_protect(np.asarray(protect), track)
    paster = FacePaster(track.resolution, options, track.blend_mask, side)
    return _blended(frames, track, paster, crops, protect, options.sampling)


def frame_masks(
    track: FaceTrack, options: LipSyncOptions, *, protect: np.ndarray | torch.Tensor | None = None
) -> np.ndarray:
    """(F, H, W) float32 in [0, 1]: how much of each pixel `blend_faces` takes from the generated faces.

    options, protect: as there. The track need not be sampled yet. Only the faces' surroundings take memory: the rest
    are zeros that nothing is written to. Raises OptionError, FrameCountError as `blend_faces` does.
    """
    if protect is not None:
        protect = _checked_protect(np.asarray(protect), track)
    paster = FacePaster(track.resolution, replace(options, mask=track.mask), track.blend_mask)
    masks = np.zeros((track.num_frames, *track.frame_size), np.float32)
    for index in np.flatnonzero(track.weights > 0):
        contour = track.contours[index]
        contour = contour if paster.follows_landmarks and np.isfinite(contour).all() else None
        region = paster.blender.region(track.frame_size, track.matrices[index], contour)
        share = region.alpha * track.weights[index]
        if protect is not None:
            share *= 1 - protect[index if len(protect) > 1 else 0][region.slices]
        masks[index][region.slices] = share
    return masks


def _blended(frames, track: FaceTrack, paster: FacePaster, crops, protect, sampling) -> Iterator[np.ndarray]:
    for index, frame in _checked_frames(frames, track):
        if track.weights[index] <= 0:
            yield frame
            continue
        if crops is None:
            face = torch.from_numpy(track.generated[index])
        else:
            face = rearrange(crops[index].float().cpu(), "h w c -> c h w") * 2 - 1
        aligned, side = track.aligned[index], face.shape[-1]
        if side != track.resolution:  # what the frame shows at that side, or the frame's detail would be added twice
            matrix = resized_matrix(track.matrices[index], track.resolution, side)
            aligned = warp_faces([as_levels(frame)], matrix[None], side, sampling)[0]
        kept = None if protect is None else protect[index if len(protect) > 1 else 0]
        contour = track.contours[index] if np.isfinite(track.contours[index]).all() else None
        yield paster(
            frame,
            face,
            aligned,
            track.matrices[index],
            kept,
            contour=contour,
            weight=float(track.weights[index]),
        )


def _checked_frames(frames: Iterable[np.ndarray], track: FaceTrack) -> Iterator[tuple[int, np.ndarray]]:
    """The frames with their numbers; raises where they are not those of the track, at once or on the way."""
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
        yield index, frame
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
