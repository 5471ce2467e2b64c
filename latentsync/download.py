"""`python install.py --models NAME ...`: what is there, what is missing, the licence's question, then the fetching.

Needs nothing but Python's standard library, so that install.py can run it before anything is installed.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from .errors import DamagedCheckpointError, DownloadError, LatentSyncError, OptionError, OutputError
from .files import locked, sha256_of
from .model_files import MANIFEST, Place, RemoteFile, RemoteModel, choose_place, read_manifest, wanted_models
from .transfer import MARGIN, USUAL, Part, Patience, fetch, free_space, mirrored


class Record:
    """JSON, written whole under a lock: {"files": {path: {size, modified, sha256, verified, url}}, "accepted"}"""

    def __init__(self, path: Path):
        self.path = path

    def read(self) -> dict:
        try:
            content = json.loads(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            content = {}
        content = content if isinstance(content, dict) else {}
        return {"files": {}, "accepted": {}, **content}

    def entry(self, target: Path) -> dict:
        """What is known of a file; {} if nothing."""
        return self.read()["files"].get(self._key(target), {})

    def known_hash(self, target: Path) -> str | None:
        """Its SHA-256, if it was read before and neither size nor time has changed since."""
        entry, facts = self.entry(target), target.stat()
        same = (entry.get("size"), entry.get("modified")) == (facts.st_size, facts.st_mtime_ns)
        return entry.get("sha256") if same else None

    def remember(self, target: Path, sha256: str, verified: bool, url: str | None = None) -> None:
        facts = target.stat()
        entry = {"size": facts.st_size, "modified": facts.st_mtime_ns, "sha256": sha256, "verified": verified}
        self._change(lambda content: content["files"].update({self._key(target): {**entry, "url": url}}))

    def accept(self, model: str) -> None:
        self._change(lambda content: content["accepted"].update({model: time.strftime("%Y-%m-%d")}))

    def _key(self, target: Path) -> str:
        return os.path.relpath(target, self.path.parent).replace(os.sep, "/")

    def _change(self, change: Callable[[dict], None]) -> None:
        part = self.path.with_name(self.path.name + ".part")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with locked(self.path.with_name(self.path.name + ".lock"), on_wait=lambda: None):
                content = self.read()
                change(content)
                part.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
                os.replace(part, self.path)
        except OSError as error:
            raise OutputError(f"{self.path} cannot be written ({error}). Check the folder's rights.") from error


# How far a download is: one line that changes on a terminal, a few lines elsewhere.

EVERY = {True: 0.2, False: 20.0}  # s between reports, on a terminal and elsewhere


class Progress:
    """Reports of one file."""

    def __init__(self, name: str, stream: TextIO | None = None):
        self._name, self._stream = name, stream or sys.stdout
        self._terminal = self._stream.isatty()
        self._began: tuple[float, int] | None = None  # time in s, bytes that were there then
        self._told = time.monotonic()
        self._open = False

    def __call__(self, done: int, total: int | None) -> None:
        """Bytes that are there, and of how many."""
        now = time.monotonic()
        if self._began is None or done < self._began[1]:
            self._began = now, done
        if now - self._told < EVERY[self._terminal] and done != total:
            return
        self._told = now
        speed = (done - self._began[1]) / max(now - self._began[0], 1e-3)
        text = f"{self._name}: {size_text(done)}"
        if total:
            text = f"{self._name}: {100 * done // total:3d} % of {size_text(total)}"
        if speed > 0 and now - self._began[0] > 1:
            text += f", {size_text(speed)}/s"
            if total and total > done:
                text += f", {time_text((total - done) / speed)} left"
        self._write(text)

    def _write(self, text: str) -> None:
        if self._terminal:
            self._stream.write(f"\r{text[:110]:<78}")
            self._open = True
        else:
            self._stream.write(text + "\n")
        self._stream.flush()

    def say(self, text: str) -> None:
        """A line of its own."""
        self.close()
        self._stream.write(f"{self._name}: {text}\n")
        self._stream.flush()

    def close(self) -> None:
        """End the line."""
        if self._open:
            self._stream.write("\n")
            self._stream.flush()
            self._open = False


def size_text(size: float) -> str:
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size:.0f} bytes"


def time_text(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"


# The command

DONE, FAILED, WRONG_ARGUMENTS, MISSING = 0, 1, 2, 3  # exit codes


@dataclass(frozen=True)
class Wanted:
    """One file in its place. url: where it comes from first, with the mirror."""

    model: RemoteModel
    file: RemoteFile
    target: Path


def download_models(
    names: Sequence[str],
    *,
    pack: Path,
    checkpoints: str | None = None,
    models_dir: str | None = None,
    offline: bool = False,
    accepted: Sequence[str] = (),
    manifest: Path = MANIFEST,
    patience: Patience = USUAL,
    ask: Callable[[str], str] = input,
) -> int:
    """Fetch models and what they need, or list them where no name is given. Says what it does; returns the exit code.

    pack: this project's folder; accepted: models whose licence the caller has accepted; the rest as in docs/models.md.
    """
    try:
        models = read_manifest(manifest)
        place = choose_place(pack, checkpoints, models_dir)
        chosen = wanted_models(names, models)
        wanted_models(accepted, models)  # a misspelt one is told
        for url in (url for model in chosen for file in model.files for url in file.urls):
            mirrored(url)  # a misspelt mirror too
    except OptionError as error:
        print(f"error: {error}", file=sys.stderr)
        return WRONG_ARGUMENTS
    try:
        if not names:
            return _list(models, place)
        print(f"Models go into {place.root} ({place.reason}).")
        record = Record(place.record)
        wanted = [Wanted(model, file, place.target(file)) for model in chosen for file in model.files]
        missing = [one for one in wanted if not _is_there(one, record)]
        if offline:
            return _tell_missing(missing)
        _ask_licences(missing, accepted, record, ask)
        _check_space(missing)
        for one in missing:
            _fetch(one, record, patience)
        for one in wanted:
            _describe(one)
    except LatentSyncError as error:
        print(f"error: {error}", file=sys.stderr)
        return FAILED
    for one in wanted:
        if one.file.describe:
            print(f"Ready: --model {os.path.relpath(one.target)} (in ComfyUI: reload the page, then choose it).")
    print("All files are there.")
    return DONE


def _list(models: dict[str, RemoteModel], place: Place) -> int:
    for name, model in models.items():
        sizes = [file.size for file in model.files]
        size = "size unknown" if None in sizes else size_text(sum(sizes))
        there = "there" if all(place.target(file).is_file() for file in model.files) else "not there"
        needs = f"; also fetches {', '.join(model.needs)}" if model.needs else ""
        told = f"{model.title} ({model.vendor}, {model.year}; {model.licence.name}{needs})"
        print(f"{name:15} {size:>12}  {there:9}  {told}")
    print(f"Folder: {place.root} ({place.reason}). To fetch: python install.py --models NAME ...")
    return DONE


def _is_there(one: Wanted, record: Record) -> bool:
    """Whether the right file is in place. Another one in its place is never overwritten: raises DownloadError."""
    if not one.target.exists():
        return False
    size = one.target.stat().st_size if one.target.is_file() else None
    expected = one.file.sha256 or record.entry(one.target).get("sha256")
    found = None
    if size is not None and one.file.size in (None, size):
        found = record.known_hash(one.target)
        if found is None:
            print(f"checking {one.target}")
            found = sha256_of(one.target)
    if found is None or (expected is not None and found != expected):
        what = f"SHA-256 {found}, expected {expected}" if found else f"{size} bytes, expected {one.file.size}"
        raise DownloadError(
            f"{one.target} is another file than {one.model.name}'s ({what}): cut short, or of another version. "
            "Rename or delete it, then run the same command again."
        )
    verified = one.file.sha256 is not None
    if record.known_hash(one.target) is None and one.target.parent.is_dir() and os.access(one.target.parent, os.W_OK):
        record.remember(one.target, found, verified)
    print(f"there: {one.target}" + ("" if verified else f" (not verified: no hash is published; its own is {found})"))
    return True


def _tell_missing(missing: list[Wanted]) -> int:
    if not missing:
        print("All files are there.")
        return DONE
    print(f"Offline: {len(missing)} files are missing. Fetch them on another machine and put them here:")
    for one in missing:
        size = "unknown size" if one.file.size is None else f"{one.file.size:,} bytes"
        print(f"\n  {one.target}\n    {size}, SHA-256 {one.file.sha256 or 'not published'}, {one.model.licence.name}")
        for url in one.file.urls:
            print(f"    from {mirrored(url)}")
        if Part(one.target).size():
            print(f"    begun: {Part(one.target).size():,} bytes lie in {Part(one.target).path.name}")
    print("\nThen run the same command again: it checks them.")
    return MISSING


def _ask_licences(missing: list[Wanted], accepted: Sequence[str], record: Record, ask: Callable[[str], str]) -> None:
    """Of models that are yet to be fetched. Raises OptionError where one is not accepted."""
    given = {name.strip().lower() for names in accepted for name in names.split(",")}
    for model in {one.model.name: one.model for one in missing}.values():
        if model.licence.question is None or model.name in record.read()["accepted"]:
            continue
        if model.name not in given:
            print(f"\n{model.licence.question}\nThe whole text: {model.licence.url}")
            try:
                answer = ask("Do you accept this licence? Type yes or no: ").strip().lower()
            except EOFError:
                answer = ""
            if answer != "yes":
                raise OptionError(
                    f"The licence of {model.name} was not accepted: nothing was fetched. In scripts: "
                    f"--accept-licence {model.name}"
                )
        record.accept(model.name)


def _check_space(missing: list[Wanted]) -> None:
    """Of all files together, before the first is fetched. Raises OutputError."""
    needed = sum(max(0, (one.file.size or 0) - Part(one.target).size()) for one in missing)
    for folder in {one.target.parent for one in missing}:
        free = free_space(folder / "x")
        if free < needed + MARGIN:
            raise OutputError(
                f"{folder} has {size_text(free)} free, {size_text(needed + MARGIN)} are needed for these models. "
                "Free some, or choose another folder with --checkpoints or --models-dir. Nothing was fetched."
            )


def _fetch(one: Wanted, record: Record, patience: Patience) -> None:
    progress = Progress(one.target.name)

    def wait() -> None:
        progress.say("another process is fetching it; waiting for that")

    try:
        one.target.parent.mkdir(parents=True, exist_ok=True)
        lock = locked(one.target.with_name(one.target.name + ".part.lock"), on_wait=wait)
        with lock:
            if _is_there(one, record):  # another process has just fetched it
                return
            found, url = _from_any(one, progress, patience)
            before = record.entry(one.target).get("sha256") if one.file.sha256 is None else None
            if before not in (None, found):
                one.target.unlink()
                raise DamagedCheckpointError(
                    f"{url} has changed since it was first fetched: its SHA-256 is {found}, it was {before} then. It "
                    f"was deleted. If the new one is right, remove its entry from {record.path}."
                )
            record.remember(one.target, found, one.file.sha256 is not None, url)
    except OSError as error:
        if isinstance(error, LatentSyncError):
            raise
        raise OutputError(f"{one.target} cannot be written ({error}). Check the folder's rights.") from error
    finally:
        progress.close()
    if one.file.sha256 is not None:
        print(f"fetched and verified: {one.target}")
    else:
        print(f"fetched: {one.target}\n  NOT verified: no hash is published. Its own, {found}, is in {record.path}.")


def _from_any(one: Wanted, progress: Progress, patience: Patience) -> tuple[str, str]:
    """Its SHA-256 and the address that it came from. Raises the last address's error."""
    urls = [mirrored(url) for url in one.file.urls]
    for number, url in enumerate(urls, 1):
        progress.say(f"from {url}")
        try:
            options = {"size": one.file.size, "sha256": one.file.sha256, "patience": patience}
            return fetch(url, one.target, **options, on_bytes=progress, say=progress.say), url
        except (DownloadError, DamagedCheckpointError) as error:
            if number == len(urls):
                raise DownloadError(
                    f"{error}\nOr fetch it by hand into {one.target}, and run the same command again to check it; "
                    "docs/models.md tells of mirrors and proxies."
                ) from error
            progress.say(f"{error} There is another address.")
    raise DownloadError(f"{one.model.name} has no address for {one.file.path}.")


def _describe(one: Wanted) -> None:
    """What the file itself does not say, in a JSON file beside it, where there is none."""
    path = one.target.with_suffix(".json")
    if one.file.describe and not path.exists():
        part = path.with_name(path.name + ".part")
        part.write_text(json.dumps({**one.file.describe, "model": one.model.name}) + "\n", encoding="utf-8")
        os.replace(part, path)
