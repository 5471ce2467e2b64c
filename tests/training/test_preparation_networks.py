"""The reference's own models in the preparation: hyperIQA, the original SyncNet, S3FD, InsightFace.

Their files cannot be had here, so their arithmetic is tested on random weights under the published names and shapes.
"""

from dataclasses import asdict, replace

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torchvision.models.feature_extraction import create_feature_extractor
from torchvision.models.resnet import Bottleneck, ResNet

from latentsync.errors import IncompleteCheckpointError, OptionError
from latentsync.faces.finder import FaceTracker
from latentsync.faces.insightface import InsightFaceDetector
from latentsync.media.video_reader import read_frames
from latentsync.metrics.lse import (
    S3FD,
    SyncNetV2,
    as_int16,
    boxes_by_tracking,
    crop_tracks,
    lip_sync_error,
    load_syncnet_v2,
)
from latentsync.sync.syncnet import StableSyncNet, save_syncnet
from tests.unit.test_onnx_faces import detection_model, landmark_model
from training_scripts.preparation import cutting, quality, syncing
from training_scripts.preparation.hyper_iqa import MEAN, STD, HyperIQA, load_hyper_iqa
from training_scripts.prepare_data import check_models

from .prepared_stores import short_settings


@pytest.fixture(scope="module")
def hyperiqa_file(tmp_path_factory):
    torch.set_num_threads(1)
    torch.manual_seed(2)
    network = HyperIQA()
    for layer in range(1, 5):  # else the sigmoids are saturated and the score tells nothing
        getattr(network, f"fc{layer}w_conv").weight.data *= 0.2
    path = tmp_path_factory.mktemp("iqa") / "koniq_pretrained.pkl"
    torch.save(network.state_dict(), path)
    return path


@pytest.fixture
def settings(few_videos, few_store):
    return short_settings(few_videos, few_store)


@pytest.fixture
def segment(few_store):
    """The longest cut piece of the store, as stages get it."""
    folder = max((few_store / "work" / "segments").iterdir(), key=lambda path: len(np.load(path / "sound.npy")))
    count = len(np.load(folder / "sound.npy")) // 640 - 2 * cutting.SPARE_FRAMES
    return {"name": folder.name, "source": "speaker.mp4", "folder": str(folder), "num_frames": count, "openings": []}


def pictures(count=3, side=224):
    rng = np.random.default_rng(5)
    return [cv2.resize(rng.integers(0, 256, (14, 14, 3), np.uint8), (side, side)) for _ in range(count)]


def test_hyperiqa_is_the_published_network(hyperiqa_file):
    """Against its definition put together anew: torchvision's ResNet-50 tapped by name, and for each picture a network
    of its own, whose weights the layers give, by grouped convolutions."""
    tensors = torch.load(hyperiqa_file, weights_only=True)
    network = load_hyper_iqa(hyperiqa_file)
    assert sum(parameter.numel() for parameter in network.parameters()) == 27_375_369
    faces = pictures()
    pixels = torch.from_numpy(np.stack(faces)).permute(0, 3, 1, 2) / 255.0
    pixels = ((pixels - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]).float()
    trunk = ResNet(Bottleneck, [3, 4, 6, 3]).eval()
    own = {key[4:]: value for key, value in tensors.items() if key.startswith("res.") and "lda" not in key}
    trunk.load_state_dict(own, strict=False)  # without its classifier
    with torch.no_grad():
        depths = create_feature_extractor(trunk, [f"layer{i}" for i in range(1, 5)])(pixels)
        seen = []
        for i, x in enumerate(depths.values(), 1):
            if i < 4:
                x = F.conv2d(x, tensors[f"res.lda{i}_pool.0.weight"])
            x = F.avg_pool2d(x, 7, 7).flatten(1)
            seen.append(F.linear(x, tensors[f"res.lda{i}_fc.weight"], tensors[f"res.lda{i}_fc.bias"]))
        x = torch.cat(seen, 1).reshape(1, -1, 1, 1)
        h = depths["layer4"]
        for i in (0, 2, 4):
            h = F.relu(F.conv2d(h, tensors[f"conv1.{i}.weight"], tensors[f"conv1.{i}.bias"]))
        pooled = F.adaptive_avg_pool2d(h, 1).flatten(1)
        for i, out in enumerate((112, 56, 28, 14), 1):
            made = F.conv2d(h, tensors[f"fc{i}w_conv.weight"], tensors[f"fc{i}w_conv.bias"], padding=1)
            bias = F.linear(pooled, tensors[f"fc{i}b_fc.weight"], tensors[f"fc{i}b_fc.bias"])
            x = torch.sigmoid(F.conv2d(x, made.reshape(3 * out, -1, 1, 1), bias.reshape(-1), groups=3))
        made = F.linear(pooled, tensors["fc5w_fc.weight"], tensors["fc5w_fc.bias"])
        bias = F.linear(pooled, tensors["fc5b_fc.weight"], tensors["fc5b_fc.bias"])
        expected = F.conv2d(x, made.reshape(3, 14, 1, 1), bias.reshape(-1), groups=3).flatten()
        found = network(pixels)
    assert expected.std() > 1e-4  # they differ
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_hyperiqa_looks_at_the_middle_of_a_face_of_256_px(hyperiqa_file):
    network = load_hyper_iqa(hyperiqa_file)
    [face] = pictures(1, 256)
    changed = face.copy()
    changed[:16] = changed[-16:] = changed[:, :16] = changed[:, -16:] = 0  # outside the middle 224
    assert network.score([face]) == network.score([changed])
    large = cv2.resize(face, (512, 512), interpolation=cv2.INTER_NEAREST)
    assert network.score([large]) == pytest.approx(network.score([face]), abs=1e-3)


def test_quality_by_hyperiqa_is_recorded_and_filters(hyperiqa_file, settings, segment, tmp_path):
    settings = replace(settings, hyperiqa=hyperiqa_file, output=tmp_path)
    item = quality.quality_item(segment, settings)
    frames = [frame.pixels for frame in read_frames(f"{segment['folder']}/video.mp4")]
    expected = quality.hyper_iqa(hyperiqa_file).score([frames[0], frames[len(frames) // 2], frames[-1]])
    found = quality.quality(item, settings)
    assert found == {"iqa": pytest.approx(expected, abs=0.01)}
    assert quality.quality(item, settings) == found
    good = {"face_side": 200.0, "sharpness": 0.5, **found}
    assert quality.poor_quality(good, replace(settings, min_iqa=expected - 1)) is None
    reason = quality.poor_quality(good, replace(settings, min_iqa=expected + 1))
    assert reason.startswith("poor picture: hyperIQA ")


def test_the_original_syncnet_judges_the_aligned_face(settings, segment, tmp_path):
    torch.set_num_threads(1)
    torch.manual_seed(3)
    path = tmp_path / "syncnet_v2.model"
    torch.save(SyncNetV2().state_dict(), path)
    settings = replace(settings, sync="syncnet_v2", syncnet=path, output=tmp_path)
    found = syncing.sync(syncing.sync_item(segment, settings), settings)

    frames = list(read_frames(f"{segment['folder']}/video.mp4"))
    [track] = crop_tracks(*boxes_by_tracking(frames, FaceTracker()), len(frames) // 2, 0)
    sound = np.load(f"{segment['folder']}/sound.npy")[cutting.SPARE_FRAMES * 640 :][: len(frames) * 640]
    faces = track.crops([frame.pixels for frame in frames[track.first :]])
    samples = as_int16(sound.astype(np.float32) / 32767)[track.first * 640 :]
    expected = lip_sync_error(load_syncnet_v2(path), faces, len(track.boxes), samples)
    assert found["offset"] == expected.offset
    assert found["confidence"] == pytest.approx(expected.lse_c, abs=0.02)


def test_without_a_face_for_s3fd_a_piece_is_rejected(settings, segment, tmp_path):
    torch.manual_seed(4)
    network, detector = tmp_path / "syncnet_v2.model", tmp_path / "sfd_face.pth"
    torch.save(SyncNetV2().state_dict(), network)
    torch.save(S3FD().state_dict(), detector)  # which finds nothing by random weights
    settings = replace(settings, sync="syncnet_v2", syncnet=network, s3fd=detector, output=tmp_path)
    found = syncing.sync(syncing.sync_item(segment, settings), settings)
    assert "lasts more than" in found["rejected"]
    assert syncing.poor_sync(found, settings) == found["rejected"]


def test_insightface_finds_the_faces_where_its_files_are_given(settings, tmp_path):
    det, landmarks = tmp_path / "det_10g.onnx", tmp_path / "2d106det.onnx"
    detection_model(det)
    landmark_model(landmarks)
    assert isinstance(cutting.face_detector(det, landmarks), InsightFaceDetector)
    given = replace(settings, det_model=det, landmark_model=landmarks)
    assert given.cut_hash != settings.cut_hash  # nothing that the product's tracker cut is taken
    with pytest.raises(OptionError, match="needs the mouth's opening"):
        replace(given, sync="loudness")


def test_wrong_files_are_refused_before_the_work(settings, hyperiqa_file, tmp_path):
    tensors = torch.load(hyperiqa_file, weights_only=True)
    del tensors["fc5b_fc.bias"]
    short = tmp_path / "koniq_pretrained.pkl"
    torch.save(tensors, short)
    with pytest.raises(IncompleteCheckpointError, match=r"1 tensors are missing.*fc5b_fc\.bias"):
        check_models(replace(settings, hyperiqa=short))
    latent, factors = syncing.stable_syncnet(settings.syncnet).config, ((1, 2), 2, 2, 2, 1)
    latent = replace(latent, latent=True, visual=replace(latent.visual, in_channels=64, downsample_factors=factors))
    save_syncnet(StableSyncNet(latent), tmp_path / "latent.safetensors")
    with pytest.raises(OptionError, match="looks at latents"):
        check_models(replace(settings, syncnet=tmp_path / "latent.safetensors"))


@pytest.mark.parametrize(
    ("measured", "reason"),
    [
        ({"offset": 6, "confidence": 0.07}, None),
        ({"offset": -6, "confidence": None}, None),  # of --sync off
        ({"offset": 0, "confidence": 0.05}, "lips and sound do not go together: confidence 0.050, expected 0.06"),
        ({"offset": 7, "confidence": 0.5}, "lips and sound lie +7 frames apart; expected 6 at most"),
        ({"rejected": "silence"}, "silence"),
    ],
)
def test_reasons_of_the_sync_filter(settings, measured, reason):
    assert syncing.poor_sync(measured, settings) == reason


def test_settings_travel_as_json(settings, hyperiqa_file):
    given = replace(settings, hyperiqa=hyperiqa_file)
    assert type(given).from_dict(given.as_dict()) == given
    assert all(value is None or isinstance(value, str | int | float) for value in given.as_dict().values())
    assert set(given.as_dict()) == set(asdict(given))
