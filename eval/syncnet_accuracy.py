"""How often a SyncNet tells right pairs from wrong ones on a folder of clips.

    python -m eval.syncnet_accuracy --data runs/tiny/clips --syncnet checkpoints/stable_syncnet.pt

Half of the pairs are frames with their own sound, half with the sound of another time of the same clip, at least
``--min_negative_distance`` frames away. The pairs are the same at every call. A pair is called right over a cosine of
``--threshold``; the best threshold of these pairs is told beside it, which flatters. Give the one that was best for
other people: training writes it into the file's metadata as best_threshold.
"""

import argparse
import json
from dataclasses import asdict

import torch

from latentsync.given_paths import given_path
from latentsync.model.vae import load_vae
from latentsync.sync.pairs import THRESHOLD, measure_pairs
from latentsync.sync.syncnet import BUNDLED_SYNCNET, load_syncnet
from training_scripts.clip_store import ClipStore  # noqa: TID251 (the data sets that training makes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=given_path, required=True, help="folder of prepared clips")
    parser.add_argument("--syncnet", type=given_path, default=BUNDLED_SYNCNET, help="default: the small bundled one")
    parser.add_argument("--vae", type=given_path, help="folder of the VAE, for a latent SyncNet")
    parser.add_argument("--held_out", type=float, default=0.0, help="only the last share of the clips (default: all)")
    parser.add_argument("--num_pairs", type=int, default=2048)
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--min_negative_distance", type=int, default=8, help="frames; 1 for the reference's pairs")
    parser.add_argument(
        "--threshold", type=float, default=THRESHOLD, help="of the cosine (default: 0.5, the reference's)"
    )
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    clips = ClipStore(arguments.data)
    syncnet = load_syncnet(arguments.syncnet, arguments.device)
    vae = arguments.vae and load_vae(arguments.vae, device=arguments.device)
    known, measured = clips.split(arguments.held_out)
    scores = measure_pairs(
        clips,
        measured or known,
        syncnet,
        num_pairs=arguments.num_pairs,
        min_negative_distance=arguments.min_negative_distance,
        seed=arguments.seed,
        batch_size=arguments.batch_size,
        vae=vae,
        threshold=arguments.threshold,
    )
    print(json.dumps(asdict(scores), indent=2))


if __name__ == "__main__":
    main()
