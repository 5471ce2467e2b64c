"""Items of the U-Net's training: pure functions of seed, step and place, whoever reads them."""

import shutil

import numpy as np
import pytest
import torch

from latentsync.errors import MediaError, OptionError
from latentsync.model.masks import generation_mask
from latentsync.model.vae import load_vae
from latentsync.model.whisper import audio_tokens, window_centre
from latentsync.sync.syncnet import mel_window
from training_scripts.batches import ClipLatents, UNetClips, places, reference_frames, to_pixels, unet_batches
from training_scripts.clip_store import ClipStore

from .small_parts import CLIP_FRAMES, FRAMES, small_config


def clips_of(parts, *overrides, **needs) -> UNetClips:
    store = ClipStore(parts / "clips")
    config = small_config(parts, parts / "out", *overrides)
    return UNetClips(store, list(range(len(store))), config, **{"needs_mel": True, "needs_frames": True, **needs})


def same(first: dict, second: dict) -> bool:
    return first.keys() == second.keys() and all(
        torch.equal(torch.as_tensor(a), torch.as_tensor(second[name])) for name, a in first.items() if name != "broken"
    )


def test_two_processes_read_what_one_with_the_doubled_batch_does(parts):
    config = small_config(parts, parts / "out", "data.batch_size=1", "optimizer.gradient_accumulation_steps=2")
    whole = small_config(parts, parts / "out", "data.batch_size=4")
    halves = [list(places(5, config, range(3), rank, 2)) for rank in range(2)]
    for step, expected in enumerate(places(5, whole, range(3), 0, 1)):
        micro = [halves[rank][2 * step + part] for part in range(2) for rank in range(2)]
        assert [place for part in micro for place in part] == expected


def test_an_item_depends_on_nothing_but_its_place(parts):
    first, second = clips_of(parts), clips_of(parts, "data.batch_size=1")
    first[0, 0, 3]
    assert same(first[7, 1, 2], second[7, 1, 2])
    assert not same(first[7, 1, 2], first[8, 1, 2])
    assert not same(first[7, 1, 2], first[7, 0, 2])


def test_workers_read_what_the_process_itself_does(parts):
    alone, helped = clips_of(parts), clips_of(parts, "data.num_workers=2")
    for a, b in zip(unet_batches(alone, range(2, 5)), unet_batches(helped, range(2, 5)), strict=True):
        assert torch.equal(a.seeds, b.seeds)
        assert torch.equal(a.frames, b.frames)


def test_what_is_seen_and_heard_belongs_together(parts):
    clips = clips_of(parts, "noise.audio_dropout=0")
    item = clips[0, 0, 1]
    whole = clips.store.frames(1)
    start = next(i for i in range(CLIP_FRAMES) if np.array_equal(whole[i], item["frames"][0].numpy()))
    assert np.array_equal(whole[start : start + FRAMES], item["frames"].numpy())
    heard = []
    for voice in range(2):
        tokens = audio_tokens(
            torch.from_numpy(np.array(clips.store.features(1, voice))),
            [window_centre(index, 25) for index in range(start, start + FRAMES)],
        )
        mel = torch.from_numpy(np.array(mel_window(clips.store.mel(1, voice), start, FRAMES)))
        heard.append((torch.equal(tokens.float(), item["tokens"]), torch.equal(mel[None], item["mel"])))
    assert sorted(heard) == [(False, False), (True, True)]


def test_the_reference_is_another_part_of_the_clip(parts):
    clips, whole = clips_of(parts), ClipStore(parts / "clips").frames(1)
    for step in range(30):
        item = clips[step, 0, 1]
        starts = [
            next(i for i in range(CLIP_FRAMES) if np.array_equal(whole[i], item[name][0].numpy()))
            for name in ("frames", "reference_frames")
        ]
        assert abs(starts[0] - starts[1]) >= FRAMES


@pytest.mark.parametrize(("count", "num_frames"), [(8, 40), (16, 40), (16, 24), (4, 5)])
def test_no_frame_is_its_own_reference(count, num_frames):
    rng, drawn = np.random.default_rng(0), set()
    for start in range(num_frames - count + 1):
        for _ in range(20):
            others = reference_frames(start, count, num_frames, rng)
            away = np.abs(others - np.arange(start, start + count))
            assert others.min() >= 0
            assert others.max() < num_frames
            assert away.min() >= min(count, num_frames // 2)
            drawn.add(int(others[0]))
    assert len(drawn) > 2


def test_the_share_of_clips_without_sound(parts):
    clips = clips_of(parts, "noise.audio_dropout=0.25", needs_frames=False)
    items = [clips[step, 0, 0] for step in range(200)]
    silent = [item for item in items if item["heard"] == 0]
    assert 30 < len(silent) < 70
    assert all(item["tokens"].abs().max() == 0 for item in silent)
    assert all(item["tokens"].abs().max() > 0 for item in items if item["heard"] == 1)


@pytest.fixture
def broken(parts, tmp_path):
    """The same parts, with two clips that cannot be read."""
    shutil.copytree(parts / "clips", tmp_path / "clips")
    shutil.copytree(parts / "vae", tmp_path / "vae")
    (tmp_path / "clips" / "clips" / "clip1" / "faces.npy").write_bytes(b"no array")
    (tmp_path / "clips" / "clips" / "clip2" / "features.npy").unlink()
    return tmp_path


def test_a_broken_clip_is_named_and_replaced_by_the_next(broken):
    clips = clips_of(broken)
    item = clips[4, 0, 1]
    assert [text.split()[1] for text in item["broken"]] == ["clip1", "clip2"]
    assert str(broken / "clips" / "clips" / "clip1" / "faces.npy") in item["broken"][0]
    assert str(broken / "clips" / "clips" / "clip2" / "features.npy") in item["broken"][1]
    assert same(item, clips[4, 0, 3])


def test_or_training_stops(broken):
    with pytest.raises(MediaError, match=r"clip clip1 .*faces\.npy"):
        clips_of(broken, "data.broken=stop")[4, 0, 1]


def test_where_no_clip_can_be_read_it_ends(broken):
    for folder in (broken / "clips" / "clips").iterdir():
        shutil.rmtree(folder)
    with pytest.raises(MediaError, match=r"no clip of .* can be read"):
        clips_of(broken)[0, 0, 0]


def test_clips_shorter_than_a_step_are_broken(parts):
    with pytest.raises(MediaError, match="it has 24 frames, fewer than the 30"):
        clips_of(parts, "data.num_frames=30", "data.broken=stop")[0, 0, 0]


def test_no_clips_to_learn_from(parts):
    with pytest.raises(OptionError, match=r"Lower data\.held_out"):
        UNetClips(ClipStore(parts / "clips"), [], small_config(parts, parts / "out"))


@pytest.fixture
def latents(parts, tmp_path):
    shutil.copytree(parts / "clips", tmp_path / "clips")
    return ClipLatents(ClipStore(tmp_path / "clips"), load_vae(parts / "vae"), generation_mask(64), "mask")


def test_latents_are_made_once_and_are_the_vaes(latents):
    latents.make(range(3))
    times = [latents.path(i).stat().st_mtime_ns for i in range(3)]
    latents.make(range(4))
    assert [latents.path(i).stat().st_mtime_ns for i in range(3)] == times
    pixels = to_pixels(latents.store.frames(3, 5, 1))
    with torch.no_grad():
        for part, stored in zip((pixels, pixels * latents.mask), latents.of(3)[:, 5], strict=True):
            mean = latents.vae.encode(part).latent_dist.mean[0] * latents.vae.config.scaling_factor
            assert (mean - torch.tensor(stored).float()).abs().max() < 2e-3 * mean.abs().max()  # half precision


def test_another_vae_has_latents_of_its_own(latents):
    with torch.no_grad():
        latents.vae.decoder.conv_out.bias += 1e-3
    assert ClipLatents(latents.store, latents.vae, latents.mask, "mask").folder != latents.folder


def test_a_clip_that_cannot_be_encoded_is_left_out(latents):
    (latents.store.path(1) / "faces.npy").write_bytes(b"no array")
    latents.make(range(3))
    assert [latents.path(i).exists() for i in range(3)] == [True, False, True]
    with pytest.raises(MediaError, match=r"clip1\.npy"):
        latents.of(1)


def test_stored_latents_stand_in_for_frames(parts, latents):
    latents.make(range(5))
    with_latents = UNetClips(latents.store, list(range(5)), small_config(parts, parts / "out"), latents)
    item = with_latents[2, 0, 1]
    assert "frames" not in item
    clean, masked = latents.of(1)
    found = [
        i for i in range(CLIP_FRAMES) if np.array_equal(clean[i], item["latents"][0, 0].numpy().astype(np.float16))
    ]
    assert np.array_equal(masked[found[0]], item["latents"][1, 0].numpy().astype(np.float16))
    reference = item["latents"][2, 0].numpy().astype(np.float16)
    assert any(np.array_equal(clean[i], reference) for i in range(CLIP_FRAMES))
