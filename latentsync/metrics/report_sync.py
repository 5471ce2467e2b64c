"""The sync score of a finished result, for its report."""

from dataclasses import replace
from pathlib import Path

from ..errors import LatentSyncError, ModelNotFoundError
from ..model.loading import BUNDLED, LipSyncModel
from ..report import LipSyncReport, SyncRecord
from ..syncnet.syncnet_files import BUNDLED_SYNCNET, load_syncnet
from .network_files import STABLE_SYNCNET, find_network, weight_folders
from .spoken_sync import clip_sync, described_syncnet

LONGEST = 20.0  # s from the beginning that are measured: enough to tell, and cheap
TELLING = 0.5  # confidence from which on SyncNet's offset goes before the loudness'


def syncnet_for(model: LipSyncModel, checkpoints: Path | None) -> Path | None:
    """The SyncNet that knows what the model draws: the bundled one for the bundled model, else the released one among
    the checkpoints; None where that is not there."""
    if model.unet_path is not None and model.unet_path.parent == BUNDLED:
        return BUNDLED_SYNCNET if BUNDLED_SYNCNET.is_file() else None
    try:
        return find_network(STABLE_SYNCNET, weight_folders(checkpoints=checkpoints))
    except ModelNotFoundError:
        return None


def with_sync(report: LipSyncReport, syncnet_path: Path, device="cpu", longest: float = LONGEST) -> LipSyncReport:
    """The report with the score of its file's first face; what cannot be measured is told there, not raised.

    A confident offset takes the place of the one told from the loudness. Raises CheckpointError's subclasses and
    ModelNotFoundError for a bad SyncNet.
    """
    syncnet, name = load_syncnet(syncnet_path, device), described_syncnet(syncnet_path)
    try:
        found = clip_sync(report.path, syncnet, face=_face(report), longest=longest)
    except LatentSyncError as error:
        return replace(report, sync=SyncRecord(name, note=str(error)))
    score = found.score
    record = SyncRecord(
        name,
        round(score.confidence, 4),
        round(score.accuracy, 4),
        round(score.offset_ms, 1),
        round(found.seconds, 2),
        "; ".join(found.notes),
    )
    estimate = found.estimate()
    return replace(report, sync=record, offset=estimate if estimate.confidence >= TELLING else report.offset)


def _face(report: LipSyncReport) -> str:
    """The number of the first face that speaks: the result has the faces that the source has."""
    return str(report.faces[0].index) if report.faces else "largest"
