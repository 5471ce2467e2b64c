"""Every kind of video and sound that people have, good and bad, through the command line."""

from fractions import Fraction

import av
import numpy as np
import pytest

from latentsync.media.audio_reader import probe_audio
from latentsync.media.video_reader import probe_video, read_frames
from latentsync.media.video_writer import VideoWriter
from tests.unit.media_clips import encode_sound, sine, write_clip, write_pcm, write_without_frames

SIDE = 192


def no_face(count: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [np.kron(rng.integers(0, 256, (12, 12, 3), np.uint8), np.ones((16, 16, 1), np.uint8)) for _ in range(count)]


def test_missing_files(refused, tmp_path):
    assert f"No such file: '{tmp_path / 'none.mp4'}'" in refused(video=tmp_path / "none.mp4")
    assert f"No such file: '{tmp_path / 'none.wav'}'" in refused(audio=tmp_path / "none.wav")
    assert "is a folder; expected a media file" in refused(video=tmp_path)


@pytest.mark.parametrize("which", ["video", "audio"])
def test_text_under_a_media_name(refused, tmp_path, which):
    path = tmp_path / ("text.mp4" if which == "video" else "text.wav")
    path.write_text("This is not a video.\n" * 50)
    assert "is not a video or audio file" in refused(**{which: path})


def test_empty_file(refused, tmp_path):
    (tmp_path / "empty.mp4").touch()
    assert "is empty (0 bytes)" in refused(video=tmp_path / "empty.mp4")


def test_mp4_cut_before_its_index(refused, avatar_video, tmp_path):
    path = tmp_path / "cut.mp4"
    path.write_bytes(avatar_video.read_bytes()[:-3000])
    assert "is cut off: its index (moov) is missing" in refused(video=path)


def test_mp4_cut_after_its_index_gives_what_is_there(lip_sync, avatar_frames, speech, tmp_path, out):
    """As after a broken download of a file made for streaming: a warning, and the picture goes back from the cut."""
    whole, cut = tmp_path / "whole.mp4", tmp_path / "cut.mp4"
    with VideoWriter(whole, SIDE, SIDE, rate=25) as writer:
        for frame in avatar_frames:
            writer.write(frame)
    cut.write_bytes(whole.read_bytes()[: int(0.93 * whole.stat().st_size)])
    assert len(list(read_frames(cut))) < 12
    done = lip_sync(video=cut, audio=speech(0.48))
    assert done.code == 0
    assert probe_video(out).num_frames == 12


def test_video_without_frames(refused, tmp_path):
    path = tmp_path / "frameless.mkv"
    write_without_frames(path)
    assert "not one frame of it can be decoded" in refused(video=path)


def test_sound_where_a_video_is_expected(refused, tmp_path):
    path = encode_sound(tmp_path / "sound.m4a", sine(300, 1, 44_100)[None].repeat(2, 0), 44_100, "aac", "stereo")
    assert "holds no video; expected a file with a moving picture" in refused(video=path)


def test_video_without_sound_where_speech_is_expected(refused, avatar_frames, tmp_path):
    path = write_clip(tmp_path / "mute.mp4", pictures=avatar_frames[:2], size=(SIDE, SIDE))
    assert "is a video without an audio track; expected speech" in refused(audio=path)


def test_sound_without_samples(refused, tmp_path):
    path = write_pcm(tmp_path / "empty.wav", np.zeros((1, 0)), 16_000)
    assert "holds no sound at all (0 samples)" in refused(audio=path)


def test_preview_beyond_the_end_of_the_sound(refused, speech):
    assert "cannot start at 5 s" in refused("--start", 5, audio=speech(0.48))


def test_silence_is_speech_too(lip_sync, tmp_path, out):
    done = lip_sync(audio=write_pcm(tmp_path / "silence.wav", np.zeros((1, 3200)), 16_000))
    assert done.code == 0
    assert probe_video(out).num_frames == 5


def test_very_short_sound_gives_one_frame(lip_sync, tmp_path, out):
    assert lip_sync(audio=write_pcm(tmp_path / "click.wav", np.full((1, 3), 0.5), 16_000)).code == 0
    assert probe_video(out).num_frames == 1


def test_sound_of_a_video_drives_it(lip_sync, avatar_video, out):
    """The same file may be both inputs; its tone lasts a second."""
    assert lip_sync(video=avatar_video, audio=avatar_video).code == 0
    assert probe_video(out).num_frames in (25, 26)  # AAC comes in whole blocks


@pytest.mark.parametrize(
    ("name", "codec", "layout", "rate"),
    [
        ("low.wav", "pcm_s16le", "mono", 8_000),
        ("music.m4a", "aac", "stereo", 44_100),
        ("cinema.flac", "flac", "5.1", 48_000),
        ("studio.flac", "flac", "stereo", 96_000),
        ("message.ogg", "libopus", "mono", 48_000),
    ],
)
def test_sound_of_any_rate_and_layout(lip_sync, tmp_path, out, name, codec, layout, rate):
    channels = {"mono": 1, "stereo": 2, "5.1": 6}[layout]
    samples = np.stack([sine(200 + 50 * channel, 0.2, rate) for channel in range(channels)])
    if codec in ("flac", "pcm_s16le"):
        path = tmp_path / name
        with av.open(str(path), "w") as container:
            stream = container.add_stream(codec, rate=rate)
            stream.layout = layout
            packed = np.ascontiguousarray((samples.T * 32767).astype(np.int16)).reshape(1, -1)
            frame = av.AudioFrame.from_ndarray(packed, "s16", layout)
            frame.sample_rate, frame.time_base, frame.pts = rate, Fraction(1, rate), 0
            container.mux(stream.encode(frame))
            container.mux(stream.encode())
    else:
        path = encode_sound(tmp_path / name, samples, rate, codec, layout)
    assert lip_sync(audio=path).code == 0
    facts = probe_audio(out)
    assert (facts.sample_rate, facts.channels) == (rate, channels)
    assert probe_video(out).num_frames in (5, 6)  # lossy coding may round the length up


def test_no_face_says_what_to_do(refused, tmp_path):
    path = write_clip(tmp_path / "none.mp4", pictures=no_face(3), size=(SIDE, SIDE))
    message = refused(video=path)
    assert "no face was found in any of the 3 frames" in message
    assert "Choose another video or another part of it (start, duration)" in message


def test_face_in_part_of_the_video(lip_sync, avatar_frames, tmp_path):
    pictures = [*no_face(2), *avatar_frames[:3]]
    done = lip_sync(video=write_clip(tmp_path / "part.mp4", pictures=pictures, size=(SIDE, SIDE)))
    assert done.code == 0
    assert "5 frames in" in done.err
    assert "2 without a usable face left as they were" in done.err


def test_video_of_one_frame(lip_sync, avatar_frames, tmp_path, out):
    assert lip_sync(video=write_clip(tmp_path / "one.mp4", pictures=avatar_frames[:1], size=(SIDE, SIDE))).code == 0
    assert probe_video(out).num_frames == 5


def test_very_wide_video(lip_sync, avatar, speech, tmp_path, out):
    frame = np.full((320, 7680, 3), 90, np.uint8)
    frame[:, 3000:3320] = avatar.frame(4, 320, 320)
    path = write_clip(tmp_path / "wide.mp4", pictures=[frame], size=(7680, 320), options={"preset": "ultrafast"})
    done = lip_sync(video=path, audio=speech(0.04))
    assert done.code == 0, done.err
    assert (probe_video(out).width, probe_video(out).height) == (7680, 320)


@pytest.mark.parametrize(("width", "height"), [(193, 161), (192, 171), (171, 192)])
def test_odd_sizes(lip_sync, avatar, tmp_path, out, width, height):
    pictures = [avatar.frame(index, height, width) for index in range(2)]
    path = write_clip(tmp_path / "odd.mp4", pictures=pictures, size=(width, height), pixel_format="yuv444p")
    assert lip_sync(video=path).code == 0
    assert (probe_video(out).width, probe_video(out).height) == (width, height)


@pytest.mark.parametrize(("fps", "frames"), [(10, 2), (60, 12), (Fraction(30000, 1001), 6)])
def test_frame_rates(lip_sync, avatar_frames, tmp_path, out, fps, frames):
    path = write_clip(tmp_path / "clip.mp4", pictures=avatar_frames, fps=fps, size=(SIDE, SIDE))
    assert lip_sync(video=path).code == 0
    facts = probe_video(out)
    assert facts.fps == fps
    assert facts.num_frames == frames


def test_variable_frame_rate(lip_sync, avatar_frames, tmp_path, out):
    times = [0, 20, 60, 70, 150, 190, 230, 300]
    path = write_clip(
        tmp_path / "vfr.mp4", pictures=avatar_frames[:8], size=(SIDE, SIDE), pts=times, time_base=Fraction(1, 1000)
    )
    assert lip_sync(video=path).code == 0
    assert [frame.time for frame in read_frames(out)] == pytest.approx([t / 1000 for t in times[:6]], abs=1e-3)


@pytest.mark.parametrize("degrees", [90, -90, 180])
def test_rotated_phone_video(lip_sync, avatar, tmp_path, out, degrees):
    upright = [avatar.frame(index, 224, 160) for index in range(3)]
    coded = [np.ascontiguousarray(np.rot90(frame, -degrees // 90)) for frame in upright]
    size = coded[0].shape[1::-1]
    path = write_clip(tmp_path / "phone.mp4", pictures=coded, size=size, rotation=degrees)
    done = lip_sync(video=path)
    assert done.code == 0
    assert "without a face" not in done.err
    facts = probe_video(out)
    assert (facts.width, facts.height, facts.rotation) == (160, 224, 0)
    first = next(read_frames(out)).pixels[:60].astype(int)
    assert np.abs(first - upright[0][:60]).mean() < 6


@pytest.mark.parametrize("folder", ["with spaces", "ünïcödé ☃ 视频", "it's 100% #1 & (co)", "-dash"])
def test_unusual_paths(lip_sync, avatar_video, speech, tmp_path, folder):
    place = tmp_path / folder
    place.mkdir()
    video, audio = place / "in put.mp4", place / "spräche.wav"
    video.write_bytes(avatar_video.read_bytes())
    audio.write_bytes(speech(0.2).read_bytes())
    done = lip_sync(video=video, audio=audio, output=place / "er gebnis.mp4")
    assert done.code == 0
    assert done.out == f"{place / 'er gebnis.mp4'}\n"


@pytest.mark.parametrize("suffix", [".mov", ".mkv", ".webm", ".MP4"])
def test_containers(lip_sync, out, suffix):
    assert lip_sync(output=out.with_suffix(suffix)).code == 0
    assert len(list(read_frames(out.with_suffix(suffix)))) == 5


def test_output_over_an_input(refused, avatar_video, speech, tmp_path):
    assert "is the input itself, which is never changed" in refused(output=avatar_video)
    link = tmp_path / "link.mp4"
    link.symlink_to(avatar_video)
    assert "is the input itself" in refused(output=link)
    sound = tmp_path / "speech.mp4"
    sound.write_bytes(avatar_video.read_bytes())
    assert "is the input itself" in refused(audio=sound, output=sound)


def test_outputs_that_cannot_be(refused, tmp_path):
    (tmp_path / "file").write_text("a file")
    (tmp_path / "folder.mp4").mkdir()
    for output, message in {
        "file/out.mp4": f"'{tmp_path / 'file'}' is a file, not a folder",
        "file/deeper/out.mp4": "is a file, not a folder",
        "folder.mp4": "is a folder; expected the name of a file",
        "out.avi": "expected a name ending in one of: .mp4, .m4v, .mov, .mkv, .webm",
        "out": "Cannot tell the format to write from 'out'",
        "x" * 300 + ".mp4": "File name too long",
    }.items():
        assert message in refused(output=tmp_path / output)


def test_an_older_result_is_replaced_only_by_a_complete_one(lip_sync, refused, tmp_path):
    result = tmp_path / "out.mp4"
    result.write_bytes(b"older")
    video = write_clip(tmp_path / "none.mp4", pictures=no_face(2), size=(SIDE, SIDE))
    refused(video=video, output=result)
    assert result.read_bytes() == b"older"
    assert lip_sync(output=result).code == 0
    assert probe_video(result).num_frames == 5
