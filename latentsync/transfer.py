"""One file from the web, cut and resumed as often as it takes, in its place only when it is whole and verified.

What has arrived lies in NAME.part, beside it NAME.part.json with what the server called it. A file that has changed on
the server begins anew: two versions are never joined. Needs nothing but Python's standard library.
"""

import contextlib
import errno
import http.client
import json
import os
import re
import shutil
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urljoin, urlsplit

from .errors import DamagedCheckpointError, DownloadError, OptionError, OutputError
from .files import sha256_of

HUB = "https://huggingface.co"
GITHUB = "https://github.com"
# Of one host, in this order. HF_ENDPOINT is what Hugging Face's own programs read.
VARIABLES = {HUB: ("LATENTSYNC_MIRROR", "HF_ENDPOINT"), GITHUB: ("LATENTSYNC_GITHUB_MIRROR",)}


def mirrored(url: str, environment: Mapping[str, str] = os.environ) -> str:
    """The address with its host's base replaced where a variable says so. Raises OptionError for no web address."""
    for base, names in VARIABLES.items():
        name = next((name for name in names if environment.get(name, "").strip()), None)
        if name is not None and url.startswith(base + "/"):
            mirror = environment[name].strip().rstrip("/")
            if urlsplit(mirror).scheme not in ("http", "https") or not urlsplit(mirror).netloc:
                raise OptionError(f"{name} is {mirror!r}; expected a web address such as https://hf-mirror.com")
            return mirror + url.removeprefix(base)
    return url


# Opening a file on the web, from its beginning or from within, and telling what failed and whether it may pass.
#
# Proxies and certificates are the standard library's: HTTPS_PROXY, HTTP_PROXY, NO_PROXY, SSL_CERT_FILE, and on Windows
# and macOS the system's settings.

AGENT = "latentsync-nodes (model download)"
PASSING = {408, 425, 429, 500, 502, 503, 504}  # HTTP codes that another try may not meet
BROKEN = (OSError, http.client.HTTPException, EOFError)  # what reading from a connection may raise


class PassingError(Exception):
    """A fault that may be gone at the next try. pause: seconds that the server asks to wait, if it does."""

    def __init__(self, text: str, pause: float | None = None):
        super().__init__(text)
        self.pause = pause


class Offer(NamedTuple):
    """What a server sends: from ``start`` to ``total`` bytes (None if it does not say), of a file known by etag."""

    response: http.client.HTTPResponse
    start: int
    total: int | None
    etag: str | None


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects, but never from https to http; knows 308, which Python 3.10 does not."""

    def redirect_request(self, req, fp, code, msg, headers, newurl):
        target = urljoin(req.full_url, newurl)
        if urlsplit(target).scheme not in ("http", "https"):
            raise DownloadError(f"{req.full_url} leads to {target}, which is no web address. Nothing was fetched.")
        if urlsplit(req.full_url).scheme == "https" and urlsplit(target).scheme != "https":
            raise DownloadError(f"{req.full_url} leads to the unprotected {target}. Nothing was fetched.")
        return urllib.request.Request(target, headers=dict(req.header_items()), unverifiable=True)  # noqa: S310 (checked)

    http_error_308 = urllib.request.HTTPRedirectHandler.http_error_302


def open_source(url: str, start: int, etag: str | None, timeout: float) -> Offer:
    """Ask for the file from byte ``start`` on; the server may answer with the whole of it, or another one.

    etag: of what is there already: where it has changed, a server that follows the rules sends the whole file.
    Raises PassingError and DownloadError.
    """
    if urlsplit(url).scheme not in ("http", "https"):
        raise DownloadError(f"{url} is no web address; expected one that begins with https://")
    headers = {"User-Agent": AGENT, "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
        if etag and not etag.startswith("W/"):
            headers["If-Range"] = etag
    try:
        opener = urllib.request.build_opener(_Redirects)
        response = opener.open(urllib.request.Request(url, headers=headers), timeout=timeout)  # noqa: S310 (checked)
    except urllib.error.HTTPError as error:
        with error:
            _refuse(url, error.code, error.headers)
    except ValueError as error:
        raise DownloadError(f"{url} is no address that can be opened ({error}).") from error
    except DownloadError:
        raise
    except urllib.error.URLError as error:
        if isinstance(error.reason, ssl.SSLCertVerificationError):
            raise DownloadError(
                f"The certificate of {urlsplit(url).netloc} could not be checked ({error.reason.verify_message}). "
                "Behind a proxy that opens connections set SSL_CERT_FILE to its certificate; with python.org's Python "
                "on macOS run 'Install Certificates.command'."
            ) from error
        raise PassingError(f"no connection to {urlsplit(url).netloc} ({error.reason})") from error
    except BROKEN as error:
        raise PassingError(f"the connection to {urlsplit(url).netloc} broke ({_words(error)})") from error
    try:
        return _offer(url, response)
    except BaseException:
        response.close()
        raise


def _offer(url: str, response: http.client.HTTPResponse) -> Offer:
    headers, start, total = response.headers, 0, None
    if response.status == 206:
        found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", headers.get("Content-Range", "").strip())
        if not found:
            raise DownloadError(f"{url} was answered with an unreadable Content-Range. Try another mirror.")
        start = int(found[1])
        total = None if found[2] == "*" else int(found[2])
    elif headers.get("Content-Length", "").isdigit():
        total = int(headers["Content-Length"])
    if headers.get_content_type() == "text/html":
        raise DownloadError(
            f"{url} was answered with a web page instead of the file: a log-in page of the network, or a wrong mirror?"
        )
    return Offer(response, start, total, headers.get("ETag") or headers.get("Last-Modified"))


def _refuse(url: str, code: int, headers: Message) -> None:
    if code == 416:
        raise PassingError("the server has no more of the file: from the beginning")
    if code in PASSING:
        wait = headers.get("Retry-After", "")
        raise PassingError(f"the server answered HTTP {code}", float(wait) if wait.isdigit() else None)
    if code in (404, 410):
        text = "the file is not there: the address has moved, or the mirror does not have it"
    elif code in (401, 403, 451):
        text = "the server refuses it, perhaps for this network or country: try a mirror, or a proxy"
    elif code == 407:
        text = "the proxy wants a name and password: put them into HTTPS_PROXY"
    else:
        text = "an answer that was not expected"
    raise DownloadError(f"{url}: HTTP {code}, {text}.")


def _words(error: BaseException) -> str:
    return str(error) or type(error).__name__


# The file and its part

BLOCK = 1 << 18  # bytes
MARGIN = 50_000_000  # bytes that stay free on the disk
LONGEST_PAUSE = 60.0  # s


@dataclass(frozen=True)
class Patience:
    """When to give up: no byte for ``timeout`` s is a failure; so many failures in a row without ``gain`` new bytes."""

    timeout: float = 30.0
    failures: int = 5
    pause: float = 1.0  # s after the first failure, doubled after each
    gain: int = 1 << 20


USUAL = Patience()


class Part:
    """The file while it grows."""

    def __init__(self, target: Path):
        self.path = target.with_name(target.name + ".part")
        self.facts_path = target.with_name(target.name + ".part.json")

    def size(self) -> int:
        return self.path.stat().st_size if self.path.is_file() else 0

    def facts(self) -> dict:
        """url, etag and total of what is there; {} where that cannot be told."""
        try:
            facts = json.loads(self.facts_path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            return {}
        return facts if isinstance(facts, dict) else {}

    def begin(self, url: str, offer: Offer) -> None:
        """Empty, and of the offered version. The old bytes go first: they never stand beside new facts."""
        self.path.open("wb").close()
        text = json.dumps({"url": url, "etag": offer.etag, "total": offer.total})
        draft = self.facts_path.with_name(self.facts_path.name + ".part")
        draft.write_text(text, encoding="utf-8")
        os.replace(draft, self.facts_path)

    def discard(self) -> None:
        for path in (self.path, self.facts_path):
            with contextlib.suppress(FileNotFoundError):
                path.unlink()


def fetch(
    url: str,
    target: Path,
    *,
    size: int | None = None,
    sha256: str | None = None,
    patience: Patience = USUAL,
    on_bytes: Callable[[int, int | None], None] = lambda done, total: None,
    say: Callable[[str], None] = lambda text: None,
) -> str:
    """Fetch a file that nobody else is fetching (see `files.locked`); returns its SHA-256.

    size, sha256: what it must have; on_bytes: told how many bytes are there, and of how many; say: told of failures.
    Raises DownloadError, DamagedCheckpointError for the wrong content and OutputError; what is there is kept for the
    next time, wrong content is not.
    """
    part = Part(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if not _fits(part, url, size):
            part.discard()
        resumed = _receive_all(part, url, size, patience, on_bytes, say)
        found = sha256_of(part.path)
        if sha256 is not None and found != sha256 and resumed:
            say(f"{target.name}: its pieces do not make the right file; once more from the beginning")
            part.discard()
            _receive_all(part, url, size, patience, on_bytes, say)
            found = sha256_of(part.path)
        if sha256 is not None and found != sha256:
            part.discard()
            raise DamagedCheckpointError(
                f"{url} is not the file that was expected: its SHA-256 is {found}, expected {sha256}. It was deleted. "
                "Try another mirror; if it is the same there, the file was replaced by its authors or by somebody else."
            )
        os.replace(part.path, target)
        part.discard()
        return found
    except (DownloadError, DamagedCheckpointError, OutputError):
        raise
    except OSError as error:
        raise _write_error(part.path, error) from error


def _fits(part: Part, url: str, size: int | None) -> bool:
    """Whether what is there may be continued: from this address, known by a mark, and not longer than the file."""
    facts = part.facts()
    total = facts.get("total")
    return (
        facts.get("url") == url
        and bool(facts.get("etag"))
        and (size is None or total in (None, size))
        and (total is None or part.size() <= total)
    )


def _receive_all(part: Part, url: str, size: int | None, patience: Patience, on_bytes, say) -> bool:
    """Until the part is complete; returns whether it took more than one connection. Raises DownloadError."""
    failures, best, pieces = 0, part.size(), int(part.size() > 0)
    while True:
        try:
            pieces += 1
            _receive(part, url, size, patience.timeout, on_bytes)
            return pieces > 1
        except PassingError as error:
            gained, best = part.size() - best, max(best, part.size())
            failures = 1 if gained >= patience.gain else failures + 1
            if failures >= patience.failures:
                raise DownloadError(
                    f"{url}: {error}; given up after {failures} failures in a row. What has arrived "
                    f"({part.size():,} bytes) is kept: run the same command again to go on."
                ) from error
            pause = min(LONGEST_PAUSE, error.pause or patience.pause * 2 ** (failures - 1))
            say(f"{error}; trying again in {pause:.3g} s ({failures} of {patience.failures})")
            time.sleep(pause)


def _receive(part: Part, url: str, size: int | None, timeout: float, on_bytes) -> None:
    """One connection. Raises PassingError where another may help, DownloadError and OutputError."""
    facts = part.facts()
    have = part.size() if facts.get("etag") else 0  # nothing tells whether what is there is of the same version
    if have and have == facts.get("total"):
        return  # cut off between the last byte and the renaming
    try:
        offer = open_source(url, have, facts.get("etag") if have else None, timeout)
    except PassingError as error:
        if "from the beginning" in str(error):
            part.discard()
        raise
    with offer.response:
        if size is not None and offer.total is not None and offer.total != size:
            raise DownloadError(
                f"{url} has {offer.total:,} bytes, expected {size:,}: another file, or not the whole. Try a mirror."
            )
        if offer.start and (offer.start, offer.total, offer.etag) != (have, facts.get("total"), facts.get("etag")):
            part.discard()
            raise PassingError("the file has changed on the server: from the beginning")
        if not offer.start:
            part.begin(url, offer)
            have = 0
        _check_space(part.path, offer.total or size, have)
        total = offer.total if offer.total is not None else size
        with part.path.open("r+b") as file:
            file.seek(have)
            while True:
                try:
                    block = offer.response.read1(BLOCK)
                except BROKEN as error:
                    raise PassingError(f"the connection broke ({error or type(error).__name__})") from error
                if not block:
                    break
                file.write(block)
                have += len(block)
                on_bytes(have, total)
                if total is not None and have > total:
                    raise DownloadError(f"{url} sends more than its {total:,} bytes. Try a mirror.")
            file.flush()
            os.fsync(file.fileno())
        if total is None:
            raise DownloadError(f"{url}: the server does not say how long the file is, so it cannot be checked.")
        if have < total:
            raise PassingError(f"the connection was cut at {have:,} of {total:,} bytes")


def free_space(path: Path) -> int:
    """Bytes that are free where a file of that path would lie, whose folder need not exist."""
    folder = path.parent
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def _check_space(path: Path, total: int | None, have: int) -> None:
    needed = 0 if total is None else total - have + MARGIN
    if free_space(path) < needed:
        raise OutputError(
            f"{path.parent} has {free_space(path) / 1e9:.2f} GB free, {needed / 1e9:.2f} GB are needed "
            f"for {path.name.removesuffix('.part')}. Free some, or choose another folder."
        )


def _write_error(path: Path, error: OSError) -> OutputError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return OutputError(
            f"The disk is full: {path} could not be continued. Free some space, then run the same command again: it "
            "goes on from there."
        )
    return OutputError(f"{path} cannot be written ({error}). Check the folder's rights, or choose another.")
