"""Training configurations: what is refused, and what reaches the dataclass."""

from pathlib import Path

import pytest
import torch
import yaml

from latentsync.errors import OptionError
from latentsync.model.vae import LatentSpace
from training_scripts import training_run
from training_scripts.config import (
    CONFIGS,
    SyncNetTraining,
    TrainingConfig,
    UNetTrainingConfig,
    VideoEncoderTraining,
    load_settings,
    parse_settings,
)
from training_scripts.make_heads import HeadsConfig
from training_scripts.train_vae import build_vae
from training_scripts.training_run import precision_here

from .conftest import MICRO


def changed(tmp_path, change) -> Path:
    values = yaml.safe_load(MICRO.read_text(encoding="utf-8"))
    change(values)
    path = tmp_path / "changed.yaml"
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return path


def test_both_configurations_load():
    tiny, micro = load_settings(TrainingConfig), load_settings(TrainingConfig, MICRO)
    assert tiny.resolution >= 128
    assert (micro.vae.steps, micro.restorer.depth, micro.run_dir) == (4, 2, Path("runs/micro"))
    assert tiny.stage1 == CONFIGS / "tiny_stage1.yaml"


def test_an_unknown_setting_is_named_with_the_known_ones(tmp_path):
    path = changed(tmp_path, lambda values: values["vae"].update(stepz=3))
    with pytest.raises(OptionError, match=r"unknown setting vae\.stepz; .*\bsteps\b.*Did you mean vae\.steps\?"):
        load_settings(TrainingConfig, path)


def test_an_unknown_setting_in_place_of_a_needed_one_is_named_first(tmp_path):
    path = changed(tmp_path, lambda values: values["vae"].update(latent_noize=values["vae"].pop("latent_noise")))
    with pytest.raises(OptionError, match=r"Did you mean vae\.latent_noise\?"):
        load_settings(TrainingConfig, path)


def test_a_wrong_setting_on_the_command_line_ends_it_with_code_2(capsys):
    with pytest.raises(SystemExit, match="2"):
        parse_settings(TrainingConfig, "Train.", arguments=["--config", str(MICRO), "--set", "vae.stepz=1"])
    assert "Did you mean vae.steps?" in capsys.readouterr().err


@pytest.mark.parametrize("content", ["a: [1", "- 1"])
def test_a_file_that_is_no_configuration(tmp_path, content):
    (tmp_path / "bad.yaml").write_text(content)
    with pytest.raises(OptionError, match=r"is no YAML|expected a section with blend_mask"):
        load_settings(TrainingConfig, tmp_path / "bad.yaml")


def test_a_missing_setting_is_named(tmp_path):
    path = changed(tmp_path, lambda values: values["vae"].pop("latent_noise"))
    with pytest.raises(OptionError, match=r"vae\.latent_noise is missing"):
        load_settings(TrainingConfig, path)


def test_a_missing_section_is_named(tmp_path):
    path = changed(tmp_path, lambda values: values.pop("restorer"))
    with pytest.raises(OptionError, match="restorer is missing"):
        load_settings(TrainingConfig, path)


def test_a_float_that_yaml_reads_as_text(tmp_path):
    path = tmp_path / "small.yaml"
    text = MICRO.read_text(encoding="utf-8")
    assert "latent_noise: 0.1" in text
    path.write_text(text.replace("latent_noise: 0.1", "latent_noise: 1e-5"), encoding="utf-8")
    assert isinstance(yaml.safe_load(path.read_text(encoding="utf-8"))["vae"]["latent_noise"], str)
    assert load_settings(TrainingConfig, path).vae.latent_noise == 1e-5


def test_overrides_reach_their_setting_and_no_other():
    plain = load_settings(TrainingConfig, MICRO)
    config = load_settings(
        TrainingConfig, MICRO, ["restorer.steps=7", "seed=9", "vae.learning_rate=1e-5", "vae.block_out_channels=[8,16]"]
    )
    assert (config.restorer.steps, config.seed, config.vae.learning_rate) == (7, 9, 1e-5)
    assert config.vae.block_out_channels == [8, 16]
    assert (config.stage2, config.data, config.log_every) == (plain.stage2, plain.data, plain.log_every)


def test_a_path_may_be_absent():
    assert load_settings(TrainingConfig, MICRO).vae.initial is None
    assert load_settings(TrainingConfig, MICRO, ["vae.initial=runs/other/vae"]).vae.initial == Path("runs/other/vae")


def test_an_override_of_an_unknown_setting_is_refused():
    with pytest.raises(OptionError, match=r"unknown setting vae\.step"):
        load_settings(TrainingConfig, MICRO, ["vae.step=7"])


def test_an_override_without_a_value_is_refused():
    with pytest.raises(OptionError, match=r"expected name=value"):
        load_settings(TrainingConfig, MICRO, ["vae.steps"])


# resolution, batch size, motion, trainable, weights of recon, sync, perceptual and temporal loss: the reference's files
REFERENCE_VALUES = {
    "stage1": (256, 1, "off", ["all"], (1, 0, 0, 0)),
    "stage1_512": (512, 1, "off", ["all"], (1, 0, 0, 0)),
    "stage2": (256, 1, "all", ["motion_modules.", "attentions."], (1, 0.05, 0.1, 10)),
    "stage2_512": (512, 1, "all", ["motion_modules.", "attentions."], (1, 0.05, 0.1, 10)),
    "stage2_efficient": (256, 1, "decoder", ["motion_modules.", "attn2."], (1, 0.05, 0.1, 0)),
}


KINDS = {
    "heads": HeadsConfig,
    "heads_vae": TrainingConfig,
    "tiny": TrainingConfig,
    "video_encoder": VideoEncoderTraining,
}


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_configuration_loads(path):
    kind = SyncNetTraining if path.stem.startswith("syncnet") else KINDS.get(path.stem, UNetTrainingConfig)
    given = ["model.initial=unet.safetensors"] if path.stem == "lora" else []  # which the command fills in
    load_settings(kind, path, given)


@pytest.mark.parametrize("name", REFERENCE_VALUES)
def test_the_stages_have_the_references_values(name):
    config = load_settings(UNetTrainingConfig, CONFIGS / f"{name}.yaml")
    loss = config.loss
    weights = loss.recon_weight, loss.sync_weight, loss.perceptual_weight, loss.temporal_weight
    values = config.data.resolution, config.data.batch_size, config.model.motion, config.model.trainable, weights
    assert values == REFERENCE_VALUES[name]
    assert config.reference
    assert (config.optimizer.learning_rate, config.optimizer.schedule, config.optimizer.max_grad_norm) == (
        1e-5,
        "constant",
        1,
    )
    assert (config.data.num_frames, config.noise.kind, config.noise.alpha) == (16, "mixed", 1)
    assert (config.mixed_precision, config.gradient_checkpointing, config.save_every) == ("fp16", True, 10_000)
    assert (config.validation.num_inference_steps, config.validation.guidance_scale) == (20, 1.5)


@pytest.mark.parametrize(
    "change",
    [
        "noise.audio_dropout=0.1",
        "noise.kind=shared",
        "loss.max_timestep_weight=20",
        "data.posterior=mean",
        "loss.pixel_timestep_weight=signal",
        "optimizer.ema_decay=0.99",
    ],
)
def test_what_the_reference_does_not_do_is_refused_under_its_name(change):
    with pytest.raises(OptionError, match=f"reference is true, which means {change.split('=')[0]}"):
        load_settings(UNetTrainingConfig, CONFIGS / "stage2.yaml", [change])
    load_settings(UNetTrainingConfig, CONFIGS / "stage2.yaml", [change, "reference=false"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("loss.perceptual=lpisp", "loss.perceptual is 'lpisp'; expected lpips, vae or none"),
        ("loss.syncnet=null", "loss.syncnet is not given"),
        ("loss.temporal=none", "loss.temporal is not given"),
        ("data.latents=cached", "only posterior means exist"),
        ("data.batch_size=0", "data.batch_size is 0; expected at least 1"),
        ("tensorboard=maybe", "expected true or false"),
        ("optimizer.learning_rate=fast", "expected a number"),
        ("model.motion=off", "model.motion is False; expected off, all or decoder; .* quotes around"),
        ("optimizer.steps=2.5", "optimizer.steps is 2.5; expected a whole number"),
        ("data.clips.more=1", "data.clips is .* no settings of its own"),
        ("lora.alpha=0", "lora.alpha is 0; expected more than 0"),
        ("loss=3", "loss is 3; expected a section with .*syncnet"),
    ],
)
def test_impossible_settings_of_the_unet_are_named(change, message):
    with pytest.raises(OptionError, match=message):
        load_settings(UNetTrainingConfig, CONFIGS / "stage2.yaml", [change])


def test_settings_that_are_left_out_have_defaults(tmp_path):
    path = tmp_path / "least.yaml"
    path.write_text("model: {motion: decoder}\noptimizer: {learning_rate: 1e-4}\n")
    config = load_settings(UNetTrainingConfig, path)
    assert (config.model.motion, config.optimizer.learning_rate, config.loss.recon_weight) == ("decoder", 1e-4, 1.0)


def test_the_heads_configurations_belong_together():
    config = load_settings(TrainingConfig, CONFIGS / "heads_vae.yaml")
    stages = [load_settings(UNetTrainingConfig, path) for path in (config.stage1, config.stage2)]
    assert {stage.data.resolution for stage in stages} == {config.resolution}
    assert {stage.model.vae for stage in stages} == {config.run_dir / "vae"}
    assert stages[1].model.initial == stages[0].output / "unet.safetensors"
    assert LatentSpace.of({**build_vae(config).config}).ratio == 16
    assert (config.framing, config.faces) == ("insightface", "real")


@pytest.mark.parametrize(("fast", "expected"), [(True, "bf16"), (False, "no")])
def test_auto_is_a_precision_that_the_cpu_is_fast_with(monkeypatch, fast, expected):
    monkeypatch.setattr(training_run, "has_fast_bfloat16", lambda: fast)
    monkeypatch.setattr(training_run, "choose_device", lambda: torch.device("cpu"))
    assert precision_here("auto") == expected
    assert [precision_here(name) for name in ("no", "bf16", "fp16")] == ["no", "bf16", "fp16"]
