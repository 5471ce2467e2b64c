"""What tells that a video is generated: tags and XMP in its container, and a label to be seen.

All of it is plain and unsigned: anybody can write or remove it. It is not C2PA.
"""

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from uuid import UUID
from xml.sax.saxutils import escape

import numpy as np
from PIL import Image, ImageDraw, ImageFont

DRAWN = "drawn by latentsync.synthetic: nobody's face"  # the comment in a clip of drawn avatars
STATEMENT = "AI-generated: the lips in this video were made by a generative model to speak another speech."
# IPTC's term for pictures of which a generative model made a part, as by inpainting.
DIGITAL_SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"
XMP_BOX = UUID("be7acfcb-97a9-42e8-9c71-999491e3afac").bytes  # of a box that holds XMP (XMP specification, part 3)
TEXT_SHARE, MIN_TEXT = 1 / 28, 10  # height of the label's text: of the frame's height, px at least
SHADE = 0.55  # how dark the label's ground is


@dataclass(frozen=True)
class Marking:
    """What is added to a result. entry: the provenance, see run/report.py, or None; label: text to be seen, or None.

    comment: for the container, where there is no entry.
    """

    entry: Mapping[str, object] | None = None
    label: str | None = None
    comment: str | None = None
    _labels: dict = field(default_factory=dict, repr=False, compare=False)  # drawn, by frame size

    def metadata(self) -> dict[str, str]:
        """Tags for the container."""
        if self.entry is None:
            return {} if self.comment is None else {"comment": self.comment}
        return {
            "comment": STATEMENT,
            "software": f"{self.entry['tool']} {self.entry['version']}",
            "DigitalSourceType": DIGITAL_SOURCE_TYPE,
            "provenance": json.dumps(self.entry),
        }

    def xmp_box(self) -> bytes:
        """An MP4 or QuickTime box for the file's end, with the same as XMP, where IPTC puts it; empty without entry."""
        if self.entry is None:
            return b""
        packet = (
            '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">'
            '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about="" '
            'xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" xmlns:xmp="http://ns.adobe.com/xap/1.0/" '
            'xmlns:dc="http://purl.org/dc/elements/1.1/">'
            f"<Iptc4xmpExt:DigitalSourceType>{DIGITAL_SOURCE_TYPE}</Iptc4xmpExt:DigitalSourceType>"
            f"<xmp:CreatorTool>{escape(self.metadata()['software'])}</xmp:CreatorTool>"
            f'<dc:description><rdf:Alt><rdf:li xml:lang="x-default">{STATEMENT}</rdf:li></rdf:Alt></dc:description>'
            '</rdf:Description></rdf:RDF></x:xmpmeta><?xpacket end="w"?>'
        ).encode()
        return struct.pack(">I", 8 + len(XMP_BOX) + len(packet)) + b"uuid" + XMP_BOX + packet

    def drawn(self, pixels: np.ndarray) -> np.ndarray:
        """(H, W, 3) uint8 RGB with the label in its lower right corner; the same array where there is none."""
        if self.label is None:
            return pixels
        size = pixels.shape[:2]
        if size not in self._labels:
            self._labels[size] = _label(self.label, *size)
        text, ground = self._labels[size]
        height, width = text.shape[:2]
        marked = pixels.copy()
        corner = marked[size[0] - height :, size[1] - width :]
        corner[:] = np.rint(corner * (1 - ground) * (1 - text) + 255 * text)
        return marked


def _label(text: str, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """How much of each pixel at the corner is white text, and how dark its ground is: (h, w, 1) float32, 0..1."""
    side = float(max(MIN_TEXT, round(height * TEXT_SHARE)))
    length = ImageFont.load_default(size=side).getlength(text)
    side *= min(1.0, width / (length + side))  # made smaller to fit
    font = ImageFont.load_default(size=side)
    box = min(height, round(side * 1.6)), min(width, round(font.getlength(text) + side))
    image = Image.new("L", box[::-1])
    ImageDraw.Draw(image).text((box[1] / 2, box[0] / 2), text, 255, font, anchor="mm")
    coverage = np.asarray(image, np.float32)[..., None] / 255
    return coverage, np.full_like(coverage, SHADE)
