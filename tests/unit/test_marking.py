"""A result tells that it is generated, in every container, and in the picture where that is asked for."""

import json
from dataclasses import replace

import av
import numpy as np
import pytest

from latentsync.errors import OptionError
from latentsync.files import sha256_of
from latentsync.media.marking import DIGITAL_SOURCE_TYPE, STATEMENT, Marking
from latentsync.media.video_reader import read_frames
from latentsync.media.video_writer import VideoWriter
from latentsync.options import LipSyncOptions
from latentsync.run.engine import lip_sync
from latentsync.run.report import marking_of, read_provenance

CONTAINERS = (".mp4", ".m4v", ".mov", ".mkv", ".webm")
GREY = np.full((120, 320, 3), 128, np.uint8)


def tags_of(path, **options) -> dict[str, str]:
    with av.open(str(path), options=options) as container:
        return {key.lower(): value for key, value in container.metadata.items()}


def write(path, mark: Marking | None, frames=(GREY,)):
    height, width = frames[0].shape[:2]
    with VideoWriter(path, width, height, rate=25, mark=mark) as writer:
        for frame in frames:
            writer.write(frame)
    return path


@pytest.mark.parametrize("suffix", CONTAINERS)
def test_every_container_tells_it(tmp_path, small_model, suffix):
    mark = marking_of(small_model, LipSyncOptions())
    path = write(tmp_path / f"a{suffix}", mark)
    tags = tags_of(path)
    assert tags["comment"] == STATEMENT
    assert tags["comment"].startswith("AI-generated")
    assert tags["digitalsourcetype"] == DIGITAL_SOURCE_TYPE
    assert tags["software"].startswith("latentsync-nodes 0.")
    entry = read_provenance(path)
    assert entry == {key: value for key, value in mark.entry.items() if key != "digest"}
    assert entry["model_sha256"] == sha256_of(small_model.unet_path)
    assert (entry["model"], entry["ai_generated"]) == ("small", True)


@pytest.mark.parametrize("suffix", [".mp4", ".m4v", ".mov"])
def test_xmp_has_iptcs_own_field(tmp_path, small_model, suffix):
    """Read by FFmpeg, which knows the box."""
    path = write(tmp_path / f"a{suffix}", marking_of(small_model, LipSyncOptions()))
    xmp = tags_of(path, export_xmp="1")["xmp"]
    assert f"<Iptc4xmpExt:DigitalSourceType>{DIGITAL_SOURCE_TYPE}</Iptc4xmpExt:DigitalSourceType>" in xmp
    assert STATEMENT in xmp
    assert len(list(read_frames(path))) == 1


@pytest.mark.parametrize("suffix", CONTAINERS)
def test_without_marking_there_is_nothing(tmp_path, small_model, suffix):
    path = write(tmp_path / f"a{suffix}", marking_of(small_model, LipSyncOptions(marking=False)))
    assert not {"comment", "software", "digitalsourcetype", "provenance"} & set(tags_of(path))
    assert b"DigitalSourceType" not in path.read_bytes()
    assert read_provenance(path) is None


def test_pictures_are_the_same_with_and_without(tmp_path, small_model):
    frames = [np.random.default_rng(seed).integers(0, 256, (64, 64, 3), np.uint8) for seed in range(3)]
    marked = write(tmp_path / "a.mp4", marking_of(small_model, LipSyncOptions()), frames)
    plain = write(tmp_path / "b.mp4", None, frames)
    for one, other in zip(read_frames(marked), read_frames(plain), strict=True):
        np.testing.assert_array_equal(one.pixels, other.pixels)


@pytest.mark.parametrize("change", ["model", "digest", "cut"])
def test_a_changed_entry_is_not_believed(tmp_path, small_model, change):
    entry = dict(marking_of(small_model, LipSyncOptions()).entry)
    if change == "cut":
        del entry["version"]
        entry = {**entry, "version": "0", "tool": "another"}
    else:
        entry[change] = "x"
    assert read_provenance(write(tmp_path / "a.mkv", Marking(entry))) is None


ALL = {"comment", "software", "digitalsourcetype", "provenance"}


@pytest.mark.parametrize(
    ("suffix", "flags", "kept"),
    [
        (".mkv", {}, ALL),
        (".webm", {}, ALL),
        (".mp4", {"movflags": "use_metadata_tags"}, ALL),  # as ComfyUI's Save Video does
        (".mp4", {}, {"comment"}),
        (".mov", {}, {"comment"}),
    ],
)
def test_what_a_copy_into_another_container_keeps(tmp_path, small_model, suffix, flags, kept):
    """By a program that hands the tags on, as FFmpeg does. docs/responsible_use.md has this table."""
    source = write(tmp_path / f"a{'.webm' if suffix == '.webm' else '.mp4'}", marking_of(small_model, LipSyncOptions()))
    target = tmp_path / f"b{suffix}"
    with av.open(str(source)) as old, av.open(str(target), "w", container_options=flags) as new:
        new.metadata.update(old.metadata)
        stream = new.add_stream_from_template(old.streams.video[0])
        for packet in old.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                new.mux(packet)
    assert ALL & set(tags_of(target)) == kept
    assert (read_provenance(target) == read_provenance(source)) == (kept == ALL)
    assert b"Iptc4xmpExt" not in target.read_bytes()


@pytest.mark.parametrize("shape", [(120, 320), (1080, 1920), (121, 97), (40, 30)])
@pytest.mark.parametrize("text", ["AI-generated", "Every movement of the lips in this film is made by a program"])
def test_a_label_stands_in_the_lower_right_corner(shape, text):
    pixels = np.full((*shape, 3), 128, np.uint8)
    marked = Marking(label=text).drawn(pixels)
    assert (pixels == 128).all()  # the caller's frame is left alone
    changed = (marked != 128).any(-1)
    rows, columns = np.nonzero(changed)
    assert rows.max() == shape[0] - 1
    assert columns.max() == shape[1] - 1
    assert rows.min() > shape[0] / 3
    assert marked[changed].min() == round(128 * 0.45)  # on a darkened ground
    if shape[1] > 300:  # legible
        assert marked[changed].max() > 180  # white
        assert (marked[changed] > 150).mean() > 0.02


def test_the_label_survives_the_encoder(tmp_path):
    for suffix in (".mp4", ".webm"):
        path = write(tmp_path / f"a{suffix}", Marking(label="AI-generated"), [GREY] * 2)
        for frame in read_frames(path):
            assert frame.pixels[110:, 200:].max() > 180
            assert abs(frame.pixels[:80].astype(int) - 128).max() < 8


@pytest.mark.parametrize(
    ("label", "message"),
    [
        ("", "expected 1 to 100 letters"),
        ("x" * 101, "expected 1 to 100"),
        ("a\nb", "one line"),
        ("künstlich", "ASCII"),
        ("人工智能", "ASCII"),
    ],
)
def test_labels_that_cannot_be_shown(label, message):
    with pytest.raises(OptionError, match=message):
        LipSyncOptions(visible_mark=label)


def test_a_result_of_the_library_is_marked_unless_asked_otherwise(tmp_path, avatar_video, speech, small_model):
    options = LipSyncOptions(num_inference_steps=1, guidance_scale=1.0)
    plain = replace(options, marking=False, visible_mark="AI")
    for name, chosen in (("a.mp4", options), ("b.mp4", plain)):
        lip_sync(avatar_video, speech(0.08), tmp_path / name, small_model, chosen)
    assert json.loads(tags_of(tmp_path / "a.mp4")["provenance"])["tool"] == "latentsync-nodes"
    assert "provenance" not in tags_of(tmp_path / "b.mp4")
    ours, labelled = (next(iter(read_frames(tmp_path / name))).pixels.astype(int) for name in ("a.mp4", "b.mp4"))
    assert abs(ours - labelled)[170:, 165:].max() > 60
    assert abs(ours - labelled)[:150].max() < 25  # the encoder's share
