"""CPU threads: one, but for large networks; torch is left as it was found, and stages go by the run they are of."""

import threading

import pytest
import torch
from torch import nn

from latentsync.errors import OptionError
from latentsync.model import device
from latentsync.model.device import own_threads, thread_count, threads_of
from latentsync.model.diffusion import NoisePredictor
from latentsync.options import LipSyncOptions
from latentsync.run.engine import lip_sync
from latentsync.run.resume import job_facts
from latentsync.run.speech import Speaker
from latentsync.run.threads import ThreadedStages
from tests.small_model import small_unet

SMALL, LARGE = nn.Linear(4, 4), nn.Linear(6000, 6000, device="meta")


@pytest.fixture(autouse=True)
def torch_has_three():
    """The number that the rule is to leave as it is; the tests' own comes back after."""
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    found = torch.get_num_threads()
    torch.set_num_threads(before)
    assert found == 3


@pytest.fixture
def everything_is_large(monkeypatch):
    monkeypatch.setattr(device, "LARGE", 1)


def seen_by(network: nn.Module) -> int:
    with threads_of(network):
        return torch.get_num_threads()


@pytest.fixture
def large():
    """A network that is large by its parameters and takes no memory of them."""
    network = nn.Linear(1, 1)
    network.weight = nn.Parameter(torch.zeros(1).expand(6000, 6000), requires_grad=False)
    return network


def test_one_thread_but_for_large_networks(large):
    with own_threads():
        assert (torch.get_num_threads(), seen_by(SMALL), seen_by(large), torch.get_num_threads()) == (1, 1, 3, 1)
        assert seen_by(object()) == 3  # a host's own
        assert seen_by(LARGE) == 1  # on another device than the CPU
        assert (thread_count(SMALL), thread_count(large)) == (1, 3)
    assert (seen_by(SMALL), seen_by(large)) == (3, 3)  # outside of a run nothing is changed


def test_a_number_holds_for_all_networks(large):
    with own_threads(2), own_threads():
        assert (torch.get_num_threads(), seen_by(SMALL), seen_by(large)) == (2, 2, 2)
    with own_threads(), own_threads(2):
        assert (seen_by(SMALL), seen_by(large)) == (2, 2)
    for count in (0, -1, 10**6):
        with pytest.raises(OptionError, match="expected 1 to"), own_threads(count):
            pass


def test_an_error_leaves_torch_as_it_was(large):
    with pytest.raises(KeyError), own_threads(), threads_of(large):
        raise KeyError


def test_stages_have_the_threads_of_their_run(large):
    seen = []
    with own_threads(2), ThreadedStages() as overlap:
        overlap.start("look", lambda: seen.extend([torch.get_num_threads(), seen_by(large)]))
        overlap.join()
    with own_threads(), ThreadedStages() as overlap:
        overlap.start("look", lambda: seen.extend([torch.get_num_threads(), seen_by(large)]))
        overlap.join()
    assert seen == [2, 2, 1, 3]


def test_a_run_beside_another_knows_what_torch_had(large):
    seen, inside, over = [], threading.Event(), threading.Event()

    def other():
        with own_threads():
            inside.set()
            over.wait(10)

    def late():  # a thread that first asks torch while the other's setting holds
        with own_threads():
            seen.append(seen_by(large))
        seen.append(torch.get_num_threads())

    threads = [threading.Thread(target=other), threading.Thread(target=late)]
    threads[0].start()
    inside.wait(10)
    threads[1].start()
    threads[1].join(10)
    over.set()
    threads[0].join(10)
    assert seen == [3, 3]


@pytest.mark.parametrize("which", ["large", "on a card", "a host's"])
def test_networks_that_use_all_there_is_take_turns(large, which):
    network = {"large": large, "on a card": nn.Linear(4, 4, device="meta"), "a host's": object()}[which]
    at_work, most = [0], [0]

    def work():
        for _ in range(20):
            with threads_of(network):
                at_work[0] += 1
                most[0] = max(most[0], at_work[0])
                threading.Event().wait(0.001)
                at_work[0] -= 1

    with own_threads(1 if which == "a host's" else None), ThreadedStages() as overlap:
        overlap.start("one", work)
        overlap.start("other", work)
        overlap.join()
    assert most == [1]


def test_the_networks_of_a_run_are_asked(small_model, avatar_video, speech, tmp_path, everything_is_large):
    """Inside each network torch has three threads, around them one."""
    seen, around, hooks = {}, set(), []
    for part in ("unet", "vae", "whisper"):
        layer = next(one for one in getattr(small_model, part).modules() if isinstance(one, nn.Conv1d | nn.Conv2d))
        look = lambda *_, part=part: seen.setdefault(part, set()).add(torch.get_num_threads())  # noqa: E731
        hooks.append(layer.register_forward_pre_hook(look))
    try:
        report = lip_sync(
            avatar_video,
            speech(0.4),
            tmp_path / "out.mp4",
            small_model,
            LipSyncOptions(num_inference_steps=1),
            on_progress=lambda progress: around.add(torch.get_num_threads()),
        )
    finally:
        for hook in hooks:
            hook.remove()
    assert (seen, around) == ({"unet": {3}, "vae": {3}, "whisper": {3}}, {1})
    assert report.facts["threads"] == {"unet": 3, "vae": 3, "whisper": 3}


def test_the_number_is_part_of_a_run(small_model, avatar_video, speech, everything_is_large):
    path = speech(0.4)

    def facts():
        return job_facts(avatar_video, [Speaker(path)], small_model, LipSyncOptions(), object())

    with own_threads():
        usual = facts()
        assert usual == facts()
    with own_threads(2):
        assert facts() != usual


def test_threads_change_rounding_alone():
    unet = small_unet().eval()
    generator = torch.Generator().manual_seed(0)
    latents, known = torch.randn(1, 4, 4, 8, 8, generator=generator), torch.randn(1, 9, 4, 8, 8, generator=generator)
    tokens = torch.randn(4, 50, unet.config.cross_attention_dim, generator=generator)
    made = []
    for count in (1, 2):
        with torch.inference_mode(), own_threads(count):
            made.append(NoisePredictor(unet, known, tokens, 1.5)(latents, 500))
    torch.testing.assert_close(made[0], made[1], rtol=1e-4, atol=1e-5)
