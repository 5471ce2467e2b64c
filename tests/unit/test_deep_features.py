"""Deep features kept over steps: the cheap form is exactly the whole U-Net with its deep part's output replaced."""

import json

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file

from latentsync.errors import OptionError
from latentsync.model.checkpoints import build_unet, unet_config_from_state_dict
from latentsync.model.diffusion import build_scheduler, denoise
from latentsync.model.loading import bundled_model, load_model, merge_lora, read_lora
from latentsync.options import LipSyncOptions
from tests.golden.conftest import MINI
from tests.small_model import small_unet

STEPS = 7


class NaiveCache(torch.nn.Module):
    """Always runs the whole U-Net; at steps that reuse, the deep part's output is replaced by the one remembered.

    One call a step of one half of the guidance. Keeps count of its own calls, and knows only the interval.
    """

    def __init__(self, unet, interval: int):
        super().__init__()
        self.unet, self.interval, self.calls, self.remembered = unet, interval, 0, None
        self.dtype = unet.dtype

    def forward(self, sample, timestep, tokens, return_dict):
        fresh = self.calls % self.interval == 0
        self.calls += 1

        def swap(_module, _arguments, output):
            if fresh:
                self.remembered = output.clone()
                return None
            return self.remembered

        hook = self.unet.up_blocks[-1].motion_modules[-2].register_forward_hook(swap)
        try:
            return self.unet(sample, timestep, tokens, return_dict=False)
        finally:
            hook.remove()


def clip(unet, clips: int = 1, frames: int = 3, side: int = 8):
    generator = torch.Generator().manual_seed(4)
    width = unet.config.cross_attention_dim
    return (
        torch.randn(clips, 4, frames, side, side, generator=generator),
        torch.randn(clips, 9, frames, side, side, generator=generator),
        torch.randn(clips * frames, 50, width, generator=generator),
    )


def golden_unet():
    arguments = json.loads((MINI / "unet_tiny_config.json").read_text())
    weights = {key: value.float() for key, value in load_file(MINI / "unet_tiny.safetensors").items()}
    config = unet_config_from_state_dict(weights, arguments["attention_head_dim"], arguments["norm_num_groups"])
    return build_unet(config, weights).eval()


UNETS = {
    "small": small_unet,
    "no motion": lambda: small_unet(motion_blocks="none"),
    "no attention in the last block": lambda: small_unet(attention_levels=[False, True]),
    "two clips": small_unet,
    "golden": golden_unet,
    "bundled": lambda: load_model(bundled_model()).unet,
}


@torch.no_grad()
@pytest.mark.parametrize("scale", [1.0, 1.5])
@pytest.mark.parametrize("name", UNETS)
def test_the_cheap_form_is_the_naive_one(name, scale):
    unet = UNETS[name]()
    run = clip(unet, clips=2 if name == "two clips" else 1)
    expected = denoise(NaiveCache(unet, 3), build_scheduler("ddim"), *run, STEPS, scale)
    got = denoise(unet, build_scheduler("ddim"), *run, STEPS, scale, cache_interval=3)
    assert torch.equal(got, expected)
    assert not torch.equal(got, denoise(unet, build_scheduler("ddim"), *run, STEPS, scale))


@torch.no_grad()
def test_an_adapter_counts_in_the_cheap_form_too(tmp_path):
    model = get_peft_model(small_unet(), LoraConfig(r=2, target_modules=["to_q", "to_k", "to_v"]))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.5)
    model.save_pretrained(tmp_path)
    unet = small_unet()
    run = clip(unet)
    plain = denoise(unet, build_scheduler("ddim"), *run, STEPS, 1.5, cache_interval=3)
    merge_lora(unet, read_lora(tmp_path / "adapter_model.safetensors"), 1.0)
    got = denoise(unet, build_scheduler("ddim"), *run, STEPS, 1.5, cache_interval=3)
    assert torch.equal(got, denoise(NaiveCache(unet, 3), build_scheduler("ddim"), *run, STEPS, 1.5))
    assert not torch.equal(got, plain)


def calls_of(unet, run, **savings) -> list[tuple[int, bool]]:
    """(clips in the batch, whether the whole U-Net ran) of each step."""
    calls = []
    middle = unet.mid_block.register_forward_hook(lambda *_: calls.append((len(calls), "whole")))
    begin = unet.register_forward_pre_hook(lambda _, arguments: calls.append((len(arguments[0]), "call")))
    try:
        denoise(unet, build_scheduler("ddim"), *run, STEPS, 1.5, **savings)
    finally:
        middle.remove()
        begin.remove()
    told = [index for index, (_, kind) in enumerate(calls) if kind == "call"]
    return [(calls[i][0], i + 1 < len(calls) and calls[i + 1][1] == "whole") for i in told]


@torch.no_grad()
def test_which_steps_run_whole_and_which_are_guided():
    unet = small_unet()
    run = clip(unet)
    assert calls_of(unet, run) == [(2, True)] * STEPS
    assert calls_of(unet, run, cache_interval=3) == [(2, i % 3 == 0) for i in range(STEPS)]
    assert calls_of(unet, run, guidance_interval=(0.0, 0.5)) == [(2, True)] * 4 + [(1, True)] * 3
    assert calls_of(unet, run, guidance_interval=(0.5, 1.0)) == [(1, True)] * 4 + [(2, True)] * 3
    assert calls_of(unet, run, guidance_interval=(0.3, 0.3)) == [(1, True)] * STEPS
    # guided deep features serve the unguided steps; the other way round the silent half is missing
    both = calls_of(unet, run, cache_interval=3, guidance_interval=(0.0, 0.6))
    assert both == [(2, True), (2, False), (2, False), (2, True), (2, False), (1, False), (1, True)]
    late = calls_of(unet, run, cache_interval=3, guidance_interval=(0.6, 1.0))
    assert late == [(1, True), (1, False), (1, False), (1, True), (1, False), (2, True), (2, False)]


@torch.no_grad()
def test_an_unguided_step_takes_the_speechs_half_of_the_deep_features():
    """Guided at the first step alone, unguided and cached after it: the naive form without guidance agrees from there
    on, where it starts from the same latents."""
    unet, after_first = small_unet(), []
    latents, conditioning, tokens = clip(unet)

    def keep(index, _, current):
        if index == 0:
            after_first.append(current)

    got = denoise(
        unet, build_scheduler("ddim"), latents, conditioning, tokens, 4, 1.5, keep,
        guidance_interval=(0.0, 0.2), cache_interval=4,
    )  # fmt: skip
    scheduler, naive = build_scheduler("ddim"), NaiveCache(unet, 4)
    scheduler.set_timesteps(4)
    naive(torch.cat((latents, conditioning), 1), scheduler.timesteps[0], tokens, False)
    x = after_first[0]
    for timestep in scheduler.timesteps[1:]:
        predicted = naive(torch.cat((x, conditioning), 1), timestep, tokens, False)[0]
        x = scheduler.step(predicted, timestep, x, return_dict=False)[0]
    assert (got - x).abs().max() < 1e-5


@torch.no_grad()
def test_deep_features_of_another_number_of_frames_are_refused():
    unet = small_unet()
    latents, conditioning, tokens = clip(unet)
    sample = torch.cat((latents, conditioning), 1)
    _, deep = unet(sample, 5, tokens, keep_deep_features=True)
    with pytest.raises(ValueError, match="deep features of 2 frames were given for 3"):
        unet(sample, 5, tokens, deep_features=deep[:2])


@pytest.mark.parametrize(
    ("field", "value", "named"),
    [
        ("cache_interval", 0, r"cache_interval is 0; expected 1 \(off\) to 999"),
        ("guidance_interval", (0.5, 0.2), r"guidance_interval is \(0.5, 0.2\); expected two shares"),
        ("guidance_interval", (0.0, 1.5), "expected two shares of the steps in order"),
        ("guidance_interval", (float("nan"), 1.0), "expected two shares"),
        ("guidance_interval", (0.5,), "expected two shares"),
    ],
)
def test_impossible_savings_are_refused(field, value, named):
    with pytest.raises(OptionError, match=named):
        LipSyncOptions(**{field: value})
    unet = small_unet()
    with pytest.raises(OptionError, match=named):
        denoise(unet, build_scheduler("ddim"), *clip(unet), 2, 1.0, **{field: value})
