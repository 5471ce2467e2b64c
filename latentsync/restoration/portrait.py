"""The aligned square inside the 512 px portrait that face restorers were trained on.

GFPGAN and CodeFormer know faces as FFHQ aligns them: eyes at 47 %, mouth at 73 % of the height. The aligned square
shows less of the head, so it is set into the portrait's middle and its border is drawn out to the sides.
"""

from torch import Tensor
from torch.nn import functional as F

PORTRAIT_SIDE = 512  # px
# Where the square lies: fitted to eyes, nose and mouth of a real speaker (median of 10 frames), whole px.
PORTRAIT_LEFT, PORTRAIT_TOP, PORTRAIT_WIDTH, PORTRAIT_HEIGHT = 119, 133, 275, 366


def into_portrait(faces: Tensor) -> Tensor:
    """Aligned squares (F, 3, S, S) -> portraits (F, 3, 512, 512) of the same range."""
    small = F.interpolate(faces, (PORTRAIT_HEIGHT, PORTRAIT_WIDTH), mode="bicubic", antialias=True)
    margins = (
        PORTRAIT_LEFT,
        PORTRAIT_SIDE - PORTRAIT_LEFT - PORTRAIT_WIDTH,
        PORTRAIT_TOP,
        PORTRAIT_SIDE - PORTRAIT_TOP - PORTRAIT_HEIGHT,
    )
    return F.pad(small, margins, mode="replicate")


def from_portrait(portraits: Tensor, side: int) -> Tensor:
    """The square of portraits (F, 3, 512, 512), enlarged to (F, 3, side, side)."""
    inner = portraits[
        ..., PORTRAIT_TOP : PORTRAIT_TOP + PORTRAIT_HEIGHT, PORTRAIT_LEFT : PORTRAIT_LEFT + PORTRAIT_WIDTH
    ]
    return F.interpolate(inner, (side, side), mode="bicubic", antialias=True)
