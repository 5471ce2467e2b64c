"""Collect a trained small model, in half precision, into a folder that ``main.py --model`` takes.

    python -m training_scripts.export_tiny --set export=runs/mine/model

Without ``export`` it replaces the bundled model.
"""

import json
import logging
import shutil
from pathlib import Path

import torch

from latentsync.model.checkpoints import load_unet, read_unet_facts, save_unet
from latentsync.model.loading import BUNDLED, BUNDLED_WHISPER
from latentsync.model.vae import load_vae

from .clip_store import ClipStore
from .config import TrainingConfig, parse_settings
from .training_run import save_points

log = logging.getLogger(__name__)
PURPOSES = {
    "drawn": "drawn avatars: tries out the whole product without a download; not made for real faces",
    "real": "people: works at once, without a download; released models are better",
}


def export_tiny(config: TrainingConfig) -> Path:
    """Write unet.safetensors, vae/, config.json and, where it is not there already, whisper/; returns the folder."""
    run_dir, folder = Path(config.run_dir), config.export or BUNDLED
    unet, facts = load_unet(run_dir / "stage2" / "unet.safetensors")
    steps = {stage: read_unet_facts(run_dir / stage / "unet.safetensors").global_step for stage in ("stage1", "stage2")}
    folder.mkdir(parents=True, exist_ok=True)
    save_unet(
        unet,
        folder / "unet.safetensors",
        dtype=torch.float16,
        global_step=sum(steps.values()),
        resolution=config.resolution,
        prediction_type=facts.prediction_type,
        framing=facts.framing or "mesh",
        latent_ratio=facts.latent_ratio,
    )
    vae = load_vae(run_dir / "vae", dtype=torch.float16)
    vae.register_to_config(_name_or_path="vae")  # else where it lay on this machine
    shutil.rmtree(folder / "vae", ignore_errors=True)
    vae.save_pretrained(folder / "vae")
    description = {
        "name": "tiny",
        "faces": config.faces,
        "purpose": PURPOSES[config.faces],
        "unet": "unet.safetensors",
        "vae": "vae",
        "whisper": "whisper/tiny.en.pt",
        "resolution": config.resolution,
        "prediction_type": facts.prediction_type,
        "blend_mask": config.blend_mask,
        "framing": facts.framing or "mesh",
        "defaults": {"guidance_scale": 2.5},  # chosen on the held-out avatars, see docs/models.md
        "num_attention_heads": unet.config.num_attention_heads,
        "motion_num_attention_heads": unet.config.motion_num_attention_heads,
        "norm_num_groups": unet.config.norm_num_groups,
        "training": {
            "data": _data(config),
            "seed": config.seed,
            "unet_steps": steps,
            "vae_steps": vae_steps(run_dir),
            "commands": config.recipe,
        },
    }
    whisper = folder / "whisper" / BUNDLED_WHISPER.name
    if not whisper.exists():
        whisper.parent.mkdir(exist_ok=True)
        shutil.copyfile(BUNDLED_WHISPER, whisper)
    (folder / "config.json").write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
    size = sum(file.stat().st_size for name in ("unet.safetensors", "vae") for file in _files(folder / name))
    log.info("%s: %.1f MB of weights", folder, size / 1e6)
    return folder


def _data(config: TrainingConfig) -> str:
    if config.data is None:
        return f"{len(ClipStore(config.clip_folder))} clips of heads in three dimensions that speak (make_heads.py)"
    return (
        f"{config.data.num_clips} drawn avatars of {config.data.duration:g} s with synthetic speech, identity seeds 0 "
        "and up (latentsync/synthetic)"
    )


def vae_steps(run_dir: Path) -> int:
    """Steps of the VAE's last run, from its save point: settings of the command line may have changed them."""
    if points := save_points(run_dir / "vae_training"):
        return json.loads((points[-1] / "run.json").read_text(encoding="utf-8"))["step"]
    return int(torch.load(run_dir / "vae_state.pt", map_location="cpu", weights_only=True)["step"])  # an earlier run's


def _files(path: Path) -> list[Path]:
    return [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    export_tiny(parse_settings(TrainingConfig, __doc__))
