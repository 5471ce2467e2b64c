"""The stages one by one: equal to the engine's run, and what each of them takes and refuses."""

import dataclasses

import numpy as np
import pytest
import torch

from latentsync.errors import Cancelled, FaceNotFoundError, FrameCountError, MediaError, OptionError
from latentsync.faces.blend import FacePaster
from latentsync.faces.finder import FaceTracker
from latentsync.media.audio_reader import read_audio
from latentsync.media.video_reader import read_frames
from latentsync.media.video_writer import VideoWriter
from latentsync.options import LipSyncOptions
from latentsync.run import engine
from latentsync.run.engine import lip_sync
from latentsync.run.speech import encode_speech
from latentsync.run.stages import blend_faces, frame_masks, prepare_faces, sample_faces
from tests.unit.media_clips import write_clip

FAST = LipSyncOptions(num_inference_steps=2, guidance_scale=1.0)


@pytest.fixture(scope="module")
def tracker():
    return FaceTracker()


def blank(seed: int, side: int = 192) -> np.ndarray:
    """A picture without a face."""
    coarse = np.random.default_rng(seed).integers(0, 256, (12, 12, 3), dtype=np.uint8)
    return np.kron(coarse, np.ones((side // 12, side // 12, 1), np.uint8))


@pytest.fixture(scope="module")
def shown(avatar_frames):
    """18 frames of which those at 0, 1, 11, 12, 13, 17 have no face."""
    without = [blank(seed) for seed in range(6)]
    return [*without[:2], *avatar_frames[:9], *without[2:5], *avatar_frames[9:], without[5]]


WITHOUT = [0, 1, 11, 12, 13, 17]


def samples(path) -> np.ndarray:
    return read_audio(path)


@pytest.fixture(scope="module")
def features(small_model, speech):
    return encode_speech(small_model, samples(speech(0.72)), 16_000, 25.0)


@pytest.fixture(scope="module")
def track(shown, tracker):
    return prepare_faces(shown, 64, finder=tracker)


@pytest.fixture(scope="module")
def sampled(small_model, track, features):
    return sample_faces(small_model, track, features, FAST)


@pytest.mark.parametrize(
    "options",
    [
        FAST,
        dataclasses.replace(FAST, guidance_scale=1.5, chunk_frames=6, chunk_overlap=2, blend_mask="mask2", seed=3),
        dataclasses.replace(FAST, posterior="sample", blend="reference", smoothing="p_bias", sampling="reference"),
    ],
    ids=["defaults", "short chunks", "as the reference"],
)
def test_a_staged_run_equals_the_engines_frames(small_model, shown, speech, tracker, tmp_path, monkeypatch, options):
    written: list[np.ndarray] = []

    class Recorder(VideoWriter):
        def write(self, pixels, pts=None):
            written.append(pixels)
            super().write(pixels, pts)

    monkeypatch.setattr(engine, "VideoWriter", Recorder)
    video = write_clip(tmp_path / "part.mp4", pictures=shown, size=(192, 192))
    report = lip_sync(video, speech(0.72), tmp_path / "out.mp4", small_model, options, finder=tracker)
    frames = [frame.pixels for frame in read_frames(video)]

    track = prepare_faces(frames, 64, options, finder=tracker)
    heard = encode_speech(small_model, samples(speech(0.72)), 16_000, 25.0)
    sampled = sample_faces(small_model, track, heard, options)
    blended = list(blend_faces(frames, sampled, options=options))

    assert len(blended) == len(written) == heard.num_frames == report.num_frames == 18
    assert all(np.array_equal(*pair) for pair in zip(blended, written, strict=True))
    assert [np.array_equal(*pair) for pair in zip(blended, frames, strict=True)] == [i in WITHOUT for i in range(18)]
    assert [record.detected for record in report.frames] == track.detected.tolist()
    assert report.waveform_peaks == heard.peaks


def test_a_track_is_of_the_frames_it_was_made_from(track, shown, avatar):
    assert (track.num_frames, track.num_faces, track.frame_size, track.resolution) == (18, 12, (192, 192), 64)
    found = np.array([index not in WITHOUT for index in range(18)])
    assert np.array_equal(track.detected, found)
    assert track.aligned.dtype == np.uint8
    assert not track.aligned[~found].any()
    assert np.isnan(track.matrices[~found]).all()
    assert np.isfinite(track.matrices[found]).all()
    assert (track.confidence[found] > 0.5).all()
    assert not track.confidence[~found].any()
    assert np.isnan(track.opening[~found]).all()
    true = np.array([avatar.pose(index).opening for index in range(12)])
    assert np.corrcoef(track.opening[found], true)[0, 1] > 0.7
    assert track.generated is None
    assert track.crops() is None


def test_masked_faces_are_grey_in_the_hole_alone(track):
    masked, hole = track.masked(), track.hole()
    assert (hole.min(), hole.max()) == (0, 1)
    face = int(track.detected.argmax())
    assert set(np.unique(masked[face][hole == 1])) == {128}
    assert np.array_equal(masked[face][hole == 0], track.aligned[face][hole == 0])
    assert not masked[~track.detected].any()


def test_frames_are_taken_one_at_a_time_and_can_be_stopped(shown, tracker):
    taken: list[int] = []

    class Frames:
        def __iter__(self):
            for index, frame in enumerate(shown):
                taken.append(index)
                yield frame

    def stop_at_third(index: int) -> None:
        if index == 3:
            raise Cancelled("enough")

    with pytest.raises(Cancelled):
        prepare_faces(Frames(), 64, finder=tracker, on_frame=stop_at_third)
    assert taken == [0, 1, 2, 3]
    with pytest.raises(OptionError, match="once only"):
        prepare_faces(iter(shown), 64, finder=tracker)


def test_bad_frames_are_refused(shown, tracker, avatar_frames):
    with pytest.raises(FaceNotFoundError, match=r"no usable face was found in frame 0 \(0.00 s\)"):
        prepare_faces(shown, 64, finder=tracker, missing="error")
    with pytest.raises(FaceNotFoundError, match=r"frame 2 \(0.20 s\)"):
        prepare_faces([*avatar_frames[:2], shown[0]], 64, finder=tracker, missing="error", fps=10)
    with pytest.raises(FaceNotFoundError, match="any of the 3 frames"):
        prepare_faces([*map(blank, range(3))], 64, finder=tracker)
    with pytest.raises(MediaError, match="no frames"):
        prepare_faces([], 64, finder=tracker)
    with pytest.raises(MediaError, match=r"frame 1 is 96 x 192, but the first one is 192 x 192"):
        prepare_faces([avatar_frames[0], avatar_frames[1][:, :96]], 64, finder=tracker)
    with pytest.raises(OptionError, match="'skip'"):
        prepare_faces(shown, 64, finder=tracker, missing="skip")
    with pytest.raises(OptionError, match="mask9"):
        prepare_faces(avatar_frames[:1], 64, finder=tracker, options=LipSyncOptions(mask="mask9"))


def test_sampling_tells_of_steps_chunks_and_looks(small_model, track, features):
    steps, chunks, looks = [], [], []
    sampled = sample_faces(
        small_model,
        track,
        features,
        dataclasses.replace(FAST, chunk_frames=4, chunk_overlap=0),
        on_step=lambda *step: steps.append((*step[:2], tuple(step[2].shape))),
        on_chunk=lambda *chunk: chunks.append(chunk),
        on_preview=looks.append,
        preview_interval=0,
    )
    lengths = [4, 4, 4, 3]  # nine faces, then three; the last face of the nine is completed with three before it
    assert [step[:2] for step in steps] == [(0, 2), (1, 2)] * 4
    assert [step[2] for step in steps[::2]] == [(1, 4, length, 8, 8) for length in lengths]
    assert [chunk[:2] for chunk in chunks] == [(6, 18), (10, 18), (11, 18), (17, 18)]
    pictures = (sampled.crops() * 255).round().astype(np.uint8)
    for _, _, picture in chunks:
        assert any(np.array_equal(picture, other) for other in pictures)
    assert len(looks) == 8
    assert {(look.shape, look.dtype) for look in looks} == {((64, 64, 3), np.dtype(np.uint8))}


def test_the_estimate_of_the_last_step_is_the_result(small_model, track, features):
    options = LipSyncOptions(num_inference_steps=4, guidance_scale=1.5, colour_match=False)
    looks: list[np.ndarray] = []
    seen = sample_faces(small_model, track, features, options, on_preview=looks.append, preview_interval=0)
    assert len(looks) == 2 * options.num_inference_steps
    middle = seen.crops()[2 + 9 // 2] * 255  # of the first nine faces
    error = [float(np.abs(look - middle).mean()) for look in looks[: options.num_inference_steps]]
    # the schedule's last step ends at the least noise, not at none: nearly
    assert error[-1] < 2
    assert error[-1] < error[0]
    unseen = sample_faces(small_model, track, features, options)
    assert np.array_equal(seen.generated, unseen.generated)
    rare: list[np.ndarray] = []
    sample_faces(small_model, track, features, options, on_preview=rare.append, preview_interval=3600)
    assert len(rare) == 1


def test_speech_may_be_longer_or_shorter_than_the_track(small_model, track, speech, sampled):
    longer = encode_speech(small_model, samples(speech(1.0)), 16_000, 25.0)
    assert longer.num_frames == 25
    assert sample_faces(small_model, track, longer, FAST).num_frames == 18
    shorter = encode_speech(small_model, samples(speech(0.2)), 16_000, 25.0)
    assert sample_faces(small_model, track, shorter, FAST).num_frames == 18


def test_a_second_speech_on_the_same_faces_changes_their_lips_alone(small_model, track, speech, sampled):
    other = encode_speech(small_model, samples(speech(0.72, 6)), 16_000, 25.0)
    again = sample_faces(small_model, track, other, FAST)
    assert again.aligned is track.aligned
    for index in range(18):
        assert np.array_equal(again.generated[index], sampled.generated[index]) == (index in WITHOUT)


def test_frame_times_follow_the_rate_of_the_speech(small_model, track, speech, sampled):
    slow = encode_speech(small_model, samples(speech(0.72)), 16_000, 10.0)
    assert slow.num_frames == 8
    other = sample_faces(small_model, track, slow, FAST)
    assert not np.array_equal(other.generated[5], sampled.generated[5])


class HostVae:
    """A VAE as a host gives it: raw latents, pictures in 0..1 with channels last; wrapped as the library asks."""

    def __init__(self, vae):
        self.vae, self.batches = vae, []

    def encode_mean(self, pixels: torch.Tensor) -> torch.Tensor:
        self.batches.append(len(pixels))
        return self.vae.encode(pixels).latent_dist.mode() * 0.18215

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        self.batches.append(len(latents))
        return self.vae.decode(latents / 0.18215).sample


def test_another_vae_takes_the_place_of_the_models(small_model, track, features, sampled):
    vae = HostVae(small_model.vae)
    other = sample_faces(small_model, track, features, FAST, vae=vae)
    assert vae.batches
    np.testing.assert_allclose(other.generated, sampled.generated, atol=1e-4)
    with pytest.raises(OptionError, match="posterior"):
        sample_faces(small_model, track, features, dataclasses.replace(FAST, posterior="sample"), vae=vae)


def test_the_tracks_mask_counts(small_model, shown, tracker, features, sampled):
    narrow = prepare_faces(shown, 64, options=LipSyncOptions(mask="mask3"), finder=tracker)
    assert narrow.hole().sum() < sampled.hole().sum()
    other = sample_faces(small_model, narrow, features, FAST)
    assert not np.array_equal(other.generated[5], sampled.generated[5])
    blended, wide = (list(blend_faces(shown, faces)) for faces in (other, sampled))
    changed = [(result[5] != shown[5]).any(-1).sum() for result in (blended, wide)]
    assert changed[0] < changed[1]


def test_a_track_of_another_model_is_refused(small_model, shown, tracker, features):
    other = prepare_faces(shown[2:4], 128, finder=tracker)
    with pytest.raises(OptionError, match="128 px, but small works at 64"):
        sample_faces(small_model, other, features, FAST)


def test_values_out_of_range_are_logged(small_model, track, features, caplog):
    class Wild(HostVae):
        def decode(self, latents):
            return super().decode(latents) * 4

    sample_faces(small_model, track, features, FAST, vae=Wild(small_model.vae))
    assert "exceed their range" in caplog.text


def float_frames(frames) -> list[np.ndarray]:
    """Values between the levels of 8 bits, which must not be rounded."""
    noise = np.random.default_rng(0).uniform(-0.4, 0.4, frames[0].shape).astype(np.float32)
    return [np.clip((frame + noise) / np.float32(255), 0, 1) for frame in frames]


def test_float_frames_are_blended_without_levels(shown, sampled):
    frames = float_frames(shown)
    copies = [frame.copy() for frame in frames]
    results = list(blend_faces(frames, sampled))
    whole = list(blend_faces(shown, sampled))
    for index, (frame, copy, result, level) in enumerate(zip(frames, copies, results, whole, strict=True)):
        assert np.array_equal(frame, copy)
        assert result.dtype == np.float32
        if index in WITHOUT:
            assert result is frame
            continue
        region = FacePaster(64, LipSyncOptions()).blender.region(frame.shape, sampled.matrices[index])
        outside = np.ones((192, 192), bool)
        outside[region.slices] = region.alpha == 0
        assert np.array_equal(result[outside], frame[outside])
        assert 0 <= result.min() <= result.max() <= 1
        inside = result[~outside] * 255
        # nothing but the frame's noise and the rounding of the others differs
        assert np.abs(inside - level[~outside]).max() < 0.95
        assert np.abs(inside - inside.round()).mean() > 0.1


def test_crops_take_the_place_of_the_generated_faces(shown, sampled):
    same = list(blend_faces(shown, sampled, crops=torch.from_numpy(sampled.crops())))
    for result, expected in zip(same, blend_faces(shown, sampled), strict=True):
        assert np.abs(result.astype(int) - expected).max() <= 2  # crops are clamped before they are resized
    black = list(blend_faces(shown, sampled, crops=np.zeros((18, 96, 96, 3), np.float32)))
    assert all((b.astype(int) <= s).all() for b, s in zip(black, shown, strict=True))
    assert (black[5] != shown[5]).any()


@pytest.mark.parametrize("side", [48, 128, 256])
def test_resized_crops_land_in_the_same_place(shown, sampled, side):
    smooth = torch.nn.functional.interpolate(
        torch.from_numpy(sampled.aligned).permute(0, 3, 1, 2).float() / 255, (8, 8), mode="area"
    )
    own, other = (
        torch.nn.functional.interpolate(smooth, (size, size), mode="bilinear").permute(0, 2, 3, 1)
        for size in (64, side)
    )
    expected, results = (list(blend_faces(shown, sampled, crops=crops)) for crops in (own, other))
    difference = np.abs(results[5].astype(float) - expected[5])
    shifted = np.abs(np.roll(results[5], 1, axis=1).astype(float) - expected[5])[60:140, 60:140]
    print(f"side {side}: mean {difference.mean():.3f}, max {difference.max()}")
    assert difference[60:140, 60:140].mean() < 0.5 * shifted.mean()
    assert difference.mean() < 1.0


def test_an_explicit_edge_or_mask_wins(shown, sampled):
    hard, soft = (list(blend_faces(shown, sampled, mask_smooth=width))[5] for width in (0.0, 1.0))
    assert np.array_equal(soft, list(blend_faces(shown, sampled, options=LipSyncOptions(mask_smooth=1.0)))[5])
    changed = [(result != shown[5]).any(-1).sum() for result in (hard, soft)]
    assert changed[0] < changed[1]
    narrow = list(blend_faces(shown, sampled, blend_mask="mask3"))[5]
    assert np.array_equal(narrow, list(blend_faces(shown, dataclasses.replace(sampled, blend_mask="mask3")))[5])
    assert not np.array_equal(narrow, list(blend_faces(shown, sampled))[5])


@pytest.mark.parametrize("shape", [(192, 192), (1, 192, 192), (18, 192, 192)])
def test_protected_pixels_stay(shown, sampled, shape):
    protect = np.zeros(shape, np.float32)
    protect[..., :100] = 1
    for source, result in zip(shown, blend_faces(shown, sampled, protect=protect), strict=True):
        assert np.array_equal(source[:, :100], result[:, :100])
    assert (result != source).any() == (17 not in WITHOUT)
    assert (list(blend_faces(shown, sampled, protect=protect))[5] != shown[5]).any()


def test_what_does_not_belong_together_is_refused(shown, sampled, track):
    with pytest.raises(FrameCountError, match=r"17 frames .* 18 frames"):
        blend_faces(shown[:17], sampled)
    with pytest.raises(FrameCountError, match=r"17 frames .* 18 frames"):
        list(blend_faces(iter(shown[:17]), sampled))
    with pytest.raises(FrameCountError, match="more frames"):
        list(blend_faces(iter([*shown, shown[0]]), sampled))
    with pytest.raises(FrameCountError, match=r"12 crops .* 18 frames"):
        blend_faces(shown, sampled, crops=np.zeros((12, 64, 64, 3), np.float32))
    with pytest.raises(OptionError, match=r"\(18, 64, 32, 3\)"):
        blend_faces(shown, sampled, crops=np.zeros((18, 64, 32, 3), np.float32))
    with pytest.raises(OptionError, match="uint8"):
        blend_faces(shown, sampled, crops=sampled.aligned)
    with pytest.raises(OptionError, match="not sampled"):
        blend_faces(shown, track)
    with pytest.raises(MediaError, match="frame 0 is 96 x 192"):
        list(blend_faces([frame[:, :96] for frame in shown], sampled))
    with pytest.raises(OptionError, match=r"protecting mask .* \(1, 96, 192\)"):
        blend_faces(shown, sampled, protect=np.zeros((96, 192)))
    with pytest.raises(FrameCountError, match="2 protecting masks"):
        blend_faces(shown, sampled, protect=np.zeros((2, 192, 192)))


def test_blending_needs_no_more_than_the_frame_in_hand(shown, sampled):
    taken: list[int] = []
    frames = (taken.append(index) or frame for index, frame in enumerate(shown))
    results = blend_faces(frames, sampled)
    assert taken == []
    next(results)
    assert taken == [0]


@pytest.mark.parametrize("shape", ["drawn", "landmarks"])
def test_masks_in_the_frames_are_the_shares_of_the_blend(shown, track, shape):
    """White faces go in: how much whiter a pixel becomes is what the mask says."""
    options = LipSyncOptions(mask_shape=shape, edge_match=False)
    protect = np.zeros(track.frame_size, np.float32)
    protect[:, : track.frame_size[1] // 2] = 1
    white = np.ones((track.num_frames, 64, 64, 3), np.float32)
    frames = [frame.astype(np.float32) / 255 for frame in shown]
    for kept in (None, protect):
        masks = frame_masks(track, options, protect=kept)
        assert masks.shape == (len(shown), *track.frame_size)
        assert np.flatnonzero(~masks.any((1, 2))).tolist() == WITHOUT
        for frame, mask, blended in zip(
            frames, masks, blend_faces(frames, track, options=options, crops=white, protect=kept), strict=True
        ):
            wanted = frame + (1 - frame) * mask[..., None]
            assert np.array_equal(blended[mask == 0], frame[mask == 0])
            assert np.abs(blended - wanted).max() < 0.01
    assert not masks[:, protect == 1].any()


def test_boxes_are_where_faces_are_made(track):
    found = np.isfinite(track.boxes).all(1)
    assert np.array_equal(found, track.detected)
    masks = frame_masks(track, LipSyncOptions(mask_smooth=0.0))
    for (x0, y0, x1, y1), mask in zip(track.boxes[found], masks[found], strict=True):
        rows, columns = np.nonzero(mask)
        assert x0 < columns.mean() < x1
        assert (y0 + y1) / 2 < rows.mean() < y1  # the mouth is in the lower half
    assert track.get_ram_usage() > track.aligned.nbytes + track.boxes.nbytes
