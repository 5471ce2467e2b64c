"""A run that was cut and resumed ends exactly as one that was not, and a save point is whole or not there."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from latentsync.model.checkpoints import load_unet
from training_scripts import train_restorer, train_unet, train_vae
from training_scripts.checkpoints import TrainingState
from training_scripts.schedules import one_cycle
from training_scripts.train_tiny import stage_config
from training_scripts.training_run import save_points

CUT_AT = 3  # the step before is done and not yet saved: it must be done again


class Cut(Exception):
    """Stands for the power cut."""


@pytest.fixture
def cut(monkeypatch):
    """`cut(module, work)`: run ``work`` until step CUT_AT begins, then again; the steps that the second call does."""

    def run(module, work):
        def cutting(step, *rest):
            if step == CUT_AT:
                raise Cut
            return one_cycle(step, *rest)

        with monkeypatch.context() as patch:
            patch.setattr(module, "one_cycle", cutting)
            with pytest.raises(Cut):
                work()
        torch.manual_seed(99)  # a new process has another state of chance
        np.random.seed(99)
        steps = []
        with monkeypatch.context() as patch:
            patch.setattr(module, "one_cycle", lambda step, *rest: steps.append(step) or one_cycle(step, *rest))
            work()
        return steps

    return run


def differences(first, second, where="") -> list[str]:
    """Places where two nested states are not the same, bit for bit."""
    if type(first) is not type(second):
        return [f"{where}: {type(first)} and {type(second)}"]
    if isinstance(first, torch.Tensor):
        return [] if torch.equal(first, second) else [f"{where}: {(first - second).abs().max()}"]
    if isinstance(first, dict):
        if first.keys() != second.keys():
            return [f"{where}: other keys"]
        return [place for key in first for place in differences(first[key], second[key], f"{where}.{key}")]
    if isinstance(first, list | tuple):
        pairs = zip(first, second, strict=True)
        return [place for i, (a, b) in enumerate(pairs) for place in differences(a, b, f"{where}[{i}]")]
    return [] if first == second else [f"{where}: {first} and {second}"]


def saved(run_dir, name):
    return torch.load(run_dir / name, weights_only=True)


def test_the_vae(new_run, cut):
    whole, broken = new_run("whole", "clips"), new_run("broken", "clips")
    train_vae.train_vae(whole)
    assert cut(train_vae, lambda: train_vae.train_vae(broken)) == [2, 3]
    states = [saved(config.run_dir, "vae_state.pt") for config in (whole, broken)]
    assert states[0]["step"] == whole.vae.steps
    assert differences(*states) == []
    models = [load_file(c.run_dir / "vae" / "diffusion_pytorch_model.safetensors") for c in (whole, broken)]
    assert differences(*models) == []
    texts = [(c.run_dir / "vae" / "config.json").read_text() for c in (whole, broken)]
    assert texts[0] == texts[1]


def test_the_restorer(new_run, cut):
    whole = new_run("whole", "clips", "vae")
    train_restorer.train_restorer(whole)
    broken = new_run("broken", "clips", "vae")
    assert cut(train_restorer, lambda: train_restorer.train_restorer(broken)) == [2, 3]
    assert differences(*(saved(config.run_dir, "restorer_state.pt") for config in (whole, broken))) == []
    assert differences(*(load_file(config.run_dir / "restorer.safetensors") for config in (whole, broken))) == []


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
    assert differences(dict(result.named_parameters()), dict(zip(names, map(nn.Parameter, shadow), strict=True))) == []
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


def small_state(seed: int) -> TrainingState:
    torch.manual_seed(seed)
    module = nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.1)
    module(torch.randn(4, 3)).sum().backward()
    optimizer.step()
    return TrainingState(
        {"net": module},
        optimizer,
        np.random.default_rng(seed),
        torch.Generator().manual_seed(seed),
        seed,
        {"loss": 0.5},
    )


def test_everything_comes_back(tmp_path):
    state, other = small_state(1), small_state(2)
    state.sampler.random(5), torch.randn(3, generator=state.generator)
    state.save(tmp_path / "state.pt")
    assert other.load(tmp_path / "state.pt")
    assert (other.step, other.extra) == (1, {"loss": 0.5})
    assert differences(other.modules["net"].state_dict(), state.modules["net"].state_dict()) == []
    assert differences(other.optimizer.state_dict(), state.optimizer.state_dict()) == []
    assert other.sampler.random() == state.sampler.random()
    assert torch.equal(torch.randn(3, generator=other.generator), torch.randn(3, generator=state.generator))


def test_no_file_means_a_new_run(tmp_path):
    state = small_state(1)
    assert not state.load(tmp_path / "state.pt")
    assert state.step == 1


def test_a_save_that_fails_leaves_the_last_one(tmp_path):
    path, state = tmp_path / "state.pt", small_state(1)
    state.save(path)
    before = path.read_bytes()
    state.extra["loss"] = lambda: None  # cannot be written
    with pytest.raises(Exception, match="pickle"):
        state.save(path)
    assert path.read_bytes() == before
    assert small_state(2).load(path)


def test_another_network_is_refused(tmp_path):
    small_state(1).save(tmp_path / "state.pt")
    other = small_state(2)
    other.modules["net"] = nn.Linear(4, 2)
    with pytest.raises(RuntimeError, match="size mismatch"):
        other.load(tmp_path / "state.pt")
