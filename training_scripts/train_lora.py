"""Fine-tune a model to one speaker: a folder of their videos in, an adapter file out.

    python -m training_scripts.train_lora --footage footage/anna --output runs/anna

The videos, a few minutes in all, are prepared as by prepare_data.py into ``output/clips``; for its other options use
it yourself and give its store by --clips. Then the adapter, low-rank changes of the attention layers, learns as
configs/lora.yaml says, and ``output/adapter.safetensors`` is written. Use it by ``main.py --lora FILE --lora_strength
1``, or put it into ``checkpoints/loras`` under the speaker's name and choose it in the model loader node. A run that is
cut goes on.

Exit codes: 0 done, 1 failed (the reason is on standard error), 2 wrong arguments.
"""

import argparse
import logging
import sys
from pathlib import Path

from latentsync.errors import LatentSyncError, ModelNotFoundError, OptionError
from latentsync.given_paths import given_path, path_or_word
from latentsync.model.checkpoints import UNetFacts, read_unet_facts, resolve_resolution
from latentsync.model.loading import ModelFiles, find_model, whisper_file

from . import prepare_data
from .clip_store import MANIFEST
from .config import UNetTrainingConfig, load_settings
from .train_unet import train_unet
from .unet_model import MOTION_BLOCKS

CONFIG = Path(__file__).parent / "configs" / "lora.yaml"


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m training_scripts.train_lora",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--footage", type=given_path, metavar="DIR", help="videos of the speaker; never changed")
    source.add_argument("--clips", type=given_path, metavar="DIR", help="a store that prepare_data.py made of them")
    add("--output", type=given_path, required=True, metavar="DIR", help="for save points, losses and the adapter")
    add("--model", type=path_or_word, help="as of main.py: tiny, a U-Net file or a folder (default: the best there is)")
    add(
        "--checkpoints", type=given_path, default=Path("checkpoints"), metavar="DIR", help="where models are looked for"
    )
    add("--resolution", type=int, metavar="PX", help="of the model, where its file does not say: 256 or 512")
    add(
        "--sync",
        choices=["off", "syncnet", "loudness"],
        default="off",
        help="judge of the footage's lips and sound, as in prepare_data (default: off, they go together)",
    )
    add("--workers", type=int, default=1, metavar="N", help="processes that prepare the footage (default: 1)")
    add("--config", type=given_path, default=CONFIG, metavar="FILE", help="default: configs/lora.yaml")
    add("--set", action="append", default=[], metavar="NAME=VALUE", help="change one setting, as optimizer.steps=500")
    return parser


def prepared(arguments: argparse.Namespace, model: ModelFiles, facts: UNetFacts, resolution: int) -> Path:
    """The store of the speaker's clips. Raises LatentSyncError."""
    if arguments.clips is not None:
        return arguments.clips
    store = arguments.output / "clips"
    if (store / MANIFEST).is_file():
        return store
    settings = ["--input", arguments.footage, "--output", store, "--whisper", whisper_file(model, facts)]
    settings += ["--resolution", resolution, "--workers", arguments.workers, "--identity", "folder"]
    settings += ["--sync", arguments.sync]
    prepare_data.prepare(prepare_data.build_parser().parse_args([str(value) for value in settings]))
    return store


def lora_config(arguments: argparse.Namespace) -> UNetTrainingConfig:
    """The settings, with the footage prepared. Raises LatentSyncError."""
    model = find_model(arguments.model, arguments.checkpoints)
    facts = read_unet_facts(model.unet)
    motion = next((name for name, blocks in MOTION_BLOCKS.items() if blocks == facts.motion), None)
    if motion is None:
        raise OptionError(f"the motion modules of {model.unet} are in single blocks, which training does not know")
    resolution = resolve_resolution(model.unet, arguments.resolution, facts).value
    places = {
        "output": arguments.output,
        "model.initial": model.unet,
        "model.motion": f"'{motion}'",
        "model.vae": model.vae,
        "data.clips": prepared(arguments, model, facts, resolution),
        "data.resolution": resolution,
    }
    config = load_settings(
        UNetTrainingConfig, arguments.config, [*(f"{k}={v}" for k, v in places.items()), *arguments.set]
    )
    if not config.lora.rank:
        raise OptionError("lora.rank is 0, which is no adapter; expected 1 or more, as 16")
    return config


def main(arguments: list[str] | None = None) -> int:
    parsed = build_parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    try:
        path = train_unet(lora_config(parsed))
    except (OptionError, ModelNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except LatentSyncError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{path}\nUse it: python main.py ... --lora {path} --lora_strength 1")
    return 0


if __name__ == "__main__":
    sys.exit(main())
