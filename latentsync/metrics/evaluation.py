"""All asked-for metrics of one clip after another."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ..errors import CheckpointError, LatentSyncError, ModelNotFoundError, OptionError, is_out_of_memory
from ..model.loading import choose_device
from ..model.masks import MASK_NAMES
from ..model_files import ARCFACE, I3D, INCEPTION, S3FD, SYNCNET_V2, VGG16, NetworkFile, find_network
from ..sync.score import clip_sync, described_syncnet, find_syncnet
from ..sync.syncnet import load_syncnet
from .clip_pair import RESOLUTION, ClipPair
from .faces import ArcFace, Flicker, Identity, LandmarkDistance, Leakage, MouthSharpness, OutsidePSNR
from .lse import error_of_rows, load_s3fd, load_syncnet_v2, video_lip_sync_error
from .picture_networks import load_i3d, load_inception, load_lpips
from .pictures import FID, FVD, LPIPS, PSNR, SSIM, Measured, MeasuredClouds, Region

LEAST_RESOLUTION, MOST_RESOLUTION = 32, 4096  # px
LEAST_TRACK = 6  # frames: a track is longer, and SyncNet needs seven


@dataclass(frozen=True)
class EvaluationSettings:
    """region: what pictures are compared, aligned faces of `resolution` px or whole frames; face: whose
    mask: that of the generated part; folders: where networks lie; syncnet: a StableSyncNet in place of the usual one
    fvd_reference: FVD as the reference computes it; min_track, min_face: frames and px of LSE's face tracks
    Raises OptionError for values that nothing can be measured with.
    """

    region: Region = "face"
    resolution: int = RESOLUTION
    face: str = "largest"
    mask: str = "mask"
    folders: tuple[Path, ...] = ()
    syncnet: Path | None = None
    fvd_reference: bool = False
    min_track: int = 50
    min_face: float = 100.0
    device: str = "cpu"

    def __post_init__(self):
        if self.mask not in MASK_NAMES:
            raise OptionError(f"mask is {self.mask!r}; expected one of {', '.join(MASK_NAMES)}")
        if not LEAST_RESOLUTION <= self.resolution <= MOST_RESOLUTION:
            raise OptionError(f"resolution is {self.resolution}; expected {LEAST_RESOLUTION} to {MOST_RESOLUTION} px")
        if self.min_track < LEAST_TRACK or not self.min_face >= 0:
            raise OptionError(
                f"min_track is {self.min_track} and min_face {self.min_face}; expected {LEAST_TRACK} frames or more, "
                "and 0 px or more"
            )
        choose_device(self.device)


@dataclass(frozen=True)
class Metric:
    """A row: a metric one can ask for.

    title     of the column; best: where good results lie; unit: of the figure
    measure   (what was loaded, settings) -> what is fed with one PairFrame after another; None where no reference is
              needed, then the metrics of one `group` are told from one look at the clip
    network   the file it cannot do without; load: (its path, settings) -> what `measure` gets
    pictures  whether it compares pictures, which with region "frame" takes no face
    """

    title: str
    best: Literal["high", "low", "one", "zero"]
    unit: str = ""
    measure: Callable[[Any, EvaluationSettings], Any] | None = None
    network: NetworkFile | None = None
    load: Callable[[Path, EvaluationSettings], Any] | None = None
    group: Literal["", "lse", "sync"] = ""
    pictures: bool = False

    @property
    def against(self) -> bool:
        """Whether it needs a reference."""
        return self.measure is not None


def _lse(title: str, best: str, unit: str = "") -> Metric:
    load = lambda path, settings: load_syncnet_v2(path, settings.device)  # noqa: E731
    return Metric(title, best, unit, network=SYNCNET_V2, load=load, group="lse")


METRICS = {
    "psnr": Metric("PSNR", "high", "dB", lambda _, settings: PSNR(settings.region), pictures=True),
    "ssim": Metric("SSIM", "high", "", lambda _, settings: SSIM(settings.region), pictures=True),
    "lpips": Metric(
        "LPIPS (VGG)",
        "low",
        measure=lambda network, settings: LPIPS(network, settings.region, settings.device),
        network=VGG16,
        load=lambda path, settings: load_lpips(path, device=settings.device),
        pictures=True,
    ),
    "fid": Metric(
        "FID",
        "low",
        measure=lambda network, settings: FID(network, settings.region, settings.device),
        network=INCEPTION,
        load=lambda path, settings: load_inception(path, settings.device),
        pictures=True,
    ),
    "fvd": Metric(
        "FVD",
        "low",
        measure=lambda network, settings: FVD(network, settings.region, settings.fvd_reference),
        network=I3D,
        load=lambda path, settings: load_i3d(path, settings.device, settings.fvd_reference),
        pictures=True,
    ),
    "lse_c": _lse("LSE-C", "high"),
    "lse_d": _lse("LSE-D", "low"),
    "lse_offset": _lse("offset by the original SyncNet", "zero", "frames"),
    "sync_score": Metric("sync score", "high", group="sync"),
    "sync_accuracy": Metric("SyncNet accuracy", "high", group="sync"),
    "sync_offset": Metric("offset by SyncNet", "zero", "frames", group="sync"),
    "lmd": Metric("mouth landmark distance", "low", "px", lambda _, settings: LandmarkDistance()),
    "identity": Metric("difference of looks", "low", "", lambda _, settings: Identity()),
    "arcface": Metric(
        "identity (ArcFace)",
        "high",
        measure=lambda network, settings: network,
        network=ARCFACE,
        load=lambda path, settings: ArcFace(path),
    ),
    "mouth_sharpness": Metric("sharpness of the mouth", "one", "", lambda _, settings: MouthSharpness(settings.mask)),
    "flicker": Metric("flicker", "one", "", lambda _, settings: Flicker(settings.mask)),
    "outside_psnr": Metric("PSNR outside the mask", "high", "dB", lambda _, settings: OutsidePSNR(settings.mask)),
    "leakage": Metric("leakage of the source's lips", "zero", "r", lambda _, settings: Leakage()),
}
DEFAULT = ("psnr", "ssim", "sync_score", "lmd", "identity", "mouth_sharpness", "flicker", "outside_psnr", "leakage")
LSE, SYNC = (tuple(name for name, row in METRICS.items() if row.group == group) for group in ("lse", "sync"))


@dataclass
class ClipScores:
    """measured: by metric; failures: why a metric has no figure here; notes: what to know of the figures"""

    output: Path
    reference: Path | None
    measured: dict[str, Measured | MeasuredClouds] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def scores(self) -> dict[str, float]:
        """NaN where a clip gave a metric nothing to measure."""
        return {name: found.score for name, found in self.measured.items()}


class Evaluation:
    """`evaluation.score(output, reference)` for each clip. Networks are loaded once.

    unavailable: metric -> what is missing for it, which file and where to get it
    networks     what the network metrics were measured with
    """

    def __init__(self, names: Sequence[str], settings: EvaluationSettings = EvaluationSettings()):
        """Raises OptionError for an unknown name; a network that is not there makes its metric unavailable."""
        unknown = [name for name in names if name not in METRICS]
        if unknown:
            raise OptionError(f"unknown metric {', '.join(unknown)}; expected of {', '.join(METRICS)}")
        self.names, self.settings = tuple(dict.fromkeys(names)), settings
        self.unavailable: dict[str, str] = {}
        self.networks: dict[str, str] = {}
        self._loaded: dict[str, object] = {}
        for name in self.names:
            try:
                self._load(name)
            except (ModelNotFoundError, CheckpointError, OptionError) as error:
                self.unavailable[name] = str(error)
        self.available = tuple(name for name in self.names if name not in self.unavailable)

    def _load(self, name: str) -> None:
        row, settings = METRICS[name], self.settings
        key = row.group or name
        if key in self._loaded:
            return
        if key == "sync":
            path = settings.syncnet or find_syncnet(settings.folders)
            self._loaded[key] = load_syncnet(path, settings.device)
            self.networks[key] = described_syncnet(path)
        elif row.network is not None:
            path = find_network(row.network, settings.folders)
            self._loaded[key] = row.load(path, settings)
            self.networks[key] = str(path)
        if key == "lse":
            try:
                detector = find_network(S3FD, settings.folders)
                self._loaded["s3fd"] = load_s3fd(detector, settings.device).detect
                self.networks["lse faces"] = str(detector)
            except ModelNotFoundError:
                self.networks["lse faces"] = "the product's tracker (no sfd_face.pth): not the reference's crops"

    def score(self, pair: ClipPair | None, output: Path) -> ClipScores:
        """Of one clip; pair: with its reference, None where no metric needs one. What fails is told, not raised."""
        scores = ClipScores(output, pair.reference if pair else None)
        if against := [name for name in self.available if METRICS[name].against]:
            try:
                if pair is None:
                    raise OptionError("no reference was given")
                measures = {name: METRICS[name].measure(self._loaded.get(name), self.settings) for name in against}
                with_faces = self.settings.region == "face" or not all(METRICS[name].pictures for name in against)
                for frame in pair.frames(with_faces):
                    for measure in measures.values():
                        measure.add(frame)
                scores.notes += pair.notes
                scores.measured |= {name: measure.result() for name, measure in measures.items()}
            except Exception as error:
                scores.failures |= dict.fromkeys(against, _reason(error))
        self._sounded(scores, LSE, self._lip_sync_error)
        self._sounded(scores, SYNC, self._sync)
        for name, found in list(scores.measured.items()):
            if found.score != found.score:  # NaN
                scores.failures[name] = "too little of the clip could be measured"
                del scores.measured[name]
        return scores

    def _sounded(self, scores: ClipScores, names: Iterable[str], measure) -> None:
        asked = [name for name in names if name in self.available]
        if not asked:
            return
        try:
            found = measure(scores)
            scores.measured |= {name: found[name] for name in asked}
        except Exception as error:
            scores.failures |= dict.fromkeys(asked, _reason(error))

    def _lip_sync_error(self, scores: ClipScores) -> dict[str, Measured]:
        settings = self.settings
        found = video_lip_sync_error(
            scores.output,
            self._loaded["lse"],
            self._loaded.get("s3fd"),
            min_track=settings.min_track,
            min_face=settings.min_face,
        )
        rows = found.rows()
        return {
            "lse_c": Measured(rows, lambda rows: error_of_rows(rows).lse_c),
            "lse_d": Measured(rows, lambda rows: error_of_rows(rows).lse_d),
            "lse_offset": Measured(rows, lambda rows: float(error_of_rows(rows).offset)),
        }

    def _sync(self, scores: ClipScores) -> dict[str, Measured]:
        found = clip_sync(scores.output, self._loaded["sync"], face=self.settings.face)
        scores.notes += found.notes
        score = found.score
        return {
            name: Measured(np.array([value], np.float64))
            for name, value in zip(SYNC, (score.confidence, score.accuracy, score.offset_frames), strict=True)
        }


def _reason(error: Exception) -> str:
    """Why a clip has no figure; raises the error where that is not the clip's fault."""
    if is_out_of_memory(error):
        return f"not enough memory: {error}"
    if isinstance(error, LatentSyncError):
        return str(error)
    raise error


def pooled(clouds: Sequence[MeasuredClouds]) -> MeasuredClouds:
    """One Frechet distance over the features of all clips, which is how FID and FVD are defined."""
    sides = ("output", "reference")
    return MeasuredClouds(*(reduce(add, [getattr(one, side) for one in clouds]) for side in sides))
