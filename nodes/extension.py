"""The list of nodes. Those whose engine is not in the library yet are not in it."""

from . import host
from .audio import LatentSyncAudioEncode
from .blend import LatentSyncBlend
from .faces import LatentSyncFacePrepare
from .lip_sync import LatentSyncLipSync
from .lip_sync_images import LatentSyncLipSyncImages
from .loader import LatentSyncModelLoader
from .match_length import LatentSyncMatchLength
from .report import LatentSyncReport
from .restoration import LatentSyncFaceRestore, LatentSyncRestoreLoader
from .sample_files import offer_samples
from .sampler import LatentSyncSampler
from .speaker import LatentSyncSpeaker
from .sync_score import LatentSyncSyncScore


class LatentSyncExtension(host.ComfyExtension):
    async def get_node_list(self) -> list[type[host.io.ComfyNode]]:
        host.register_model_folders()
        offer_samples()
        return [
            LatentSyncModelLoader,
            LatentSyncAudioEncode,
            LatentSyncFacePrepare,
            LatentSyncSampler,
            LatentSyncRestoreLoader,
            LatentSyncFaceRestore,
            LatentSyncBlend,
            LatentSyncSpeaker,
            LatentSyncLipSync,
            LatentSyncLipSyncImages,
            LatentSyncMatchLength,
            LatentSyncReport,
            LatentSyncSyncScore,
        ]
