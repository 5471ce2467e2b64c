"""The metrics one can ask for, by name."""

from dataclasses import dataclass
from typing import Literal

from .network_files import ARCFACE, I3D, INCEPTION, SYNCNET_V2, VGG16, NetworkFile

Best = Literal["high", "low", "one", "zero"]


@dataclass(frozen=True)
class MetricKind:
    """title: of the column; best: where good results lie; unit: of the figure
    network: the file it cannot do without; against: whether it needs a reference
    """

    title: str
    best: Best
    unit: str = ""
    network: NetworkFile | None = None
    against: bool = True


METRICS = {
    "psnr": MetricKind("PSNR", "high", "dB"),
    "ssim": MetricKind("SSIM", "high"),
    "lpips": MetricKind("LPIPS (VGG)", "low", network=VGG16),
    "fid": MetricKind("FID", "low", network=INCEPTION),
    "fvd": MetricKind("FVD", "low", network=I3D),
    "lse_c": MetricKind("LSE-C", "high", network=SYNCNET_V2, against=False),
    "lse_d": MetricKind("LSE-D", "low", network=SYNCNET_V2, against=False),
    "lse_offset": MetricKind("offset by the original SyncNet", "zero", "frames", network=SYNCNET_V2, against=False),
    "sync_score": MetricKind("sync score", "high", against=False),
    "sync_accuracy": MetricKind("SyncNet accuracy", "high", against=False),
    "sync_offset": MetricKind("offset by SyncNet", "zero", "frames", against=False),
    "lmd": MetricKind("mouth landmark distance", "low", "px"),
    "identity": MetricKind("difference of looks", "low"),
    "arcface": MetricKind("identity (ArcFace)", "high", network=ARCFACE),
    "mouth_sharpness": MetricKind("sharpness of the mouth", "one"),
    "flicker": MetricKind("flicker", "one"),
    "outside_psnr": MetricKind("PSNR outside the mask", "high", "dB"),
    "leakage": MetricKind("leakage of the source's lips", "zero", "r"),
}
DEFAULT = ("psnr", "ssim", "sync_score", "lmd", "identity", "mouth_sharpness", "flicker", "outside_psnr", "leakage")
