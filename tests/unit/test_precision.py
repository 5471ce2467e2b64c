"""Number format and memory layout by device."""

import pytest
import torch

from latentsync.model import device as precision
from latentsync.model import loading
from latentsync.model.device import card_dtype, float32_products, format_warning, has_fast_bfloat16, suit_to_device
from latentsync.options import LipSyncOptions
from latentsync.run.engine import lip_sync
from tests.small_model import small_unet
from tests.unit.test_deep_features import clip

CPU = torch.device("cpu")


@pytest.mark.parametrize(("fast", "dtype"), [(True, torch.bfloat16), (False, torch.float32)])
def test_a_cpu_computes_in_bfloat16_where_it_has_instructions_for_it(fast, dtype, monkeypatch):
    monkeypatch.setattr(loading, "has_fast_bfloat16", lambda: fast)
    assert loading.choose_dtype("auto", CPU) == dtype
    assert loading.choose_dtype("float32", CPU) == torch.float32
    assert loading.choose_dtype("auto", torch.device("mps")) == torch.float32


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
    ],
)
def test_16_bits_that_the_cpu_emulates_are_warned_of(device, dtype, fast, warned, monkeypatch):
    monkeypatch.setattr(precision, "has_fast_bfloat16", lambda: fast)
    warning = format_warning(device, dtype)
    assert (warning is not None) is warned
    if warned:
        assert str(dtype).removeprefix("torch.") in warning
        assert "float32 or auto" in warning


def test_the_report_carries_that_warning(small_model_folder, avatar_video, speech, tmp_path, monkeypatch):
    """And not the model: it may be loaded on the CPU to compute on the GPU, as in ComfyUI."""
    monkeypatch.setattr(precision, "has_fast_bfloat16", lambda: False)
    model = loading.load_model(loading.described_model(small_model_folder), dtype=torch.bfloat16)
    assert model.warnings == ()
    options = LipSyncOptions(num_inference_steps=1, guidance_scale=1.0)
    report = lip_sync(avatar_video, speech(0.2), tmp_path / "out.mp4", model, options)
    assert [warning for warning in report.warnings if "emulates bfloat16" in warning] == [
        format_warning("cpu", torch.bfloat16)
    ]


@pytest.fixture
def card(monkeypatch):
    """Puts a card of a name and a compute capability where torch looks for one."""

    def put(name, capability):
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: name)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)
        return torch.device("cuda")

    return put


CARDS = [
    ("Tesla K80", (3, 7), torch.float32),
    ("NVIDIA GeForce GTX 980", (5, 2), torch.float32),
    ("NVIDIA GeForce GTX 1080 Ti", (6, 1), torch.float32),
    ("Tesla P40", (6, 1), torch.float32),
    ("Tesla P100-PCIE-16GB", (6, 0), torch.float16),
    ("Tesla V100-SXM2-16GB", (7, 0), torch.float16),
    ("NVIDIA GeForce GTX 1660 SUPER", (7, 5), torch.float32),
    ("NVIDIA GeForce GTX 1650", (7, 5), torch.float32),
    ("NVIDIA GeForce MX450", (7, 5), torch.float32),
    ("NVIDIA T400 4GB", (7, 5), torch.float32),
    ("NVIDIA T1000", (7, 5), torch.float32),
    ("Quadro T2000", (7, 5), torch.float32),
    ("Tesla T4", (7, 5), torch.float16),
    ("NVIDIA GeForce RTX 2060", (7, 5), torch.float16),
    ("NVIDIA TITAN RTX", (7, 5), torch.float16),
    ("Quadro RTX 4000", (7, 5), torch.float16),
    ("NVIDIA GeForce RTX 3060", (8, 6), torch.float16),
    ("NVIDIA H100 80GB HBM3", (9, 0), torch.float16),
    ("NVIDIA GeForce RTX 5090", (12, 0), torch.float16),
]


@pytest.mark.parametrize(("name", "capability", "dtype"), CARDS, ids=[name for name, _, _ in CARDS])
def test_float16_is_for_cards_that_are_fast_and_right_with_it(name, capability, dtype, card):
    assert card_dtype(name, capability) == dtype
    device = card(name, capability)
    assert loading.choose_dtype("auto", device) == dtype
    assert loading.choose_dtype("float16", device) == torch.float16
    assert format_warning(device, dtype) is None
    assert (format_warning(device, torch.float16) is None) is (dtype == torch.float16)


@pytest.mark.parametrize(
    ("name", "capability", "dtype", "said"),
    [
        ("NVIDIA GeForce GTX 1660", (7, 5), torch.float16, "black or broken faces on it; choose float32 or auto"),
        ("NVIDIA GeForce GTX 1080", (6, 1), torch.float16, "is slow with float16; auto takes float32 on it"),
        ("NVIDIA GeForce RTX 2080", (7, 5), torch.bfloat16, "is slow with bfloat16; auto takes float16 on it"),
        ("NVIDIA GeForce RTX 3090", (8, 6), torch.bfloat16, None),
        ("NVIDIA GeForce GTX 1080", (6, 1), torch.float32, None),
    ],
)
def test_a_format_that_does_not_suit_the_card_is_warned_of(name, capability, dtype, said, card):
    warning = format_warning(card(name, capability), dtype)
    if said is None:
        assert warning is None
    else:
        assert warning.startswith(name)
        assert warning.endswith(said)


def test_of_amd_cards_the_numbers_mean_something_else(card, monkeypatch):
    monkeypatch.setattr(torch.version, "hip", "6.2")
    device = card("AMD Radeon RX 7900 XTX", (11, 0))
    assert loading.choose_dtype("auto", device) == torch.float16
    assert format_warning(device, torch.bfloat16) is None


def asked(read):
    try:
        return read()
    except RuntimeError:  # torch's answer where its two ways of setting contradict each other
        return "contradiction"


def places() -> dict:
    cudnn, cuda, cpu = torch.backends.cudnn, torch.backends.cuda, torch.backends.mkldnn
    found = {"products": getattr(cuda, "matmul", None), "convolutions": getattr(cudnn, "conv", None)}
    found |= {"rnn": getattr(cudnn, "rnn", None), "cpu": getattr(cpu, "matmul", None)}
    return {name: place for name, place in found.items() if hasattr(place, "fp32_precision")}


def settings() -> dict:
    return {
        "old products": asked(lambda: torch.backends.cuda.matmul.allow_tf32),
        "old convolutions": asked(lambda: torch.backends.cudnn.allow_tf32),
        "old name": asked(torch.get_float32_matmul_precision),
    } | {name: place.fp32_precision for name, place in places().items()}


@pytest.fixture
def process_settings():
    """What a test sets for the whole process is undone at its end."""
    before = {name: place.fp32_precision for name, place in places().items()}
    yield
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = True
    for name, place in places().items():
        place.fp32_precision = before[name]


def by_another_pack(way: str) -> None:
    if way == "products":
        torch.backends.cuda.matmul.allow_tf32 = True
    if way == "medium":
        torch.set_float32_matmul_precision("medium")
    if way == "no convolutions":
        torch.backends.cudnn.allow_tf32 = False
    if way == "newer way":
        if "convolutions" not in places():
            pytest.skip("this torch has the older way alone")
        torch.backends.cuda.matmul.fp32_precision = "tf32"
        torch.backends.cudnn.conv.fp32_precision = "ieee"


@pytest.mark.parametrize("way", ["as torch starts", "products", "medium", "no convolutions", "newer way"])
@pytest.mark.parametrize("tf32", [True, False])
def test_tf32_is_set_inside_and_left_as_it_was_found(way, tf32, process_settings):
    by_another_pack(way)
    before = settings()
    with float32_products(tf32):
        inside = settings()
    assert settings() == before
    if way == "newer way":
        assert inside["products"] == inside["convolutions"] == ("tf32" if tf32 else "ieee")
    else:
        assert inside["old products"] is inside["old convolutions"] is tf32
    if not tf32:
        assert inside.get("cpu", "ieee") == "ieee"
    with pytest.raises(KeyError), float32_products(tf32):
        raise KeyError
    assert settings() == before


@pytest.mark.parametrize("reference", [True, False])
def test_the_reference_runs_without_tf32(reference, small_model, avatar_video, speech, tmp_path, process_settings):
    by_another_pack("products")
    before, inside = settings(), []
    options = LipSyncOptions(num_inference_steps=1, guidance_scale=1.0)
    lip_sync(
        avatar_video, speech(0.2), tmp_path / "out.mp4", small_model, options.as_reference() if reference else options,
        should_stop=lambda: inside.append(settings()),
    )  # fmt: skip
    assert {found["old products"] for found in inside} == {not reference}
    assert {found["old convolutions"] for found in inside} == {not reference}
    assert settings() == before


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
