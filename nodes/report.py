"""What a run did, as a picture, as text and as a timeline on the node."""

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from . import host, media
from .host import io
from .knobs import CATEGORY
from .sockets import Report

if TYPE_CHECKING:
    from ..latentsync.run.report import LipSyncReport


@dataclass(frozen=True, repr=False)
class HostedReport(host.Carried):
    """What LATENTSYNC_REPORT carries.

    video, source: how the front end fetches the result and the clip it was made of; None where it cannot
    source_start: s of the source at which the result begins; length: what follows on its end, see LengthMode
    """

    report: "LipSyncReport"
    video: dict[str, str] | None
    source: dict[str, str] | None
    source_start: float = 0.0
    length: str = "bounce"

    def ui(self) -> dict:
        """For the timeline widget."""
        files = {"video": self.video, "source": self.source, "audio": None}  # the result has the sound
        files |= {"source_start": self.source_start, "length": self.length, "pace": self.report.pace}
        return {"latentsync_report": [self.report.to_json() | files]}


class LatentSyncReport(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LatentSyncReport",
            display_name="LatentSync Report",
            category=CATEGORY,
            description="Shows what a run did in each frame: the sound and its pauses, what became of each face, and "
            "how far the mouth is open in the source and in the result.",
            inputs=[Report.Input("report", tooltip="From LatentSync Lip Sync.")],
            outputs=[
                io.Image.Output(display_name="picture", tooltip="The timeline as a picture, 1280 x 360."),
                io.String.Output(display_name="text", tooltip="A summary in words, with the warnings."),
                io.String.Output(
                    display_name="json", tooltip="Everything, frame by frame, with settings, versions and times."
                ),
            ],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, report) -> io.NodeOutput:
        with host.plain_errors():
            from ..latentsync.run.report import report_picture

            picture = media.as_images(np.ascontiguousarray(report_picture(report.report))[None])
            told = json.dumps(report.report.to_json())
            return io.NodeOutput(picture, report.report.text(), told, ui=report.ui())
