import os
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from latentsync.errors import AudioError, OptionError, OutputError
from latentsync.media.audio_reader import probe_audio, read_audio
from latentsync.media.color import ColorTags
from latentsync.media.container import PYAV
from latentsync.media.output_file import check_output, written_whole
from latentsync.media.video_reader import probe_video, read_frames
from latentsync.media.video_writer import AudioSource, VideoWriter, format_warnings, output_layout, output_sample_rate
from tests.unit.media_clips import demo_video, numbered_picture, read_number, sine, write_clip, write_pcm

REPOSITORY = Path(__file__).parents[2]


def write(path, *, pictures=10, size=(160, 96), rate=25, **options):
    with VideoWriter(path, *size, rate=rate, **options) as writer:
        for number in range(pictures):
            writer.write(numbered_picture(number, *size))
    return path


def numbers(path):
    return [read_number(frame.pixels) for frame in read_frames(path)]


@pytest.mark.parametrize("suffix", [".mp4", ".m4v", ".mov", ".mkv", ".webm"])
def test_containers(tmp_path, suffix):
    path = write(tmp_path / f"out{suffix}")
    facts = probe_video(path)
    assert numbers(path) == list(range(10))
    assert (facts.width, facts.height, facts.fps) == (160, 96, 25)
    assert facts.codec == ("vp9" if suffix == ".webm" else "h264")
    assert facts.duration == pytest.approx(0.4, abs=0.002)
    assert [item.name for item in tmp_path.iterdir()] == [path.name]
    if suffix in (".mp4", ".mov"):
        content = path.read_bytes()
        assert content.index(b"moov") < content.index(b"mdat"), "the index must come first for the web"


@pytest.mark.parametrize("rate", [10, Fraction(30_000, 1001), 60])
def test_rates(tmp_path, rate):
    path = write(tmp_path / "out.mp4", rate=rate)
    assert probe_video(path).fps == rate
    assert [frame.time for frame in read_frames(path)] == pytest.approx([n / float(rate) for n in range(10)], abs=1e-4)


def test_variable_rate_survives(tmp_path):
    pts = [0, 100, 150, 400, 410, 1000, 1040, 1500]
    source = write_clip(tmp_path / "in.mkv", pts=pts, pictures=8, time_base=Fraction(1, 1000))
    facts = probe_video(source)
    with VideoWriter(
        tmp_path / "out.mp4", facts.width, facts.height, rate=facts.fps, time_base=facts.time_base
    ) as writer:
        for frame in read_frames(source):
            writer.write(frame.pixels, frame.pts)
    assert [frame.time for frame in read_frames(tmp_path / "out.mp4")] == pytest.approx([p / 1000 for p in pts])
    assert numbers(tmp_path / "out.mp4") == list(range(8))


@pytest.mark.parametrize("suffix", [".mp4", ".webm"])
@pytest.mark.parametrize("size", [(161, 97), (160, 97), (7680, 64)])
def test_sizes_are_kept(tmp_path, size, suffix):
    path = write(tmp_path / f"out{suffix}", size=size, pictures=2)
    assert next(read_frames(path)).pixels.shape == (size[1], size[0], 3)
    odd = size[1] % 2 and suffix == ".mp4"
    assert probe_video(path).pixel_format == ("yuv444p" if odd else "yuv420p")


def test_pixels_that_are_not_square(tmp_path):
    path = write(tmp_path / "out.mp4", pictures=2, sample_aspect_ratio=Fraction(16, 11))
    assert probe_video(path).sample_aspect_ratio == Fraction(16, 11)


def test_what_a_format_cannot_show_is_a_warning(tmp_path):
    for suffix in (".mp4", ".mov", ".mkv"):
        assert ["Write .webm" in text for text in format_warnings(f"out{suffix}", 319, 320, Fraction(1))] == [True]
        assert format_warnings(f"out{suffix}", 320, 320, Fraction(4, 3)) == []
        path = write(tmp_path / f"out{suffix}", pictures=2, sample_aspect_ratio=Fraction(4, 3))
        assert probe_video(path).sample_aspect_ratio == Fraction(4, 3)
    assert format_warnings("out.WEBM", 319, 321, Fraction(1)) == []
    assert ["Write .mp4" in text for text in format_warnings("out.webm", 320, 320, Fraction(4, 3))] == [True]


def test_h265(tmp_path, capfd):
    path = write(tmp_path / "out.mp4", codec="libx265")
    assert probe_video(path).codec == "hevc"
    assert b"hvc1" in path.read_bytes()
    assert numbers(path) == list(range(10))
    assert capfd.readouterr().err == ""


def test_single_frame(tmp_path):
    path = write(tmp_path / "out.mp4", pictures=1)
    assert numbers(path) == [0]
    assert probe_video(path).duration == pytest.approx(0.04)


@pytest.mark.parametrize("color_range", [1, 2])
@pytest.mark.parametrize("matrix", [1, 5, 6, 9])
def test_colours_come_back(tmp_path, matrix, color_range):
    tags = ColorTags(color_range, matrix, {9: 9}.get(matrix, 1), 1)
    generator = np.random.default_rng(3)
    ramps = [np.linspace(low, high, 128) for low, high in generator.integers(0, 256, (3, 2))]
    pixels = np.stack(np.broadcast_arrays(ramps[0][None], ramps[1][:64, None], ramps[2][None, ::-1]), -1)
    # Grain keeps the encoder from rounding whole smooth areas the same way, which is not what is measured here.
    pixels = (pixels + generator.normal(0, 6, (64, 128, 1))).round().clip(0, 255).astype(np.uint8)
    source = pixels
    for generation in range(2):
        path = tmp_path / f"out{generation}.mp4"
        with VideoWriter(path, 128, 64, rate=25, color=tags) as writer:
            for _ in range(3):
                writer.write(pixels)
        assert probe_video(path).color == tags
        pixels = next(read_frames(path)).pixels
        shift = (pixels.astype(float) - source).mean((0, 1))
        assert np.abs(shift).max() < 0.5 * (generation + 1), (
            f"mean shift per channel after generation {generation}: {shift}"
        )


@pytest.mark.parametrize("suffix", [".mp4", ".webm"])
def test_chroma_does_not_move_sideways(tmp_path, suffix):
    """On a colour ramp of 2 levels a pixel, chroma taken half a pixel off would show as most of a level."""
    ramp = np.arange(128, dtype=np.uint8) * 2
    pixels = np.broadcast_to(np.stack([ramp, np.full_like(ramp, 128), ramp[::-1]], -1), (64, 128, 3))
    with VideoWriter(tmp_path / f"out{suffix}", 128, 64, rate=25, crf=4) as writer:
        writer.write(pixels)
    shift = next(read_frames(tmp_path / f"out{suffix}")).pixels[:, 8:-8].astype(float) - pixels[:, 8:-8]
    assert np.abs(shift.mean((0, 1))).max() < 0.3


def test_colour_without_tags_is_bt709(tmp_path):
    assert probe_video(write(tmp_path / "out.mp4")).color == ColorTags(1, 1, 1, 1)


def impulse(path, sample_rate, channels):
    samples = np.zeros((channels, sample_rate * 2))
    samples[:, sample_rate : sample_rate + sample_rate // 50] = sine(1000, 0.02, sample_rate)
    return write_pcm(path, samples, sample_rate)


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv", ".webm"])
def test_sound_is_not_shifted(tmp_path, suffix):
    speech = impulse(tmp_path / "in.wav", 48_000, 1)
    path = write(tmp_path / f"out{suffix}", pictures=50, audio=AudioSource(speech))
    sound = read_audio(path, sample_rate=48_000)
    original = read_audio(speech, sample_rate=48_000)
    length = min(len(sound), len(original))
    spectrum = np.fft.rfft(sound[:length]) * np.fft.rfft(original[:length]).conj()
    lag = int(np.fft.irfft(spectrum, length).argmax())
    # Matroska counts in ms, and FFmpeg 7 (PyAV before 17) rounds what Opus puts before the sound to them.
    exact = PYAV >= (17, 0) or suffix != ".mkv"
    assert min(lag, length - lag) <= (1 if exact else 48), f"{lag} samples of 48 kHz"
    assert abs(len(sound) / 48_000 - 2) < 0.03


@pytest.mark.parametrize("channels", [1, 2, 6])
@pytest.mark.parametrize("sample_rate", [8_000, 16_000, 22_050, 44_100, 48_000, 96_000])
def test_sound_keeps_rate_and_channels(tmp_path, sample_rate, channels):
    speech = write_pcm(tmp_path / "in.wav", np.tile(sine(440, 0.5, sample_rate), (channels, 1)), sample_rate)
    path = write(tmp_path / "out.mp4", pictures=12, audio=AudioSource(speech))
    facts = probe_audio(path)
    assert (facts.sample_rate, facts.channels) == (sample_rate, channels)
    assert facts.layout == {1: "mono", 2: "stereo", 6: "5.1"}[channels]
    assert facts.duration == pytest.approx(0.5, abs=0.01)
    sound = read_audio(path)
    assert np.abs(sound[1000:7000]).max() == pytest.approx(0.5, abs=0.1)


def test_sound_part(tmp_path):
    speech = impulse(tmp_path / "in.wav", 16_000, 1)
    path = write(tmp_path / "out.mp4", audio=AudioSource(speech, start=0.9, duration=0.4))
    sound = read_audio(path)
    assert np.flatnonzero(np.abs(sound) > 0.2)[0] / 16_000 == pytest.approx(0.1, abs=0.004)
    assert probe_audio(path).duration == pytest.approx(0.4, abs=0.005)


def test_picture_and_sound_lie_close_together_in_the_file(tmp_path):
    """A player must not need to read far ahead, and the writer must not hold one of them back."""
    speech = write_pcm(tmp_path / "in.wav", sine(440, 8, 16_000)[None], 16_000)
    path = write(tmp_path / "out.mp4", pictures=200, audio=AudioSource(speech))
    with av.open(str(path)) as container:
        last, worst = {"video": 0.0, "audio": 0.0}, 0.0
        for packet in container.demux():
            if packet.dts is not None:
                last[packet.stream.type] = float(packet.dts * packet.time_base)
                worst = max(worst, abs(last["video"] - last["audio"]))
    assert worst < 1.5


def test_codec_limits_on_sound():
    assert [output_sample_rate("aac", rate) for rate in (8000, 11_000, 22_050, 50_000, 192_000)] == [
        *(8000, 11_025, 22_050, 64_000, 96_000)
    ]
    assert output_sample_rate("libopus", 16_000) == 48_000
    assert [output_layout("aac", *kind) for kind in (("mono", 1), ("5.1(side)", 6), ("7.1", 8), ("downmix", 2))] == [
        *("mono", "5.1", "5.1", "stereo")
    ]
    assert [output_layout("libopus", *kind) for kind in (("2.1", 3), ("7.1", 8))] == ["stereo", "7.1"]


def test_bad_sound_stops_before_anything_is_written(tmp_path):
    (tmp_path / "in.wav").write_text("no sound")
    for speech in ("in.wav", "missing.wav"):
        with pytest.raises(AudioError):
            write(tmp_path / "out.mp4", audio=AudioSource(tmp_path / speech))
    assert [item.name for item in tmp_path.iterdir()] == ["in.wav"]


def _write_and_raise(path, pictures, error, **options):
    with VideoWriter(path, 160, 96, rate=25, **options) as writer:
        for number in range(pictures):
            writer.write(numbered_picture(number, 160, 96))
        assert [item for item in path.parent.iterdir() if ".part" in item.name]
        raise error


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError, SystemExit])
@pytest.mark.parametrize("after", [0, 3, 60])
def test_interrupted(tmp_path, error, after):
    speech = write_pcm(tmp_path / "in.wav", sine(440, 3, 16_000)[None], 16_000)
    target = tmp_path / "new" / "folder" / "out.mp4"
    with pytest.raises(error):
        _write_and_raise(target, after, error, audio=AudioSource(speech))
    assert not target.exists()
    assert [item.name for item in tmp_path.rglob("*")] == ["in.wav"]


def test_an_older_result_survives_an_interruption(tmp_path):
    path = write(tmp_path / "out.mp4", pictures=3)
    with pytest.raises(KeyboardInterrupt):
        _write_and_raise(path, 5, KeyboardInterrupt)
    assert numbers(path) == [0, 1, 2]
    write(path, pictures=2)
    assert numbers(path) == [0, 1]
    assert [item.name for item in tmp_path.iterdir()] == ["out.mp4"]


def test_closed_without_finish(tmp_path):
    writer = VideoWriter(tmp_path / "out.mp4", 160, 96, rate=25)
    writer.write(numbered_picture(0, 160, 96))
    writer.close()
    assert not list(tmp_path.iterdir())
    with pytest.raises(OptionError, match="closed"):
        writer.write(numbered_picture(1, 160, 96))


def test_no_frames(tmp_path):
    with pytest.raises(OutputError, match="No frames"):
        write(tmp_path / "out.mp4", pictures=0)
    assert not list(tmp_path.iterdir())


_FILL = """
import resource, signal, sys
import numpy as np
from latentsync.errors import OutputError
from latentsync.media.video_writer import VideoWriter, format_warnings
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
generator = np.random.default_rng(0)
try:
    with VideoWriter(sys.argv[1], 320, 240, rate=25) as writer:
        for _ in range(int(sys.argv[3])):
            writer.write(generator.integers(0, 256, (240, 320, 3), dtype=np.uint8))
except OutputError as error:
    print(error)
else:
    sys.exit("no error")
"""


@pytest.mark.parametrize(("limit", "frames"), [(200_000, 60), (1000, 2)])  # full on the way; full at the very end
def test_disk_full(tmp_path, limit, frames):
    pytest.importorskip("resource")
    target = tmp_path / "out.mp4"
    ran = subprocess.run(
        [sys.executable, "-c", _FILL, str(target), str(limit), str(frames)],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert "the disk is full" in ran.stdout
    assert str(target) in ran.stdout
    assert ran.stderr == ""
    assert not list(tmp_path.iterdir())


def test_unwritable_places(tmp_path):
    (tmp_path / "file").write_text("a file")
    (tmp_path / "folder.mp4").mkdir()
    cases = {
        tmp_path / "file" / "out.mp4": "is a file, not a folder",
        tmp_path / "file" / "deeper" / "out.mp4": "is a file, not a folder",
        tmp_path / "folder.mp4": "is a folder",
        tmp_path / "out.avi": r"ending in one of: \.mp4, \.m4v, \.mov, \.mkv, \.webm",
        tmp_path / "out": "ending in one of",
    }
    for path, message in cases.items():
        for attempt in (check_output, write):
            with pytest.raises(OutputError, match=message):
                attempt(path)
    assert sorted(item.name for item in tmp_path.iterdir()) == ["file", "folder.mp4"]


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs a folder in which nobody can make files")
def test_forbidden_folder():
    with pytest.raises(OutputError, match=r"permission denied|cannot be used"):
        check_output("/proc/out.mp4")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="permissions do not bind this user")
def test_read_only_folder(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(OutputError, match="permission denied"):
        check_output(tmp_path / "out.mp4")


def test_the_source_is_never_overwritten(tmp_path):
    source = write_clip(tmp_path / "in.mp4", pictures=2)
    before = source.read_bytes()
    (tmp_path / "link.mp4").symlink_to(source)
    os.link(source, tmp_path / "hard.mp4")
    (tmp_path / "sub").mkdir()
    for alias in ("in.mp4", "link.mp4", "hard.mp4", "sub/../in.mp4"):
        with pytest.raises(OutputError, match="is the input itself"):
            check_output(tmp_path / alias, [source])
        with pytest.raises(OutputError, match="is the input itself"):
            write(tmp_path / alias, inputs=(source,))
    with pytest.raises(OutputError, match="is the input itself"):
        write(source, audio=AudioSource(source))
    assert source.read_bytes() == before
    assert check_output(tmp_path / "out.mp4", [source, tmp_path / "missing.wav"]) == tmp_path / "out.mp4"
    assert check_output(tmp_path / "new" / "out.MP4", [source])
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("name", ["Übung 演讲 1.mp4", "a b%03d.mp4", "http:c.mp4", f"{'long' * 60}.mp4"])
def test_names(tmp_path, name):
    assert numbers(write(tmp_path / name, pictures=2)) == [0, 1]
    assert [item.name for item in tmp_path.iterdir()] == [name]


def test_impossible_options(tmp_path):
    for options in ({"size": (1, 96)}, {"rate": 0}, {"codec": "nonsense"}, {"codec": "libvpx-vp9"}):
        with pytest.raises(OptionError):
            write(tmp_path / "out.mp4", **options)
    with VideoWriter(tmp_path / "out.mp4", 160, 96, rate=25) as writer:
        writer.write(numbered_picture(0, 160, 96), 5)
        with pytest.raises(OptionError, match="growing"):
            writer.write(numbered_picture(1, 160, 96), 5)
        with pytest.raises(OptionError, match="expected uint8"):
            writer.write(numbered_picture(1, 96, 160))
        with pytest.raises(OptionError, match="expected uint8"):
            writer.write(numbered_picture(1, 160, 96).astype(np.float32))
    assert len(numbers(tmp_path / "out.mp4")) == 1


def test_demo_clip_keeps_its_colours(tmp_path):
    facts = probe_video(demo_video())
    path = tmp_path / "out.mp4"
    with VideoWriter(path, facts.width, facts.height, rate=facts.fps, color=facts.output_color) as writer:
        originals = []
        for frame in read_frames(demo_video(), duration=0.2):
            writer.write(frame.pixels)
            originals.append(frame.pixels)
    assert probe_video(path).color == facts.color
    for frame, original in zip(read_frames(path), originals, strict=True):
        difference = frame.pixels.astype(np.int16) - original
        assert np.abs(difference.mean((0, 1))).max() < 0.5
        assert np.abs(difference).mean() < 2


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_device_or_pipe_is_never_replaced(tmp_path):
    """Renaming onto /dev/null, say, would make it a file for everyone."""
    pipe = tmp_path / "pipe.json"
    os.mkfifo(pipe)
    with pytest.raises(OutputError, match="device or a pipe"):
        check_output(pipe, suffixes=[".json"])
    with pytest.raises(OutputError, match="device or a pipe"), written_whole(pipe) as part:
        part.write_text("{}")
    assert pipe.is_fifo()
    assert list(tmp_path.iterdir()) == [pipe]
