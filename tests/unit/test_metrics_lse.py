"""LSE-C, LSE-D and their offset: each step against an independent implementation, known shifts found by the whole."""

import cv2
import numpy as np
import pytest
import torch
from python_speech_features import mfcc as their_mfcc
from scipy.signal import medfilt
from torch import nn

from latentsync.errors import (
    AudioError,
    FaceNotFoundError,
    ForeignCheckpointError,
    IncompleteCheckpointError,
    MediaError,
    ModelNotFoundError,
)
from latentsync.media.video_writer import write_wav
from latentsync.metrics.lse import (
    S3FD,
    SAMPLE_RATE,
    CropTrack,
    LipSyncError,
    SyncNetV2,
    as_int16,
    crop_tracks,
    error_of_rows,
    lip_sync_error,
    load_s3fd,
    load_syncnet_v2,
    mfcc,
    shift_distances,
    video_lip_sync_error,
)
from latentsync.metrics.pictures import Measured
from tests.unit.media_clips import write_clip

SAMPLES = SAMPLE_RATE // 25  # of a frame
FRAMES = 70


@pytest.mark.parametrize("length", [1, 399, 400, 401, 16_000, 16_777])
def test_mfcc_is_python_speech_features(length):
    samples = np.random.default_rng(length).integers(-20_000, 20_000, length).astype(np.int16)
    assert mfcc(samples) == pytest.approx(their_mfcc(samples, SAMPLE_RATE), rel=1e-9, abs=1e-9)


def test_mfcc_of_silence_is_finite_and_of_nothing_an_error():
    assert mfcc(np.zeros(800, np.int16)) == pytest.approx(their_mfcc(np.zeros(800, np.int16), SAMPLE_RATE))
    with pytest.raises(AudioError, match="no samples"):
        mfcc(np.zeros(0, np.int16))


@pytest.fixture(scope="module")
def syncnet_file(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "syncnet_v2.model"
    torch.save(SyncNetV2().state_dict(), path)
    return path


def test_syncnet_v2_has_the_published_layout(syncnet_file):
    network = load_syncnet_v2(syncnet_file)
    state = network.state_dict()
    assert len(state) == 102
    assert sum(value.numel() for value in network.parameters()) == 13_631_616
    assert {key.split(".")[0] for key in state} == {"netcnnaud", "netfcaud", "netcnnlip", "netfclip"}
    assert not network.training
    with torch.inference_mode():
        assert network.embed_audio(torch.zeros(2, 1, 13, 20)).shape == (2, 1024)
        assert network.embed_lips(torch.zeros(1, 3, 5, 224, 224)).shape == (1, 1024)


def test_other_files_are_refused(tmp_path, syncnet_file):
    tensors = torch.load(syncnet_file, weights_only=True)
    torch.save({key: value for key, value in tensors.items() if key != "netfclip.0.bias"}, tmp_path / "cut.model")
    with pytest.raises(IncompleteCheckpointError, match=r"netfclip\.0\.bias"):
        load_syncnet_v2(tmp_path / "cut.model")
    torch.save({"x": torch.zeros(1)}, tmp_path / "other.model")
    with pytest.raises(ForeignCheckpointError, match="SyncNetV2"):
        load_syncnet_v2(tmp_path / "other.model")
    with pytest.raises(ForeignCheckpointError, match="S3FD"):
        load_s3fd(syncnet_file)
    with pytest.raises(ModelNotFoundError):
        load_syncnet_v2(tmp_path / "none.model")


def by_loops(lips: np.ndarray, audio: np.ndarray, shift: int) -> np.ndarray:
    """The definition, element by element."""
    out = np.zeros((len(lips), 2 * shift + 1))
    for i in range(len(lips)):
        for k in range(-shift, shift + 1):
            heard = audio[i + k] if 0 <= i + k < len(audio) else np.zeros(audio.shape[1])
            out[i, k + shift] = np.sqrt(((lips[i] - heard + 1e-6) ** 2).sum())
    return out


@pytest.mark.parametrize("shift", [-7, 0, 3, 15])
def test_a_shift_of_embeddings_is_found(shift):
    """Lips that come `shift` frames later than the sound that belongs to them."""
    rng = np.random.default_rng(0)
    heard = rng.normal(0, 1, (100, 8))
    lips = np.roll(heard, shift, axis=0) + rng.normal(0, 0.1, heard.shape)
    distances = shift_distances(*(torch.tensor(one, dtype=torch.float32) for one in (lips, heard))).numpy()
    assert distances == pytest.approx(by_loops(lips, heard, 15), rel=1e-4)
    found = LipSyncError(distances)
    assert found.offset == shift
    curve = distances.mean(0)
    assert found.lse_d == pytest.approx(curve[15 - shift])
    assert found.lse_c == pytest.approx(sorted(curve)[15] - min(curve))


class CodeReader(nn.Module):
    """Stands for SyncNet where the real weights cannot be had: knows the grey level in the middle of the third picture
    and the loudness of the sound then, which a test can make belong together. What it is given is the code under test.
    """

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.given: list[tuple[int, ...]] = []

    def embed_lips(self, frames: torch.Tensor) -> torch.Tensor:
        self.given.append(tuple(frames.shape))
        return self.scale * (frames[:, :, 2, 104:120, 104:120].mean((1, 2, 3))[:, None] / 100)

    def embed_audio(self, windows: torch.Tensor) -> torch.Tensor:
        self.given.append(tuple(windows.shape))
        return self.scale * (windows[:, 0, 0, 8:12].mean(1)[:, None] - 14) / 4  # the third frame's energy


def coded(late: int, frames: int = FRAMES, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Grey levels of frames (F,), and samples whose loudness says the same `late` frames earlier."""
    rng = np.random.default_rng(seed)
    code = rng.random(frames + 40)
    levels = 40 + 160 * code[20 - late : 20 - late + frames]
    loudness = np.exp(np.repeat(code[20 : 20 + frames], SAMPLES) * 5) * 20
    return levels, (loudness * rng.choice([-1.0, 1.0], frames * SAMPLES)).astype(np.int16)


@pytest.mark.parametrize("late", [-6, 0, 4])
def test_pictures_and_sound_are_cut_where_they_belong(late):
    levels, samples = coded(late)
    network = CodeReader()
    faces = (np.full((224, 224, 3), level, np.uint8) for level in levels)
    found = lip_sync_error(network, faces, len(levels), samples)
    assert found.offset == late
    assert found.lse_c > 0.3
    assert found.distances.shape == (FRAMES - 5, 31)
    assert set(network.given) == {(20, 1, 13, 20), (5, 1, 13, 20), (20, 3, 5, 224, 224), (5, 3, 5, 224, 224)}


def test_windows_are_bgr_and_in_order(syncnet_file):
    """With the real network, each window given by itself as the reference builds it."""
    rng = np.random.default_rng(2)
    faces = rng.integers(0, 256, (8, 224, 224, 3), np.uint8)
    samples = rng.integers(-9000, 9000, 8 * SAMPLES).astype(np.int16)
    network = load_syncnet_v2(syncnet_file)
    found = lip_sync_error(network, iter(faces), len(faces), samples).distances
    features = np.array(list(zip(*their_mfcc(samples, SAMPLE_RATE), strict=True)))  # (13, N)
    lips, heard = [], []
    with torch.inference_mode():
        for start in range(3):
            pixels = np.transpose(faces[start : start + 5, :, :, ::-1], (3, 0, 1, 2)).astype(np.float32)
            lips.append(network.embed_lips(torch.from_numpy(pixels)[None])[0].numpy())
            columns = features[:, 4 * start : 4 * start + 20].astype(np.float32)
            heard.append(network.embed_audio(torch.from_numpy(columns)[None, None])[0].numpy())
    assert found == pytest.approx(by_loops(np.array(lips), np.array(heard), 15), rel=1e-4)


def test_too_little_is_told():
    with pytest.raises(MediaError, match="expected 7 frames"):
        lip_sync_error(CodeReader(), iter([]), 6, np.zeros(SAMPLES * 50, np.int16))
    with pytest.raises(MediaError, match=r"0\.20 s of sound"):
        lip_sync_error(CodeReader(), iter([]), 50, np.zeros(SAMPLES * 5, np.int16))


def reference_crops(frames: np.ndarray, boxes: np.ndarray) -> list[np.ndarray]:
    """As the reference's pipeline cuts faces (spec of SyncNet's run_pipeline: crop scale 0.4, median of 13)."""
    sides = medfilt([max(box[3] - box[1], box[2] - box[0]) / 2 for box in boxes], 13)
    ys, xs = (medfilt([(box[k] + box[k + 2]) / 2 for box in boxes], 13) for k in (1, 0))
    out = []
    for frame, s, y, x in zip(frames, sides, ys, xs, strict=True):
        border = int(s * 1.8)
        grey = cv2.copyMakeBorder(frame, *[border] * 4, cv2.BORDER_CONSTANT, value=(110, 110, 110))
        my, mx = y + border, x + border
        part = grey[int(my - s) : int(my + s * 1.8), int(mx - s * 1.4) : int(mx + s * 1.4)]
        out.append(cv2.resize(part, (224, 224)))
    return out


def test_crops_are_the_references():
    rng = np.random.default_rng(3)
    frames = rng.integers(0, 256, (20, 180, 240, 3), np.uint8)
    boxes = np.array([60.0, 50, 130, 140]) + rng.normal(0, 4, (20, 4)) + np.arange(20)[:, None]
    for ours, theirs in zip(CropTrack(0, boxes).crops(frames), reference_crops(frames, boxes), strict=True):
        assert (ours == theirs).all()


def test_tracks_are_joined_split_and_left_out_by_the_rule():
    def box(x: float, side: float = 150.0) -> np.ndarray:
        return np.array([[x, 50, x + side, 50 + side]])

    boxes = [box(10 + 0.5 * i) for i in range(80)]
    boxes[20:40] = [np.zeros((0, 4))] * 20  # a gap, interpolated
    (track,) = crop_tracks(boxes, np.zeros(80))
    assert (track.first, len(track.boxes)) == (0, 80)
    assert track.boxes[:, 0] == pytest.approx(10 + 0.5 * np.arange(80))
    boxes[20:46] = [np.zeros((0, 4))] * 26  # longer than 25 frames: two tracks, both too short
    assert crop_tracks(boxes, np.zeros(80)) == []
    assert [t.first for t in crop_tracks([box(10)] * 120, np.repeat([0, 1], 60))] == [0, 60]  # a cut
    assert crop_tracks([box(10)] * 50, np.zeros(50)) == []  # not more than 50 frames
    assert crop_tracks([box(10, 99)] * 60, np.zeros(60)) == []  # not more than 100 px
    two = [np.concatenate([box(300), box(10)]) for _ in range(60)]
    assert len(crop_tracks(two, np.zeros(60))) == 2


def test_s3fd_detects_on_its_own_maps(blind_s3fd):
    """Six maps at 1/4 to 1/128 of the picture, as boxes and steps assume."""
    with torch.inference_mode():
        boxes, confidence = blind_s3fd(torch.zeros(1, 3, 128, 256))
    assert len(boxes) == len(confidence) == sum((128 // step) * (256 // step) for step in (4, 8, 16, 32, 64, 128))


@pytest.fixture(scope="module")
def clip_of_code(tmp_path_factory):
    """A patch that tells the code as a mouth would, in a still picture, and its sound."""
    folder = tmp_path_factory.mktemp("coded")

    def make(late: int):
        levels, samples = coded(late, 80)
        still = np.random.default_rng(4).integers(60, 180, (30, 40, 3), np.uint8).repeat(8, 0).repeat(8, 1)
        pictures = [still.copy() for _ in levels]
        for picture, level in zip(pictures, levels, strict=True):
            picture[124:164, 140:180] = level
        video, sound = folder / f"{late}.mkv", folder / f"{late}.wav"
        write_clip(video, pictures=pictures, size=(320, 240))
        write_wav(sound, (samples / 32768).astype(np.float32), SAMPLE_RATE)
        return video, sound

    return make


@pytest.mark.parametrize("late", [-3, 0, 5])
def test_a_moved_sound_of_a_video_is_found(clip_of_code, late):
    video, sound = clip_of_code(late)
    found = video_lip_sync_error(video, CodeReader(), lambda frame: np.array([[100.0, 60, 220, 180]]), sound)
    assert found.offset == late
    assert len(found.tracks) >= 1
    again = error_of_rows(found.rows())
    assert (again.lse_c, again.lse_d, again.offset) == (found.lse_c, found.lse_d, late)
    assert Measured(found.rows(), lambda rows: error_of_rows(rows).lse_c).interval() is None  # three blocks of frames


def test_a_video_without_a_long_enough_face_is_told(clip_of_code):
    video, sound = clip_of_code(0)
    with pytest.raises(FaceNotFoundError, match="more than 50 frames"):
        video_lip_sync_error(video, CodeReader(), lambda frame: np.zeros((0, 4)), sound)
    with pytest.raises(FaceNotFoundError, match="200 px"):
        video_lip_sync_error(video, CodeReader(), lambda frame: np.array([[100.0, 60, 220, 180]]), sound, min_face=200)


def test_samples_are_rounded_as_ffmpeg_does():
    assert as_int16(np.array([-1.5, -1, 0, 0.5 / 32768, 1.5 / 32768, 1])).tolist() == [-32768, -32768, 0, 0, 2, 32767]


@pytest.fixture(scope="module")
def blind_s3fd():
    """S3FD that sees one thing in one cell: conf and loc are given by hand, the rest is random."""
    torch.manual_seed(0)
    return S3FD().eval().requires_grad_(False)


def test_s3fd_has_the_published_layout(blind_s3fd, tmp_path):
    state = blind_s3fd.state_dict()
    assert len(state) == 65
    assert state["vgg.0.weight"].shape == (64, 3, 3, 3)
    assert state["vgg.31.weight"].shape == (1024, 512, 3, 3)  # fc6
    assert state["conf.0.weight"].shape == (4, 256, 3, 3)
    torch.save(state, tmp_path / "sfd_face.pth")
    assert load_s3fd(tmp_path / "sfd_face.pth").conf[5].weight.shape == (2, 256, 3, 3)


def test_s3fd_boxes_by_hand(blind_s3fd):
    """Of the second layer: cells of 8 px, boxes of 32 px, moved by 0.1 and scaled by exp(0.2) a unit."""
    features = torch.zeros(1, 512, 3, 4)
    blind_s3fd.loc[1].weight.zero_()
    blind_s3fd.loc[1].bias.copy_(torch.tensor([1.0, 0, 0, 2.0]))
    blind_s3fd.conf[1].weight.zero_()
    blind_s3fd.conf[1].bias.copy_(torch.tensor([0.0, np.log(9.0)]))
    boxes, confidence = blind_s3fd._read(1, features)
    x, y, width, height = 8 * 1.5 + 0.1 * 32, 8 * 2.5, 32, 32 * np.exp(0.4)  # of row 2, column 1
    expected = [x - width / 2, y - height / 2, x + width / 2, y + height / 2]
    assert boxes[2 * 4 + 1].tolist() == pytest.approx(expected, rel=1e-5)
    assert confidence.tolist() == pytest.approx([0.9] * 12)


def test_s3fd_keeps_the_surest_of_overlapping_boxes(blind_s3fd, monkeypatch):
    """Boxes of the quartered picture come back in the frame's px; doubtful and overlapping ones go."""
    found = torch.tensor([[10.0, 10, 30, 30], [11, 10, 31, 30], [60, 40, 80, 70], [0, 60, 20, 80]])
    sure = torch.tensor([0.95, 0.99, 0.93, 0.89])
    seen = []

    def forward(pixels):
        seen.append(pixels)
        return found, sure

    monkeypatch.setattr(blind_s3fd, "forward", forward)
    frame = np.full((320, 400, 3), (123, 117, 104), np.uint8)
    assert blind_s3fd.detect(frame).tolist() == [[44, 40, 124, 120], [240, 160, 320, 280]]
    assert seen[0].shape == (1, 3, 80, 100)
    assert seen[0].abs().max() == 0
