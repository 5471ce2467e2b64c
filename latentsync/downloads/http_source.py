"""Opening a file on the web, from its beginning or from within, and telling what failed and whether it may pass.

Proxies and certificates are the standard library's: HTTPS_PROXY, HTTP_PROXY, NO_PROXY, SSL_CERT_FILE, and on Windows
and macOS the system's settings.
"""

import http.client
import re
import ssl
import urllib.error
import urllib.request
from email.message import Message
from typing import NamedTuple
from urllib.parse import urljoin, urlsplit

from ..errors import DownloadError

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
