"""The stages one after another, and one row of metadata for everything that was kept or rejected."""

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..clip_store import FPS, ClipStoreWriter, write_table
from . import cutting, probing, quality, storing, syncing
from .engines import Engine, Outcome, Stage, distribution
from .settings import PrepareSettings

METADATA = "metadata.parquet"
MISSING = 0.5  # s of what a source says it has, from which on it is told that they are not there


@dataclass
class Preparation:
    """What a run did.

    rows    of metadata: source, start and seconds of a part of it, status "kept" or "rejected", stage and reason
    stages  of each stage: distribution() and throughput, of the items that were not done before
    """

    settings: PrepareSettings
    engine: Engine
    log: Callable[[str], None]
    rows: list[dict] = field(default_factory=list)
    stages: dict[str, dict] = field(default_factory=dict)

    def run(self, sources: Sequence[Path]) -> Path:
        """Make the store; returns its manifest. Raises LatentSyncError."""
        began = time.time()
        settings = self.settings
        probed = self._kept_sources(sources)
        items = [item for source in probed for item in cutting.windows(source, settings)]
        segments = self._cut(items)
        good = self._good(segments)
        synced = self._stage("sync", syncing.sync, [syncing.sync_item(segment, settings) for segment in good])
        stored = []
        for segment, measured in zip(good, synced, strict=True):
            segment |= {"offset": measured.get("offset"), "confidence": measured.get("confidence")}
            if self._passes("sync", segment, syncing.poor_sync(measured, settings)):
                stored.append((segment, storing.store_item(segment, measured, settings)))
        done = self._stage("store", storing.store, [item for _, item in stored])
        keys = []
        for (segment, item), result in zip(stored, done, strict=True):
            if self._passes("store", segment, result.get("rejected")):
                self.rows.append(
                    {**self._row(segment), "status": "kept", "stage": "", "reason": "", "key": item["key"]}
                )
                keys.append(item["key"])
        manifest = ClipStoreWriter(settings.output).finish(keys)
        self.rows.sort(key=lambda row: (row["source"], row["start"], row["seconds"]))
        write_table(settings.output / METADATA, self.rows)
        self._sweep()
        self.seconds = time.time() - began
        return manifest

    def _kept_sources(self, sources: Sequence[Path]) -> list[dict]:
        items = [probing.probe_item(source, self.settings) for source in sources]
        first: dict[str, str] = {}
        kept = []
        for source, found in zip(sources, self._stage("probe", probing.probe, items), strict=True):
            reason = found.get("rejected")
            if reason is None and (other := first.setdefault(found["sha256"], str(source))) != str(source):
                reason = f"the same content as '{other}'"
            about = {"source": str(source), "sha256": found.get("sha256"), "time": 0.0}
            if not self._passes("probe", {**about, "seconds": found.get("seconds") or 0.0}, reason):
                continue
            kept.append(found)
            if (missing := found["declared"] - found["seconds"]) > MISSING:
                part = {**about, "time": found["seconds"], "seconds": missing}
                self._passes("probe", part, f"cut off: {found['seconds']:.2f} s of {found['declared']:.2f} s are there")
        return kept

    def _cut(self, items: list[dict]) -> list[dict]:
        segments = []
        for item, found in zip(items, self._stage("cut", cutting.cut, items), strict=True):
            about = {"source": item["source"], "sha256": item["sha256"]}
            if "rejected" in found:
                self._passes("cut", {**about, "time": item["start"], "seconds": item["seconds"]}, found["rejected"])
                continue
            for gap in found["gaps"]:
                self._passes("cut", {**about, **gap}, gap["reason"])
            segments += [{**about, **segment, "seconds": segment["num_frames"] / FPS} for segment in found["segments"]]
        return segments

    def _good(self, segments: list[dict]) -> list[dict]:
        """Those that pass by size and sharpness, and of them those that pass by hyperIQA where its file is given."""
        settings = self.settings
        good = [one for one in segments if self._passes("quality", one, quality.poor_quality(one, settings))]
        if settings.hyperiqa is None:
            return good
        scored = self._stage("quality", quality.quality, [quality.quality_item(one, settings) for one in good])
        for segment, found in zip(good, scored, strict=True):
            segment["iqa"] = found.get("iqa")
            segment["lost"] = found.get("rejected")
        return [one for one in good if self._passes("quality", one, one["lost"] or quality.poor_quality(one, settings))]

    def _stage(self, name: str, stage: Stage, items: list[dict]) -> list[dict]:
        """Results of all items; those done by an earlier run are read by this process."""
        results: list[dict | None] = [None] * len(items)
        todo = []
        for index, item in enumerate(items):
            if Path(item["record"]).exists():
                results[index] = stage(item, self.settings)
            else:
                todo.append(index)
        self.log(f"{name}: {len(todo)} to do, {len(items) - len(todo)} done before")
        for folder in {Path(items[index]["record"]).parent for index in todo}:
            folder.mkdir(parents=True, exist_ok=True)
        count, every = 0, max(1, len(todo) // 10)

        def on_done(index: int, outcome: Outcome) -> None:
            nonlocal count
            count += 1
            if outcome.trace:
                what = items[todo[index]].get("source") or items[todo[index]]["record"]
                self.log(f"{name}: LOST {what}: {outcome.result['rejected']}\n{outcome.trace}")
            if count % every == 0 or count == len(todo):
                self.log(f"{name}: {count} of {len(todo)}")

        outcomes = self.engine.run(stage, [items[index] for index in todo], self.settings, on_done)
        for index, outcome in zip(todo, outcomes, strict=True):
            results[index] = outcome.result
        self.stages[name] = self._throughput(name, [items[index] for index in todo], outcomes)
        return results

    def _throughput(self, name: str, items: list[dict], outcomes: list[Outcome]) -> dict:
        """With the clips that the stage gave or took, a core-hour being an hour of processor time."""
        spread = distribution([outcome for outcome in outcomes if outcome.worker], self.engine.workers)
        hours = spread["cpu"] / 3600
        if name == "cut":
            clips = sum(len(outcome.result.get("segments", ())) for outcome in outcomes)
            media = sum(item["seconds"] for item in items)
        else:
            clips, media = len(items), sum(item.get("num_frames", 0) for item in items) / FPS
        per_hour = round(clips / hours, 1) if hours else None
        return {"clips": clips, "media_seconds": round(media, 2), "clips_per_core_hour": per_hour, **spread}

    def _passes(self, stage: str, part: dict, reason: str | None) -> bool:
        if reason is not None:
            self.rows.append({**self._row(part), "status": "rejected", "stage": stage, "reason": reason, "key": None})
        return reason is None

    @staticmethod
    def _row(part: dict) -> dict:
        numbers = ("offset", "confidence", "face_side", "sharpness", "iqa", "yaw")
        return {
            **{
                "source": part["source"],
                "sha256": part.get("sha256"),
                "start": part["time"],
                "seconds": part["seconds"],
            },
            **{name: part.get(name) for name in numbers},
        }

    def _sweep(self) -> None:
        """Remove what runs that were cut left half done."""
        for part in (*self.settings.work.rglob("*.part"), *self.settings.work.rglob("latentsync-*.part*")):
            if part.is_dir():
                shutil.rmtree(part, ignore_errors=True)
            else:
                part.unlink(missing_ok=True)
