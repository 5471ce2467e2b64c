"""Which files make a model, where they are sought, and what is said when they do not fit."""

import json
import shutil

import pytest
import torch

from latentsync.errors import (
    CheckpointError,
    ForeignCheckpointError,
    IncompleteCheckpointError,
    ModelNotFoundError,
    OptionError,
)
from latentsync.model import loading
from latentsync.model.checkpoints import save_unet
from latentsync.model.loading import (
    BUNDLED,
    BUNDLED_WHISPER,
    choose_device,
    choose_dtype,
    described_model,
    find_model,
    load_model,
)
from tests.small_model import small_unet, small_vae, write_whisper


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    """A folder in the released layout, with small networks."""
    folder = tmp_path_factory.mktemp("checkpoints")
    save_unet(small_unet(), folder / "latentsync_unet.pt", global_step=7)
    small_vae().save_pretrained(folder / "vae")
    write_whisper(folder / "whisper" / "tiny.pt")
    # the reference's layout describes neither heads nor norm groups, which small networks need
    (folder / "latentsync_unet.json").write_text(json.dumps({"num_attention_heads": 2, "norm_num_groups": 8}))
    return folder


@pytest.fixture
def changeable(released, tmp_path):
    return shutil.copytree(released, tmp_path / "checkpoints")


def test_without_a_choice_the_released_model_comes_first(released, tmp_path):
    found = find_model(None, released)
    assert found.unet == released / "latentsync_unet.pt"
    assert found.vae == released / "vae"
    assert found.whisper == released / "whisper"
    assert found.name == "latentsync_unet.pt"
    for empty in (tmp_path, tmp_path / "missing"):
        if (BUNDLED / "config.json").is_file():
            assert find_model(None, empty).unet.parent == BUNDLED
        else:
            with pytest.raises(ModelNotFoundError, match=r"config\.json"):
                find_model(None, empty)


def test_tiny_is_the_bundled_one_whatever_lies_in_checkpoints(released, small_model_folder, monkeypatch):
    monkeypatch.setattr(loading, "BUNDLED", small_model_folder)
    assert find_model("tiny", released).unet == small_model_folder / "unet.safetensors"
    assert find_model(None, released).unet == released / "latentsync_unet.pt"
    assert find_model(None, small_model_folder / "nothing").unet == small_model_folder / "unet.safetensors"


def test_safetensors_goes_before_pt(changeable):
    save_unet(small_unet(), changeable / "latentsync_unet.safetensors")
    assert find_model(None, changeable).unet.name == "latentsync_unet.safetensors"


def test_a_folder_or_a_file_can_be_chosen(released, small_model_folder, tmp_path):
    assert find_model(small_model_folder, tmp_path).name == "small"
    assert find_model(str(released), tmp_path).unet == released / "latentsync_unet.pt"
    assert find_model(released / "latentsync_unet.pt", tmp_path).vae == released / "vae"
    # a described model in checkpoints/ counts too
    assert find_model(None, small_model_folder).name == "small"


def test_a_lone_unet_takes_vae_and_whisper_from_checkpoints(released, tmp_path):
    alone = shutil.copy(released / "latentsync_unet.pt", tmp_path / "finetuned.pt")
    files = find_model(alone, released)
    assert (files.unet.name, files.vae, files.whisper) == ("finetuned.pt", released / "vae", released / "whisper")
    assert find_model(alone, tmp_path / "none").vae == tmp_path / "vae"


def test_wrong_choices_are_named(tmp_path):
    with pytest.raises(ModelNotFoundError, match=r"no model at .*nothing.pt; give 'tiny'"):
        find_model(tmp_path / "nothing.pt", tmp_path)
    with pytest.raises(ModelNotFoundError, match=r"holds no model; expected a config.json or latentsync_unet"):
        find_model(tmp_path, tmp_path)
    for text in ("{not json", "[1]", '{"name": "x", "unet": "u"}', '{"name": "x", "unet": 3, "vae": "v"}'):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(CheckpointError, match=r"config\.json does not describe a model"):
            find_model(tmp_path, tmp_path)


def test_loaded_model_is_complete(small_model_folder):
    model = load_model(described_model(small_model_folder))
    assert (model.name, model.resolution, model.warnings) == ("small", 64, ())
    assert model.unet.config.num_attention_heads == 2
    assert not model.unet.training
    assert not model.vae.training
    assert model.whisper.multilingual is False
    assert {p.dtype for p in model.unet.parameters()} == {torch.float32}
    half = load_model(described_model(small_model_folder), dtype=torch.bfloat16)
    assert {p.dtype for net in (half.unet, half.vae) for p in net.parameters()} == {torch.bfloat16}
    assert half.whisper.dtype == torch.float32


def test_loading_logs_nothing(small_model_folder, capfd):
    load_model(described_model(small_model_folder), dtype=torch.bfloat16)
    captured = capfd.readouterr()
    assert captured.out + captured.err == ""


def test_released_model_loads_and_its_unsaid_resolution_is_a_warning(released):
    model = load_model(find_model(None, released))
    assert model.resolution == 512
    assert model.whisper.multilingual
    assert len(model.warnings) == 1
    assert "1.5 need 256" in model.warnings[0]
    chosen = load_model(find_model(None, released), resolution=256)
    assert (chosen.resolution, chosen.warnings) == (256, ())
    with pytest.raises(OptionError, match="multiple of 8"):
        load_model(find_model(None, released), resolution=100)


def test_resolution_beside_the_released_unet(changeable):
    """A config.json there describes the U-Net and does not make the folder something else."""
    (changeable / "latentsync_unet.json").unlink()
    described = {"resolution": 256, "num_attention_heads": 2, "norm_num_groups": 8}
    (changeable / "config.json").write_text(json.dumps(described))
    for choice in (None, changeable, changeable / "latentsync_unet.pt"):
        model = load_model(find_model(choice, changeable))
        assert (model.resolution, model.warnings) == (256, ())


def test_released_unet_without_multilingual_whisper_is_an_error(changeable):
    (changeable / "whisper" / "tiny.pt").unlink()
    with pytest.raises(ModelNotFoundError, match=r"multilingual Whisper tiny.pt at .*whisper.tiny.pt.*wrong lips"):
        load_model(find_model(None, changeable))
    shutil.rmtree(changeable / "whisper")
    with pytest.raises(ModelNotFoundError, match=r"tiny.pt"):
        load_model(find_model(None, changeable))


def test_an_english_whisper_under_the_multilingual_name_is_an_error(changeable):
    shutil.copy(BUNDLED_WHISPER, changeable / "whisper" / "tiny.pt")
    with pytest.raises(CheckpointError, match=r"tiny.pt is an English-only Whisper"):
        load_model(find_model(None, changeable))


def test_whisper_of_another_width_is_an_error(changeable, small_model_folder, tmp_path):
    write_whisper(changeable / "whisper" / "tiny.pt", width=768)
    with pytest.raises(
        CheckpointError, match=r"width 384, but the Whisper model .*tiny.pt gives 768; expected tiny.pt"
    ):
        load_model(find_model(None, changeable))
    folder = shutil.copytree(small_model_folder, tmp_path / "other")
    save_unet(small_unet(cross_attention_dim=256), folder / "unet.safetensors", resolution=64)
    described = json.loads((folder / "config.json").read_text()) | {"whisper": str(BUNDLED_WHISPER)}
    (folder / "config.json").write_text(json.dumps(described))
    with pytest.raises(CheckpointError, match="width 256"):
        load_model(described_model(folder))
    save_unet(small_unet(cross_attention_dim=256), changeable / "latentsync_unet.safetensors")
    with pytest.raises(CheckpointError, match=r"width 256; known are 384 .* 768"):
        load_model(find_model(None, changeable))


def test_missing_or_unfit_vae_is_an_error(changeable):
    shutil.rmtree(changeable / "vae")
    with pytest.raises(ModelNotFoundError, match=r"no VAE at .*vae.*sd-vae-ft-mse"):
        load_model(find_model(None, changeable))
    small_vae(latent_channels=8).save_pretrained(changeable / "vae")
    with pytest.raises(CheckpointError, match=r"8 channels at 1/8 of the side; the U-Net .* on 4 channels at 1/8"):
        load_model(find_model(None, changeable))
    shutil.rmtree(changeable / "vae")
    three = {
        "down_block_types": ("DownEncoderBlock2D",) * 3,
        "up_block_types": ("UpDecoderBlock2D",) * 3,
        "block_out_channels": (8, 8, 16),
    }
    small_vae(**three).save_pretrained(changeable / "vae")
    with pytest.raises(CheckpointError, match=r"4 channels at 1/4"):
        load_model(find_model(None, changeable))


def test_swapped_files_are_told_apart(changeable):
    vae_file = next((changeable / "vae").glob("*.safetensors"))
    with pytest.raises(ForeignCheckpointError, match="a VAE, not a LatentSync U-Net"):
        load_model(find_model(vae_file, changeable))
    with pytest.raises(ForeignCheckpointError, match="Whisper"):
        load_model(find_model(changeable / "whisper" / "tiny.pt", changeable))
    shutil.copy(changeable / "latentsync_unet.pt", changeable / "whisper" / "tiny.pt")
    with pytest.raises(ForeignCheckpointError, match="not an openai-whisper checkpoint"):
        load_model(find_model(None, changeable))


def test_a_unet_with_missing_tensors_names_them(changeable):
    content = torch.load(changeable / "latentsync_unet.pt", weights_only=True)
    del content["state_dict"]["conv_out.bias"]
    torch.save(content, changeable / "latentsync_unet.pt")
    with pytest.raises(IncompleteCheckpointError, match=r"1 tensors are missing: conv_out.bias"):
        load_model(find_model(None, changeable))


def test_devices_and_dtypes():
    assert choose_device("cpu") == torch.device("cpu")
    assert choose_device("auto").type in ("cpu", "cuda", "mps")
    for missing in ("cuda:77", "banana", "cpu:x"):
        with pytest.raises(OptionError, match=f"the device '{missing}' cannot be used here"):
            choose_device(missing)
    assert choose_dtype("bfloat16", torch.device("cpu")) == torch.bfloat16
    with pytest.raises(OptionError, match="unknown dtype 'int8'"):
        choose_dtype("int8", torch.device("cpu"))
