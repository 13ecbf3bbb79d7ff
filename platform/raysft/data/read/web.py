"""Files at web addresses (`http://`, `https://`): size, checksum and bytes, by GET alone.

GET alone because an address that was signed for one method refuses others. A server that sends any range is read
from the byte that was reached; one that sends whole files only has its file copied to a temporary one first. A
redirect is followed.
"""

from __future__ import annotations

import base64
import io
import shutil
import tempfile
import urllib.error
import urllib.request
from contextlib import ExitStack
from dataclasses import dataclass
from http.client import HTTPResponse, InvalidURL
from typing import BinaryIO, cast
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from raysft.data.read.resumed_file import ResumedFile, Retried
from raysft.errors import DataError

_ANSWER_S = 30.0
_FINAL = (400, 401, 403, 404, 405, 410, 451)
"""Answers that no patience changes."""

_COPY_S = 24 * 3600.0


@dataclass(frozen=True)
class WebFile:
    """What a server says of a file."""

    num_bytes: int | None
    """None: only reading it tells."""
    tag: str
    """Its ETag; empty: it has none."""
    changed: str
    """When it was changed, as HTTP writes it; empty: the server does not say."""
    sends_ranges: bool


def is_web(location: str) -> bool:
    """Is it an address of the web?"""
    return location.lower().startswith(("http://", "https://"))


def look(location: str) -> WebFile:
    """Ask for the first byte. Raises DataError or StorageError where asking again is of no use, else OSError."""
    try:
        with _get(location, 0, 0) as answer:
            return _described(answer)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # no first byte
            return WebFile(0, error.headers.get("ETag", ""), "", True)
        raise


def _described(answer: HTTPResponse) -> WebFile:
    headers, sends_ranges = answer.headers, answer.status == 206
    size = headers.get("Content-Range", "").rpartition("/")[2] if sends_ranges else headers.get("Content-Length", "")
    known = int(size) if size.isdecimal() else None
    return WebFile(
        known, headers.get("ETag", ""), headers.get("Last-Modified", ""), sends_ranges and known is not None
    )


def open_web(location: str, retried: Retried) -> BinaryIO:
    """The bytes, seekable; `retried(action, location)` tries an action again."""
    found: WebFile = retried(lambda: look(location), location)
    if found.sends_ranges:
        return io.BufferedReader(_Ranges(location, found, retried), 1 << 20)
    return cast(BinaryIO, retried(lambda: _copied(location, found), location, answer_s=_COPY_S))


def _copied(location: str, found: WebFile) -> BinaryIO:
    """The whole file in a temporary one without a name."""
    with ExitStack() as stack:
        copy = stack.enter_context(tempfile.TemporaryFile())
        with _get(location) as answer:
            shutil.copyfileobj(answer, copy, 1 << 20)
        if found.num_bytes is not None and copy.tell() != found.num_bytes:
            raise OSError(f"the answer ended after {copy.tell():,} of {found.num_bytes:,} bytes")
        copy.seek(0)
        stack.pop_all()  # it is the caller's now
    return cast(BinaryIO, copy)


def _get(location: str, start: int | None = None, last: int | None = None) -> HTTPResponse:
    try:
        request = _request(location)
        if start is not None:
            request.add_header("Range", f"bytes={start}-{'' if last is None else last}")
        return cast(HTTPResponse, urllib.request.urlopen(request, timeout=_ANSWER_S))
    except urllib.error.HTTPError as error:
        if error.code in _FINAL:
            raise DataError(
                f"cannot read {location}",
                got=f"{error.code} {error.reason}",
                expected="an address of one file that anybody with it may read",
                fix="check the address and whether it has expired; hf://, s3:// and gs:// take credentials",
            ) from error
        raise
    except (ValueError, InvalidURL) as error:
        raise DataError(
            f"cannot read {location}",
            got=f"no address of the web ({type(error).__name__})",
            expected="https://host/path, its login and its query with %XX for what is special",
            fix="correct the address",
        ) from error


def _request(location: str) -> urllib.request.Request:
    """A login in the address goes into a header, which does not follow to where the server sends us on."""
    parts = urlsplit(quote(location.split("#")[0], safe="%/:?[]@!$&'()*+,;=~"))
    login, at, host = parts.netloc.rpartition("@")
    request = urllib.request.Request(
        urlunsplit(parts._replace(netloc=host)), headers={"User-Agent": "raysft", "Accept-Encoding": "identity"}
    )
    if at:
        word = base64.b64encode(unquote(login).encode()).decode()
        request.add_unredirected_header("Authorization", f"Basic {word}")
    return request


class _Ranges(ResumedFile):
    """A file that is asked for again, after a failure, from the byte that was reached."""

    def __init__(self, location: str, found: WebFile, retried: Retried) -> None:
        super().__init__(location, found.num_bytes or 0, retried)
        self._found = found
        self._answer: HTTPResponse | None = None

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        before = self._position
        if super().seek(offset, whence) != before:
            self._hang_up()
        return self._position

    def close(self) -> None:
        self._hang_up()
        super().close()

    def _hang_up(self) -> None:
        if self._answer is not None:
            self._answer.close()
            self._answer = None

    def _read(self, count: int) -> bytes:
        answer, self._answer = self._answer or self._ask(), None  # after a failure nobody uses it again
        data = answer.read(count)
        if not data:
            raise self._nothing()
        self._answer = answer
        return data

    def _ask(self) -> HTTPResponse:
        answer = _get(self._location, self._position)
        now = _described(answer)
        if now != self._found:
            answer.close()
            raise self._changed(
                f"{now.num_bytes} bytes, {now.tag or now.changed}",
                f"{self._size} bytes, {self._found.tag or self._found.changed}",
            )
        return answer
