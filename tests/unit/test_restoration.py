"""Restoration over time: where it works, how steady it is, and how sharp."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from latentsync.faces.align import fit_matrices, frame_pixels_per_crop_pixel, resized_matrix, warp_faces
from latentsync.faces.blend import FaceBlender
from latentsync.faces.finder import FaceTracker
from latentsync.model.masks import generation_mask
from latentsync.model.vae import to_pixels
from latentsync.options import LipSyncOptions
from latentsync.restoration.restore import FaceRestoration, SharpnessMatch, SteadyDetail, kept_grain
from latentsync.restoration.restorers import Restorer
from latentsync.run.stages import blend_faces, prepare_faces
from latentsync.synthetic.clips import AvatarClip

SIDE, RATIO = 128, 2
CLIP = AvatarClip(identity_seed=1_000_000, speech_seed=2_000_000, duration=1.0)


def drawn(count: int, side: int, motion: float = 1.0) -> torch.Tensor:
    """(F, 3, side, side) about [-1, 1]: an avatar that speaks, its face filling the square."""
    view = np.array([[0.6 / side, 0, 0.2], [0, 0.6 / side, 0.2]])
    frames = np.stack([CLIP.view(int(i * motion), view, side, side) for i in range(count)])
    return torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 127.5 - 1


def soft(pictures: torch.Tensor, side: int = SIDE) -> torch.Tensor:
    return F.interpolate(F.interpolate(pictures, (side // 2, side // 2), mode="area"), (side, side), mode="bicubic")


def as_sources(pictures: torch.Tensor) -> np.ndarray:
    return ((pictures.permute(0, 2, 3, 1) + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).numpy()


def sharpening(strength: float = 1.0, noise: float = 0.0, seed: int = 0) -> Restorer:
    """Doubles the side, sharpens, and invents other detail in every call, as a network does on other inputs."""
    generator = torch.Generator().manual_seed(seed)

    def network(pixels):
        large = F.interpolate(pixels, scale_factor=2, mode="bicubic")
        fine = large - F.avg_pool2d(large, 5, 1, 2)
        return large + strength * fine + noise * torch.randn(large.shape, generator=generator)

    return Restorer("sharpening", network)


def restoration(restorer: Restorer, strength: float = 1.0, **settings) -> FaceRestoration:
    return FaceRestoration(restorer, SIDE, LipSyncOptions(sr_ratio=RATIO, sr_strength=strength), **settings)


def enlarged(faces: torch.Tensor) -> torch.Tensor:
    return F.interpolate(faces, (SIDE * RATIO,) * 2, mode="bicubic", antialias=True)


def flicker(pictures: torch.Tensor) -> float:
    return pictures.diff(dim=0).abs().mean().item()


def test_only_the_generated_region_is_restored():
    truth = drawn(3, SIDE * RATIO)
    faces = soft(F.interpolate(truth, (SIDE, SIDE), mode="area"))
    restored, helped = restoration(sharpening())(faces, as_sources(truth), np.full(3, 2.0))
    assert restored.shape == (3, 3, SIDE * RATIO, SIDE * RATIO)
    assert (restored.dtype, helped.tolist()) == (torch.float32, [True] * 3)
    hole = generation_mask(SIDE * RATIO) < 0.5
    change = (restored - enlarged(faces)).abs()
    far = F.max_pool2d(hole.float()[None, None], 31, 1, 15)[0, 0] == 0
    assert change[..., far].max() == 0
    assert change[..., hole].mean() > 0.005


def test_a_face_not_larger_in_the_frame_is_only_enlarged():
    truth = drawn(4, SIDE * RATIO)
    faces = soft(F.interpolate(truth, (SIDE, SIDE), mode="area"))
    calls = []
    restorer = sharpening()
    counting = Restorer("counting", lambda x: calls.append(len(x)) or restorer.network(x))
    restored, helped = restoration(counting)(faces, as_sources(truth), np.array([2.0, 1.0, 0.5, 1.5]))
    assert helped.tolist() == [True, False, False, True]
    assert torch.equal(restored[1:3], enlarged(faces)[1:3])
    assert not torch.equal(restored[3], enlarged(faces)[3])
    assert sum(calls) == 2
    none, helped = restoration(counting)(faces, as_sources(truth), np.full(4, 1.0))
    assert not helped.any()
    assert torch.equal(none, enlarged(faces))
    assert sum(calls) == 2  # the network was not asked


def test_strength_is_a_share_of_the_change():
    truth = drawn(2, SIDE * RATIO)
    faces = soft(F.interpolate(truth, (SIDE, SIDE), mode="area"))
    none, half, whole = (
        restoration(sharpening(), strength)(faces, as_sources(truth), np.full(2, 2.0)) for strength in (0.0, 0.5, 1.0)
    )
    assert not none[1].any()
    assert torch.equal(none[0], enlarged(faces))
    assert torch.allclose(half[0], (none[0] + whole[0]) / 2, atol=1e-5)


def test_the_broad_colours_stay_the_generated_ones():
    truth = drawn(1, SIDE * RATIO)
    faces = soft(F.interpolate(truth, (SIDE, SIDE), mode="area"))
    tinted = Restorer("tinted", lambda x: F.interpolate(x, scale_factor=2, mode="bicubic").clamp(0, 1) * 0.6 + 0.3)
    restored, _ = restoration(tinted, matched=False)(faces, as_sources(truth), np.full(1, 2.0))
    difference = F.avg_pool2d(restored - enlarged(faces), 32).abs()
    assert difference.max() < 0.04  # the tint alone is 0.2 where a face is dark


def test_calls_may_be_cut_anywhere():
    truth = drawn(7, SIDE * RATIO)
    faces = soft(F.interpolate(truth, (SIDE, SIDE), mode="area"))
    sources, scales = as_sources(truth), np.full(7, 2.0)
    whole, _ = restoration(sharpening())(faces, sources, scales)
    cut = restoration(sharpening())
    parts = [cut(faces[a:b], sources[a:b], scales[a:b])[0] for a, b in ((0, 1), (1, 5), (5, 7))]
    assert torch.allclose(torch.cat(parts), whole, atol=1e-5)
    afresh = restoration(sharpening())
    afresh(faces[:3], sources[:3], scales[:3])
    afresh.reset()
    again, _ = afresh(faces[3:4], sources[3:4], scales[3:4])
    alone, _ = restoration(sharpening())(faces[3:4], sources[3:4], scales[3:4])
    assert torch.allclose(again, alone, atol=1e-5)


def test_invented_detail_does_not_flicker():
    """On a speaking face the detail's own flicker is at most half of what it is without steadying."""
    truth = drawn(12, SIDE * RATIO)
    faces = soft(F.interpolate(truth, (SIDE, SIDE), mode="area"))
    sources, scales = as_sources(truth), np.full(12, 2.0)
    detail = {}
    for memory in (0.0, 0.7):
        noisy, _ = restoration(sharpening(noise=0.02), memory=memory, matched=False)(faces, sources, scales)
        clean, _ = restoration(sharpening(), memory=memory, matched=False)(faces, sources, scales)
        hole = generation_mask(SIDE * RATIO) < 0.5
        detail[memory] = flicker((noisy - clean)[2:, :, hole])
    print(detail)
    assert detail[0.7] <= 0.5 * detail[0.0]


def test_detail_moves_with_the_face():
    """A pattern that moves by 3 px a frame stays as sharp as it was, since it is averaged along the motion."""
    generator = torch.Generator().manual_seed(0)
    pattern = F.interpolate(torch.rand((1, 3, 40, 40), generator=generator), (320, 320), mode="bicubic")[0] * 2 - 1
    fine = torch.randn((3, 320, 320), generator=generator)
    fine = 0.1 * (fine - F.avg_pool2d(fine[None], 3, 1, 1)[0])
    steady = SteadyDetail()
    for step in range(8):
        shift = slice(3 * step, 3 * step + 256)
        detail = steady(fine[:, 32:288, shift], pattern[:, 32:288, shift])
    inner = (slice(None), slice(32, 224), slice(32, 224))
    kept = (detail[inner] * fine[:, 32:288, shift][inner]).mean() / (fine[:, 32:288, shift][inner] ** 2).mean()
    print(f"{kept:.3f} of the detail kept")
    assert kept > 0.8
    still = SteadyDetail()
    blind = detail  # without motion the average would be of other places
    for step in range(8):
        blind = still(fine[:, 32:288, 3 * step : 3 * step + 256], pattern[:, 32:288, :256])
    assert (blind[inner] * fine[:, 32:288, shift][inner]).mean() / (fine[:, 32:288, shift][inner] ** 2).mean() < 0.5


def test_a_cut_is_not_averaged_over():
    first, other = drawn(1, 256)[0], drawn(1, 256)[0].flip(-1) * -1
    detail = 0.1 * torch.randn((3, 256, 256), generator=torch.Generator().manual_seed(1))
    steady = SteadyDetail()
    steady(torch.zeros(3, 256, 256), first)
    after = steady(detail, other)
    assert (after - detail).abs().mean() < 0.1 * detail.abs().mean()


def gradient(picture: torch.Tensor, region: torch.Tensor) -> float:
    luma = picture.mean(0)
    return float((luma.diff(dim=0).abs()[:, 1:] + luma.diff(dim=1).abs()[1:])[region[1:, 1:] > 0].mean())


@pytest.fixture
def region():
    return (generation_mask(256) < 0.5).float()


@pytest.mark.parametrize("blur", [3, 5, 9])
def test_a_face_crisper_than_its_source_is_softened_to_it(region, blur):
    crisp = drawn(1, 256)[0]
    source = F.avg_pool2d(F.pad(crisp[None], (blur // 2,) * 4, mode="replicate"), blur, 1)[0]
    matched = SharpnessMatch(region, 0)(crisp, source, 1.0)
    before, after, wanted = (gradient(picture, region) for picture in (crisp, matched, source))
    print(f"{before:.4f} -> {after:.4f}, source {wanted:.4f}")
    assert abs(after - wanted) < 0.5 * (before - wanted)


def test_a_face_as_sharp_as_its_source_stays(region):
    crisp = drawn(1, 256)[0]
    assert torch.allclose(SharpnessMatch(region, 0)(crisp, crisp, 1.0), crisp, atol=1e-4)


@pytest.mark.parametrize("scale", [0.6, 1.0])
@pytest.mark.parametrize("level", [0.02, 0.05])
def test_grain_is_the_sources(region, scale, level):
    """Within a fifth, fine or coarse, and other grain in every frame; more by what pasting will lose of it."""
    face = drawn(1, 256)[0]
    side = round(256 * scale)
    grain = torch.randn((1, 1, side, side), generator=torch.Generator().manual_seed(5))
    grain = F.interpolate(grain, (256, 256), mode="bicubic")[0, 0]
    match = SharpnessMatch(region, 0)
    first, second = (match(face, face + level * grain, scale) - face for _ in range(2))
    inside = region > 0
    given, got = (level * grain)[inside].std() / kept_grain(scale), second[0][inside].std()
    print(f"grain of {given:.4f}, added {got:.4f}")
    assert got == pytest.approx(given.item(), rel=0.2)
    together = torch.corrcoef(torch.stack([first[0][inside], second[0][inside]]))[0, 1]
    assert together.abs() < 0.1


@pytest.mark.parametrize("size", [300, 500])
def test_a_pasted_face_has_the_grain_of_its_frame(size):
    """At 1.3 and 2.2 px of the frame per px of the generated face, without any help from the paste."""
    clean = CLIP.frame(3, size, size)
    grain = np.random.default_rng(0).normal(0, 3, (size, size, 1))
    matrix = fit_matrices(FaceTracker()(clean).points[None], SIDE, "none")[0]
    faces = to_pixels(torch.from_numpy(warp_faces([clean], matrix[None], SIDE)))
    scale = np.array([frame_pixels_per_crop_pixel(matrix, SIDE)])
    large = resized_matrix(matrix, SIDE, SIDE * RATIO)[None]
    blender = FaceBlender(SIDE, mask=generation_mask(SIDE), side=SIDE * RATIO)
    pasted = []
    for frame in (clean, np.clip(np.rint(clean + grain), 0, 255).astype(np.uint8)):
        restored, _ = restoration(sharpening(0.0))(faces, warp_faces([frame], large, SIDE * RATIO), scale)
        pasted.append(blender.paste(clean, restored[0], matrix).astype(float))
    region = blender.region(clean.shape, matrix)
    added = (pasted[1] - pasted[0])[region.slices][region.alpha > 0.99].std()
    print(f"{scale[0]:.2f}: {added:.2f} of 3 grey levels")
    assert 2.0 < added < 3.3


def test_a_clean_source_gets_no_grain(region):
    truth = drawn(2, 256)
    match = SharpnessMatch(region, 0)
    first, second = (match(truth[0], truth[0], 1.0) for _ in range(2))
    assert (first - second).abs().max() < 1e-4


def test_a_restored_face_does_not_get_the_frames_detail_twice():
    """Blended in stages, a face of twice the side that equals the frame's leaves the frame as it is."""
    frames = [CLIP.frame(index, 400, 400) for index in range(2)]
    track = prepare_faces(frames, SIDE, finder=FaceTracker(), missing="error")
    side = SIDE * RATIO
    matrices = np.stack([resized_matrix(matrix, SIDE, side) for matrix in track.matrices])
    crops = warp_faces(frames, matrices, side).astype(np.float32) / 255
    for frame, blended in zip(frames, blend_faces(frames, track, crops=crops), strict=True):
        difference = np.abs(blended.astype(int) - frame)
        assert difference.max() <= 1
