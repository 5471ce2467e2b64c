"""What tests of resuming share: a run that is cut at a step, and save points compared bit by bit."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from training_scripts.training_run import TrainingRun


class Cut(Exception):
    """Stands for the power cut."""


def cut(train: Callable[[], Path], step: int) -> None:
    """Train until the gradients of the first part of step `step` (from 0) are there, and no further.

    What follows has another state of chance, as a new process has.
    """
    done = TrainingRun.backward

    def cutting(run, loss, parts):
        done(run, loss, parts)
        if run.step == step:
            raise Cut

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainingRun, "backward", cutting)
        with pytest.raises(Cut):
            train()
    torch.manual_seed(99)
    np.random.seed(99)


def differing(first, second) -> list[str]:
    """Files of two save points that are not equal, tensor by tensor and bit by bit."""
    differing = []
    for path in sorted(first.iterdir()):
        other = second / path.name
        if path.suffix == ".safetensors":
            a, b = load_file(path), load_file(other)
        elif path.suffix == ".json":
            a, b = json.loads(path.read_text()), json.loads(other.read_text())
        elif path.suffix in (".pt", ".bin"):
            a, b = (torch.load(x, weights_only=True) for x in (path, other))
        else:
            continue  # the state of generators from which nothing is drawn
        if not equal(a, b):
            differing.append(path.name)
    return differing


def equal(a, b) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(value, b[key]) for key, value in a.items())
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(equal, a, b))
    return a == b
