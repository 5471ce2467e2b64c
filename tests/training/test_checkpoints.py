"""VAE and restorer that were cut and resumed end exactly as uncut ones; what a small model's parts are made of."""

import pytest
import torch
from safetensors.torch import load_file

from latentsync.model.checkpoints import load_unet
from training_scripts import train_restorer, train_unet, train_vae
from training_scripts.train_tiny import stage_config
from training_scripts.training_run import save_points

from .cut_runs import cut, differing, equal

CUT_AT = 3  # the step before is done and not yet saved: it must be done again


def last(config, name):
    return save_points(config.run_dir / name)[-1]


def resumed_as_uncut(whole, broken, name, train) -> None:
    train(whole)
    cut(lambda: train(broken), CUT_AT)
    assert last(broken, name).name == "step-00000002"
    train(broken)
    points = [last(config, name) for config in (whole, broken)]
    assert points[0].name == "step-00000004"
    assert differing(*points) == []
    rows = [(config.run_dir / name / "losses.csv").read_text() for config in (whole, broken)]
    assert rows[0] == rows[1]
    assert rows[0].count("\n") == 3  # a header and two rows


def test_the_vae(new_run):
    whole, broken = new_run("whole", "clips"), new_run("broken", "clips")
    resumed_as_uncut(whole, broken, "vae_training", train_vae.train_vae)
    models = [load_file(c.run_dir / "vae" / "diffusion_pytorch_model.safetensors") for c in (whole, broken)]
    assert equal(*models)
    texts = [(c.run_dir / "vae" / "config.json").read_text() for c in (whole, broken)]
    assert texts[0] == texts[1]


def test_the_restorer(new_run):
    whole, broken = new_run("whole", "clips", "vae"), new_run("broken", "clips", "vae")
    resumed_as_uncut(whole, broken, "restorer_training", train_restorer.train_restorer)
    assert equal(*(load_file(config.run_dir / "restorer.safetensors") for config in (whole, broken)))


def test_stage_2_starts_from_stage_1_and_changes_all_of_it(micro_run):
    trained = unet_state(micro_run.run_dir / "stage2")
    stage1 = load_unet(micro_run.run_dir / "stage1" / "unet.safetensors")[0].state_dict()
    added = trained.keys() - stage1.keys()
    assert added
    assert all("motion_modules" in key for key in added)
    distance = [(trained[key] - value).abs().mean().item() for key, value in stage1.items()]
    assert min(distance) > 0
    config = stage_config(micro_run, "stage2").optimizer
    assert max(distance) < config.steps * 2 * config.learning_rate  # steps of Adam, and weight decay


def test_the_result_is_the_running_average(micro_run):
    result = load_unet(micro_run.run_dir / "stage2" / "unet.safetensors")[0]
    names = [name for name, _ in result.named_parameters()]
    point = save_points(micro_run.run_dir / "stage2")[-1]
    shadow = torch.load(point / "ema.pt", weights_only=True)["shadow_params"]
    learned = unet_state(micro_run.run_dir / "stage2")
    assert equal(dict(result.named_parameters()), dict(zip(names, shadow, strict=True)))
    assert all(not torch.equal(result.get_parameter(name), learned[name]) for name in names)


def unet_state(output):
    return load_file(save_points(output)[-1] / "model.safetensors")


def test_a_finished_part_is_not_made_again(micro_run, monkeypatch):
    monkeypatch.setattr(train_vae, "build_vae", lambda config: pytest.fail("the VAE was trained again"))
    monkeypatch.setattr(train_unet, "build_unet", lambda *_: pytest.fail("the U-Net was trained again"))
    assert train_vae.train_vae(micro_run) == micro_run.run_dir / "vae"
    for stage in ("stage1", "stage2"):
        target = micro_run.run_dir / stage / "unet.safetensors"
        assert train_unet.train_unet(stage_config(micro_run, stage)) == target
