"""What SyncNet is trained with: runs of frames and the sound of the same or of another time.

Everything drawn is a pure function of the seed and the step, so that a resumed run sees what an uncut one sees, with
any number of loading processes.
"""

import torch
from torch.utils.data import DataLoader, Dataset

from latentsync.sync.pairs import Pair, PairBatch, count_starts, draw_pair, load_pairs, start_apart, usable_clips

from .clip_order import clip_batch, item_rng
from .clip_store import ClipStore
from .config import SyncNetTraining


def draw_pairs(clips: ClipStore, usable: list[int], config: SyncNetTraining, step: int, rank=0, world=1) -> list[Pair]:
    """The pairs of one (micro) step of one process."""
    num_frames, distance, pairs = config.network().num_frames, config.negative_distance, []
    each = config.windows_per_clip if config.pairing == "all" else 1
    count = config.batch_size // each
    for position, place in enumerate(clip_batch(len(usable), count, config.seed, step, rank, world)):
        clip, rng = usable[place], item_rng(config.seed, step, rank * count + position)
        if config.pairing == "labels":
            pairs.append(draw_pair(clips, clip, num_frames, distance, rng, int(rng.integers(2))))
            continue
        voice, starts = int(rng.integers(clips.num_voices(clip))), []
        for _ in range(each):
            starts.append(start_apart(count_starts(clips, clip, num_frames, voice), starts, distance, rng))
        pairs.extend(Pair(clip, voice, start, start) for start in starts)
    return pairs


class StepBatches(Dataset):
    """Batch number n of a run is its item number n."""

    def __init__(self, clips: ClipStore, among: list[int], config: SyncNetTraining, rank: int = 0, world: int = 1):
        windows = config.windows_per_clip if config.pairing == "all" else 2
        self.usable = usable_clips(clips, among, config.network().num_frames, config.negative_distance, windows)
        self.clips, self.config, self.rank, self.world = clips, config, rank, world

    def __getitem__(self, step: int) -> PairBatch:
        pairs = draw_pairs(self.clips, self.usable, self.config, step, self.rank, self.world)
        return load_pairs(self.clips, pairs, self.config.network().num_frames)

    def loader(self, first: int, last: int) -> DataLoader:
        """Batches `first` to `last - 1` in order."""
        workers = self.config.num_workers
        return DataLoader(
            self,
            batch_size=None,
            sampler=range(first, last),
            num_workers=workers,
            pin_memory=torch.cuda.is_available(),
            persistent_workers=workers > 0,
        )
