"""Finding restorers' files, loading them with spandrel, and calling them."""

import hashlib

import pytest
import torch
from spandrel.architectures.Compact import Compact
from torch.nn import functional as F

from latentsync.errors import (
    CheckpointError,
    DamagedCheckpointError,
    ForeignCheckpointError,
    IncompleteCheckpointError,
    ModelNotFoundError,
    OptionError,
)
from latentsync.model.weights import write_weights
from latentsync.model_files import BUNDLED_RESTORER, find_restorer
from latentsync.restoration.restorers import (
    PORTRAIT_HEIGHT,
    PORTRAIT_LEFT,
    PORTRAIT_TOP,
    PORTRAIT_WIDTH,
    Restorer,
    from_portrait,
    into_portrait,
    load_restorer,
)


@pytest.fixture
def compact():
    torch.manual_seed(0)
    return Compact(num_feat=8, num_conv=2, upscale=2).eval().requires_grad_(False)


@pytest.fixture
def compact_file(compact, tmp_path):
    write_weights(tmp_path / "small.safetensors", compact.state_dict())
    return tmp_path / "small.safetensors"


def faces(count: int, side: int) -> torch.Tensor:
    small = torch.rand((count, 3, side // 8, side // 8), generator=torch.Generator().manual_seed(3))
    return F.interpolate(small, (side, side), mode="bicubic").clamp(0, 1) * 2 - 1


@pytest.mark.parametrize(
    ("name", "file", "subfolder"),
    [
        ("GFPGAN", "GFPGANv1.4.pth", ""),
        ("GFPGAN", "GFPGANv1.3.pth", "auxiliary"),
        ("gfpgan", "GFPGANv1.3.pth", "facerestore_models"),
        ("CodeFormer", "codeformer.pth", "CodeFormer"),
        ("codeformer", "codeformer-v0.1.0.pth", "models/facerestore_models"),
        ("mine.pth", "mine.pth", "auxiliary"),
    ],
)
def test_files_are_found_in_the_usual_layouts(name, file, subfolder, tmp_path):
    path = tmp_path / "second" / subfolder / file
    path.parent.mkdir(parents=True)
    path.touch()
    assert find_restorer(name, [tmp_path / "first", tmp_path / "second"]) == path


def test_the_newer_gfpgan_is_taken_wherever_it_lies(tmp_path):
    for file in ("GFPGANv1.3.pth", "auxiliary/GFPGANv1.4.pth"):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).touch()
    assert find_restorer("GFPGAN", [tmp_path]).name == "GFPGANv1.4.pth"


@pytest.mark.parametrize(("name", "file"), [("GFPGAN", "GFPGANv1.4.pth"), ("CodeFormer", "codeformer.pth")])
def test_a_missing_file_is_refused_with_file_folder_and_command(name, file, tmp_path):
    with pytest.raises(ModelNotFoundError) as refusal:
        load_restorer(name, folders=[tmp_path])
    text = str(refusal.value)
    assert str(tmp_path / "auxiliary" / file) in text
    assert f"python install.py --models {name.lower()} --checkpoints {tmp_path}" in text
    assert "tiny" in text


def test_an_unknown_name_is_refused(tmp_path):
    with pytest.raises(ModelNotFoundError, match="GFPGAN, CodeFormer, or the path"):
        load_restorer("GPEN", folders=[tmp_path])
    with pytest.raises(OptionError, match="fidelity"):
        load_restorer("tiny", fidelity=1.5)


def test_any_model_that_spandrel_reads(compact, compact_file):
    restorer = load_restorer(compact_file)
    assert (restorer.name, restorer.path, restorer.is_portrait) == ("small.safetensors", compact_file, False)
    assert restorer.sha256 == hashlib.sha256(compact_file.read_bytes()).hexdigest()
    assert restorer.warnings == ()
    given = faces(3, 32)
    restored = restorer(given)
    assert (restored.shape, restored.dtype) == ((3, 3, 64, 64), torch.float32)
    expected = compact((given + 1) / 2).clamp(0, 1) * 2 - 1
    assert (restored - expected).abs().max() <= 1e-6


def test_files_of_other_things_are_told_apart(compact, tmp_path):
    tensors = dict(compact.state_dict())
    write_weights(tmp_path / "foreign.safetensors", {"a.weight": torch.zeros(2)})
    write_weights(tmp_path / "grey.pth", Compact(num_in_ch=1, num_out_ch=1, num_feat=8, num_conv=2).state_dict())
    del tensors["body.2.weight"]
    write_weights(tmp_path / "cut.pth", {"params": tensors})
    (tmp_path / "page.pth").write_text("<html>")
    for file, error in (
        ("foreign.safetensors", ForeignCheckpointError),
        ("grey.pth", ForeignCheckpointError),
        ("cut.pth", IncompleteCheckpointError),
        ("page.pth", DamagedCheckpointError),
    ):
        with pytest.raises(error, match=file):
            load_restorer(tmp_path / file)
    write_weights(tmp_path / "GFPGANv1.4.pth", compact.state_dict())
    with pytest.raises(ForeignCheckpointError, match="not GFPGAN"):
        load_restorer("GFPGAN", folders=[tmp_path])


def test_a_host_function_is_a_restorer_and_sees_few_faces_at_once():
    seen = []

    def network(pixels):
        seen.append(len(pixels))
        assert 0 <= pixels.min() <= pixels.max() <= 1
        return pixels.repeat_interleave(2, 2).repeat_interleave(2, 3)

    restored = Restorer("host", network)(1.5 * faces(10, 512))
    assert restored.shape == (10, 3, 1024, 1024)
    assert sum(seen) == 10
    assert max(seen) <= 4


@pytest.mark.parametrize("bad", [lambda x: x * float("nan"), lambda x: x[..., :-1], lambda x: x[:, :1]])
def test_what_is_no_picture_is_refused(bad):
    with pytest.raises(CheckpointError, match="the restorer odd"):
        Restorer("odd", bad)(faces(1, 32))


def test_a_network_without_half_precision_runs_in_float32(compact_file):
    assert load_restorer(compact_file, dtype=torch.bfloat16).dtype == torch.bfloat16
    restored = load_restorer(compact_file, dtype=torch.bfloat16)(faces(1, 32))
    assert restored.dtype == torch.float32


@pytest.mark.parametrize("side", [256, 512])
def test_a_portrait_network_that_changes_nothing_costs_no_detail(side):
    shapes = []

    def unchanged(pixels):
        shapes.append(tuple(pixels.shape))
        return pixels.clone()

    given = torch.rand((2, 3, side, side), generator=torch.Generator().manual_seed(0)) * 2 - 1
    restored = Restorer("portrait", unchanged, is_portrait=True)(given)
    assert shapes == [(2, 3, 512, 512)]
    assert torch.equal(restored, F.interpolate(given, (512, 512), mode="bicubic", antialias=True))


def test_faces_lie_in_the_portrait_where_ffhq_has_them():
    """The template's brows and nose, and where FFHQ's 512 px template has eyes and nose: brows above the eyes."""
    place = lambda x, y: (PORTRAIT_LEFT + x / 75 * PORTRAIT_WIDTH, PORTRAIT_TOP + y / 100 * PORTRAIT_HEIGHT)  # noqa: E731
    (left, brow), (right, _), (middle, nose) = place(17, 20), place(58, 20), place(37.5, 40)
    assert left == pytest.approx(193, abs=16)
    assert right == pytest.approx(319, abs=16)
    assert 190 < brow < 230  # the eyes are at 240
    assert middle == pytest.approx(256, abs=4)
    assert 260 < nose < 314  # lower bridge to tip; the tip is at 314


def test_placing_and_taking_back():
    given = faces(1, 256)
    placed = into_portrait(given)
    assert placed.shape == (1, 3, 512, 512)
    back = from_portrait(placed, 256)
    assert (back - given).abs().mean() < 0.01
    assert torch.equal(placed[..., 300, 0], placed[..., 300, PORTRAIT_LEFT])  # the border is drawn out


def test_the_bundled_restorer():
    restorer = load_restorer("tiny")
    assert (restorer.name, restorer.path) == ("tiny", BUNDLED_RESTORER)
    assert BUNDLED_RESTORER.stat().st_size <= 3_000_000
    given = faces(1, 128)
    restored = restorer(given)
    assert restored.shape == (1, 3, 256, 256)
    plain = F.interpolate(given, (256, 256), mode="bicubic", antialias=True)
    assert 0 < (restored - plain).abs().mean() < 0.1
