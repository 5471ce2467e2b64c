import itertools
import logging
import shutil
from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import ExifTags, Image, features

from latentsync.errors import MediaError, OptionError
from latentsync.media.color import HLG, PQ, HdrMapper
from latentsync.media.container import MAX_SECONDS, PYAV
from latentsync.media.video_decoder import FrameClock, VideoDecoder, counted_rate, progressive
from latentsync.media.video_reader import exact_rate, probe_video, read_frames, read_playback
from tests.unit.media_clips import (
    demo_video,
    encode_sound,
    numbered_picture,
    read_number,
    sine,
    write_clip,
    write_pcm,
    write_without_frames,
)


def numbers(frames):
    return [read_number(frame.pixels) for frame in frames]


@pytest.mark.parametrize("fps", [10, Fraction(30_000, 1001), 60])
def test_constant_rate(tmp_path, fps):
    path = write_clip(tmp_path / "clip.mp4", fps=fps, pictures=15, tone=440)
    facts = probe_video(path)
    assert (facts.width, facts.height, facts.fps, facts.num_frames) == (160, 96, fps, 15)
    assert facts.has_audio
    assert facts.codec == "h264"
    assert facts.rotation == 0
    assert facts.duration == pytest.approx(15 / fps, abs=1e-3)
    frames = list(read_frames(path))
    assert numbers(frames) == list(range(15))
    assert [frame.time for frame in frames] == pytest.approx([float(n / Fraction(fps)) for n in range(15)], abs=1e-4)
    assert [frame.index for frame in frames] == [frame.source_index for frame in frames] == list(range(15))
    assert all(f.pixels.flags.c_contiguous and f.pixels.dtype == np.uint8 for f in frames)


def test_variable_rate_keeps_its_timestamps(tmp_path):
    pts = [0, 100, 150, 400, 410, 1000, 1040, 1500]
    path = write_clip(tmp_path / "clip.mkv", pts=pts, pictures=8, time_base=Fraction(1, 1000))
    frames = list(read_frames(path))
    assert numbers(frames) == list(range(8))
    assert [frame.time for frame in frames] == pytest.approx([p / 1000 for p in pts])
    time_base = probe_video(path).time_base
    assert [frame.pts * time_base for frame in frames] == [Fraction(p, 1000) for p in pts]


@pytest.mark.parametrize("source", [10, 24, 30, 60])
def test_resampling_takes_the_frames_that_ffmpegs_fps_filter_takes(tmp_path, source):
    path = write_clip(tmp_path / "clip.mp4", fps=source, pictures=source * 2 + 1)
    frames = list(read_frames(path, fps=25))
    assert numbers(frames) == _fps_filter(path, "25")
    assert [frame.time for frame in frames] == pytest.approx([n / 25 for n in range(len(frames))])
    assert [frame.source_index for frame in frames] == numbers(frames)


@pytest.mark.parametrize(("rotation", "aspect"), [(None, Fraction(4, 3)), (90, Fraction(3, 4)), (180, Fraction(4, 3))])
def test_pixel_aspect_that_the_container_tells_alone(tmp_path, rotation, aspect):
    square = {"sample_aspect_ratio": Fraction(1)}
    clip = write_clip(tmp_path / "clip.mp4", pictures=2, rotation=rotation, tags=square).read_bytes()
    ones, wide = (b"pasp" + width.to_bytes(4, "big") + height.to_bytes(4, "big") for width, height in [(1, 1), (4, 3)])
    assert clip.count(ones) == 1
    (tmp_path / "wide.mp4").write_bytes(clip.replace(ones, wide))
    assert probe_video(tmp_path / "wide.mp4").sample_aspect_ratio == aspect
    assert probe_video(tmp_path / "clip.mp4").sample_aspect_ratio == 1


@pytest.mark.parametrize(("suffix", "codec"), [("mov", "prores_ks"), ("mkv", "libx264")])
def test_pixel_aspect_of_other_formats(tmp_path, suffix, codec):
    with av.open(str(tmp_path / f"clip.{suffix}"), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height = 96, 64
        stream.pix_fmt = "yuv422p10le" if codec == "prores_ks" else "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(16, 11)
        frame = av.VideoFrame.from_ndarray(numbered_picture(1, 96, 64)).reformat(format=stream.pix_fmt)
        for packet in (*stream.encode(frame), *stream.encode()):
            container.mux(packet)
    assert probe_video(tmp_path / f"clip.{suffix}").sample_aspect_ratio == Fraction(16, 11)


def _interlaced(path, num_frames=12, codec="libx264", options=None, size=(160, 96), noise=1):
    """A bar that moves 4 px a field, woven from two moments a frame, top field first; noise: grey levels of it."""
    options = options or {"flags": "+ildct+ilme", "crf": "4"}
    marked = av.filter.Graph()
    source = marked.add_buffer(width=size[0], height=size[1], format=av.VideoFormat("rgb24"), time_base=Fraction(1, 25))
    marker, sink = marked.add("setfield", "tff"), marked.add("buffersink")
    source.link_to(marker)
    marker.link_to(sink)
    marked.configure()

    def moment(number):
        picture = np.full((size[1], size[0], 3), 40, np.uint8)
        picture[:, 20 + 4 * number : 40 + 4 * number] = 220
        return picture - np.random.default_rng(number).integers(0, noise, picture.shape, np.uint8)

    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options=options)
        stream.width, stream.height = size
        stream.pix_fmt = "yuv422p10le" if codec == "prores_ks" else "yuv420p"
        stream.codec_context.gop_size = 5
        for number in range(num_frames):
            woven = moment(2 * number)
            woven[1::2] = moment(2 * number + 1)[1::2]
            frame = av.VideoFrame.from_ndarray(woven)
            frame.pts, frame.time_base = number, Fraction(1, 25)
            marked.push(frame)
            container.mux(stream.encode(marked.pull()))
        container.mux(stream.encode())
    return path


def _combs(pixels):
    """Share of the rows' differences that are there between neighbours and not between every second row."""
    grey = pixels.astype(int).mean(-1)
    near, far = np.abs(grey[1:-1] - grey[:-2]).sum(), np.abs(grey[2:] - grey[:-2]).sum()
    return max(near - far, 0) / grey.size


@pytest.mark.parametrize(
    ("suffix", "codec", "options"),
    [
        ("mp4", "libx264", None),
        ("mpg", "mpeg2video", {"flags": "+ildct+ilme", "qmin": "1", "b": "4M"}),
        ("mov", "prores_ks", {"flags": "+ildct+ilme"}),
    ],
)
def test_interlaced_frames_are_made_whole(tmp_path, suffix, codec, options):
    path = _interlaced(tmp_path / f"clip.{suffix}", codec=codec, options=options)
    with av.open(str(path)) as container:
        coded = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert all(_combs(pixels) > 5 for pixels in coded)
    frames = list(read_frames(path))
    assert [frame.time for frame in frames] == pytest.approx([n / 25 for n in range(12)], abs=1e-4)
    assert max(_combs(frame.pixels) for frame in frames) < 0.5
    for number, frame in enumerate(frames):  # and show the first of the two moments
        bar = np.flatnonzero(frame.pixels[48, :, 0] > 130)
        assert (bar[0], bar[-1]) == pytest.approx((20 + 8 * number, 39 + 8 * number), abs=2)
    [notice] = [notice for notice in probe_video(path).notices if "interlaced" in notice]
    assert "50 frames a second" in notice


def test_interlaced_frames_are_the_same_however_they_are_reached(tmp_path):
    path = _interlaced(tmp_path / "clip.mp4", 20, noise=30)
    frames = [frame.pixels for frame in read_frames(path)]
    for start in (0.2, 0.36, 0.4, 0.76):  # in a group of pictures, at key frames, at the end
        part = [frame.pixels for frame in read_frames(path, start=start, duration=0.16)]
        assert np.array_equal(part, frames[round(start * 25) :][:4])
    again = list(itertools.islice(read_playback(path, "bounce", memory_limit=0), 58))
    assert [frame.source_index for frame in again] == [*range(20), *range(18, 0, -1), *range(20)]
    assert all(np.array_equal(frame.pixels, frames[frame.source_index]) for frame in again)
    resampled = list(read_frames(path, fps=50))
    assert all(np.array_equal(frame.pixels, frames[frame.source_index]) for frame in resampled)


def test_only_frames_marked_as_interlaced_are_changed(tmp_path):
    def decoded(path):
        with av.open(str(path)) as container:
            return list(container.decode(video=0))

    whole = decoded(write_clip(tmp_path / "whole.mp4", pictures=5))
    combed = decoded(_interlaced(tmp_path / "combed.mp4", 5))
    large = decoded(_interlaced(tmp_path / "large.mp4", 3, size=(320, 192)))
    mixed = [*whole[:3], *combed, *whole[3:], *large, large[0]]
    given = list(progressive((frame, number) for number, frame in enumerate(mixed)))
    assert [pts for _, pts in given] == list(range(14))
    assert [(frame.width, frame.pts) for frame, _ in given] == [(frame.width, frame.pts) for frame in mixed]
    pixels = [frame.to_ndarray(format="rgb24") for frame, _ in given]
    assert all(given[place][0] is whole[place] for place in range(3))
    assert all(np.array_equal(pixels[8 + n], whole[3 + n].to_ndarray(format="rgb24")) for n in range(2))
    assert max(map(_combs, pixels)) < 0.5
    if PYAV < (17, 0):  # FFmpeg 7's filter does not look back at a frame that it leaves as it is
        return
    # The first combed frame is completed from the frame before it.
    noisy = decoded(_interlaced(tmp_path / "noisy.mp4", 2, noise=30))
    alone, after = (
        [frame.to_ndarray() for frame, _ in progressive((frame, None) for frame in frames)]
        for frames in (noisy, [whole[0], *noisy])
    )
    assert not np.array_equal(alone[0], after[1])
    assert np.array_equal(alone[1], after[2])
    assert probe_video(tmp_path / "whole.mp4").notices == ()


def test_transparency_is_told_where_there_is_any(tmp_path):
    def notices(name, alpha, codec=None, pixel_format=None):
        picture = np.dstack([numbered_picture(5, 64, 64), np.full((64, 64), 255, np.uint8)])
        picture[20:40, 20:40, 3] = alpha
        if codec is None:
            images = [Image.fromarray(picture), Image.fromarray(picture[:, ::-1])]
            images[0].save(tmp_path / name, save_all=True, append_images=images[1:])
        else:
            with av.open(str(tmp_path / name), "w") as container:
                stream = container.add_stream(codec, rate=25)
                stream.width, stream.height, stream.pix_fmt = 64, 64, pixel_format
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgba")))
                container.mux(stream.encode())
        return tuple(notice for notice in probe_video(tmp_path / name).notices if "transparent" in notice)

    for name, codec, pixel_format in [
        ("clip.mov", "prores_ks", "yuva444p10le"),
        ("clip.mkv", "ffv1", "bgra"),
        ("clip.avi", "png", "rgba"),
        ("clip.gif", None, None),
        ("clip.png", None, None),
    ]:
        [notice] = notices(name, 0, codec, pixel_format)
        assert "transparent" in notice
        assert notices(name, 255, codec, pixel_format) == ()
    # The decoder of VP9 gives no alpha: what the container says counts.
    [notice] = notices("clip.webm", 0, "libvpx-vp9", "yuva420p")
    assert "transparent" in notice


@pytest.mark.parametrize("durations", [80, [40, 40, 120, 200, 40, 40, 80, 40, 40, 60]])
def test_animated_webp(tmp_path, durations):
    path = tmp_path / "clip.webp"
    images = [Image.fromarray(numbered_picture(number, 160, 96)) for number in range(10)]
    images[0].save(path, save_all=True, append_images=images[1:], duration=durations, lossless=True)
    starts = np.cumsum([0, *(durations if isinstance(durations, list) else [durations] * 10)]) / 1000
    facts, frames = probe_video(path), list(read_frames(path))
    assert (facts.width, facts.height, facts.has_audio, facts.notices) == (160, 96, False, ())
    assert facts.duration == pytest.approx(starts[-1], abs=0.1)
    assert numbers(frames) == list(range(10))
    assert [frame.time for frame in frames] == pytest.approx(starts[:-1].tolist(), abs=1e-3)
    assert np.array_equal(frames[3].pixels, numbered_picture(3, 160, 96))
    assert numbers(read_frames(path, start=starts[4], duration=starts[7] - starts[4])) == [4, 5, 6]
    again = list(itertools.islice(read_playback(path, "bounce", memory_limit=0), 22))
    assert numbers(again) == [*range(10), *range(8, 0, -1), 0, 1, 2, 3]
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(MediaError, match="damaged"):
        probe_video(path)


@pytest.mark.parametrize("suffix", ["png", "gif", "avif"])
def test_other_animated_pictures(tmp_path, suffix):
    if not features.check(suffix) and suffix == "avif":
        pytest.skip("this Pillow writes no AVIF")
    path = tmp_path / f"clip.{suffix}"
    images = [Image.fromarray(numbered_picture(number, 160, 96)) for number in range(8)]
    images[0].save(path, save_all=True, append_images=images[1:], duration=80)
    frames = list(read_frames(path))
    assert numbers(frames) == list(range(8))
    assert [frame.time for frame in frames] == pytest.approx([n * 0.08 for n in range(8)], abs=1e-3)
    assert probe_video(path).notices == ()


def test_a_file_is_opened_once_to_be_probed_and_once_to_be_read(tmp_path, monkeypatch):
    opened, original = [], av.open
    path = write_clip(tmp_path / "clip.mp4", pictures=9, tone=440)
    monkeypatch.setattr(av, "open", lambda *args, **kwargs: opened.append(args[0]) or original(*args, **kwargs))
    assert probe_video(path).has_audio
    assert len(opened) == 1
    assert numbers(read_frames(path)) == list(range(9))
    assert len(opened) == 2
    with VideoDecoder(path) as decoder:  # and as often as one likes
        for _ in range(2):
            assert [pts // 512 for _, pts in decoder.frames()] == list(range(9))
        assert [pts // 512 for _, pts in decoder.frames(4 * 512)][-5:] == [4, 5, 6, 7, 8]


def test_resampling_length(tmp_path):
    path = write_clip(tmp_path / "clip.mp4", fps=30, pictures=600, size=(80, 32), options={"preset": "ultrafast"})
    assert sum(1 for _ in read_frames(path, fps=25)) == 500


def test_resampling_variable_rate(tmp_path):
    pts = [0, 100, 150, 400, 410, 1000]
    path = write_clip(tmp_path / "clip.mkv", pts=pts, pictures=6, time_base=Fraction(1, 1000))
    assert numbers(read_frames(path, fps=10)) == _fps_filter(path, "10") == [0, 1, 2, 2, 4, 4, 4, 4, 4, 4]
    assert numbers(read_frames(path, fps=50)) == _fps_filter(path, "50")


def _fps_filter(path, fps):
    with av.open(str(path)) as container:
        graph = av.filter.Graph()
        source = graph.add_buffer(template=container.streams.video[0])
        rate, sink = graph.add("fps", fps), graph.add("buffersink")
        source.link_to(rate)
        rate.link_to(sink)
        graph.configure()
        found = []
        for frame in (*container.decode(video=0), None):
            graph.push(frame)
            while True:
                try:
                    found.append(read_number(graph.pull().to_ndarray(format="rgb24")))
                except (av.BlockingIOError, av.EOFError):
                    break
        return found


@pytest.mark.parametrize("gop", [1, 7, 250])
def test_window(tmp_path, gop):
    path = write_clip(tmp_path / "clip.mp4", fps=10, pictures=60, gop=gop)
    frames = list(read_frames(path, start=0.1, duration=0.5))
    assert numbers(frames) == [1, 2, 3, 4, 5]
    assert [frame.time for frame in frames] == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])
    assert frames[0].pts == 0
    for start in (1.0, 3.3, 5.9):
        assert numbers(read_frames(path, start=start, duration=0.3)) == [
            n for n in range(round(start * 10), round(start * 10) + 3) if n < 60
        ]
    assert numbers(read_frames(path, start=2.0, duration=1.0, fps=25))[::5] == [20, 22, 24, 26, 28]
    with pytest.raises(MediaError, match="no frame at or after 7 s"):
        list(read_frames(path, start=7))


@pytest.mark.parametrize("options", [{"start": -1}, {"duration": 0}, {"fps": 0}, {"start": float("nan")}])
def test_impossible_window(tmp_path, options):
    path = write_clip(tmp_path / "clip.mp4", pictures=2)
    with pytest.raises(OptionError):
        list(read_frames(path, **options))


@pytest.mark.parametrize(
    ("degrees", "hflip", "corner"),
    [(0, False, (0, 0)), (90, False, (1, 0)), (180, False, (1, 1)), (-90, False, (0, 1)), (0, True, (0, 1))],
)
def test_phone_orientation(tmp_path, degrees, hflip, corner):
    """A white top left corner turns up where a player would show it (`corner`: row and column)."""
    picture = np.zeros((64, 96, 3), np.uint8)
    picture[:32, :48] = 255
    path = write_clip(tmp_path / "clip.mp4", pictures=[picture] * 2, size=(96, 64), rotation=degrees, hflip=hflip)
    facts, frame = probe_video(path), next(read_frames(path))
    height, width = frame.pixels.shape[:2]
    assert (facts.width, facts.height) == (width, height) == ((64, 96) if abs(degrees) == 90 else (96, 64))
    assert facts.rotation == degrees
    quarter = frame.pixels.reshape(2, height // 2, 2, width // 2, 3).mean((1, 3, 4))
    assert np.argwhere(quarter > 128).tolist() == [list(corner)]


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp"])
@pytest.mark.parametrize(
    ("value", "rotation", "corner"),
    # where the picture's bright corner, at the top left, is seen
    [(1, 0, (0, 0)), (2, 0, (0, -1)), (3, 180, (-1, -1)), (5, -90, (0, 0)), (6, -90, (0, -1)), (8, 90, (-1, 0))],
)
def test_exif_orientation_of_a_photo(tmp_path, suffix, value, rotation, corner):
    pixels = np.full((64, 96, 3), 60, np.uint8)
    pixels[:20, :20] = 200
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = value
    exif[ExifTags.Base.Make] = "a phone"
    Image.fromarray(pixels).save(tmp_path / f"photo{suffix}", exif=exif, quality=95)
    facts = probe_video(tmp_path / f"photo{suffix}")
    assert (facts.width, facts.height) == ((64, 96) if value > 4 else (96, 64))
    assert facts.rotation == rotation
    shown = next(read_frames(tmp_path / f"photo{suffix}")).pixels
    places = [(0, 0), (0, -1), (-1, 0), (-1, -1)]
    assert max(places, key=lambda place: int(shown[place].sum())) == corner
    assert shown[corner].min() > 150


def test_orientation_from_a_patched_header(tmp_path):
    """The matrix as cameras write it: in the track header, not through the muxer's own option."""
    path = write_clip(tmp_path / "clip.mp4", pictures=2, size=(96, 64))
    content = bytearray(path.read_bytes())
    matrix = content.index(b"tkhd") + 4 + 40
    turned = [0, 0x10000, 0, -0x10000, 0, 0, 64 << 16, 0, 0x40000000]
    content[matrix : matrix + 36] = b"".join(value.to_bytes(4, "big", signed=True) for value in turned)
    path.write_bytes(content)
    assert probe_video(path).rotation == -90
    assert next(read_frames(path)).pixels.shape == (96, 64, 3)


@pytest.mark.parametrize(("width", "height"), [(161, 97), (7680, 64)])
def test_unusual_sizes(tmp_path, width, height):
    path = write_clip(tmp_path / "clip.mkv", size=(width, height), pixel_format="yuv444p", pictures=3)
    assert (probe_video(path).width, probe_video(path).height) == (width, height)
    assert [frame.pixels.shape for frame in read_frames(path)] == [(height, width, 3)] * 3


@pytest.mark.parametrize("name", ["Übung 演讲 1.mp4", "a b%03d.mp4", "http:c.mp4", "quote'\"$(x).mp4"])
def test_names(tmp_path, name):
    write_clip(tmp_path / "clip.mp4", pictures=2)
    shutil.copy(tmp_path / "clip.mp4", tmp_path / name)
    assert numbers(read_frames(tmp_path / name)) == [0, 1]


def test_single_frame(tmp_path):
    path = write_clip(tmp_path / "clip.mp4", pictures=1)
    assert numbers(read_frames(path)) == [0]
    assert probe_video(path).duration == pytest.approx(0.04)
    assert numbers(itertools.islice(read_playback(path), 4)) == [0, 0, 0, 0]


def test_duration_is_measured_where_the_header_has_none(tmp_path):
    with av.open(str(tmp_path / "live.webm"), "w", format="webm", container_options={"live": "1"}) as container:
        stream = container.add_stream("libvpx-vp9", rate=25, options={"deadline": "realtime", "cpu-used": "8"})
        stream.width, stream.height = 64, 64
        for number in range(10):
            frame = av.VideoFrame.from_ndarray(numbered_picture(number, 64, 64))
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with av.open(str(tmp_path / "live.webm")) as container:
        assert container.duration is None
    assert probe_video(tmp_path / "live.webm").duration == pytest.approx(0.4, abs=0.05)


def _flat(values, tags, pixel_format="yuv420p", size=(96, 64)):
    """One frame of a constant (Y, U, V), and the tags to write it with."""
    frame = av.VideoFrame(*size, pixel_format)
    dtype = np.uint16 if "10" in pixel_format else np.uint8
    for plane, value in zip(frame.planes, values, strict=True):
        plane.update(np.full(plane.buffer_size // dtype().itemsize, value, dtype).tobytes())
    frame.colorspace, frame.color_range = tags["colorspace"], tags["color_range"]
    return frame


@pytest.mark.parametrize(
    ("colorspace", "color_range", "size", "expected"),
    [  # by the matrices of BT.709 and BT.601 for Y 120, U 100, V 160
        (1, 1, (96, 64), (179, 109, 62)),
        (6, 1, (96, 64), (172, 106, 65)),
        (1, 2, (96, 64), (170, 110, 68)),
        (5, 2, (96, 64), (165, 107, 70)),
        (2, 0, (96, 64), (172, 106, 65)),  # untagged SD: BT.601
        (2, 0, (1280, 720), (179, 109, 62)),  # untagged HD: BT.709
    ],
)
def test_matrix_and_range(tmp_path, colorspace, color_range, size, expected):
    tags = {"colorspace": colorspace, "color_range": color_range}
    frame = _flat((120, 100, 160), tags, size=size)
    path = write_clip(tmp_path / "clip.mp4", pictures=[frame], size=size, tags=tags, options={"crf": "0"})
    pixels = next(read_frames(path)).pixels
    np.testing.assert_allclose(pixels.reshape(-1, 3).mean(0), expected, atol=1)
    color = probe_video(path).output_color
    assert color.matrix == (colorspace if colorspace != 2 else 1 if size[0] == 1280 else 6)
    assert color.color_range == max(1, color_range)


def test_ten_bits(tmp_path):
    tags = {"colorspace": 1, "color_range": 1}
    frame = _flat((480, 400, 640), tags, "yuv420p10le")
    path = write_clip(tmp_path / "c.mp4", pictures=[frame], size=(96, 64), pixel_format="yuv420p10le", tags=tags)
    np.testing.assert_allclose(next(read_frames(path)).pixels.reshape(-1, 3).mean(0), (179, 109, 62), atol=1)
    assert probe_video(path).pixel_format == "yuv420p10le"


def test_hdr_becomes_bt709(tmp_path):
    """HLG at half signal is a mid grey that BT.709 needs a higher value for; without tone mapping it would stay 128."""
    tags = {"colorspace": 9, "color_range": 1, "color_trc": 18, "color_primaries": 9}
    frame = _flat((502, 512, 512), tags, "yuv420p10le")
    path = write_clip(tmp_path / "c.mp4", pictures=[frame], size=(96, 64), pixel_format="yuv420p10le", tags=tags)
    facts = probe_video(path)
    assert facts.color.is_hdr
    assert (facts.output_color.matrix, facts.output_color.transfer, facts.output_color.color_range) == (1, 1, 1)
    pixel = next(read_frames(path)).pixels.reshape(-1, 3).mean(0)
    assert np.ptp(pixel) < 2
    assert 135 < pixel.mean() < 160


def _as_hdr(pixels, transfer):
    """(H, W, 3) uint8 BT.709 -> the same light in BT.2020 with PQ or HLG, (3, H, W) uint16 limited 10-bit Y'CbCr."""
    to_bt2020 = [[0.6274, 0.3293, 0.0433], [0.0691, 0.9195, 0.0114], [0.0164, 0.0880, 0.8956]]  # ITU-R BT.2087
    light = (pixels / 255) ** 2.4 @ np.transpose(to_bt2020) * 203  # cd/m2, white as in ITU-R BT.2408
    weights = np.array([0.2627, 0.6780, 0.0593])
    if transfer == PQ:
        power = (light / 10_000) ** (2610 / 16384)
        signal = ((3424 / 4096 + 2413 / 128 * power) / (1 + 2392 / 128 * power)) ** (2523 / 32)
    else:
        luminance = (light / 1000 @ weights)[..., None] ** (1 / 1.2)
        scene = light / 1000 * np.maximum(luminance, 1e-9) ** -0.2
        log = 0.17883277 * np.log(np.maximum(12 * scene - 0.28466892, 1e-9)) + 0.55991073
        signal = np.where(scene <= 1 / 12, np.sqrt(3 * scene), log)
    y = signal @ weights
    cb, cr = (signal[..., 2] - y) / 1.8814, (signal[..., 0] - y) / 1.4746
    return np.rint([64 + 876 * y, 512 + 896 * cb, 512 + 896 * cr]).astype(np.uint16)


@pytest.mark.parametrize("transfer", [PQ, HLG])
@pytest.mark.parametrize("pixel_format", ["yuv420p10le", "yuv422p10le", "yuv444p10le"])
def test_hdr_shows_the_picture_that_it_was_made_from(tmp_path, transfer, pixel_format):
    across, down = np.meshgrid(np.linspace(0, 1, 96), np.linspace(0, 1, 64))
    colourful = np.stack([180 * across + 20, 60 + 100 * down, 190 - 150 * across * down], -1)
    planes = _as_hdr(colourful, transfer)
    frame = av.VideoFrame(96, 64, pixel_format)
    for plane, values in zip(frame.planes, planes, strict=True):
        values = values[:: 64 // plane.height, :: 96 // plane.width]
        rows = np.frombuffer(plane, np.uint16).reshape(plane.height, -1)
        rows[:, : plane.width] = values
    tags = {"colorspace": 9, "color_range": 1, "color_trc": transfer, "color_primaries": 9}
    path = write_clip(tmp_path / "c.mp4", pictures=[frame], size=(96, 64), pixel_format=pixel_format, tags=tags)
    pixels = next(read_frames(path)).pixels.astype(int)
    np.testing.assert_allclose(pixels.mean((0, 1)), colourful.mean((0, 1)), atol=4)
    assert np.abs(pixels - colourful).mean() < 4
    assert np.abs(np.diff(pixels, axis=0)).mean() < np.abs(np.diff(colourful, axis=0)).mean() + 1
    [notice] = probe_video(path).notices
    assert f"HDR ({'PQ' if transfer == PQ else 'HLG'})" in notice


def test_hdr_brighter_than_white_keeps_its_order():
    values = [
        int(HdrMapper(transfer)(np.full((1, 1, 3), code, np.uint16))[0, 0, 0])
        for transfer in (PQ, HLG)
        for code in range(2000, 4096, 200)
    ]
    assert values == sorted(values[:11]) + sorted(values[11:])
    assert values[-1] > 250  # HLG's brightest is white


def forth_and_back(length, count):
    return list(itertools.islice(itertools.cycle([*range(length), *range(length - 2, 0, -1)]), count))


def doubled(length, count):
    """The same with each turning frame twice, as in the reference."""
    return list(itertools.islice(itertools.cycle([*range(length), *reversed(range(length))]), count))


def around(length, count):
    return list(itertools.islice(itertools.cycle(range(length)), count))


def held(length, count):
    return [min(number, length - 1) for number in range(count)]


@pytest.mark.parametrize("memory_limit", [0, 10**9])
@pytest.mark.parametrize("gop", [5, 250])
@pytest.mark.parametrize(
    ("mode", "turns", "expected"),
    [("bounce", False, forth_and_back), ("bounce", True, doubled), ("loop", False, around), ("hold", False, held)],
)
def test_playback_beyond_the_end(tmp_path, memory_limit, gop, mode, turns, expected):
    path = write_clip(tmp_path / "clip.mp4", fps=25, pictures=37, gop=gop)
    playback = read_playback(path, mode, doubled_turns=turns, memory_limit=memory_limit)
    frames = list(itertools.islice(playback, 120))
    assert numbers(frames) == expected(37, 120) == [frame.source_index for frame in frames]
    assert [frame.time for frame in frames] == pytest.approx([n / 25 for n in range(120)])
    assert [frame.index for frame in frames] == list(range(120))
    assert [frame.is_repeat for frame in frames] == [False] * 37 + [True] * 83


@pytest.mark.parametrize("mode", ["trim", "speed"])
def test_some_modes_repeat_nothing(tmp_path, mode):
    assert numbers(read_playback(write_clip(tmp_path / "clip.mp4", pictures=5), mode)) == [0, 1, 2, 3, 4]


def test_bounce_of_a_window_of_variable_rate(tmp_path):
    pts = [0, 100, 150, 400, 410, 1000, 1040, 1500, 1540, 1600, 1650, 1700, 1800]
    path = write_clip(tmp_path / "clip.mkv", pts=pts, pictures=13, time_base=Fraction(1, 1000))
    frames = list(itertools.islice(read_playback(path, start=0.15, duration=1.55, memory_limit=0), 40))
    assert numbers(frames)[:20] == [*range(2, 11), *range(9, 2, -1), 2, 3, 4, 5]
    # Each frame stays as long going back as it does going forth.
    stays = np.diff([frame.time for frame in frames])
    assert (stays > 0).all()
    np.testing.assert_allclose(stays[:8], [0.25, 0.01, 0.59, 0.04, 0.46, 0.04, 0.06, 0.05], atol=1e-6)
    np.testing.assert_allclose(stays[9:16], stays[1:8][::-1], atol=1e-6)
    np.testing.assert_allclose(stays[16:24], stays[:8], atol=1e-6)


def test_bounce_resampled(tmp_path):
    path = write_clip(tmp_path / "clip.mp4", fps=60, pictures=61, gop=13)
    once = numbers(read_frames(path, fps=25))
    frames = list(itertools.islice(read_playback(path, fps=25, memory_limit=0), 3 * len(once) - 2))
    assert numbers(frames) == once + once[-2:0:-1] + once
    assert [frame.pts for frame in frames] == list(range(3 * len(once) - 2))


@pytest.mark.parametrize(("mode", "expected"), [("bounce", forth_and_back), ("loop", around)])
def test_playback_of_a_stream_without_timestamps(tmp_path, mode, expected):
    path = write_clip(tmp_path / "clip.h264", muxer="h264", pictures=30, gop=9)
    assert numbers(read_frames(path)) == list(range(30))
    assert numbers(itertools.islice(read_playback(path, mode, memory_limit=0), 100)) == expected(30, 100)


def test_clock_repairs_timestamps():
    clock = FrameClock(10, 100)
    assert [clock.tick(pts) for pts in (100, 110, 120)] == [100, 110, 120]
    assert not clock.repaired
    assert [clock.tick(pts) for pts in (None, 140, 140, 130, 160, 0, 10)] == [130, 140, 145, 150, 160, 170, 180]
    assert clock.repaired


@pytest.mark.parametrize(
    ("given", "right"),
    [
        ([*range(0, 250, 10), *range(0, 250, 10)], [*range(0, 500, 10)]),  # a second, twice
        ([*range(0, 80, 10)] * 3, [*range(0, 240, 10)]),
        ([*range(0, 800, 10), *range(0, 300, 10)], [*range(0, 1100, 10)]),
        ([0, 10, 20, 30, 40, 50, 0, 70, 80], [*range(0, 90, 10)]),  # one wrong timestamp
        ([0, 10, 60, 10, 70, 80, 90], [0, 10, 60, 70, 75, 80, 90]),  # a late frame, after damage
        ([0, 30, 10, 20, 60, 40, 50, 90], [0, 30, 35, 40, 60, 65, 70, 90]),  # out of order
        ([0, 10, 9, 10, 30, 40], [0, 10, 15, 20, 30, 40]),  # rounded
    ],
)
def test_a_clock_that_jumps_back(given, right):
    clock = FrameClock(10, 250)
    assert [clock.tick(pts) for pts in given] == right
    assert clock.repaired


@pytest.mark.parametrize("num_frames", [25, 9])
def test_clips_joined_without_care_go_on(tmp_path, num_frames):
    clip = write_clip(tmp_path / "clip.ts", pictures=num_frames).read_bytes()
    (tmp_path / "joined.ts").write_bytes(clip * 3)
    frames = list(read_frames(tmp_path / "joined.ts"))
    assert numbers(frames) == [*range(num_frames)] * 3
    assert [frame.time for frame in frames] == pytest.approx([n / 25 for n in range(3 * num_frames)])
    again = list(itertools.islice(read_playback(tmp_path / "joined.ts", "loop", memory_limit=0), 4 * num_frames))
    assert numbers(again) == [*range(num_frames)] * 4


def test_exact_rate():
    assert exact_rate(29.97) == exact_rate(29.970029) == Fraction(30_000, 1001)
    assert exact_rate(23.976) == Fraction(24_000, 1001)
    assert [exact_rate(rate) for rate in (25, 30.0, 12.5, 1, 24)] == [25, 30, Fraction(25, 2), 1, 24]


def _unusable(folder):
    clip = write_clip(folder / "clip.mp4", pictures=30, tone=440).read_bytes()
    (folder / "folder.mp4").mkdir()
    (folder / "text.mp4").write_text("This is not a video.\n" * 50)
    (folder / "text.txt").write_text("This is not a video.\n" * 50)
    (folder / "list.m3u8").write_text("#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nclip.mp4\n#EXT-X-ENDLIST\n")
    (folder / "empty.mp4").write_bytes(b"")
    (folder / "cut.mp4").write_bytes(clip[: len(clip) // 2])
    write_pcm(folder / "sound.wav", sine(440, 0.2, 16_000)[None], 16_000)
    write_without_frames(folder / "frameless.mkv")
    _write_cover(folder / "cover.mp3")


def _write_cover(path):
    with av.open(str(path), "w") as container:
        sound = container.add_stream("libmp3lame", rate=44_100)
        cover = container.add_stream("png", rate=1)
        cover.width, cover.height, cover.pix_fmt = 32, 32, "rgb24"
        cover.disposition = av.stream.Disposition.attached_pic.value
        picture = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8))
        container.mux(cover.encode(picture))
        frame = av.AudioFrame.from_ndarray(np.zeros((2, 44_100), np.float32), "fltp", "stereo")
        frame.sample_rate, frame.pts, frame.time_base = 44_100, 0, Fraction(1, 44_100)
        container.mux(sound.encode(frame))
        container.mux(sound.encode())


@pytest.fixture(scope="module")
def unusable(tmp_path_factory):
    folder = tmp_path_factory.mktemp("unusable")
    _unusable(folder)
    return folder


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nothing.mp4", "No such file"),
        ("folder.mp4", "is a folder"),
        ("text.mp4", "not a video or audio file"),
        ("text.txt", "text file|not a video"),
        ("list.m3u8", "playlist|not a video"),
        ("empty.mp4", "is empty"),
        ("cut.mp4", "cut off: its index"),
        ("sound.wav", "holds no video"),
        ("frameless.mkv", "not one frame"),
        ("cover.mp3", "sound and a cover picture"),
    ],
)
def test_unusable_files(unusable, name, message):
    for read in (probe_video, lambda path: next(read_frames(path)), lambda path: next(read_playback(path))):
        with pytest.raises(MediaError, match=message) as caught:
            read(unusable / name)
        assert name in str(caught.value)


def test_damage_in_the_middle_is_passed_over_with_a_warning(tmp_path, caplog):
    path = write_clip(tmp_path / "clip.mp4", pictures=60, gop=10, size=(320, 192))
    with av.open(str(path)) as container:
        places = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    content = bytearray(path.read_bytes())
    for position, size in places[20:25]:
        content[position : position + size] = b"\xff" * size
    path.write_bytes(content)
    with caplog.at_level(logging.WARNING):
        frames = list(read_frames(path))
    assert "is damaged" in caplog.text
    assert 50 <= len(frames) <= 60
    assert [read_number(f.pixels) for f in frames if f.time >= 1.6] == list(range(40, 60))
    assert frames[-1].time == pytest.approx(59 / 25)


def test_file_that_ends_early(tmp_path):
    """With the index in front, as on the web, a partial download still shows its beginning."""
    with av.open(str(tmp_path / "c.mp4"), "w", container_options={"movflags": "faststart"}) as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "10"})
        stream.width, stream.height, stream.pix_fmt = 320, 192, "yuv420p"
        for number in range(50):
            frame = av.VideoFrame.from_ndarray(numbered_picture(number, 320, 192))
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    content = (tmp_path / "c.mp4").read_bytes()
    (tmp_path / "c.mp4").write_bytes(content[: len(content) * 3 // 4])
    shown = numbers(read_frames(tmp_path / "c.mp4"))
    assert 10 < len(shown) < 50
    assert shown[:10] == list(range(10))


def test_size_change_on_the_way(tmp_path):
    first = write_clip(tmp_path / "a.h264", muxer="h264", pictures=4)
    second = write_clip(tmp_path / "b.h264", muxer="h264", pictures=4, size=(96, 64))
    (tmp_path / "c.h264").write_bytes(first.read_bytes() + second.read_bytes())
    with pytest.raises(MediaError, match="changes from 160x96 to 96x64"):
        list(read_frames(tmp_path / "c.h264"))


def test_sound_of_a_cover_file_is_still_sound(tmp_path):
    path = encode_sound(tmp_path / "tone.m4a", sine(440, 0.5, 44_100)[None], 44_100, "aac", "mono")
    with pytest.raises(MediaError, match="no video"):
        probe_video(path)


def test_demo_clip():
    path = demo_video()
    facts = probe_video(path)
    assert (facts.width, facts.height, facts.fps, facts.num_frames, facts.codec) == (1080, 1920, 25, 250, "hevc")
    whole = [frame.pixels[::8, ::8].copy() for frame in read_frames(path, duration=2.0)]
    assert len(whole) == 50
    part = list(read_frames(path, start=1.0, duration=0.4))
    for frame, expected in zip(part, whole[25:35], strict=True):
        np.testing.assert_array_equal(frame.pixels[::8, ::8], expected)


def test_a_frame_days_later_is_a_wrong_timestamp(tmp_path):
    """Resampled, the frame before it would be repeated for ever."""
    far = 6 * 24 * 3600 * 25
    path = write_clip(tmp_path / "a.mkv", pictures=4, pts=[0, 1, far, far + 1])
    assert probe_video(path).duration <= MAX_SECONDS
    assert [round(frame.time * 25) for frame in read_frames(path)] == [0, 1, 2, 3]
    assert [frame.source_index for frame in read_frames(path, fps=25)] == [0, 1, 2, 3]


def test_more_than_a_day(tmp_path, monkeypatch):
    monkeypatch.setattr("latentsync.media.video_decoder.MAX_SECONDS", 0.1)
    with pytest.raises(MediaError, match="after its first one; expected"):
        list(read_frames(write_clip(tmp_path / "a.mp4")))


def test_pictures_beyond_all_measure(tmp_path, monkeypatch):
    """Refused by what the header says; and, where only the picture itself says it, by the decoder."""
    with av.open(str(tmp_path / "a.avi"), "w") as container:
        stream = container.add_stream("mjpeg", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuvj420p"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8))))
        container.mux(stream.encode())
    content = bytearray((tmp_path / "a.avi").read_bytes())
    content[(at := content.find(b"\xff\xc0")) + 5 : at + 9] = b"\xff\xdc\xff\xdc"
    (tmp_path / "a.avi").write_bytes(content)
    with pytest.raises(MediaError):
        probe_video(tmp_path / "a.avi")
    monkeypatch.setattr("latentsync.media.video_decoder.MAX_PIXELS", 160 * 96 - 1)
    with pytest.raises(MediaError, match="is 160 x 96; expected"):
        probe_video(write_clip(tmp_path / "a.mp4", pictures=1))


def test_frames_are_counted_where_no_rate_is_named(tmp_path):
    """As in what browsers record; tests/webapp/test_recording.py has such a file."""
    path = write_clip(tmp_path / "clip.mkv", pts=[0, 39, 79, 118, 160], time_base=Fraction(1, 1000), pictures=5)
    assert counted_rate(path, 0) == pytest.approx(25, abs=0.01)
    assert counted_rate(write_clip(tmp_path / "one.mkv", pictures=1), 0) is None
