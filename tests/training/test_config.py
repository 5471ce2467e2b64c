"""Training configurations: what is refused, and what reaches the dataclass."""

from pathlib import Path

import pytest
import yaml

from latentsync.errors import OptionError
from training_scripts.config import TINY, load_config

from .conftest import MICRO


def changed(tmp_path, change) -> Path:
    values = yaml.safe_load(MICRO.read_text(encoding="utf-8"))
    change(values)
    path = tmp_path / "changed.yaml"
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return path


def test_both_configurations_load():
    tiny, micro = load_config(TINY), load_config(MICRO)
    assert tiny.resolution >= 128
    assert (micro.vae.steps, micro.stage2.num_frames, micro.run_dir) == (4, 8, Path("runs/micro"))


def test_an_unknown_setting_is_named_with_the_known_ones(tmp_path):
    path = changed(tmp_path, lambda values: values["stage1"].update(stepz=3))
    with pytest.raises(OptionError, match=r"unknown setting stage1\.stepz; known there: .*\bsteps\b"):
        load_config(path)


def test_a_missing_setting_is_named(tmp_path):
    path = changed(tmp_path, lambda values: values["vae"].pop("kl_weight"))
    with pytest.raises(OptionError, match=r"vae\.kl_weight is missing"):
        load_config(path)


def test_a_missing_section_is_named(tmp_path):
    path = changed(tmp_path, lambda values: values.pop("unet"))
    with pytest.raises(OptionError, match="unet is missing"):
        load_config(path)


def test_a_float_that_yaml_reads_as_text(tmp_path):
    path = tmp_path / "small.yaml"
    text = MICRO.read_text(encoding="utf-8")
    assert "kl_weight: 1.0e-4" in text
    path.write_text(text.replace("kl_weight: 1.0e-4", "kl_weight: 1e-5"), encoding="utf-8")
    assert isinstance(yaml.safe_load(path.read_text(encoding="utf-8"))["vae"]["kl_weight"], str)
    assert load_config(path).vae.kl_weight == 1e-5


def test_overrides_reach_their_setting_and_no_other():
    plain = load_config(MICRO)
    config = load_config(MICRO, ["stage1.steps=7", "seed=9", "vae.learning_rate=1e-5", "vae.block_out_channels=[8,16]"])
    assert (config.stage1.steps, config.seed, config.vae.learning_rate) == (7, 9, 1e-5)
    assert config.vae.block_out_channels == [8, 16]
    assert (config.stage2, config.data, config.loss) == (plain.stage2, plain.data, plain.loss)


def test_a_path_may_be_absent():
    assert load_config(MICRO).vae.initial is None
    assert load_config(MICRO, ["vae.initial=runs/other/vae"]).vae.initial == Path("runs/other/vae")


def test_an_override_of_an_unknown_setting_is_refused():
    with pytest.raises(OptionError, match=r"unknown setting stage1\.step"):
        load_config(MICRO, ["stage1.step=7"])


def test_an_override_without_a_value_is_refused():
    with pytest.raises(OptionError, match=r"expected name=value"):
        load_config(MICRO, ["stage1.steps"])
