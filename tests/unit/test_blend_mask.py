"""Which part of what is generated gets pasted: by option, by the model's description, else the whole mask."""

import json
from dataclasses import replace

import numpy as np
import pytest

from latentsync.errors import OptionError
from latentsync.faces.blend import FacePaster
from latentsync.model.loading import described_model
from latentsync.options import LipSyncOptions

FRAME = (400, 400, 3)
MATRIX = np.array([[0.3, 0, 0], [0, 0.3, 0]], np.float32)


def area(model, options: LipSyncOptions) -> float:
    paster = FacePaster(model.resolution, options, model.blend_mask)
    return float(paster.blender.region(FRAME, MATRIX).alpha.sum())


def test_option_before_description_before_the_whole_mask(small_model):
    options = LipSyncOptions()
    whole, small = area(small_model, options), area(small_model, replace(options, blend_mask="mask3"))
    assert small < 0.6 * whole
    described = replace(small_model, blend_mask="mask3")
    assert area(described, options) == small
    assert area(described, replace(options, blend_mask="mask")) == whole
    assert area(described, replace(options, blend_mask="mask3", mask="mask2")) == small


def test_the_description_names_it(small_model_folder, tmp_path):
    described = json.loads((small_model_folder / "config.json").read_text(encoding="utf-8"))
    (tmp_path / "config.json").write_text(json.dumps({**described, "blend_mask": "mask3"}), encoding="utf-8")
    assert described_model(tmp_path).blend_mask == "mask3"
    assert described_model(small_model_folder).blend_mask is None


def test_an_unknown_mask_is_refused(small_model):
    with pytest.raises(OptionError, match="mask9"):
        FacePaster(small_model.resolution, LipSyncOptions(blend_mask="mask9"))
