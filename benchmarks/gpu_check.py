"""What a graphics card makes of LatentSync, in one command of at most six minutes, into one dated file.

    python -m benchmarks.gpu_check            # into benchmarks/results; nothing is downloaded
    python -m benchmarks.gpu_check --small    # seconds, on any CPU: whether the check itself works

Measured: the demo with the bundled model; the U-Net and the VAE of the released size with random weights at 256 and
512 px, in the formats and ways to save memory that there are; whether they fit into a card of 8 or 12 GB (torch is
allowed no more than such a card leaves it); and that the card computes what the CPU does, within a stated tolerance.

Rows are done in a child process in the order of what people ask first. What fails, for want of memory or otherwise, is
said in its row; a row that takes the process down is marked, and the next begins in a new one. Rows for which no time
is left are named. Exit code 1 where a result is not that of the CPU or nothing could be measured, else 0.
"""

import argparse
import datetime
import gc
import json
import math
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from latentsync import __version__
from latentsync.demo import IDENTITY, NEW_SPEECH, OWN_SPEECH
from latentsync.errors import is_out_of_memory
from latentsync.given_paths import given_path
from latentsync.media.video_reader import read_frames
from latentsync.metrics.pictures import psnr_of, squared_error
from latentsync.model.device import float32_products, free_unused, offload_leaves, save_memory
from latentsync.model.diffusion import NoisePredictor, build_scheduler, denoise
from latentsync.model.loading import LipSyncModel, bundled_model, choose_device, choose_dtype, load_model
from latentsync.model.vae import SCALING_FACTOR
from latentsync.options import LipSyncOptions
from latentsync.presets import apply_preset
from latentsync.run.engine import lip_sync
from latentsync.run.steps import decode_faces
from latentsync.synthetic.clips import AvatarClip
from latentsync.synthetic.files import write_clip, write_speech

from .measure import PeakMemory, full_size_model, relative_error, wait_for, weight_bytes
from .speed import DECODE, ENCODE, GUIDED, Table, clip_seconds, describe, measure_unet, measure_vae, unet_inputs

RESULTS = Path(__file__).with_name("results")
ELSEWHERE = Path("output/gpu_check")  # of small runs, which are not worth keeping
MARGIN = 10.0  # s at the end, to stop and to write
BROKEN = 3  # exit code of a child whose GPU answers no more
NO_MEMORY = "out of memory"
CPU = torch.device("cpu")
BALANCED = apply_preset(LipSyncOptions(), "balanced")
LIMITS = (8, 12)  # GiB of the cards that most people ask about
KEPT_FREE = 1.0  # GiB of them that the screen, the driver and other programs have
SECONDS = 10.0  # of the clip that is reckoned
# Errors that pass, as shares of the deviation of the result; three times what the CPU itself makes of each format.
TOLERANCE = {"float32": 0.001, "float16": 0.005, "bfloat16": 0.03, "fp8": 0.1, "full size": 0.03}
LEAST_PSNR = 40.0  # dB between the demo's frames on the card and on the CPU


# ---- what is measured


@dataclass(frozen=True)
class Row:
    """One measurement.

    key: its name in the results. kind: rows of one kind take about as long; guess: seconds that a slow card may take,
    for the first of a kind.
    """

    key: str
    kind: str
    guess: float
    work: Callable[[], dict]


@dataclass(frozen=True)
class Mode:
    """How the networks are kept. weights: of LOW_MEMORY."""

    name: str
    dtype: torch.dtype
    weights: str = "none"


def modes_of(device: torch.device) -> list[Mode]:
    """The device's own format first, then what saves memory, then the other formats that it may be fast with."""
    own = choose_dtype("auto", device)
    found = [Mode(_name(own), own), Mode("fp8", own, "fp8"), Mode("offload", own, "offload")]
    other = {torch.float16: torch.bfloat16, torch.bfloat16: torch.float32, torch.float32: torch.bfloat16}[own]
    return [*found, Mode(_name(other), other)]


class Check:
    """The rows for a device. small: narrow networks at small sides, for a CPU: whether the check itself works."""

    def __init__(self, device: torch.device, small: bool):
        self.device, self.small = device, small
        self.sides = (32, 64) if small else (256, 512)
        self.repeats = 1 if small else 2
        self._kept: dict[str, Any] = {}  # made once, for the rows that follow
        self._fitted: dict[tuple[str, int], float] = {}  # bytes of the card that a mode took at a side

    def rows(self) -> Iterator[Row]:
        modes, is_cpu = modes_of(self.device), self.device == CPU
        yield Row("demo", "demo", 40, self.demo)
        for mode in {mode.name: mode for mode in (Mode("float32", torch.float32), *modes)}.values():
            if not is_cpu or mode.dtype == torch.float32:
                yield Row(f"equal/{mode.name}", "equal", 15, lambda mode=mode: self.equal(mode))
        for mode in modes:
            for side in self.sides[:1] if is_cpu and mode.dtype != torch.float32 else self.sides:
                guess = 20 * (side / self.sides[0]) ** 2
                work = lambda mode=mode, side=side: self.full(mode, side)  # noqa: E731
                yield Row(f"full/{mode.name}/{side}", f"full/{side}", guess, work)
                for limit in LIMITS if self.device.type == "cuda" else ():
                    work = lambda mode=mode, side=side, limit=limit: self.fits(mode, side, limit)  # noqa: E731
                    yield Row(f"fits/{mode.name}/{side}/{limit}", f"fits/{side}", guess / 2, work)
        yield Row("equal/full size", "full size", 60, self.full_equal)
        if not is_cpu:
            yield Row("equal/demo", "demo", 60, self.demo_equal)

    def forget(self, but: str = "") -> None:
        """Free what rows have kept, but for that name's."""
        self._kept = {name: value for name, value in self._kept.items() if name == but}
        gc.collect()
        free_unused()

    # ---- the bundled model

    def demo(self) -> dict:
        """The drawn avatar says another speech, from file to file."""
        with PeakMemory(self.device) as peak:
            _, facts = self._demo(self.device, choose_dtype("auto", self.device))
        return {**facts, "peak": peak.bytes, "reserved": peak.reserved}

    def demo_equal(self) -> dict:
        card, _ = self._demo(self.device, choose_dtype("auto", self.device))
        cpu, facts = self._demo(CPU, torch.float32)
        psnr = min(psnr_of(np.mean([squared_error(*pair) for pair in zip(card, cpu, strict=True)])), 99.0)
        return {"psnr": psnr, "least": LEAST_PSNR, "passed": psnr >= LEAST_PSNR, "cpu_seconds": facts["seconds"]}

    def _demo(self, device: torch.device, dtype: torch.dtype) -> tuple[list[np.ndarray], dict]:
        seconds = 0.4 if self.small else 2.0
        own, new = (AvatarClip(IDENTITY, speech, seconds) for speech in (OWN_SPEECH, NEW_SPEECH))
        options = replace(BALANCED, **bundled_model().defaults, num_inference_steps=2 if self.small else 10)
        with tempfile.TemporaryDirectory() as name:
            video, speech, result = (Path(name) / file for file in ("source.mp4", "speech.wav", "result.mp4"))
            write_speech(new, speech)
            write_clip(own, video)
            model = load_model(bundled_model(), device=device, dtype=dtype)
            started = time.perf_counter()
            report = lip_sync(video, speech, result, model, options)
            taken = time.perf_counter() - started
            frames = [frame.pixels for frame in read_frames(result)]
        return frames, {"frames": len(frames), "seconds": taken, "dtype": _name(dtype), "warnings": report.warnings}

    def equal(self, mode: Mode) -> dict:
        """The latents after all steps of `balanced`, against float32 on the CPU."""
        if "latents" not in self._kept:
            self._kept["latents"] = self._latents(Mode("float32", torch.float32), CPU)
        got = self._latents(mode, self.device)
        tolerance = TOLERANCE[mode.name if mode.weights == "fp8" else _name(mode.dtype)]
        return _compared(got, self._kept["latents"], tolerance)

    @torch.inference_mode()
    def _latents(self, mode: Mode, device: torch.device) -> Tensor:
        model = load_model(bundled_model(), device=device, dtype=mode.dtype)
        _keep_weights(model.unet, mode, device)
        known, tokens, noise = unet_inputs(model, 4)
        with float32_products(tf32=False):
            return denoise(
                model.unet, build_scheduler(BALANCED.scheduler, model.prediction_type), noise, known, tokens,
                BALANCED.num_inference_steps, BALANCED.guidance_scale, cache_interval=BALANCED.cache_interval,
            ).cpu()  # fmt: skip

    # ---- the released size

    def _model(self, mode: Mode, side: int) -> LipSyncModel:
        """One at a time is in memory; the side is only a number to it."""
        name = f"model {mode.name}"
        self.forget(but=name)
        if name not in self._kept:
            model = full_size_model(side, self.device, mode.dtype, small=self.small)
            _keep_weights(model.unet, mode, self.device)
            self._kept[name] = replace(model, low_memory=mode.weights)
            free_unused()
        return replace(self._kept[name], resolution=side)

    @torch.inference_mode()
    def full(self, mode: Mode, side: int) -> dict:
        """What a chunk of 16 frames costs, and a clip by that."""
        model = self._model(mode, side)
        table = Table(self.device, self.repeats)
        measure_unet(model, table)
        measure_vae(model, table, draft=False)
        reserved = [memory.reserved for memory in table.memory.values() if memory.reserved is not None]
        if reserved:
            self._fitted[mode.name, side] = max(reserved)
        return {
            "weights": weight_bytes(model.unet),
            "guided": table.wall[f"U-Net, {GUIDED}"],
            "stages": table.wall,
            "clip": clip_seconds(BALANCED, SECONDS, table.wall),
            "peak": {name: memory.bytes for name, memory in table.memory.items()},
            "reserved": self._fitted.get((mode.name, side)),
        }

    @torch.inference_mode()
    def fits(self, mode: Mode, side: int, limit: float) -> dict:
        """Whether a chunk goes through where torch may take no more than a card of that size leaves it."""
        allowed = (limit - KEPT_FREE) * 2**30
        if self._fitted.get((mode.name, side), math.inf) <= allowed:
            return {"fits": True, "how": "took less"}
        model = self._model(mode, side)
        with _limited(self.device, allowed) as limited:
            if not limited:
                return {"skipped": "this card has less memory than that"}
            known, tokens, sample = unet_inputs(model)
            NoisePredictor(model.unet, known, tokens, BALANCED.guidance_scale, cache_interval=2)(sample, 500)
            decode_faces(model, sample[0].movedim(0, 1) * SCALING_FACTOR)
            wait_for(self.device)
        return {"fits": True, "how": "with less to take"}

    @torch.inference_mode()
    def full_equal(self) -> dict:
        """One unguided call on 2 frames at the smaller side against the CPU's in float32, of the same weights."""
        mode = modes_of(self.device)[0]
        model = self._model(mode, self.sides[0])
        known, tokens, sample = (value.cpu() for value in unet_inputs(model, 2))
        on_card = [value.to(self.device) for value in (known, tokens, sample)]
        with float32_products(tf32=False):
            got = NoisePredictor(model.unet, *on_card[:2], 1.0)(on_card[2], 500).float().cpu()
        twin = model.unet.cpu().to(memory_format=torch.contiguous_format)
        self.forget()
        for module in twin.modules():
            if isinstance(module, nn.GroupNorm | nn.LayerNorm):
                module.float()
        if mode.dtype != torch.float32:  # widened layer by layer: as a whole it would take 5 GB
            twin.enable_layerwise_casting(storage_dtype=mode.dtype, compute_dtype=torch.float32)
        expected = NoisePredictor(twin, known, tokens, 1.0)(sample, 500).float()
        return _compared(got, expected, TOLERANCE["full size"])


def _keep_weights(unet: nn.Module, mode: Mode, device: torch.device) -> None:
    if mode.weights == "offload" and device == CPU:
        offload_leaves(unet, device)  # refused to users, as it saves nothing; here it tries out the hooks
    else:
        save_memory(unet, mode.weights, device, mode.dtype)


@contextmanager
def _limited(device: torch.device, allowed: float) -> Iterator[bool]:
    """Inside, torch may take so many bytes of the card; False where the card has no more than that."""
    share = allowed / torch.cuda.get_device_properties(device).total_memory
    if share >= 1:
        yield False
        return
    torch.cuda.set_per_process_memory_fraction(share, device)
    try:
        yield True
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, device)


def _compared(got: Tensor, expected: Tensor, tolerance: float) -> dict:
    error = relative_error(got.float(), expected.float())
    return {"error": error, "tolerance": tolerance, "passed": error <= tolerance}  # a NaN does not pass


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


# ---- rows in a process of their own


class Journal:
    """What became of each row, a line of JSON each, so that nothing is lost with the process."""

    def __init__(self, path: Path):
        self._path = path

    def write(self, key: str, **facts: object) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"row": key, **facts}) + "\n")

    def read(self) -> dict[str, dict]:
        """By row, in the order in which they began; what was begun and no more has "begun" alone."""
        found: dict[str, dict] = {}
        lines = self._path.read_text(encoding="utf-8").splitlines() if self._path.exists() else []
        for line in lines:
            facts = json.loads(line)
            found[facts.pop("row")] = facts
        return found


def work(check: Check, journal: Journal, until: float) -> int:
    """Do the rows that are not in the journal yet, until that time.time(); the exit code of the child."""
    known = journal.read()
    taken: dict[str, float] = {}
    for row in check.rows():
        if row.key in known:
            continue
        left, needed = until - time.time(), 1.5 * taken[row.kind] if row.kind in taken else row.guess
        if needed > left:
            journal.write(row.key, skipped=f"no time left: about {needed:.0f} s are needed")
            continue
        print(f"\n{row.key}", flush=True)
        journal.write(row.key, begun=True)
        started = time.perf_counter()
        try:
            facts = row.work()
        except Exception as error:
            first = (str(error).splitlines() or [""])[0]
            facts = {"failed": NO_MEMORY if is_out_of_memory(error) else f"{type(error).__name__}: {first}"}
        if "failed" in facts:
            check.forget()
        seconds = time.perf_counter() - started
        taken[row.kind] = max(taken.get(row.kind, 0.0), seconds)
        journal.write(row.key, **facts, row_seconds=seconds)
        print(facts.get("failed") or facts.get("skipped") or f"done in {seconds:.1f} s", flush=True)
        try:
            wait_for(check.device)
        except RuntimeError:
            return BROKEN
    return 0


def run_rows(command: list[str], journal: Journal, ends: float) -> bool:
    """Children until all rows are in the journal or the time is over; False where they fail outside of the rows."""
    while True:
        before = len(journal.read())
        child = subprocess.Popen(command, cwd=RESULTS.parents[1])
        try:
            code = child.wait(timeout=max(1.0, ends - MARGIN / 2 - time.time()))
        except subprocess.TimeoutExpired:
            code = None
        finally:
            child.kill()
            child.wait()
        rows = journal.read()
        for key, facts in rows.items():
            if facts == {"begun": True}:
                journal.write(key, failed="cut off: no time left" if code is None else f"ended the process ({code})")
        if code in (0, None) or len(rows) == before:  # done, no time left, or it does not even begin
            return code in (0, None)


def facts_of(device: torch.device) -> dict:
    """The machine and the programs, as plain values."""
    facts = {
        "date": datetime.date.today().isoformat(),
        "hardware": describe(device) if device.type != "mps" else f"Apple {platform.machine()} (MPS)",
        "system": platform.platform(),
        "python": platform.python_version(),
        "latentsync": __version__,
        **{name: version(name) for name in ("torch", "diffusers")},
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        facts["memory"] = properties.total_memory
        facts["compute capability"] = f"{properties.major}.{properties.minor}"
        facts["CUDA"], facts["cuDNN"] = (
            torch.version.cuda or f"ROCm {torch.version.hip}",
            torch.backends.cudnn.version(),
        )
    return facts


def page_of(facts: dict, rows: dict[str, dict], small: bool) -> str:
    """The results as Markdown."""
    size = "narrow networks, to try out the check" if small else "the released size, random weights"
    lines = [f"# {facts['hardware']}, {facts['date']}", ""]
    lines += [f"- {name}: {_gb(value) if name == 'memory' else value}" for name, value in facts.items()]
    lines += ["", f"`python -m benchmarks.gpu_check{' --small' if small else ''}`: {size}.", ""]
    if any(key.startswith("fits/") for key in rows):
        lines += _table(
            "What fits",
            f"A chunk of 16 frames as `balanced` has it, where torch may take what a card of that size has beside "
            f"{KEPT_FREE:g} GB for screen and driver.",
            ["format", "face", *(f"{limit} GB" for limit in LIMITS)],
            [
                [mode, f"{side} px", *(_fit(rows.get(f"fits/{mode}/{side}/{limit}", {})) for limit in LIMITS)]
                for mode, side in _modes(rows)
            ],
        )
    lines += _table(
        "Cost of the networks",
        f"Of 16 frames each, in seconds; clip: {SECONDS:g} s with one face in `balanced`, without the work on frames; "
        "peak: of what tensors take on the card, on a CPU of the whole process.",
        ["format", "face", "U-Net, guided", "deep features kept", "VAE, in", "VAE, out", "clip", "weights", "peak"],
        [[mode, f"{side} px", *_costs(rows[f"full/{mode}/{side}"])] for mode, side in _modes(rows)],
    )
    if demo := rows.get("demo"):
        said = _failure(demo) or (
            f"{demo['frames']} frames in {demo['seconds']:.1f} s ({demo['dtype']}, with the first use of the card), "
            f"peak {_gb(demo['peak'])}"
        )
        lines += ["## Demo, bundled model", "", said, ""]
    lines += _table(
        "The same as on the CPU",
        "Against float32 on the CPU, as a share of the result's deviation: the bundled model's latents after all steps "
        "of `balanced`; of the large U-Net one call; of the demo the PSNR of its frames.",
        ["what", "error", "tolerance", ""],
        [[key.removeprefix("equal/"), *_equality(found)] for key, found in rows.items() if key.startswith("equal/")],
    )
    if missing := _missing(rows):
        lines += ["## Not measured", "", *missing, ""]
    return "\n".join(lines)


def _table(title: str, text: str, head: list[str], body: list[list[str]]) -> list[str]:
    rows = [head, ["---"] * len(head), *body]
    return [f"## {title}", "", text, "", *(f"| {' | '.join(row)} |" for row in rows), ""]


def _modes(rows: dict[str, dict]) -> list[tuple[str, str]]:
    return [tuple(key.split("/")[1:]) for key in rows if key.startswith("full/")]


def _failure(found: dict) -> str | None:
    return found.get("failed") or found.get("skipped")


def _missing(rows: dict[str, dict]) -> list[str]:
    """Why rows have no figure, each reason once; that something does not fit is a figure."""
    reasons: dict[str, list[str]] = {}
    for key, found in rows.items():
        why = _failure(found)
        if why and not (key.startswith("fits/") and why == NO_MEMORY):
            reasons.setdefault(why, []).append(f"`{key}`")
    return [f"- {why}: {', '.join(keys)}" for why, keys in reasons.items()]


def _fit(found: dict) -> str:
    if found.get("failed") == NO_MEMORY:
        return "**no**"
    return "yes" if found.get("fits") else "not measured"


def _costs(found: dict) -> list[str]:
    if why := _failure(found):
        return [why, *[""] * 6]
    stages = found["stages"]
    kept = next(value for name, value in stages.items() if "guided, deep" in name and "unguided" not in name)
    seconds = (found["guided"], kept, stages[ENCODE], stages[DECODE])
    peaks = [peak for peak in found["peak"].values() if peak is not None]
    return [
        *(f"{value:.3f}" for value in seconds), f"{found['clip']:.1f}", _gb(found["weights"]),
        _gb(max(peaks, default=None)),
    ]  # fmt: skip


def _equality(found: dict) -> list[str]:
    if why := _failure(found):
        return [why, "", ""]
    error, limit = (
        (f"{found['psnr']:.1f} dB", f"{found['least']:g} dB")
        if "psnr" in found
        else (f"{found['error']:.2g}", f"{found['tolerance']:g}")
    )
    return [error, limit, "passed" if found["passed"] else "**FAILED**"]


def _gb(count: float | None) -> str:
    return "" if count is None else f"{count / 1e9:.2f} GB"


def write_results(folder: Path, facts: dict, rows: dict[str, dict], small: bool) -> Path:
    """Write the page, at its end all figures as JSON; return it."""
    folder.mkdir(parents=True, exist_ok=True)
    hardware = re.sub(r"[^A-Za-z0-9.]+", "-", facts["hardware"].split(",")[0]).strip("-")
    page = folder / f"{'small' if small else 'full-size'}_{hardware}_{facts['date']}.md"
    figures = json.dumps({"facts": facts, "rows": rows}, indent=1)
    text = f"{page_of(facts, rows, small)}\n## All figures\n\n```json\n{figures}\n```\n"
    page.write_text(text, encoding="utf-8")
    return page


def main(argv: list[str] | None = None) -> int:
    """Measure, write the page and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto", help="auto, cuda, cuda:1, mps, cpu (default: auto)")
    parser.add_argument("--minutes", type=float, default=6.0, help="for all of it (default: 6)")
    parser.add_argument("--small", action="store_true", help="narrow networks; always so on a CPU")
    parser.add_argument("--output", type=given_path, metavar="FOLDER", help=f"default: {RESULTS}; small: {ELSEWHERE}")
    parser.add_argument("--journal", type=given_path, help=argparse.SUPPRESS)  # of the child
    parser.add_argument("--until", type=float, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    started = time.time()
    device = choose_device(arguments.device)
    arguments.small = arguments.small or device.type == "cpu"
    if arguments.journal is not None:
        return work(Check(device, arguments.small), Journal(arguments.journal), arguments.until)
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "rows.jsonl"
        journal, ends = Journal(path), started + 60 * arguments.minutes
        command = [sys.executable, "-m", "benchmarks.gpu_check", "--journal", str(path), "--until", str(ends - MARGIN)]
        command += ["--device", arguments.device, *(["--small"] if arguments.small else [])]
        whole = run_rows(command, journal, ends)
        rows = journal.read()
    page = write_results(
        arguments.output or (ELSEWHERE if arguments.small else RESULTS), facts_of(device), rows, arguments.small
    )
    shown = page.read_text(encoding="utf-8").partition("\n## All figures")[0]
    print(f"\n{shown}\n{time.time() - started:.0f} s; {page}")
    return 0 if whole and not any(found.get("passed") is False for found in rows.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
