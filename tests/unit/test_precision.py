"""Number format and memory layout by device."""

import pytest
import torch

from latentsync import models, precision
from latentsync.engine import lip_sync
from latentsync.options import LipSyncOptions
from latentsync.precision import emulation_warning, has_fast_bfloat16, suit_to_device
from tests.small_model import small_unet
from tests.unit.test_deep_features import clip

CPU = torch.device("cpu")


@pytest.mark.parametrize(("fast", "dtype"), [(True, torch.bfloat16), (False, torch.float32)])
def test_a_cpu_computes_in_bfloat16_where_it_has_instructions_for_it(fast, dtype, monkeypatch):
    monkeypatch.setattr(models, "has_fast_bfloat16", lambda: fast)
    assert models.choose_dtype("auto", CPU) == dtype
    assert models.choose_dtype("float32", CPU) == torch.float32
    assert models.choose_dtype("auto", torch.device("cuda")) == torch.float16
    assert models.choose_dtype("auto", torch.device("mps")) == torch.float32


@pytest.mark.parametrize(("instruction", "fast"), [("avx512_bf16", True), ("amx_tile", True), ("avx2", False)])
def test_what_the_cpu_can_do_is_asked(instruction, fast, monkeypatch):
    for name in ("avx512_bf16", "amx_tile"):
        supported = name == instruction
        monkeypatch.setattr(torch.cpu, f"_is_{name}_supported", lambda supported=supported: supported, raising=False)
    assert has_fast_bfloat16() is fast


def test_an_older_torch_that_cannot_tell_is_not_fast(monkeypatch):
    for name in ("avx512_bf16", "amx_tile"):
        monkeypatch.delattr(torch.cpu, f"_is_{name}_supported", raising=False)
    assert has_fast_bfloat16() is False


@pytest.mark.parametrize(
    ("device", "dtype", "fast", "warned"),
    [
        ("cpu", torch.bfloat16, False, True),
        ("cpu", torch.bfloat16, True, False),
        ("cpu", torch.float16, True, True),
        ("cpu", torch.float32, False, False),
        ("cuda", torch.float16, False, False),
    ],
)
def test_16_bits_that_the_cpu_emulates_are_warned_of(device, dtype, fast, warned, monkeypatch):
    monkeypatch.setattr(precision, "has_fast_bfloat16", lambda: fast)
    warning = emulation_warning(device, dtype)
    assert (warning is not None) is warned
    if warned:
        assert str(dtype).removeprefix("torch.") in warning
        assert "float32 or auto" in warning


def test_the_report_carries_that_warning(small_model_folder, avatar_video, speech, tmp_path, monkeypatch):
    """And not the model: it may be loaded on the CPU to compute on the GPU, as in ComfyUI."""
    monkeypatch.setattr(precision, "has_fast_bfloat16", lambda: False)
    model = models.load_model(models.described_model(small_model_folder), dtype=torch.bfloat16)
    assert model.warnings == ()
    options = LipSyncOptions(num_inference_steps=1, guidance_scale=1.0)
    report = lip_sync(avatar_video, speech(0.2), tmp_path / "out.mp4", model, options)
    assert [warning for warning in report.warnings if "emulates bfloat16" in warning] == [
        emulation_warning("cpu", torch.bfloat16)
    ]


@torch.no_grad()
def test_the_layout_changes_rounding_alone():
    unet = small_unet()
    latents, conditioning, tokens = clip(unet)
    sample = torch.cat((latents, conditioning), 1)
    expected = unet(sample, 400, tokens).sample
    suit_to_device(unet, CPU, torch.float32)
    assert torch.equal(unet(sample, 400, tokens).sample, expected)  # float32 is left alone, to the bit
    unet.to(torch.bfloat16)
    sample, tokens = sample.bfloat16(), tokens.bfloat16()
    plain = unet(sample, 400, tokens).sample.float()
    suit_to_device(unet, CPU, torch.bfloat16)
    assert unet.conv_in.weight.is_contiguous(memory_format=torch.channels_last)
    laid_out = unet(sample, 400, tokens).sample.float()
    assert (laid_out - plain).abs().max() < 0.1 * expected.abs().max()
    rounding = (plain - expected).square().mean().sqrt()
    assert (laid_out - expected).square().mean().sqrt() < 1.5 * rounding
