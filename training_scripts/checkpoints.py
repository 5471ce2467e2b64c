"""Exact save points: a run that is cut and resumed continues as if it had not been."""

import ast
import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import nn


@dataclass
class TrainingState:
    """Everything that changes during a run."""

    modules: dict[str, nn.Module]
    optimizer: torch.optim.Optimizer
    sampler: np.random.Generator  # which clips and frames
    generator: torch.Generator  # noise and timesteps
    step: int = 0
    extra: dict[str, float] = field(default_factory=dict)

    def save(self, path: Path) -> None:
        """Write atomically."""
        state = {
            "modules": {name: module.state_dict() for name, module in self.modules.items()},
            "optimizer": self.optimizer.state_dict(),
            "sampler": repr(self.sampler.bit_generator.state),
            "generator": self.generator.get_state(),
            "step": self.step,
            "extra": self.extra,
        }
        part = path.with_name(path.name + ".part")
        torch.save(state, part)
        os.replace(part, path)

    def load(self, path: Path) -> bool:
        """Continue from ``path`` if it is there; tells whether it was."""
        if not path.exists():
            return False
        state = torch.load(path, map_location="cpu", weights_only=True)
        for name, module in self.modules.items():
            module.load_state_dict(state["modules"][name])
        self.optimizer.load_state_dict(state["optimizer"])
        self.sampler.bit_generator.state = ast.literal_eval(state["sampler"])
        self.generator.set_state(state["generator"])
        self.step, self.extra = state["step"], state["extra"]
        return True
