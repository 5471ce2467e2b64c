"""LSE-C, LSE-D and the offset of lips and sound by the original SyncNet, with all that it needs.

What it hears, the network, the faces it sees, and the measures.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from scipy.fft import dct
from scipy.signal import medfilt
from torch import Tensor, nn
from torchvision.ops import nms

from ..errors import AudioError, FaceNotFoundError, MediaError
from ..faces.finder import FaceFinder, FaceTracker, overlap
from ..faces.scan import ShotDetector, scan_faces
from ..media.audio_reader import read_audio
from ..media.video_reader import VideoFrame, read_frames
from ..model.weights import load_strictly, read_weights

# Mel-frequency cepstral coefficients as python_speech_features gives them, which the original SyncNet listens to.

SAMPLE_RATE = 16_000
FRAME, STEP = 400, 160  # samples: 25 ms every 10 ms
FFT_SIZE, NUM_FILTERS, NUM_COEFFICIENTS = 512, 26, 13
PRE_EMPHASIS, LIFTER = 0.97, 22


def mfcc(samples: np.ndarray) -> np.ndarray:
    """(T,) samples at 16 kHz -> (N, 13) float64, 100 a second; the first column is the logarithm of the energy.

    samples: int16, or floats in its range (not [-1, 1]: the logarithms would shift). No window; the end is padded with
    zeros to a whole frame. Raises AudioError for no samples.
    """
    if not len(samples):
        raise AudioError("there are no samples; expected some speech")
    signal = np.asarray(samples, np.float64)
    signal = np.append(signal[0], signal[1:] - PRE_EMPHASIS * signal[:-1])
    count = 1 if len(signal) <= FRAME else 1 + -(-(len(signal) - FRAME) // STEP)
    padded = np.zeros((count - 1) * STEP + FRAME)
    padded[: len(signal)] = signal
    frames = np.lib.stride_tricks.sliding_window_view(padded, FRAME)[::STEP]
    power = np.abs(np.fft.rfft(frames, FFT_SIZE)) ** 2 / FFT_SIZE
    energy = _positive(power.sum(1))
    cepstrum = dct(np.log(_positive(power @ _filters().T)), type=2, axis=1, norm="ortho")[:, :NUM_COEFFICIENTS]
    cepstrum = cepstrum * (1 + LIFTER / 2 * np.sin(np.pi * np.arange(NUM_COEFFICIENTS) / LIFTER))
    cepstrum[:, 0] = np.log(energy)
    return cepstrum


def _filters() -> np.ndarray:
    """(26, 257): triangles between 0 and 8 kHz, evenly spaced in mel, their corners at whole bins."""
    highest = 2595 * np.log10(1 + SAMPLE_RATE / 2 / 700)
    hertz = 700 * (10 ** (np.linspace(0, highest, NUM_FILTERS + 2) / 2595) - 1)
    corners = np.floor((FFT_SIZE + 1) * hertz / SAMPLE_RATE)
    bins = np.arange(FFT_SIZE // 2 + 1)
    low, middle, high = (corners[place : place + NUM_FILTERS, None] for place in range(3))
    rising, falling = (bins - low) / (middle - low), (high - bins) / (high - middle)
    return np.where(bins < middle, rising, falling) * ((bins >= low) & (bins < high))


def _positive(values: np.ndarray) -> np.ndarray:
    return np.where(values == 0, np.finfo(float).eps, values)


# The original SyncNet (Chung and Zisserman, 2016), whose distances LSE-C and LSE-D are.
#
# Keys and shapes are those of `syncnet_v2.model`: 102 tensors, 13,631,616 parameters.

FRAMES, MFCC_COLUMNS, SIDE, WIDTH = 5, 20, 224, 1024  # of a window: frames, MFCC columns, px; of an embedding


class SyncNetV2(nn.Module):
    """Embeds five frames of a face, and the fifth of a second of speech beside them, in one space."""

    def __init__(self):
        super().__init__()
        self.netcnnaud = nn.Sequential(
            *_layer2d(1, 64, 3, 1),
            nn.MaxPool2d(1, 1),
            *_layer2d(64, 192, 3, 1),
            nn.MaxPool2d(3, (1, 2)),
            *_layer2d(192, 384, 3, 1),
            *_layer2d(384, 256, 3, 1),
            *_layer2d(256, 256, 3, 1),
            nn.MaxPool2d(3, 2),
            *_layer2d(256, 512, (5, 4), 0),
        )
        self.netcnnlip = nn.Sequential(
            *_layer3d(3, 96, (5, 7, 7), (1, 2, 2), 0),
            nn.MaxPool3d((1, 3, 3), (1, 2, 2)),
            *_layer3d(96, 256, (1, 5, 5), (1, 2, 2), (0, 1, 1)),
            nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1)),
            *_layer3d(256, 256, (1, 3, 3), 1, (0, 1, 1)),
            *_layer3d(256, 256, (1, 3, 3), 1, (0, 1, 1)),
            *_layer3d(256, 256, (1, 3, 3), 1, (0, 1, 1)),
            nn.MaxPool3d((1, 3, 3), (1, 2, 2)),
            *_layer3d(256, 512, (1, 6, 6), 1, 0),
        )
        self.netfcaud, self.netfclip = _head(), _head()

    def embed_audio(self, mfcc: Tensor) -> Tensor:
        """MFCC (B, 1, 13, 20) -> (B, 1024)."""
        return self.netfcaud(self.netcnnaud(mfcc).flatten(1))

    def embed_lips(self, frames: Tensor) -> Tensor:
        """(B, 3, 5, 224, 224) BGR, 0..255 -> (B, 1024)."""
        return self.netfclip(self.netcnnlip(frames).flatten(1))


def _layer2d(inputs: int, outputs: int, kernel, padding: int) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, kernel, padding=padding), nn.BatchNorm2d(outputs), nn.ReLU()]


def _layer3d(inputs: int, outputs: int, kernel, stride, padding) -> list[nn.Module]:
    return [nn.Conv3d(inputs, outputs, kernel, stride, padding), nn.BatchNorm3d(outputs), nn.ReLU()]


def _head() -> nn.Sequential:
    return nn.Sequential(nn.Linear(512, 512), nn.BatchNorm1d(512), nn.ReLU(), nn.Linear(512, WIDTH))


def load_syncnet_v2(path: str | Path, device: torch.device | str = "cpu") -> SyncNetV2:
    """From `syncnet_v2.model`, in eval mode. Raises ModelNotFoundError and CheckpointError's subclasses."""
    return load_strictly(SyncNetV2(), read_weights(path)[0], path, "netcnnlip.0.weight").to(device).eval()


# S3FD, the face detector of the original SyncNet's pipeline (Zhang et al., 2017): `sfd_face.pth`.
#
# VGG16 with six detection layers. Used as the reference does: the picture at a quarter of its size, boxes of
# confidence above 0.9, overlapping ones suppressed twice.

MEAN = (123.0, 117.0, 104.0)  # R, G, B
SCALE, MIN_CONFIDENCE = 0.25, 0.9
INNER_CONFIDENCE, INNER_NMS, TOP, KEPT, OUTER_NMS = 0.05, 0.3, 5000, 750, 0.1
STEPS, SIDES = (4, 8, 16, 32, 64, 128), (16, 32, 64, 128, 256, 512)  # px of the input, of each layer's cells and boxes
VARIANCES = (0.1, 0.2)
VGG = (64, 64, "M", 128, 128, "M", 256, 256, 256, "C", 512, 512, 512, "M", 512, 512, 512, "M")
TAPS = (16, 23, 30)  # of `vgg`: after the ReLUs of conv3_3, conv4_3 and conv5_3
NORMED, EXTRAS = (256, 512, 512), ((1024, 256, 1, 1, 0), (256, 512, 3, 2, 1), (512, 128, 1, 1, 0), (128, 256, 3, 2, 1))


class L2Norm(nn.Module):
    """Scales every place's features to length 1, then each channel by its weight."""

    def __init__(self, channels: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        return x / (x.pow(2).sum(1, keepdim=True).sqrt() + 1e-10) * self.weight[None, :, None, None]


class S3FD(nn.Module):
    """Tensor names are those of the file."""

    def __init__(self):
        super().__init__()
        self.vgg = nn.ModuleList(_vgg())
        self.L2Norm3_3, self.L2Norm4_3, self.L2Norm5_3 = (L2Norm(channels) for channels in NORMED)
        self.extras = nn.ModuleList(nn.Conv2d(i, o, k, s, p) for i, o, k, s, p in EXTRAS)
        widths = (*NORMED, 1024, 512, 256)
        self.loc = nn.ModuleList(nn.Conv2d(width, 4, 3, padding=1) for width in widths)
        # The first layer has three classes of background: its many small boxes are the doubtful ones.
        self.conf = nn.ModuleList(nn.Conv2d(w, 4 if i == 0 else 2, 3, padding=1) for i, w in enumerate(widths))

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """(1, 3, h, w), the mean subtracted -> boxes (N, 4) in the picture's px, confidence (N,) 0..1."""
        features, x = [], pixels
        for place, layer in enumerate(self.vgg, 1):
            x = layer(x)
            if place in TAPS:
                normed = (self.L2Norm3_3, self.L2Norm4_3, self.L2Norm5_3)[len(features)]
                features.append(normed(x))
        features.append(x)
        for place, layer in enumerate(self.extras):
            x = F.relu(layer(x))
            if place % 2:
                features.append(x)
        found = [self._read(layer, x) for layer, x in enumerate(features)]
        return torch.cat([boxes for boxes, _ in found]), torch.cat([confidence for _, confidence in found])

    def _read(self, layer: int, x: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.conf[layer](x)[0]
        if layer == 0:
            logits = torch.cat([logits[:3].amax(0, keepdim=True), logits[3:]])
        confidence = logits.softmax(0)[1].flatten()
        moves = self.loc[layer](x)[0].flatten(1).T  # (N, 4)
        rows, columns = torch.meshgrid(*(torch.arange(n, device=x.device) for n in x.shape[2:]), indexing="ij")
        centres = (torch.stack([columns, rows], -1).flatten(0, 1) + 0.5) * STEPS[layer]
        middle = centres + moves[:, :2] * VARIANCES[0] * SIDES[layer]
        size = SIDES[layer] * torch.exp(moves[:, 2:] * VARIANCES[1])
        return torch.cat([middle - size / 2, middle + size / 2], 1), confidence

    @torch.inference_mode()
    def detect(self, frame: np.ndarray) -> np.ndarray:
        """(H, W, 3) uint8 RGB -> (n, 4) float64 boxes x0 y0 x1 y1 px, most certain first."""
        small = cv2.resize(frame, (0, 0), fx=SCALE, fy=SCALE, interpolation=cv2.INTER_LINEAR).astype(np.float32)
        pixels = torch.from_numpy(small - np.array(MEAN, np.float32)).permute(2, 0, 1)[None]
        boxes, confidence = self(pixels.to(self.conf[0].weight.device))
        kept = confidence > INNER_CONFIDENCE
        boxes, confidence = boxes[kept], confidence[kept]
        order = confidence.argsort(descending=True)[:TOP]
        order = order[nms(boxes[order], confidence[order], INNER_NMS)][:KEPT]
        order = order[confidence[order] > MIN_CONFIDENCE]
        height, width = frame.shape[:2]
        scale = torch.tensor([width / small.shape[1], height / small.shape[0]] * 2, device=boxes.device)
        boxes, confidence = boxes[order] * scale, confidence[order]
        return boxes[nms(boxes, confidence, OUTER_NMS)].double().cpu().numpy()


def _vgg() -> list[nn.Module]:
    layers, channels = [], 3
    for width in VGG:
        if isinstance(width, str):
            layers.append(nn.MaxPool2d(2, 2, ceil_mode=width == "C"))
        else:
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
            channels = width
    return [
        *layers,
        nn.Conv2d(512, 1024, 3, padding=6, dilation=6),
        nn.ReLU(),
        nn.Conv2d(1024, 1024, 1),
        nn.ReLU(),
    ]


def load_s3fd(path: str | Path, device: torch.device | str = "cpu") -> S3FD:
    """From `sfd_face.pth`. Raises ModelNotFoundError and CheckpointError's subclasses."""
    return load_strictly(S3FD(), read_weights(path)[0], path, "L2Norm3_3.weight").to(device).eval()


# Face crops by the rule of the original SyncNet's pipeline, which the reference follows.
#
# Boxes of one shot are joined where they overlap by half and are at most 25 frames apart; what lasts more than 50
# frames and is larger than 100 px is a track. The crop reaches from the top of the box to 0.9 of its side below its
# centre, and 0.7 to both sides of it; it is 224 px, and 110 grey beyond the picture.

MIN_OVERLAP, MAX_GAP = 0.5, 25  # intersection over union; frames
MIN_TRACK, MIN_FACE = 50, 100  # frames, px: a track has more of both
CROP_SCALE, CROP_SIDE, GREY = 0.4, 224, 110
MEDIAN = 13  # frames

DetectBoxes = Callable[[np.ndarray], np.ndarray]
"""(H, W, 3) uint8 RGB -> (n, 4) boxes x0 y0 x1 y1 px, as s3fd.S3FD.detect."""


@dataclass(frozen=True)
class CropTrack:
    """first: frame of the clip; boxes: (n, 4) px, of n consecutive frames."""

    first: int
    boxes: np.ndarray

    def places(self) -> np.ndarray:
        """(n, 3) px: centre x, y and half the side, steadied by a median (whose ends see zeros, as scipy's do)."""
        low, high = self.boxes[:, :2], self.boxes[:, 2:]
        columns = [*((low + high) / 2).T, (high - low).max(1) / 2]
        return np.stack([medfilt(column, MEDIAN) for column in columns], 1)

    def crops(self, frames: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """(224, 224, 3) uint8 of the frames (H, W, 3) of this track, one at a time."""
        for frame, place in zip(frames, self.places(), strict=False):
            yield crop(frame, *place)


def crop(frame: np.ndarray, x: float, y: float, half: float) -> np.ndarray:
    """One face, (224, 224, 3) uint8."""
    pad = int(half * (1 + 2 * CROP_SCALE))
    padded = np.pad(frame, ((pad, pad), (pad, pad), (0, 0)), constant_values=GREY)
    x, y, wide = x + pad, y + pad, half * (1 + CROP_SCALE)
    part = padded[int(y - half) : int(y + half * (1 + 2 * CROP_SCALE)), int(x - wide) : int(x + wide)]
    return cv2.resize(part, (CROP_SIDE, CROP_SIDE))


def boxes_by_tracking(frames: Iterable[VideoFrame], finder: FaceFinder) -> tuple[list[np.ndarray], np.ndarray]:
    """Boxes (n, 4) of each frame around the face mesh's landmarks, and the number of its shot (F,)."""
    clip = scan_faces(frames, finder)
    boxes: list[list[np.ndarray]] = [[] for _ in range(clip.num_frames)]
    for path in clip.paths:
        for row, box in zip(path.rows.tolist(), path.box, strict=True):
            boxes[row].append(box)
    return [np.array(found, np.float64).reshape(-1, 4) for found in boxes], clip.shots


def boxes_by_detection(frames: Iterable[VideoFrame], detect: DetectBoxes) -> tuple[list[np.ndarray], np.ndarray]:
    """The same with a detector that looks at each frame by itself."""
    is_cut, shots, boxes = ShotDetector(), [], []
    for frame in frames:
        shots.append((shots[-1] if shots else 0) + int(bool(is_cut(frame.pixels))))
        boxes.append(detect(frame.pixels))
    return boxes, np.array(shots)


def crop_tracks(
    boxes: Sequence[np.ndarray], shots: np.ndarray, min_track: int = MIN_TRACK, min_face: float = MIN_FACE
) -> list[CropTrack]:
    """The tracks of a clip, in the order of their beginnings; boxes between two sightings are interpolated."""
    left = [list(found) for found in boxes]
    tracks = []
    while True:
        rows, track = _next_track(left, shots)
        if not rows:
            return sorted(tracks, key=lambda track: track.first)
        if len(rows) <= min_track:
            continue
        every = np.arange(rows[0], rows[-1] + 1)
        whole = np.stack([np.interp(every, rows, column) for column in np.array(track).T], 1)
        if (whole[:, 2:] - whole[:, :2]).mean(0).max() > min_face:
            tracks.append(CropTrack(rows[0], whole))


def _next_track(left: list[list[np.ndarray]], shots: np.ndarray) -> tuple[list[int], list[np.ndarray]]:
    """The first box that is left and those that continue it, which are taken out of `left`."""
    rows: list[int] = []
    track: list[np.ndarray] = []
    for row, found in enumerate(left):
        if rows and (row - rows[-1] > MAX_GAP or shots[row] != shots[rows[0]]):
            break
        for place, box in enumerate(found):
            if not rows or overlap(box, track[-1]) > MIN_OVERLAP:
                rows.append(row)
                track.append(found.pop(place))
                break
    return rows, track


# The two measures

FPS = 25
SHIFT = 15  # frames to either side that are tried
BATCH = 20  # windows
SAMPLES_PER_FRAME = SAMPLE_RATE // FPS


@dataclass(frozen=True)
class LipSyncError:
    """How lips and sound go together at every shift.

    distances (N, 31) float32, of N windows of five frames: to the sound 15 frames earlier .. 15 frames later
    """

    distances: np.ndarray

    @property
    def curve(self) -> np.ndarray:
        """(31,), means over the windows."""
        return self.distances.mean(0)

    @property
    def lse_d(self) -> float:
        """The least of the curve: lower is better."""
        return float(self.curve.min())

    @property
    def lse_c(self) -> float:
        """By how much the curve's median is above its least: higher is better."""
        return float(np.median(self.curve) - self.curve.min())

    @property
    def offset(self) -> int:
        """Frames at 25 a second by which the lips come later than the sound."""
        return self.distances.shape[1] // 2 - int(self.curve.argmin())


@torch.inference_mode()
def lip_sync_error(
    network: SyncNetV2, faces: Iterable[np.ndarray], num_faces: int, samples: np.ndarray
) -> LipSyncError:
    """Of one face.

    faces: (224, 224, 3) uint8 RGB crops at 25 a second (`crop_tracks`), one at a time; num_faces: how many there are.
    samples: (T,) int16 at 16 kHz, beginning with the first. Raises MediaError for less than seven frames of both.
    """
    count = min(num_faces, len(samples) // SAMPLES_PER_FRAME) - FRAMES  # the reference's arange(0, n - 5)
    if count < 2:
        raise MediaError(f"{num_faces} frames beside {len(samples) / SAMPLE_RATE:.2f} s of sound; expected 7 frames")
    device = next(network.parameters()).device
    sound = torch.from_numpy(mfcc(samples).T).float()[None]
    windows = torch.stack([sound[:, :, 4 * place : 4 * place + MFCC_COLUMNS] for place in range(count)])
    audio = torch.cat([network.embed_audio(part.to(device)) for part in windows.split(BATCH)]).float().cpu()
    lips = torch.cat([network.embed_lips(part.to(device)) for part in _lip_windows(faces, count)]).float().cpu()
    return LipSyncError(shift_distances(lips, audio).numpy())


def _lip_windows(faces: Iterable[np.ndarray], count: int) -> Iterator[Tensor]:
    """Batches (<= 20, 3, 5, 224, 224) float32 BGR 0..255, `count` windows in all; what they share is held once."""
    coming = iter(faces)
    held = [_as_bgr(face) for face in islice(coming, FRAMES - 1)]
    for first in range(0, count, BATCH):
        length = min(BATCH, count - first)
        held += [_as_bgr(face) for face in islice(coming, length)]
        frames = torch.stack(held, 1).float()  # (3, n, 224, 224)
        yield torch.stack([frames[:, place : place + FRAMES] for place in range(length)])
        held = held[length:]


def _as_bgr(face: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(face[..., ::-1].transpose(2, 0, 1)))


def shift_distances(lips: Tensor, audio: Tensor, shift: int = SHIFT) -> Tensor:
    """(N, D) each -> (N, 2 shift + 1): of the lips at i to the sound at i - shift .. i + shift, zeros beyond its ends.

    As in the reference 1e-6 is added to each difference.
    """
    padded = F.pad(audio, (0, 0, shift, shift))
    return torch.stack([F.pairwise_distance(lips, padded[k : k + len(lips)]) for k in range(2 * shift + 1)], 1)


# LSE-C and LSE-D of a video file.


@dataclass(frozen=True)
class VideoLipSyncError:
    """tracks: of each face and shot; the video's figures are their means, as in the reference."""

    tracks: tuple[LipSyncError, ...]

    @property
    def lse_c(self) -> float:
        return float(np.mean([track.lse_c for track in self.tracks]))

    @property
    def lse_d(self) -> float:
        return float(np.mean([track.lse_d for track in self.tracks]))

    @property
    def offset(self) -> int:
        """Frames at 25 a second by which the lips come later than the sound."""
        return int(np.mean([track.offset for track in self.tracks]))

    def rows(self) -> np.ndarray:
        """(N, 32): the number of the track before each window's distances."""
        parts = [np.insert(track.distances, 0, number, axis=1) for number, track in enumerate(self.tracks)]
        return np.concatenate(parts)


def error_of_rows(rows: np.ndarray) -> VideoLipSyncError:
    """The inverse of `VideoLipSyncError.rows`, for any choice of them."""
    numbers = np.unique(rows[:, 0])
    return VideoLipSyncError(tuple(LipSyncError(rows[rows[:, 0] == number, 1:]) for number in numbers))


def video_lip_sync_error(
    path: str | Path,
    network: SyncNetV2,
    detect: DetectBoxes | None = None,
    audio_path: str | Path | None = None,
    min_track: int = MIN_TRACK,
    min_face: float = MIN_FACE,
) -> VideoLipSyncError:
    """By the reference's recipe, but that frames are not compressed on the way (it writes JPEG twice and MPEG-4).

    detect: S3FD, as the reference; without it boxes are those of the product's tracker. audio_path: in place of the
    video's own sound. Raises FaceNotFoundError where no face lasts more than `min_track` frames at 25 a second and is
    more than `min_face` px large; MediaError, AudioError.
    """
    frames = read_frames(path, fps=FPS)
    boxes, shots = boxes_by_detection(frames, detect) if detect else boxes_by_tracking(frames, FaceTracker())
    tracks = crop_tracks(boxes, shots, min_track, min_face)
    if not tracks:
        raise FaceNotFoundError(
            f"no face in '{path}' lasts more than {min_track} frames at {FPS} a second and is larger than "
            f"{min_face:g} px, which LSE-C and LSE-D are defined for"
        )
    samples = as_int16(read_audio(audio_path or path, sample_rate=SAMPLE_RATE))
    errors = []
    for track in tracks:
        last = track.first + len(track.boxes)
        shown = (frame.pixels for frame in islice(read_frames(path, fps=FPS), track.first, last))
        sound = samples[track.first * SAMPLES_PER_FRAME : last * SAMPLES_PER_FRAME]
        errors.append(lip_sync_error(network, track.crops(shown), len(track.boxes), sound))
    return VideoLipSyncError(tuple(errors))


def as_int16(samples: np.ndarray) -> np.ndarray:
    """Floats in [-1, 1] -> 16-bit samples, as ffmpeg writes them."""
    return np.clip(np.rint(samples * 32768), -32768, 32767).astype(np.int16)
