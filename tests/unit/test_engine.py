"""From files to a file: what changes and what must not, length and times, progress, stopping, memory, errors."""

import dataclasses
import threading
import weakref
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
import torch

from latentsync.errors import Cancelled, FaceNotFoundError, LatentSyncError, OutputError
from latentsync.faces.blend import FacePaster
from latentsync.faces.finder import FaceTracker
from latentsync.faces.place import place
from latentsync.faces.scan import scan_faces
from latentsync.media.audio_reader import probe_audio
from latentsync.media.video_reader import VideoFrame, probe_video, read_frames
from latentsync.media.video_writer import VideoWriter
from latentsync.model.loading import bundled_model, load_model
from latentsync.options import LipSyncOptions
from latentsync.run import engine
from latentsync.run.engine import Progress, lip_sync
from latentsync.synthetic.files import write_clip as write_avatar
from tests.small_model import small_unet, small_vae
from tests.unit.media_clips import demo_video, write_clip
from tests.unit.test_length_modes import triangle

FAST = LipSyncOptions(num_inference_steps=1, guidance_scale=1.0)
TWO_STEPS = dataclasses.replace(FAST, num_inference_steps=2)  # with a single one the result hardly leaves the noise


@pytest.fixture
def written(monkeypatch):
    """The (pixels, pts) that the engine hands to the writer, which writes them all the same."""
    frames: list[tuple[np.ndarray, int]] = []

    class Recorder(VideoWriter):
        def write(self, pixels, pts=None):
            frames.append((pixels, pts))
            super().write(pixels, pts)

    monkeypatch.setattr(engine, "VideoWriter", Recorder)
    return frames


def textured(seed: int, side: int = 192) -> np.ndarray:
    """A picture without a face."""
    coarse = np.random.default_rng(seed).integers(0, 256, (12, 12, 3), dtype=np.uint8)
    return np.kron(coarse, np.ones((side // 12, side // 12, 1), np.uint8))


def sources(path) -> list[np.ndarray]:
    return [frame.pixels for frame in read_frames(path)]


def blend_regions(frames: list[np.ndarray], model, options: LipSyncOptions, fps: float) -> list[np.ndarray]:
    """Where each frame may change, (H, W) bool; found anew with the tracker, the aligner and the blender."""
    shown = (VideoFrame(pixels, index / fps, index, index, index) for index, pixels in enumerate(frames))
    clip = scan_faces(shown, FaceTracker())
    placement = place(clip.paths[0], clip, model.resolution, options)
    blender = FacePaster(model.resolution, options, model.blend_mask).blender
    regions = []
    for index, pixels in enumerate(frames):
        region, inside = blender.region(pixels.shape, placement.at(index).matrix), np.zeros(pixels.shape[:2], bool)
        inside[region.slices] = region.alpha > 0
        regions.append(inside)
    return regions


def assert_only_regions_change(before: list[np.ndarray], after: list[np.ndarray], regions: list[np.ndarray]) -> None:
    assert len(before) == len(after) == len(regions)
    for source, result, inside in zip(before, after, regions, strict=True):
        assert np.array_equal(source[~inside], result[~inside])
        assert (source[inside] != result[inside]).mean() > 0.5


def test_outside_the_blend_region_every_bit_stays(small_model, avatar_video, speech, tmp_path, written):
    report = lip_sync(avatar_video, speech(0.48), tmp_path / "out.mp4", small_model, FAST)
    assert (report.num_frames, report.num_faces, report.warnings) == (12, 12, [])
    before = sources(avatar_video)
    regions = blend_regions(before, small_model, FAST, 25)
    assert_only_regions_change(before, [pixels for pixels, _ in written], regions)
    assert max(inside.mean() for inside in regions) < 0.25  # of a frame that the head fills


def test_the_whole_square_changes_only_in_the_reference_preset(small_model, avatar_video, speech, tmp_path, written):
    options = FAST.as_reference()
    report = lip_sync(avatar_video, speech(0.48), tmp_path / "out.mp4", small_model, options)
    assert report.num_frames == len(written) == 14  # two more than the speech lasts
    before = sources(avatar_video)
    regions = blend_regions(before, small_model, options, 25)
    for source, (result, _), inside in zip(before, written, regions, strict=False):
        assert np.array_equal(source[~inside], result[~inside])
    small = blend_regions(before, small_model, FAST, 25)
    assert np.mean([r.mean() for r in regions]) > 1.5 * np.mean([r.mean() for r in small])


def test_real_speaker_keeps_every_bit_outside(small_model, speech, tmp_path, written):
    video = demo_video()
    options = dataclasses.replace(FAST, duration=20 / float(probe_video(video).fps))
    report = lip_sync(video, speech(1.0), tmp_path / "out.mp4", small_model, options)
    assert report.num_frames == report.num_faces == 20
    before = sources(video)
    regions = blend_regions(before, small_model, options, float(probe_video(video).fps))[:20]
    before = before[:20]
    assert_only_regions_change(before, [pixels for pixels, _ in written], regions)


def test_frames_without_a_face_pass_through_in_their_place(small_model, avatar_frames, speech, tmp_path, written):
    blank = [textured(seed) for seed in range(6)]
    shown = [*blank[:2], *avatar_frames[:9], *blank[2:5], *avatar_frames[9:], blank[5]]
    video = write_clip(tmp_path / "part.mp4", pictures=shown, size=(192, 192))
    report = lip_sync(video, speech(1.0), tmp_path / "out.mp4", small_model, dataclasses.replace(FAST, duration=0.72))
    assert (report.num_frames, report.num_faces) == (18, 12)
    without = [0, 1, 11, 12, 13, 17]
    for index, (source, (result, _)) in enumerate(zip(sources(video), written, strict=True)):
        assert np.array_equal(source, result) == (index in without), index


def shown_sources(video, results: list[np.ndarray]) -> list[int]:
    """Which source frame each result shows, told by the part of the frame above the face."""
    rows = slice(0, 40)
    before = [pixels[rows] for pixels in sources(video)]
    assert len({pixels.tobytes() for pixels in before}) == len(before)
    return [next(i for i, b in enumerate(before) if np.array_equal(b, pixels[rows])) for pixels in results]


def test_a_short_video_goes_back_and_forth(small_model, avatar_video, speech, tmp_path, written):
    out = tmp_path / "out.mp4"
    report = lip_sync(avatar_video, speech(1.04), out, small_model, FAST)
    assert report.num_frames == report.num_faces == 26
    assert shown_sources(avatar_video, [pixels for pixels, _ in written]) == [*range(12), *range(10, 0, -1), 0, 1, 2, 3]
    # what the mouth does belongs to the time, not to the source frame
    assert not np.array_equal(written[10][0], written[12][0])


@pytest.mark.parametrize(
    ("start", "duration", "expected"),
    [(0.2, 0.2, [5, 6, 7, 8, 9]), (0.6, 0.2, [7, 6, 5, 4, 3]), (0.36, 0.24, [9, 10, 11, 10, 9, 8])],
)
def test_a_preview_shows_what_the_whole_run_shows_there(
    small_model, avatar_video, speech, tmp_path, written, start, duration, expected
):
    options = dataclasses.replace(FAST, start=start, duration=duration)
    lip_sync(avatar_video, speech(1.0), tmp_path / "out.mp4", small_model, options)
    assert shown_sources(avatar_video, [pixels for pixels, _ in written]) == expected
    assert written[0][1] == 0


def test_the_output_ends_with_the_speech(small_model, avatar_video, speech, tmp_path):
    out = tmp_path / "new folder" / "out.mp4"
    report = lip_sync(avatar_video, speech(0.3), out, small_model, FAST)
    assert report.path == out
    facts, sound = probe_video(out), probe_audio(out)
    assert facts.num_frames == report.num_frames == 8
    assert facts.fps == 25
    assert sound.sample_rate == 16_000  # the driving speech's, not the 44.1 kHz of the source
    assert sound.duration == pytest.approx(0.3, abs=0.07)  # whole AAC frames
    assert [path.name for path in out.parent.iterdir()] == ["out.mp4"]


def test_a_given_rate_resamples_by_time(small_model, avatar_video, speech, tmp_path, written):
    options = dataclasses.replace(FAST, fps=Fraction(10))
    lip_sync(avatar_video, speech(0.48), tmp_path / "out.mp4", small_model, options)
    assert [pts for _, pts in written] == [0, 1, 2, 3, 4]
    assert probe_video(tmp_path / "out.mp4").fps == 10
    assert len(shown_sources(avatar_video, [pixels for pixels, _ in written])) == 5


def test_variable_frame_times_are_kept(small_model, avatar_frames, speech, tmp_path):
    times = [0, 33, 100, 110, 250, 300, 390, 400, 450, 480, 520, 560]  # ms
    video = write_clip(
        tmp_path / "vfr.mp4", pictures=avatar_frames, size=(192, 192), pts=times, time_base=Fraction(1, 1000)
    )
    report = lip_sync(video, speech(0.48), tmp_path / "out.mp4", small_model, FAST)
    before, after = ([frame.time for frame in read_frames(path)] for path in (video, tmp_path / "out.mp4"))
    assert report.num_frames == 9  # those before 0.48 s
    assert after == pytest.approx(before[:9], abs=1e-3)


def test_a_video_of_one_frame(small_model, avatar_frames, speech, tmp_path):
    video = write_clip(tmp_path / "one.mp4", pictures=avatar_frames[:1], size=(192, 192))
    report = lip_sync(video, speech(0.3), tmp_path / "out.mp4", small_model, FAST)
    assert (report.num_frames, report.num_faces) == (8, 8)


def test_progress_never_falls_and_ends_complete(small_model, avatar_video, speech, tmp_path):
    seen: list[Progress] = []
    options = dataclasses.replace(TWO_STEPS, guidance_scale=1.5)
    lip_sync(avatar_video, speech(1.04), tmp_path / "out.mp4", small_model, options, on_progress=seen.append)
    for before, after in pairwise(seen):
        assert after.frames_done - before.frames_done in (0, 1)
        assert after.fraction >= before.fraction
        assert after.seconds >= before.seconds
    assert {(p.frames_total, p.num_steps) for p in seen} == {(26, 2)}
    assert [p.step for p in seen if p.step] == [1, 2] * 2  # two chunks
    assert 0 < seen[0].fraction < 0.5
    assert seen[0].frames_done == 0
    assert (seen[-1].frames_done, seen[-1].fraction) == (26, 1.0)


@pytest.mark.parametrize("when", ["the sound", "the second step", "writing a chunk"])
def test_stopping_takes_at_most_one_step_and_leaves_nothing(small_model, avatar_video, speech, tmp_path, when):
    seen: list[Progress] = []

    def should_stop() -> bool:
        last = seen[-1] if seen else None
        return {
            "the sound": True,
            "the second step": last is not None and last.step == 2,
            "writing a chunk": last is not None and last.frames_done == 11,
        }[when]

    options = dataclasses.replace(FAST, num_inference_steps=5, chunk_frames=4, chunk_overlap=0)
    with pytest.raises(Cancelled, match="no file was written"):
        lip_sync(
            avatar_video,
            speech(0.6),
            tmp_path / "deep" / "out.mp4",
            small_model,
            options,
            on_progress=seen.append,
            should_stop=should_stop,
        )
    assert list(tmp_path.iterdir()) == []
    if when == "the sound":
        assert seen == []
    if when == "the second step":
        assert (seen[-1].step, seen[-1].frames_done) == (2, 0)


def test_an_interrupt_leaves_nothing_and_keeps_an_older_result(small_model, avatar_video, speech, tmp_path):
    (tmp_path / "out.mp4").write_bytes(b"older")

    def interrupt(progress: Progress) -> None:
        if progress.frames_done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        lip_sync(avatar_video, speech(0.4), tmp_path / "out.mp4", small_model, FAST, on_progress=interrupt)
    assert [path.name for path in tmp_path.iterdir()] == ["out.mp4"]
    assert (tmp_path / "out.mp4").read_bytes() == b"older"


def test_seeds_and_speech_decide_the_result(small_model, avatar_video, speech, tmp_path, written):
    def run(seed: int, speech_seed: int) -> np.ndarray:
        written.clear()
        options = dataclasses.replace(TWO_STEPS, seed=seed)
        lip_sync(avatar_video, speech(0.2, speech_seed), tmp_path / "o.mp4", small_model, options)
        return np.stack([pixels for pixels, _ in written])

    first = run(7, 5)
    assert np.array_equal(first, run(7, 5))
    assert not np.array_equal(first, run(8, 5))
    assert not np.array_equal(first, run(7, 6))


def test_values_that_are_not_finite_stop_the_run(small_model, avatar_video, speech, tmp_path):
    unet = small_unet()
    with torch.no_grad():
        unet.conv_out.weight[0, 0, 0, 0] = torch.nan
    broken = dataclasses.replace(small_model, unet=unet)
    with pytest.raises(LatentSyncError, match="not finite"):
        lip_sync(avatar_video, speech(0.2), tmp_path / "out.mp4", broken, FAST)
    assert list(tmp_path.iterdir()) == []


def test_pictures_out_of_range_are_a_warning_given_once(small_model, avatar_video, speech, tmp_path):
    wild = dataclasses.replace(small_model, vae=small_vae(gain=1.6), warnings=("from loading",))
    told = []
    report = lip_sync(avatar_video, speech(0.48), tmp_path / "out.mp4", wild, FAST, on_warning=told.append)
    assert report.warnings == ["from loading", *told]
    assert len(report.warnings) == 2
    assert "64 the right resolution for small" in report.warnings[1]


def test_frames_in_memory_are_bounded_by_the_chunk(small_model, avatar_video, speech, tmp_path, monkeypatch):
    """100 frames pass; alive are those of a chunk, as many before and after it, and those in the hands of a stage."""
    alive, most = 0, 0
    original = engine.source_frames

    def gone() -> None:
        nonlocal alive
        alive -= 1

    def counted(*arguments):
        nonlocal alive, most
        for frame in original(*arguments):
            alive += 1
            most = max(most, alive)
            weakref.finalize(frame, gone)
            yield frame
            del frame

    monkeypatch.setattr(engine, "source_frames", counted)
    options = dataclasses.replace(FAST, chunk_frames=8, chunk_overlap=2)
    report = lip_sync(avatar_video, speech(4.0), tmp_path / "out.mp4", small_model, options)
    assert report.num_frames == 100
    assert 8 <= most <= 3 * 8 + 10


def test_no_face_at_all_says_what_to_do(small_model, speech, tmp_path):
    video = write_clip(tmp_path / "none.mp4", pictures=[textured(i) for i in range(4)], size=(192, 192))
    seen: list[Progress] = []
    with pytest.raises(FaceNotFoundError, match=r"no face .* 4 frames of '.*none.mp4'; expected .* Choose another"):
        lip_sync(
            video,
            speech(1.0),
            tmp_path / "out.mp4",
            small_model,
            dataclasses.replace(FAST, duration=0.16),
            on_progress=seen.append,
        )
    assert [path.name for path in tmp_path.iterdir()] == ["none.mp4"]


def test_a_file_that_ends_before_its_time_plays_backward_from_there(
    small_model, avatar_frames, speech, tmp_path, written
):
    whole, cut = tmp_path / "whole.mkv", tmp_path / "cut.mkv"
    write_clip(whole, pictures=avatar_frames, size=(192, 192), options={"bf": "0"})
    cut.write_bytes(whole.read_bytes()[: int(0.6 * whole.stat().st_size)])
    left = len(sources(cut))
    assert 1 < left < 12
    report = lip_sync(cut, speech(0.48), tmp_path / "out.mp4", small_model, FAST)
    assert report.num_frames == 12
    expected = [triangle(index, left) for index in range(12)]
    assert shown_sources(cut, [pixels for pixels, _ in written]) == expected


def test_outputs_over_an_input_are_refused_before_any_work(small_model, avatar_video, speech, tmp_path):
    before = avatar_video.read_bytes()
    with pytest.raises(OutputError, match="is the input itself"):
        lip_sync(avatar_video, speech(0.2), avatar_video, small_model, FAST)
    assert avatar_video.read_bytes() == before


def test_a_model_for_drawn_faces_says_so_where_the_clip_is_not_known_to_be_drawn(
    small_model, avatar_video, avatar, speech, tmp_path
):
    drawn_only = dataclasses.replace(small_model, faces="drawn")
    write_avatar(avatar, tmp_path / "drawn.mp4", side=192)
    short = dataclasses.replace(FAST, duration=0.2)
    for source, expected in ((avatar_video, [drawn_only.faces_notice]), (tmp_path / "drawn.mp4", [])):
        report = lip_sync(source, speech(0.2), tmp_path / "out.mp4", drawn_only, short)
        assert report.warnings == expected
    assert small_model.faces_notice is None
    assert "made for drawn faces" in drawn_only.faces_notice
    assert load_model(bundled_model()).faces_notice is not None


def test_faces_are_decoded_while_the_callers_thread_goes_on(small_model, avatar_video, speech, tmp_path):
    """The U-Net and the VAE's encoder stay where the run was called for; what comes after them has its own thread."""
    threads, hooks = {}, []
    layers = {"unet": small_model.unet.conv_in, "encoder": small_model.vae.encoder, "decoder": small_model.vae.decoder}
    for name, layer in layers.items():
        see = lambda *_, name=name: threads.setdefault(name, set()).add(threading.current_thread().name)  # noqa: E731
        hooks.append(layer.register_forward_pre_hook(see))
    try:
        lip_sync(avatar_video, speech(0.8), tmp_path / "out.mp4", small_model, TWO_STEPS)
    finally:
        for hook in hooks:
            hook.remove()
    here = {threading.current_thread().name}
    assert threads == {"unet": here, "encoder": here, "decoder": {"latentsync-finish"}}
