"""PSNR, SSIM, LPIPS, FID, FVD: against independent implementations, and in the right direction."""

from itertools import pairwise

import cv2
import numpy as np
import pytest
import torch

from latentsync.errors import DamagedCheckpointError, ForeignCheckpointError, ModelNotFoundError, OptionError
from latentsync.metrics.clip_pair import PairFrame
from latentsync.metrics.lse import SyncNetV2
from latentsync.metrics.picture_networks import FIDInception, load_i3d, load_inception
from latentsync.metrics.pictures import (
    FID,
    FVD,
    LPIPS,
    PSNR,
    SSIM,
    FeatureCloud,
    frechet_distance,
    psnr_of,
    squared_error,
    ssim,
)
from latentsync.model_files import INCEPTION, VARIABLE, find_network, weight_folders

RNG = np.random.default_rng(0)


def cloud_of(features: np.ndarray) -> FeatureCloud:
    cloud = FeatureCloud(features.shape[1])
    cloud.add(features)
    return cloud


@pytest.fixture(scope="module")
def pictures(avatar) -> tuple[np.ndarray, np.ndarray]:
    """Of another frame, and blurred: two pictures that differ in structure too."""
    frame = avatar.frame(0, 96, 80)
    noisy = np.clip(cv2.GaussianBlur(avatar.frame(3, 96, 80), (0, 0), 1) + RNG.normal(0, 8, frame.shape), 0, 255)
    return frame, noisy.astype(np.uint8)


def pair(output: np.ndarray, reference: np.ndarray, restart: bool = False) -> PairFrame:
    nothing = dict.fromkeys(("landmarks", "true_landmarks", "points", "true_points", "placed"))
    return PairFrame(output, reference, output, reference, **nothing, restart=restart)


def measured(measure, outputs, references):
    for index, (output, reference) in enumerate(zip(outputs, references, strict=True)):
        measure.add(pair(output, reference, restart=index == 0))
    return measure.result()


def test_psnr_is_torchmetrics_and_scikit_images(pictures):
    from skimage.metrics import peak_signal_noise_ratio
    from torchmetrics.functional.image import peak_signal_noise_ratio as of_torchmetrics

    ours = psnr_of(squared_error(*pictures))
    assert ours == pytest.approx(peak_signal_noise_ratio(pictures[1], pictures[0]), abs=1e-9)
    tensors = [torch.from_numpy(one.astype(np.float64)) for one in pictures]
    assert ours == pytest.approx(float(of_torchmetrics(*tensors, data_range=255.0)), abs=1e-5)


def test_ssim_is_torchmetrics_and_scikit_images(pictures):
    from skimage.metrics import structural_similarity
    from torchmetrics.functional.image import structural_similarity_index_measure

    settings = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "truncate": 3.5}
    of_scikit = structural_similarity(*pictures, channel_axis=2, data_range=255, **settings)
    assert ssim(*pictures) == pytest.approx(of_scikit, abs=1e-9)
    tensors = [torch.from_numpy(one.astype(np.float64)).permute(2, 0, 1)[None] for one in pictures]
    _, everywhere = structural_similarity_index_measure(*tensors, data_range=255.0, return_full_image=True)
    assert ssim(*pictures) == pytest.approx(float(everywhere[..., 5:-5, 5:-5].mean()), abs=1e-9)


def test_they_say_what_they_cannot_compare():
    with pytest.raises(OptionError, match="of one shape"):
        squared_error(np.zeros((8, 8, 3), np.uint8), np.zeros((8, 9, 3), np.uint8))
    with pytest.raises(OptionError, match="11 x 11"):
        ssim(np.zeros((8, 20, 3), np.uint8), np.zeros((8, 20, 3), np.uint8))


@pytest.mark.parametrize("kind", ["noise", "blur"])
def test_more_damage_scores_worse(avatar_frames, kind):
    frames, scores, rng = avatar_frames[:3], {"psnr": [], "ssim": []}, np.random.default_rng(1)
    for amount in (0, 1, 3, 8):
        damaged = [cv2.GaussianBlur(frame, (0, 0), amount) if amount else frame for frame in frames]
        if kind == "noise":
            damaged = [np.clip(f + rng.normal(0, 2 * amount, f.shape), 0, 255).astype("u1") for f in frames]
        scores["psnr"].append(measured(PSNR("face"), damaged, frames).score)
        scores["ssim"].append(measured(SSIM("frame"), damaged, frames).score)
    for values in scores.values():
        assert all(before > after for before, after in pairwise(values)), values


def test_psnr_is_of_the_mean_error_and_has_an_interval():
    rng = np.random.default_rng(2)
    truth = rng.integers(40, 200, (150, 16, 16, 3), np.uint8)
    found = measured(PSNR("face"), truth + rng.integers(0, 9, truth.shape, np.uint8), truth)
    assert found.score == pytest.approx(psnr_of(np.mean(np.arange(9) ** 2.0)), abs=0.1)
    low, high = found.interval()
    assert low < found.score < high
    assert high - low < 0.2


def test_frechet_distance_is_torchmetrics():
    from torchmetrics.image.fid import _compute_fid

    rng = np.random.default_rng(3)
    first, second = rng.normal(0, 1, (200, 12)), rng.normal(0.3, 1.5, (150, 12)) @ rng.normal(0, 1, (12, 12))
    moments = [(torch.tensor(x.mean(0)), torch.tensor(np.cov(x.T))) for x in (first, second)]
    of_torchmetrics = float(_compute_fid(*moments[0], *moments[1]))
    assert frechet_distance(cloud_of(first), cloud_of(second)) == pytest.approx(of_torchmetrics, rel=1e-9)


def test_frechet_distance_of_one_dimension_by_hand():
    """(m1 - m2)^2 + (s1 - s2)^2"""
    first, second = np.array([[0.0], [2.0]]), np.array([[3.0], [9.0]])
    expected = (1 - 6) ** 2 + (np.sqrt(2) - np.sqrt(18)) ** 2
    assert frechet_distance(cloud_of(first), cloud_of(second)) == pytest.approx(expected)
    assert frechet_distance(cloud_of(first), cloud_of(first)) == pytest.approx(0, abs=1e-12)


def test_fewer_vectors_than_dimensions_are_no_obstacle():
    """The root of the product by scipy, which has complex noise here, comes to the same."""
    from scipy.linalg import sqrtm

    rng = np.random.default_rng(4)
    first, second = (cloud_of(rng.normal(mean, 1, (6, 20))) for mean in (0, 0.5))
    root = sqrtm(first.covariance @ second.covariance + 1e-14 * np.eye(20))
    expected = ((first.mean - second.mean) ** 2).sum()
    expected += np.trace(first.covariance + second.covariance) - 2 * np.trace(np.real(root))
    assert frechet_distance(first, second) == pytest.approx(float(expected), rel=1e-4)


def test_clouds_add_up():
    features = np.random.default_rng(5).normal(0, 1, (40, 6))
    parts = cloud_of(features[:15]) + cloud_of(features[15:])
    assert parts.covariance == pytest.approx(np.cov(features.T))
    with pytest.raises(OptionError, match="two of each"):
        frechet_distance(parts, FeatureCloud(6))


@pytest.fixture(scope="module")
def inception_file(tmp_path_factory):
    """Random weights under the published names: 566 tensors."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / INCEPTION.names[0]
    tensors = {key: value for key, value in FIDInception().state_dict().items() if "num_batches" not in key}
    torch.save(tensors, path)
    return path


def test_inception_has_the_published_layout(inception_file):
    network = load_inception(inception_file)
    state = network.state_dict()
    assert len(state) == 566
    assert sum(value.numel() for value in network.parameters()) == 23_850_960
    assert state["fc.weight"].shape == (1008, 2048)
    with torch.inference_mode():
        features = network(torch.rand(2, 3, 40, 60))
    assert features.shape == (2, 2048)


def test_inception_is_torch_fidelitys(inception_file):
    """Not among the tests' packages: its wheel installs a package `tests`, which would hide this one."""
    fidelity = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
    theirs = fidelity.FeatureExtractorInceptionV3("x", ["2048"], feature_extractor_weights_path=str(inception_file))
    pixels = torch.randint(0, 256, (1, 3, 299, 299), dtype=torch.uint8)  # of that size nothing is resized
    with torch.inference_mode():
        assert torch.allclose(theirs(pixels)[0], load_inception(inception_file)(pixels / 255), atol=1e-6)


def test_fid_of_equal_pictures_is_nought_and_grows_with_damage(avatar_frames):
    """On the pictures' own cells as features, so that the distance is known to be that of the clouds."""
    cells, frames = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(2), torch.nn.Flatten()), avatar_frames[:10]
    darker = [[(frame * share).astype(np.uint8) for frame in frames] for share in (1, 0.9, 0.6)]
    found = [measured(FID(cells, "face", width=12), outputs, frames) for outputs in darker]
    assert found[0].score == pytest.approx(0, abs=1e-9)
    assert found[0].score < found[1].score < found[2].score
    assert found[2].interval() is None
    features = [np.stack(one).reshape(10, 2, 96, 2, 96, 3).mean((2, 4)) / 255 for one in (darker[2], frames)]
    clouds = [cloud_of(one.transpose(0, 3, 1, 2).reshape(10, 12)) for one in features]
    assert found[2].score == pytest.approx(frechet_distance(*clouds), rel=1e-4)


class MeanAndMotion(torch.nn.Module):
    """Stands for I3D's program: the same call, features that can be computed by hand."""

    def forward(self, x: torch.Tensor, rescale: bool, resize: bool, return_features: bool) -> torch.Tensor:
        assert not rescale
        assert not resize
        assert return_features
        return torch.cat([x.mean((2, 3, 4)), (x[:, :, 1:] - x[:, :, :-1]).abs().mean((2, 3, 4))], 1)


@pytest.fixture(scope="module")
def i3d_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("i3d") / "i3d_torchscript.pt"
    torch.jit.script(MeanAndMotion()).save(str(path))
    return path


def test_i3d_is_given_the_range_it_was_trained_for(i3d_file):
    clips = np.full((1, 16, 30, 50, 3), 255, np.uint8)
    assert load_i3d(i3d_file)(clips)[0, :3] == pytest.approx(1)
    assert load_i3d(i3d_file)(0 * clips)[0, :3] == pytest.approx(-1)
    assert load_i3d(i3d_file, reference=True)(0 * clips)[0, :3] == pytest.approx(0)


def test_fvd_is_of_unbroken_runs_of_sixteen_frames(i3d_file):
    rng = np.random.default_rng(6)
    clip = rng.integers(0, 256, (70, 8, 8, 3), np.uint8)
    measure = FVD(load_i3d(i3d_file), "face", width=6)
    for index, frame in enumerate(clip):
        measure.add(pair(frame, frame, restart=index in (0, 20)))
    found = measure.result()
    assert found.output.count == 1 + 3  # 0..15 and, after the cut, 20..67
    assert found.score == pytest.approx(0, abs=1e-9)
    only = FVD(load_i3d(i3d_file, reference=True), "frame", reference=True, width=6)
    assert measured(only, clip, clip).output.mean[:3] == pytest.approx(clip[20:36].mean((0, 1, 2)) / 255, abs=1e-4)


def test_fvd_sees_a_video_that_stands_still(i3d_file):
    clip = np.random.default_rng(7).integers(0, 256, (64, 8, 8, 3), np.uint8)
    still = np.repeat(clip[::16], 16, axis=0)
    assert measured(FVD(load_i3d(i3d_file), "face", width=6), still, clip).score > 0.1


def test_lpips_is_the_packages(tmp_path, avatar_frames):
    """On random weights of VGG16, which is not to be had here."""
    import lpips
    import torchvision

    from latentsync.metrics.picture_networks import load_lpips

    torch.manual_seed(1)
    vgg = torchvision.models.vgg16(weights=None)
    torch.save(vgg.state_dict(), tmp_path / "vgg16-397923af.pth")
    network = load_lpips(tmp_path / "vgg16-397923af.pth")
    theirs = lpips.LPIPS(net="vgg", pnet_rand=True, verbose=False)
    theirs.load_state_dict({**theirs.state_dict(), **network.state_dict()})
    first, second = (cv2.resize(avatar_frames[index], (64, 64)) for index in (0, 6))
    tensors = [torch.from_numpy(one).permute(2, 0, 1)[None].float() / 127.5 - 1 for one in (first, second)]
    with torch.inference_mode():
        expected = float(theirs.eval()(*tensors))
    found = measured(LPIPS(network, "face"), [first, first], [second, first])
    assert found.values == pytest.approx([expected, 0], abs=1e-6)


def test_networks_are_found_in_the_folders_named_and_nowhere_else(tmp_path, monkeypatch):
    name = INCEPTION.names[1]
    monkeypatch.setenv(VARIABLE, str(tmp_path / "named"))
    folders = weight_folders([tmp_path / "given"], tmp_path / "checkpoints")
    with pytest.raises(ModelNotFoundError, match=r"pytorch-fid.*nothing is downloaded") as refused:
        find_network(INCEPTION, folders)
    assert name in str(refused.value)
    assert str(tmp_path / "given") in str(refused.value)
    for folder in ("checkpoints/auxiliary", "named", "given"):  # the later goes before
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / name).touch()
        assert find_network(INCEPTION, folders) == tmp_path / folder / name


def test_other_files_are_refused(tmp_path):
    torch.save(SyncNetV2().state_dict(), tmp_path / "other.pth")
    with pytest.raises(ForeignCheckpointError, match="FIDInception"):
        load_inception(tmp_path / "other.pth")
    (tmp_path / "i3d_torchscript.pt").write_bytes(b"no program")
    with pytest.raises(DamagedCheckpointError, match="TorchScript"):
        load_i3d(tmp_path / "i3d_torchscript.pt")
    with pytest.raises(ModelNotFoundError):
        load_i3d(tmp_path / "none.pt")
