"""Whole denoising runs of the reference: chunks with a short last one, guidance, DDIM. Tolerance: 1e-3 absolute."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from latentsync.model.checkpoints import build_unet, from_reference_config, unet_config_from_state_dict
from latentsync.model.diffusion import NoisePredictor, ddim_scheduler, denoise
from latentsync.model.vae import decode, load_vae
from latentsync.model.whisper import audio_tokens, num_reference_frames, window_centre

TOLERANCE = 1e-3


@pytest.mark.parametrize("name", ["e2e", "e2e_pingpong"])
@torch.no_grad()
def test_latents_of_whole_runs(golden, name, tmp_path, largest_error):
    run = json.loads((golden / f"{name}.json").read_text())
    data = {key: torch.from_numpy(value) for key, value in np.load(golden / f"{name}.npz").items()}
    arguments = json.loads((golden / "unet_tiny_config.json").read_text())
    state_dict = {key: value.float() for key, value in load_file(golden / "unet_tiny.safetensors").items()}
    config = unet_config_from_state_dict(state_dict, **from_reference_config(arguments))
    unet = build_unet(config, state_dict).eval()
    scheduler = ddim_scheduler()

    features = data["audio_feature"].float()
    num_frames = data["final_latents"].shape[2]
    assert num_reference_frames(len(features), run["fps"]) == run["num_chunks"] >= num_frames
    tokens = audio_tokens(features, [window_centre(frame, run["fps"]) for frame in range(num_frames)])
    mask = data["mask_latent"].expand(1, 1, num_frames, -1, -1)
    conditioning = torch.cat((mask, data["masked_latents"], data["ref_latents"]), dim=1)
    noise = data["init_noise"][:, :, None]

    scheduler.set_timesteps(run["steps"])
    assert scheduler.timesteps.tolist() == data["timesteps"].tolist()
    chunks, first_noise = [], None
    for start in range(0, num_frames, run["num_frames"]):
        part = slice(start, min(start + run["num_frames"], num_frames))
        latents = noise.repeat(1, 1, part.stop - start, 1, 1)
        if first_noise is None:
            predict = NoisePredictor(unet, conditioning[:, :, part], tokens[part], run["g"])
            first_noise = predict(latents, scheduler.timesteps[0])
        chunks.append(denoise(unet, scheduler, latents, conditioning[:, :, part], tokens[part], run["steps"], run["g"]))
    assert name != "e2e_pingpong" or chunks[-1].shape[2] < run["num_frames"], "its last chunk was meant to be short"
    final = torch.cat(chunks, dim=2)
    assert largest_error("first noise", first_noise, data["first_noise_pred"]) <= TOLERANCE
    assert largest_error("final latents", final, data["final_latents"]) <= TOLERANCE

    shutil.copy(golden / "vae_tiny.safetensors", tmp_path / "diffusion_pytorch_model.safetensors")
    shutil.copy(golden / "vae_tiny_config.json", tmp_path / "config.json")
    pixels = decode(load_vae(tmp_path), final[0].transpose(0, 1), batch_size=2)
    # The reference's output was stored in float16.
    assert largest_error("decoded", pixels, data["decoded"].float()) <= 2 * TOLERANCE
