r"""Fetch one file over HTTP, whole and right, or not at all.

A file grows under `NAME.part` and gets its name only when its length and its SHA-256 are right. A lost connection is
resumed where it stopped, in the same call and, after a kill, in the next one. Proxies come from the environment
(`https_proxy`, `no_proxy`), as urllib reads them.

>>> short_size(15_615_292), clean("MIT\x1b[2J")
('15.6 MB', 'MIT?[2J')
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import os
import re
import shutil
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from typing import Any

from codec.errors import ModelError
from codec.files import describe_os_error

Progress = Callable[[str, int, int | None], None]  # file name, bytes so far, bytes in all where known

CHUNK = 1 << 18  # bytes
TIMEOUT = 30.0  # seconds without a byte
ATTEMPTS = 4  # tries in a row that bring no new byte
PAUSE = 0.5  # seconds before the second try; doubled each time
MOST_BYTES = 64 << 30  # of one file; a server's word is no reason to fill a disk
HUB_ERRORS = {
    "RepoNotFound": "no such repository, or one that needs a token; check the name, or set HF_TOKEN",
    "RevisionNotFound": "the repository has no such revision; check the part after @",
    "EntryNotFound": "the repository has no such file at this revision; it may not be a model of this kind",
    "GatedRepo": "its owner asks for consent first; give it on the hub's page, then set HF_TOKEN",
}
ANSWERS = {
    401: "needs a login; set HF_TOKEN to a token that may read it",
    403: "access refused; check your rights, or the proxy",
    404: "not found; check the address",
    410: "gone; check the address",
}
TRY_AGAIN = (408, 425, 429, 500, 502, 503, 504)


class LostConnectionError(ModelError):
    """The network went away; what came so far stays, and the next call goes on there."""


class MissingFileError(ModelError):
    """The server has no such file."""


class _TryAgainError(Exception):
    """One try failed in a way that another may not."""

    def __init__(self, error: ModelError, *, pause: float = 0.0, restart: bool = False) -> None:
        super().__init__(str(error))
        self.error, self.pause, self.restart = error, pause, restart


@dataclass(frozen=True)
class Wanted:
    """One file to fetch."""

    url: str
    sha256: str | None = None  # expected, hex; its first digits where no more are stated, None where nobody states it
    token: str | None = None  # sent to the url's own host, never to where it redirects
    limit: int = MOST_BYTES  # bytes; more is refused

    @property
    def name(self) -> str:
        """For messages: the address without its question mark part, where secrets may stand."""
        return clean(self.url.partition("?")[0], 300)

    def is_wanted(self, sha256: str) -> bool:
        """Whether a file with this hash, whole and in hex, may be it."""
        return self.sha256 is None or sha256.startswith(self.sha256)


@dataclass(frozen=True)
class Fetched:
    """What came."""

    sha256: str
    size_bytes: int
    headers: tuple[Message, ...]  # of every answer on the way; empty where the file was here already

    def header(self, name: str) -> str | None:
        """The first answer's word on something, also a redirect's."""
        return next((headers[name] for headers in self.headers if headers[name]), None)


def fetch(wanted: Wanted, target: Path, progress: Progress | None = None) -> Fetched:
    """Fetch a file; one that is here with the right hash is kept.

    Args:
        wanted: what.
        target: where to; its folder is there, and nobody else writes into it.
        progress: called as bytes come.

    Raises:
        LostConnectionError: the network went away; `NAME.part` stays, so that the next call resumes.
        ModelError: anything else, in one line; nothing is left of this file.
    """
    if wanted.sha256 is not None and target.is_file() and wanted.is_wanted(found := _hash(target)):
        return Fetched(found, target.stat().st_size, ())
    part = target.with_name(f"{target.name}.part")
    try:
        with contextlib.suppress(FileNotFoundError):
            target.unlink()
        resumed = part.is_file() and part.stat().st_size > 0
        headers = _receive_patiently(wanted, part, progress)
        if resumed and not wanted.is_wanted(_hash(part)):
            _forget(part)  # the beginning may be of another file; once more from zero
            headers = _receive_patiently(wanted, part, progress)
        found = _hash(part)
        if not wanted.is_wanted(found):
            raise ModelError(
                f"{wanted.name}: wrong content: SHA-256 {found[:12]}, expected {str(wanted.sha256)[:12]}; "
                "the file was changed or damaged, do not use it"
            )
        size = part.stat().st_size
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(part, target)
        _forget(part)
        return Fetched(found, size, headers)
    except LostConnectionError:
        raise
    except ModelError:
        _forget(part)
        raise
    except OSError as failure:
        _forget(part)
        raise ModelError(f"{target}: cannot be written: {describe_os_error(failure)}") from None


def _receive_patiently(wanted: Wanted, part: Path, progress: Progress | None) -> tuple[Message, ...]:
    """Try until all is here, or `ATTEMPTS` tries in a row brought nothing new."""
    most, idle = _size(part), 0
    while True:
        try:
            return _receive(wanted, part, progress)
        except _TryAgainError as failed:
            if failed.restart:
                _forget(part)
            size = _size(part)
            idle = 0 if size > most else idle + 1
            most = max(most, size)
            if idle >= ATTEMPTS:
                raise failed.error from None
            time.sleep(max(failed.pause, PAUSE * 2**idle if idle else 0))


def _receive(wanted: Wanted, part: Path, progress: Progress | None) -> tuple[Message, ...]:
    """One request. Raises: _TryAgainError; ModelError."""
    asked, tag = _resume_point(wanted, part)
    trail: list[Message] = []
    with _open(wanted, asked, tag, trail) as response:
        trail.append(response.headers)
        start, total = _place(response, asked, wanted)
        _check_answer(response, total, wanted)
        if total is not None and shutil.disk_usage(part.parent).free < total - start:
            need = short_size(total - start)
            raise ModelError(f"{wanted.name}: no space left for its {need}; free some disk space and run again")
        _note(part).write_text(json.dumps({"url": wanted.url, "tag": _strong_tag(response.headers)}))
        with part.open("ab" if start else "wb") as file:
            for data in _pieces(response, wanted):
                if not file.tell() and _is_page(data):
                    raise _page(wanted)
                file.write(data)
                got = file.tell()
                if got > wanted.limit:
                    raise ModelError(f"{wanted.name}: larger than {short_size(wanted.limit)}; not what it should be")
                if progress is not None:
                    progress(part.name.removesuffix(".part"), got, total)
        got = _size(part)
    if total is not None and got != total:
        raise _TryAgainError(ModelError(f"{wanted.name}: truncated: {got} of {total} bytes came; try again later"))
    return tuple(trail)


def _pieces(response: Any, wanted: Wanted) -> Iterator[bytes]:
    """The body, piece by piece. Raises: _TryAgainError: it breaks off."""
    while True:
        try:
            data = response.read(CHUNK)
        except http.client.IncompleteRead:
            raise _TryAgainError(
                ModelError(f"{wanted.name}: truncated: the server broke off; try again later")
            ) from None
        except (OSError, http.client.HTTPException) as failure:
            raise _TryAgainError(_lost(wanted, failure)) from None
        if not data:
            return
        yield data


def _open(wanted: Wanted, start: int, tag: str | None, trail: list[Message]) -> Any:
    """The answer to a request. Raises: _TryAgainError; ModelError."""
    request = urllib.request.Request(wanted.url, headers={"User-Agent": "neural-codec", "Accept-Encoding": "identity"})
    if wanted.token:
        request.add_unredirected_header("Authorization", f"Bearer {wanted.token}")
    if start:
        request.add_header("Range", f"bytes={start}-")
        if tag:
            request.add_header("If-Range", tag)
    try:
        return urllib.request.build_opener(_Redirects(trail)).open(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        with error:
            raise _refusal(wanted, error) from None
    except urllib.error.URLError as error:
        if isinstance(error.reason, ssl.SSLCertVerificationError):
            raise ModelError(f"{wanted.name}: its certificate is not trusted ({clean(str(error.reason))})") from None
        raise _TryAgainError(_lost(wanted, error.reason)) from None
    except (OSError, http.client.HTTPException) as error:
        raise _TryAgainError(_lost(wanted, error)) from None
    except ValueError as error:
        raise ModelError(f"{wanted.name}: not an address ({clean(str(error))})") from None


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects, keeps what they said, and never from https to http."""

    def __init__(self, trail: list[Message]) -> None:
        self._trail = trail

    def redirect_request(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        self._trail.append(headers)
        if req.full_url.startswith("https:") and not newurl.startswith("https:"):
            raise ModelError(
                f"{clean(req.full_url.partition('?')[0], 300)}: redirects to an unsafe address; not followed"
            )
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _refusal(wanted: Wanted, error: urllib.error.HTTPError) -> Exception:
    """What an error answer means."""
    if error.code in TRY_AGAIN:
        wait = error.headers.get("Retry-After", "")
        answer = ModelError(f"{wanted.name}: the server answers {error.code}; try again later")
        return _TryAgainError(answer, pause=min(float(wait), TIMEOUT) if wait.isdigit() else 0.0)
    if error.code == 416:  # the range is past the end: what is here is of another file
        return _TryAgainError(
            ModelError(f"{wanted.name}: the server answers 416 to all requests; try again later"), restart=True
        )
    said = HUB_ERRORS.get(error.headers.get("X-Error-Code", ""))
    usual = "its redirects lead nowhere; check the address" if 300 <= error.code < 400 else "try again later"
    known = said or ANSWERS.get(error.code, usual)
    is_file_missing = error.code == 404 and error.headers.get("X-Error-Code") in (None, "EntryNotFound")
    return (MissingFileError if is_file_missing else ModelError)(
        f"{wanted.name}: the server answers {error.code}: {known}"
    )


def _place(response: Any, asked: int, wanted: Wanted) -> tuple[int, int | None]:
    """Where the answer begins in the file, and the file's length. Raises: _TryAgainError: another part."""
    length = response.headers.get("Content-Length", "")
    size = int(length) if length.isascii() and length.isdigit() else None
    if response.status == 200:
        return 0, size
    found = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", response.headers.get("Content-Range", ""))
    if response.status == 206 and found and int(found[1]) == asked:
        return asked, int(found[3])
    answer = ModelError(f"{wanted.name}: the server answers {response.status} with a wrong part; try again later")
    raise _TryAgainError(answer, restart=True)


def _check_answer(response: Any, total: int | None, wanted: Wanted) -> None:
    """Refuse what is no model's file, before a byte is written."""
    if response.headers.get_content_type() in ("text/html", "application/xhtml+xml"):
        raise _page(wanted)
    if total is None and wanted.sha256 is None and response.headers.get("Transfer-Encoding") is None:
        raise ModelError(f"{wanted.name}: the server states no length and there is no SHA-256; add #sha256=")
    if total is not None and total > wanted.limit:
        size = f"{short_size(total)}, at most {short_size(wanted.limit)} are expected"
        raise ModelError(f"{wanted.name}: too large: {size}; not what it should be")


def _resume_point(wanted: Wanted, part: Path) -> tuple[int, str | None]:
    """How many bytes are here, and the server's tag of them; 0 where nothing proves that they belong to this file."""
    try:
        note = json.loads(_note(part).read_text())
        tag, same = note["tag"], note["url"] == wanted.url
    except (OSError, ValueError, KeyError, TypeError):
        tag, same = None, False
    if same and (tag or wanted.sha256):
        return _size(part), tag
    _forget(part)
    return 0, None


def _strong_tag(headers: Message) -> str | None:
    """The ETag, where it may stand in If-Range. Source: RFC 9110, section 13.1.5."""
    tag = headers.get("ETag")
    return tag if tag and tag.startswith('"') else None


def _note(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _forget(part: Path) -> None:
    for path in (part, _note(part)):
        with contextlib.suppress(OSError):
            path.unlink()


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _is_page(data: bytes) -> bool:
    return data.lstrip()[:15].lower().startswith((b"<!doctype html", b"<html"))


def _page(wanted: Wanted) -> ModelError:
    return ModelError(
        f"{wanted.name}: the server sent a web page, not the file; check the address, the login, the proxy"
    )


def _lost(wanted: Wanted, failure: object) -> LostConnectionError:
    reason = f"no answer in {TIMEOUT:g} s" if isinstance(failure, TimeoutError) else clean(str(failure))
    return LostConnectionError(
        f"{wanted.name}: no connection ({reason or type(failure).__name__}); check the network and run again to go on"
    )


def clean(text: str, length: int = 100) -> str:
    """A stranger's text for the terminal: one line, no control characters, not long."""
    return "".join(char if char.isprintable() else "?" for char in text[:length])


def short_size(n_bytes: int) -> str:
    """`15.6 MB`."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if n_bytes >= size:
            return f"{n_bytes / size:.1f} {unit}"
    return f"{n_bytes} bytes"
