"""The loop that everything is trained by: processes, learning rate, average of weights, save points, record of losses.

A run's folder holds ``save_points/step-N`` (everything that changes, as accelerate writes it, FSDP and DeepSpeed
included), ``losses.csv``, ``validation.csv``, their curves as pictures and, where wanted, TensorBoard's events. A save
point appears whole or not at all, the oldest are removed, and what was recorded after the one that a run resumes from
is dropped. Whatever a step draws must be a function of the step, so that a run that was cut ends as one that was not.
"""

import csv
import json
import logging
import math
import os
import shutil
import time
from collections.abc import Callable, Iterable
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, InitProcessGroupKwargs
from diffusers.training_utils import EMAModel
from torch import Tensor, nn

from latentsync.errors import LatentSyncError, OptionError
from latentsync.media.output_file import written_whole
from latentsync.model.device import has_fast_bfloat16
from latentsync.model.loading import choose_device

log = logging.getLogger(__name__)
TIMEOUT = timedelta(hours=2)  # that others wait for one that saves a large model
SKIPPED_AT_MOST = 100  # steps in a row whose gradients are not finite, which half precision has a few of
SHARDED = (DistributedType.FSDP, DistributedType.DEEPSPEED)
TABLES = "losses.csv", "validation.csv"
Batch = TypeVar("Batch")
Losses = tuple[Tensor, dict[str, Tensor]]  # what is minimised, and its parts for the record


def learning_rate(schedule: str, step: int, total: int, peak: float, warmup_fraction: float) -> float:
    """Of step `step`, counted from 0; a pure function of it, so that resuming needs no state."""
    if schedule == "one_cycle":
        return one_cycle(step, total, peak, warmup_fraction)
    return peak * min(1.0, (step + 1) / max(1, int(total * warmup_fraction)))


def one_cycle(step: int, total: int, peak: float, warmup_fraction: float) -> float:
    """Linear warm-up to ``peak``, then a cosine down to nearly zero at ``total``."""
    warmup = max(1, int(total * warmup_fraction))
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = min(1.0, (step - warmup) / max(1, total - warmup))
    return peak * max(1e-3, 0.5 * (1 + math.cos(math.pi * progress)))


def precision_here(name: str) -> str:
    """ "auto" is bf16 where the CPU multiplies it, and on a graphics card, else "no"; others as they are."""
    if name != "auto":
        return name
    return "bf16" if choose_device().type == "cuda" or has_fast_bfloat16() else "no"


def make_accelerator(mixed_precision: str, gradient_accumulation_steps: int = 1) -> Accelerator:
    """How the run computes; processes and sharding are what `torchrun` or `accelerate launch` set up.

    mixed_precision: as `precision_here` takes it. Raises OptionError for a precision that the device has not, and where
    processes would not work together.
    """
    mixed_precision = precision_here(mixed_precision)
    on_cpu = choose_device().type == "cpu"
    if on_cpu and mixed_precision == "fp16":  # accelerate would take it, and compute in another precision
        raise OptionError("mixed_precision 'fp16' does not work here: it needs a GPU. Set bf16 or no.")
    try:
        accelerator = Accelerator(
            cpu=on_cpu,  # unless told so, accelerate lets CPU processes run side by side, alone
            mixed_precision=mixed_precision,
            gradient_accumulation_steps=gradient_accumulation_steps,
            kwargs_handlers=[InitProcessGroupKwargs(timeout=TIMEOUT)],
        )
    except ValueError as error:
        raise OptionError(
            f"mixed_precision {mixed_precision!r} does not work here: {error}. Set bf16 or no."
        ) from error
    launched = int(os.environ.get("WORLD_SIZE", 1))
    if accelerator.num_processes < launched:
        raise OptionError(
            f"{launched} processes were launched, but accelerate joins {accelerator.num_processes} of them; each would "
            "train alone and overwrite the others' files. Launch by torchrun, see training_scripts/README.md."
        )
    return accelerator


class TrainingRun:
    """Steps of one model: `resume`, then `train`. After it `swap_average` puts the averaged weights into the model.

    parameters: those that learn. step: how many steps are done.
    """

    def __init__(
        self,
        folder: Path,
        accelerator: Accelerator,
        model: nn.Module,
        parameters: Iterable[nn.Parameter],
        optimizer: torch.optim.Optimizer,
        *,
        ema_decay: float = 0.0,
        max_grad_norm: float = 1.0,
        log_every: int = 50,
        save_every: int = 1000,
        keep: int = 2,
        tensorboard: bool = False,
    ):
        self.folder, self.accelerator = Path(folder), accelerator
        self.max_grad_norm, self.log_every, self.save_every, self.keep = max_grad_norm, log_every, save_every, keep
        self.model, self.optimizer = accelerator.prepare(model, optimizer)
        self.parameters = list(parameters)
        self.ema = None
        if ema_decay > 0:
            if accelerator.distributed_type in SHARDED:
                raise OptionError("an average of weights is not kept of a sharded model; set ema_decay to 0")
            self.ema = EMAModel(self.parameters, decay=ema_decay)
        self.step = self.skipped = 0
        self._sums: dict[str, float] = {}
        self._pending: dict[str, Tensor] = {}
        self._count, self._started = 0, time.monotonic()
        self._tensorboard = _event_writer(self.folder) if tensorboard and accelerator.is_main_process else None

    def train(
        self,
        steps: int,
        batches: Iterable[Batch],
        losses: Callable[[Batch], Losses],
        rate: Callable[[int], float],
        after: Callable[[], None] | None = None,
    ) -> None:
        """Train up to step `steps`.

        batches: the micro-batches from the present step on. losses: the forward pass of one. rate: step -> learning
        rate. after: called when a step is done, before it is saved.
        """
        for batch in batches:
            done = self.step
            for group in self.optimizer.param_groups:
                group["lr"] = rate(done)
            with self.accelerator.accumulate(self.model):
                self.backward(*losses(batch))
            if self.step == done:  # the first parts of an accumulated step
                continue
            if after is not None:
                after()
            if self.step % self.save_every == 0 or self.step == steps:
                self.save()

    def backward(self, loss: Tensor, parts: dict[str, Tensor]) -> None:
        """Gradients of one micro-batch; the optimiser's step where it was the last of an accumulated step."""
        for name, part in {"loss": loss.detach(), **parts}.items():
            self._pending[name] = (
                self._pending.get(name, 0) + part.float() / self.accelerator.gradient_accumulation_steps
            )
        self.accelerator.backward(loss)
        if not self.accelerator.sync_gradients:
            return
        norm = self.accelerator.clip_grad_norm_(self.model.parameters(), self.max_grad_norm)
        finite = norm is None or math.isfinite(float(norm))  # the same in all processes, so that all stop together
        self.skipped = 0 if finite else self.skipped + 1
        if not finite and (self.accelerator.scaler is None or self.skipped > SKIPPED_AT_MOST):
            raise LatentSyncError(
                f"step {self.step + 1}: the gradients are not finite (loss {loss.item():.4g}). Lower the learning "
                f"rate, or resume from {self.folder / 'save_points'} with other settings."
            )
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step += 1
        if self.ema is not None:
            self.ema.optimization_step = self.step  # its warm-up goes by the step, also after a resume
            self.ema.step(self.parameters)
        self._record()

    def _record(self) -> None:
        self._pending["learning_rate"] = torch.tensor(float(self.optimizer.param_groups[0]["lr"]))
        for name, value in self._pending.items():
            self._sums[name] = self._sums.get(name, 0.0) + value.item()
        self._pending, self._count = {}, self._count + 1
        if self.step % self.log_every:
            return
        names = sorted(self._sums)
        means = torch.tensor([self._sums[name] / self._count for name in names], device=self.accelerator.device)
        means = self.accelerator.reduce(means, reduction="mean").tolist()
        row = dict(zip(names, means, strict=True))
        self._sums, self._count = {}, 0
        if self.accelerator.is_main_process:
            self.write_row("losses.csv", row)
            told = " ".join(f"{name} {value:.4g}" for name, value in row.items())
            log.info("step %d %s (%.0f s)", self.step, told, time.monotonic() - self._started)

    def draw_curves(self) -> None:
        """Every recorded CSV as a picture beside it, where matplotlib is there; in the main process only."""
        if self.accelerator.is_main_process and find_spec("matplotlib"):
            for table in filter(Path.exists, (self.folder / name for name in TABLES)):
                draw_curves(table, table.with_suffix(".png"))

    def write_row(self, name: str, row: dict[str, float]) -> None:
        """Append the step's row to one of TABLES in the run's folder, and to TensorBoard; in the main process only."""
        path = self.folder / name
        self.folder.mkdir(parents=True, exist_ok=True)
        row = {"step": self.step, **{key: float(value) for key, value in row.items()}}
        is_new = not path.exists()
        with path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(row))
            if is_new:
                writer.writeheader()
            writer.writerow(row)
        if self._tensorboard is not None:
            for key, value in row.items():
                self._tensorboard.add_scalar(f"{path.stem}/{key}", value, self.step)
            self._tensorboard.flush()

    def resume(self, earlier: Path | None = None) -> bool:
        """Continue from the newest save point, if there is one; tells whether.

        earlier: where versions before this one saved; such a file cannot be continued, which is said.
        """
        points = save_points(self.folder)
        if not points:
            if earlier is not None and earlier.exists():
                log.warning(
                    "%s was saved by an earlier version and cannot be continued: training begins at step 0. Go on with "
                    "the version that wrote it, or delete the file.",
                    earlier,
                )
            self._drop_rows()
            return False
        point = points[-1]
        self.accelerator.load_state(str(point))
        facts = json.loads((point / "run.json").read_text(encoding="utf-8"))
        self.step, self.skipped = facts["step"], facts["skipped"]
        sums = facts["sums"]
        self._sums = sums[self.accelerator.process_index] if self.accelerator.process_index < len(sums) else sums[0]
        self._count = facts["count"]
        if self.ema is not None:
            state = torch.load(point / "ema.pt", map_location=self.accelerator.device, weights_only=True)
            self.ema.load_state_dict(state)
        self._drop_rows()
        log.info("resumed at step %d from %s", self.step, point)
        return True

    def _drop_rows(self) -> None:
        if not self.accelerator.is_main_process:
            return
        for path in filter(Path.exists, (self.folder / name for name in TABLES)):
            with path.open(newline="", encoding="utf-8") as file:
                header, *rows = csv.reader(file)
            with written_whole(path) as part, part.open("w", newline="", encoding="utf-8") as file:
                csv.writer(file).writerows([header, *(row for row in rows if int(row[0]) <= self.step)])

    def save(self) -> None:
        """Write a save point, and the curves; every process must call it."""
        accelerator = self.accelerator
        self.draw_curves()
        target = self.folder / "save_points" / f"step-{self.step:08d}"
        part = target.with_name(f"{target.name}.part")
        sums = accelerator.gather_for_metrics([self._sums], use_gather_object=True)
        if accelerator.is_main_process:
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir(parents=True)
        accelerator.wait_for_everyone()
        accelerator.save_state(str(part))
        if accelerator.is_main_process:
            if self.ema is not None:
                torch.save(self.ema.state_dict(), part / "ema.pt")
            facts = {"step": self.step, "skipped": self.skipped, "sums": sums, "count": self._count}
            (part / "run.json").write_text(json.dumps(facts), encoding="utf-8")
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            shutil.rmtree(target, ignore_errors=True)
            os.replace(part, target)
            for old in save_points(self.folder)[: -self.keep]:
                shutil.rmtree(old)
        accelerator.wait_for_everyone()

    def swap_average(self) -> None:
        """Put the averaged weights into the model, or after a first call the learned ones back."""
        if self.ema is None:
            return
        if self.ema.temp_stored_params is None:
            self.ema.store(self.parameters)
            self.ema.copy_to(self.parameters)
        else:
            self.ema.restore(self.parameters)

    def close(self) -> None:
        if self._tensorboard is not None:
            self._tensorboard.close()


def save_points(folder: Path) -> list[Path]:
    """The complete ones, oldest first."""
    found = (Path(folder) / "save_points").glob("step-*")
    return sorted(path for path in found if path.is_dir() and path.suffix != ".part")


def draw_curves(table: Path, target: Path) -> None:
    """One plot for each column of a CSV file over its first column, as PNG; none where there are no rows.

    Raises OptionError without matplotlib.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise OptionError("curves need the package matplotlib, which is not there: pip install matplotlib") from error
    with table.open(newline="", encoding="utf-8") as file:
        names, *rows = csv.reader(file)
    if not rows:
        return
    columns = [[float(value) for value in column] for column in zip(*rows, strict=True)]
    figure = Figure(figsize=(6, 2.2 * (len(names) - 1)), layout="constrained")
    plots = figure.subplots(len(names) - 1, sharex=True, squeeze=False)[:, 0]
    for plot, name, column in zip(plots, names[1:], columns[1:], strict=True):
        plot.plot(columns[0], column, linewidth=1)
        plot.set_ylabel(name)
        plot.grid(alpha=0.3)
    plots[-1].set_xlabel(names[0])
    with written_whole(target) as part:
        figure.savefig(part, format="png", dpi=80)


def _event_writer(folder: Path):
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise OptionError("tensorboard is true, but the package is not there: pip install tensorboard") from error
    return SummaryWriter(str(folder / "tensorboard"))
