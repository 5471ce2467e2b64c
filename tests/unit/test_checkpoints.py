"""Checkpoints of every released shape (on the meta device), small real ones, and files that are something else."""

import json
import pickle
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from latentsync.errors import (
    CheckpointError,
    DamagedCheckpointError,
    ForeignCheckpointError,
    IncompleteCheckpointError,
    ModelNotFoundError,
    OptionError,
    OutputError,
    UnsafeCheckpointError,
)
from latentsync.model.checkpoints import (
    build_unet,
    load_unet,
    read_state_dict,
    read_unet_facts,
    resolve_resolution,
    save_unet,
    unet_config_from_state_dict,
)
from latentsync.model.unet import LatentSyncUNet, from_reference_keys, to_reference_keys

GOLDEN = Path(__file__).parents[1] / "golden" / "mini"
ASSETS = Path(__file__).parents[2] / "latentsync" / "assets"
WIDTHS = (320, 640, 1280, 1280)
LEVELS = range(4)


def listing(*entries: tuple[str, tuple[int, ...]], bias: bool = True) -> dict[str, tuple[int, ...]]:
    """Names with the weight's shape -> names of weights and of biases (as long as the weight's first side)."""
    shapes = {}
    for name, shape in entries:
        shapes[f"{name}.weight"] = shape
        if bias:
            shapes[f"{name}.bias"] = shape[:1]
    return shapes


def attention(name: str, width: int, context: int) -> dict:
    to_q, to_k, to_v = (
        (f"{name}.to_{part}", (width, size)) for part, size in zip("qkv", (width, context, context), strict=True)
    )
    return listing(to_q, to_k, to_v, bias=False) | listing((f"{name}.to_out.0", (width, width)))


def feed_forward(name: str, width: int) -> dict:
    return listing((f"{name}.net.0.proj", (8 * width, width)), (f"{name}.net.2", (width, 4 * width)))


def resnet(name: str, given: int, width: int) -> dict:
    shapes = listing(
        (f"{name}.norm1", (given,)),
        (f"{name}.conv1", (width, given, 3, 3)),
        (f"{name}.time_emb_proj", (width, 1280)),
        (f"{name}.norm2", (width,)),
        (f"{name}.conv2", (width, width, 3, 3)),
    )
    return shapes | (listing((f"{name}.conv_shortcut", (width, given, 1, 1))) if given != width else {})


def spatial(name: str, width: int) -> dict:
    block = f"{name}.transformer_blocks.0"
    return (
        listing(
            (f"{name}.norm", (width,)), *((f"{name}.{side}", (width, width, 1, 1)) for side in ("proj_in", "proj_out"))
        )
        | listing(*((f"{block}.norm{i}", (width,)) for i in (1, 2, 3)))
        | attention(f"{block}.attn1", width, width)
        | attention(f"{block}.attn2", width, 384)
        | feed_forward(f"{block}.ff", width)
    )


def motion(name: str, width: int) -> dict:
    module = f"{name}.temporal_transformer"
    block = f"{module}.transformer_blocks.0"
    shapes = listing(
        (f"{module}.norm", (width,)), (f"{module}.proj_in", (width, width)), (f"{module}.proj_out", (width, width))
    )
    for i in (0, 1):
        shapes |= attention(f"{block}.attention_blocks.{i}", width, width) | listing((f"{block}.norms.{i}", (width,)))
        shapes[f"{block}.attention_blocks.{i}.pos_encoder.pe"] = (1, 24, width)
    return shapes | listing((f"{block}.ff_norm", (width,))) | feed_forward(f"{block}.ff", width)


def reference_shapes(motion_in: tuple[str, ...]) -> dict[str, tuple[int, ...]]:
    """All tensors of the full-size reference U-Net, written down from its description alone."""
    shapes = listing(
        ("conv_in", (320, 13, 3, 3)),
        ("time_embedding.linear_1", (1280, 320)),
        ("time_embedding.linear_2", (1280, 1280)),
        ("conv_norm_out", (320,)),
        ("conv_out", (4, 320, 3, 3)),
    )
    skips, given = [320], 320
    for level, width in enumerate(WIDTHS):
        for layer in range(2):
            shapes |= resnet(f"down_blocks.{level}.resnets.{layer}", given, width)
            if level < 3:
                shapes |= spatial(f"down_blocks.{level}.attentions.{layer}", width)
            if "down" in motion_in:
                shapes |= motion(f"down_blocks.{level}.motion_modules.{layer}", width)
            given = width
            skips.append(width)
        if level < 3:
            shapes |= listing((f"down_blocks.{level}.downsamplers.0.conv", (width, width, 3, 3)))
            skips.append(width)
    shapes |= resnet("mid_block.resnets.0", 1280, 1280) | resnet("mid_block.resnets.1", 1280, 1280)
    shapes |= spatial("mid_block.attentions.0", 1280)
    for level, width in enumerate(reversed(WIDTHS)):
        for layer in range(3):
            shapes |= resnet(f"up_blocks.{level}.resnets.{layer}", given + skips.pop(), width)
            if level > 0:
                shapes |= spatial(f"up_blocks.{level}.attentions.{layer}", width)
            if "up" in motion_in:
                shapes |= motion(f"up_blocks.{level}.motion_modules.{layer}", width)
            given = width
        if level < 3:
            shapes |= listing((f"up_blocks.{level}.upsamplers.0.conv", (width, width, 3, 3)))
    return shapes


def as_1_0(key: str) -> str:
    return key.replace(".norm2.", ".audio_cross_attn.norm.").replace(".attn2.", ".audio_cross_attn.attn.")


def meta(shapes: dict) -> dict[str, torch.Tensor]:
    return {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}


@pytest.mark.parametrize(
    ("motion_in", "placement", "num_tensors", "num_parameters", "total"),
    [
        ((), "none", 686, 849_962_244, 849_962_244),
        (("down", "up"), "all", 1246, 1_267_099_844, 1_267_944_644),
        (("up",), "decoder", 1022, 1_100_244_804, 1_100_751_684),
    ],
)
def test_full_size_checkpoints_load_strictly(motion_in, placement, num_tensors, num_parameters, total):
    shapes = reference_shapes(motion_in)
    state_dict = meta(shapes)
    assert len(state_dict) == num_tensors
    assert sum(tensor.numel() for tensor in state_dict.values()) == total
    config = unet_config_from_state_dict(state_dict)
    assert config["motion_blocks"] == placement
    assert config["block_out_channels"] == WIDTHS
    assert (config["layers_per_block"], config["cross_attention_dim"], config["motion_max_seq_length"]) == (2, 384, 24)
    unet = build_unet(config, state_dict)
    assert sum(parameter.numel() for parameter in unet.parameters()) == num_parameters
    exported = to_reference_keys(unet.state_dict())
    assert {key: tuple(tensor.shape) for key, tensor in exported.items()} == shapes


def test_version_1_0_loads_strictly_by_its_own_names():
    shapes = {
        as_1_0(key) if ".transformer_blocks." in key else key: shape for key, shape in reference_shapes(()).items()
    }
    assert sum("audio_cross_attn" in key for key in shapes) == 16 * 7
    unet = build_unet(unet_config_from_state_dict(meta(shapes)), meta(shapes))
    assert sum(parameter.numel() for parameter in unet.parameters()) == 849_962_244


@pytest.fixture
def unet() -> LatentSyncUNet:
    torch.manual_seed(0)
    unet = LatentSyncUNet(
        block_out_channels=(32, 64), layers_per_block=1, norm_num_groups=16, num_attention_heads=2, motion_blocks="all"
    )
    for name, parameter in unet.named_parameters():
        if ".proj_out." in name:
            torch.nn.init.normal_(parameter, std=0.05)
    return unet.eval()


def inputs(frames: int = 3):
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randn(frames, 50, 384, generator=generator)
    return torch.randn(1, 13, frames, 8, 8, generator=generator), torch.tensor([7]), tokens


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
@torch.no_grad()
def test_save_and_load(unet, tmp_path, suffix):
    path = tmp_path / f"unet{suffix}"
    save_unet(unet, path, global_step=123, resolution=64)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    heads = {} if suffix == ".safetensors" else {"num_attention_heads": 2, "norm_num_groups": 16}
    loaded, facts = load_unet(path, **heads)
    # Tensors mapped from a file lie at other addresses, for which the kernels round differently.
    assert (loaded(*inputs()).sample - unet(*inputs()).sample).abs().max() < 1e-5
    assert not loaded.training
    assert (facts.version, facts.motion, facts.global_step, facts.cross_attention_dim) == (
        "1.5 or 1.6",
        "all",
        123,
        384,
    )
    assert facts.num_parameters == sum(parameter.numel() for parameter in unet.parameters())
    assert set(read_state_dict(path)) == set(to_reference_keys(unet.state_dict()))
    if suffix == ".safetensors":
        assert resolve_resolution(path) == (64, "described with the checkpoint", None)
    else:
        content = torch.load(path, weights_only=True)
        assert set(content) == {"global_step", "state_dict"}


def test_what_the_output_means_is_told_by_the_file_or_beside_it(unet, tmp_path):
    save_unet(unet, tmp_path / "velocity.safetensors", prediction_type="v_prediction")
    save_unet(unet, tmp_path / "released.pt")
    assert load_unet(tmp_path / "velocity.safetensors")[1].prediction_type == "v_prediction"
    assert load_unet(tmp_path / "released.pt")[1].prediction_type == "epsilon"
    (tmp_path / "released.json").write_text('{"prediction_type": "v_prediction"}')
    assert load_unet(tmp_path / "released.pt")[1].prediction_type == "v_prediction"
    (tmp_path / "released.json").write_text('{"prediction_type": "flow"}')
    with pytest.raises(OptionError, match=r"'flow'; expected epsilon or v_prediction or sample"):
        load_unet(tmp_path / "released.pt")


@torch.no_grad()
def test_sidecar_describes_what_shapes_do_not(unet, tmp_path):
    path = tmp_path / "unet.pt"
    save_unet(unet, path)
    (tmp_path / "config.json").write_text(
        json.dumps({"num_attention_heads": 2, "norm_num_groups": 16, "resolution": 64})
    )
    loaded, facts = load_unet(path)
    assert torch.equal(loaded(*inputs()).sample, unet(*inputs()).sample)
    assert facts.resolution == 64
    (tmp_path / "unet.json").write_text('{"resolution": 128}')  # nearer to the file than config.json
    assert resolve_resolution(path).value == 128
    (tmp_path / "unet.json").write_text('{"_class_name": "AutoencoderKL", "norm_num_groups": 5, "resolution": 1}')
    assert resolve_resolution(path).value == 512
    (tmp_path / "unet.json").write_text('{"resolution": "large"}')
    with pytest.raises(OptionError, match="large"):
        load_unet(path)
    (tmp_path / "unet.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"unet\.json"):
        load_unet(path)


@pytest.mark.parametrize("told", ["file", "beside", "reference", "argument"])
@torch.no_grad()
def test_motion_modules_may_have_other_heads(tmp_path, told):
    torch.manual_seed(0)
    arguments = {"block_out_channels": (32, 64), "layers_per_block": 1, "norm_num_groups": 16}
    unet = LatentSyncUNet(**arguments, num_attention_heads=2, motion_num_attention_heads=8).eval()
    for name, parameter in unet.named_parameters():
        if ".proj_out." in name:
            torch.nn.init.normal_(parameter, std=0.05)
    path = tmp_path / ("unet.safetensors" if told == "file" else "unet.pt")
    save_unet(unet, path)
    described = {
        "beside": {"num_attention_heads": 2, "motion_num_attention_heads": 8, "norm_num_groups": 16},
        "reference": {
            "attention_head_dim": 2,
            "motion_module_kwargs": {"num_attention_heads": 8, "temporal_position_encoding": True},
            "norm_num_groups": 16,
        },
    }
    if told in described:
        (tmp_path / "config.json").write_text(json.dumps(described[told]))
    given = described["beside"] if told == "argument" else {}
    loaded, _ = load_unet(path, **given)
    heads = [module.heads for name, module in loaded.named_modules() if name.endswith(("attn1", "attn2"))]
    spatial = [name for name, _ in loaded.named_modules() if name.endswith(("attn1", "attn2"))]
    assert heads == [8 if "motion_modules" in name else 2 for name in spatial]
    expected = unet(*inputs()).sample
    assert (loaded(*inputs()).sample - expected).abs().max() < 1e-5
    other, _ = load_unet(path, num_attention_heads=2, motion_num_attention_heads=2, norm_num_groups=16)
    assert (other(*inputs()).sample - expected).abs().max() > 1e-4


@torch.no_grad()
def test_bare_and_half_precision_files(unet, tmp_path):
    path = tmp_path / "bare.pt"
    halves = {key: tensor.half() for key, tensor in to_reference_keys(unet.state_dict()).items()}
    torch.save(halves, path)
    loaded, facts = load_unet(path, dtype=torch.float32, num_attention_heads=2, norm_num_groups=16)
    assert loaded.dtype == torch.float32
    assert facts.global_step is None
    assert (loaded(*inputs()).sample - unet(*inputs()).sample).abs().max() < 1e-2
    assert load_unet(path)[0].dtype == torch.float16
    path.rename(tmp_path / "misnamed.safetensors")
    assert load_unet(tmp_path / "misnamed.safetensors")[0].dtype == torch.float16


@torch.no_grad()
def test_position_tables_may_be_absent(unet, tmp_path):
    tensors = {key: tensor for key, tensor in to_reference_keys(unet.state_dict()).items() if not key.endswith(".pe")}
    torch.save({"state_dict": tensors}, tmp_path / "unet.pt")
    loaded, _ = load_unet(tmp_path / "unet.pt", num_attention_heads=2, norm_num_groups=16)
    assert torch.equal(loaded(*inputs()).sample, unet(*inputs()).sample)


@torch.no_grad()
def test_version_1_0_file(tmp_path):
    unet = LatentSyncUNet(
        block_out_channels=(32, 64), layers_per_block=1, norm_num_groups=16, motion_blocks="none"
    ).eval()
    tensors = {as_1_0(key) if ".transformer_blocks." in key else key: value for key, value in unet.state_dict().items()}
    path = tmp_path / "old.pt"
    torch.save({"global_step": 5, "state_dict": tensors}, path)
    loaded, facts = load_unet(path, norm_num_groups=16)
    assert torch.equal(loaded(*inputs()).sample, unet(*inputs()).sample)
    assert (facts.version, facts.motion) == ("1.0", "none")
    assert resolve_resolution(path) == resolve_resolution(path, facts=facts)
    assert resolve_resolution(path).value == 256
    assert resolve_resolution(path).warning is None


def test_resolution_that_nothing_tells(unet, tmp_path):
    path = tmp_path / "unet.pt"
    save_unet(unet, path)
    value, _, warning = resolve_resolution(path)
    assert value == 512
    assert "256" in warning
    assert "1.5" in warning
    assert resolve_resolution(path, override=256) == (256, "set by the user", None)
    for wrong in (0, -8, 250):
        with pytest.raises(OptionError, match=str(wrong)):
            resolve_resolution(path, override=wrong)


def test_faults_are_listed(unet, tmp_path):
    tensors = to_reference_keys(unet.state_dict())
    tensors.pop("mid_block.resnets.1.conv2.bias")
    tensors.pop("up_blocks.1.motion_modules.0.temporal_transformer.proj_out.weight")
    tensors["extra.weight"] = torch.zeros(1)
    tensors["conv_out.bias"] = torch.zeros(5)
    path = tmp_path / "unet.pt"
    torch.save(tensors, path)
    with pytest.raises(IncompleteCheckpointError) as caught:
        load_unet(path)
    message = str(caught.value)
    assert "2 tensors are missing" in message
    assert "up_blocks.1.motion_modules.0.temporal_transformer.proj_out.weight" in message
    assert "1 tensors are unknown: extra.weight" in message
    assert "1 tensors are of another shape: conv_out.bias" in message

    only_first = {key: value for key, value in tensors.items() if not key.startswith("up_blocks")}
    torch.save(only_first, path)
    with pytest.raises(IncompleteCheckpointError, match=r"and \d+ more"):
        load_unet(path)
    torch.save({"conv_in.weight": torch.zeros(32, 13, 3, 3)}, path)
    with pytest.raises(IncompleteCheckpointError, match="conv_out"):
        load_unet(path)


FOREIGN = {
    "Stable Diffusion U-Net": {
        "conv_in.weight": torch.zeros(320, 4, 3, 3),
        "mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight": torch.zeros(8, 768),
    },
    "whole Stable Diffusion": {"model.diffusion_model.input_blocks.0.0.weight": torch.zeros(1)},
    "motion modules without": {"down_blocks.0.motion_modules.0.temporal_transformer.norm.weight": torch.zeros(1)},
    "LoRA": {"unet.down_blocks.0.lora_A.weight": torch.zeros(1)},
    "first layer": {"some.weight": torch.zeros(1)},
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_other_models_are_named(kind, tmp_path):
    save_file(FOREIGN[kind], tmp_path / "model.safetensors")
    with pytest.raises(ForeignCheckpointError, match=kind):
        load_unet(tmp_path / "model.safetensors")
    torch.save({"state_dict": FOREIGN[kind]}, tmp_path / "model.pt")
    with pytest.raises(ForeignCheckpointError, match=kind):
        read_unet_facts(tmp_path / "model.pt")


@pytest.mark.parametrize(
    ("file", "kind"),
    [
        (GOLDEN / "syncnet_tiny.safetensors", "a SyncNet"),
        (GOLDEN / "vae_tiny.safetensors", "a VAE"),
        (ASSETS / "tiny" / "whisper" / "tiny.en.pt", "a Whisper"),
    ],
)
def test_models_at_hand_are_named(file, kind):
    with pytest.raises(ForeignCheckpointError, match=kind):
        load_unet(file)


def truncated(path: Path, unet: LatentSyncUNet) -> None:
    save_unet(unet, path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def test_damaged_files_are_named(unet, tmp_path):
    with pytest.raises(ModelNotFoundError, match="not there"):
        load_unet(tmp_path / "none.pt")
    with pytest.raises(ModelNotFoundError, match="folder"):
        load_unet(tmp_path)
    for name in ("cut.pt", "cut.safetensors"):
        truncated(tmp_path / name, unet)
        with pytest.raises(DamagedCheckpointError, match="cut short"):
            load_unet(tmp_path / name)
    torch.save(unet.state_dict(), tmp_path / "legacy.pt", _use_new_zipfile_serialization=False)
    assert set(read_state_dict(tmp_path / "legacy.pt")) == set(unet.state_dict())
    legacy = (tmp_path / "legacy.pt").read_bytes()
    for length in (3, 40, 1000, len(legacy) // 2, len(legacy) - 3):
        (tmp_path / "legacy.pt").write_bytes(legacy[:length])
        with pytest.raises(DamagedCheckpointError, match=r"legacy\.pt"):
            load_unet(tmp_path / "legacy.pt")
    contents = {
        b"": "empty",
        b"just some text\n" * 10: "neither a torch nor a safetensors file",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n": "Git LFS pointer",
        b"<!DOCTYPE html><html><body>Not found</body></html>": "web page",
        b"\x80": "damaged",
        b"\x20\x00\x00\x00\x00\x00\x00\x00{nonsense": "damaged",
    }
    for content, message in contents.items():
        for name in ("bad.pt", "bad.safetensors"):
            (tmp_path / name).write_bytes(content)
            with pytest.raises(DamagedCheckpointError, match=message):
                load_unet(tmp_path / name)
    with zipfile.ZipFile(tmp_path / "photos.pt", "w") as archive:
        archive.writestr("photo.txt", "no tensors")
    with pytest.raises(DamagedCheckpointError, match=r"photos\.pt"):
        load_unet(tmp_path / "photos.pt")
    torch.save(torch.zeros(3), tmp_path / "tensor.pt")
    with pytest.raises(DamagedCheckpointError, match="Tensor"):
        load_unet(tmp_path / "tensor.pt")


class Payload:
    def __init__(self, target: Path):
        self.target = target

    def __reduce__(self):
        return (Path.touch, (self.target,))


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("new_format", [True, False])
def test_code_in_a_file_is_not_run(tmp_path, new_format):
    trace = tmp_path / "was-run"
    torch.save({"state_dict": Payload(trace)}, tmp_path / "evil.pt", _use_new_zipfile_serialization=new_format)
    with pytest.raises(UnsafeCheckpointError, match="can run code"):
        load_unet(tmp_path / "evil.pt")
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(Payload(trace)))
    with pytest.raises(CheckpointError, match=r"plain\.pt"):
        load_unet(tmp_path / "plain.pt")
    assert not trace.exists()


@pytest.mark.filterwarnings("ignore:.*TorchScript archive", "ignore:`torch.jit")
def test_programs_are_not_run(tmp_path):
    torch.jit.script(torch.nn.Linear(2, 2)).save(tmp_path / "program.pt")
    with pytest.raises(UnsafeCheckpointError, match="TorchScript"):
        load_unet(tmp_path / "program.pt")


def test_names_go_there_and_back(unet):
    state_dict = unet.state_dict()
    exported = to_reference_keys(state_dict)
    assert len(exported) == len(state_dict) + sum(key.endswith("pos_embed.pe") for key in state_dict)
    assert not any("attn1" in key and "motion" in key for key in exported)
    back = from_reference_keys(exported)
    assert set(back) == set(state_dict)
    assert all(torch.equal(back[key], state_dict[key]) for key in back)
    assert from_reference_keys(state_dict).keys() == state_dict.keys()


def test_a_failed_save_leaves_nothing(unet, tmp_path):
    path = tmp_path / "unet.safetensors"
    save_unet(unet, path)
    before = path.read_bytes()
    (tmp_path / "unet.safetensors.part").mkdir()  # the temporary file cannot be opened
    with pytest.raises(OutputError, match="cannot be written"):
        save_unet(unet, path)
    assert path.read_bytes() == before
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        save_unet(unet, tmp_path / "file" / "unet.safetensors")
