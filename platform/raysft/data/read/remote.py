"""Opening input files: local ones directly, remote ones so that a failure or a stall in the middle is survived.

A remote read that fails is tried again, with exponential back-off and jitter, from the byte it had reached; after
too many failures in a row comes a StorageError. Also undoes compression. What the bytes mean is not known here.
"""

from __future__ import annotations

import bz2
import gzip
import io
import logging
import lzma
import os
import queue
import random
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, BinaryIO, TypeVar, cast

import pyarrow as pa

from raysft.data.read.resumed_file import ResumedFile
from raysft.data.read.web import is_web, open_web
from raysft.errors import DataError, RaysftError, StorageError, redacted
from raysft.storage import filesystem

logger = logging.getLogger(__name__)

T = TypeVar("T")

COMPRESSIONS = (".gz", ".bz2", ".xz", ".zst")
_BLOCK_BYTES = 1 << 20
_REMOTE_BLOCK_BYTES = 8 << 20  # one request: large beside the latency of an object store
_QUERY = re.compile(r"\?\w+=.*$")


@dataclass(frozen=True)
class RetryPolicy:
    """How long a remote file is tried. `attempts` counts failures without a byte of progress between them."""

    attempts: int = 8
    first_wait_s: float = 0.5
    longest_wait_s: float = 30.0
    answer_s: float = 60.0  # for a library that waits for ever


RETRY = RetryPolicy()
_FIRST_CONTACTS = 3
"""Tries to reach a place that nothing was read of yet: a name that is not known may be a typing error."""


def without_query(location: str) -> str:
    """`s3://bucket/key?region=...` without the options; a `?` of a glob stays."""
    if is_web(location):
        return re.split(r"[?#]", location, maxsplit=1)[0]
    return _QUERY.sub("", location) if "://" in location else location


def local_path(location: str) -> str | None:
    """The path of a local file; None: it is remote."""
    if "://" in location and not location.startswith("file://"):
        return None
    path: str = filesystem(location)[1]
    return path


def open_bytes(location: str) -> BinaryIO:
    """The file as it lies there, seekable. Raises OSError (local), DataError (it may not be read), StorageError."""
    path = local_path(location)
    if path is not None:
        try:
            return open(path, "rb", buffering=_BLOCK_BYTES)
        except PermissionError as error:
            raise unreadable(location, error) from error
    if is_web(location):
        return open_web(location, retried)
    return io.BufferedReader(_RemoteFile(location), _REMOTE_BLOCK_BYTES)


def unreadable(location: str, error: OSError) -> DataError:
    """A file or a folder that is there, and that this user may not look into."""
    return DataError(
        f"cannot read {location}",
        got=f"{error.strerror or error} (as user {os.geteuid()})",
        expected="a place that every node may read",
        fix=f"give the right to read it (`chmod a+r`, on folders `a+rx`), or take it out of the data: {location}",
    )


def compression(location: str) -> str:
    """`.gz`, `.bz2`, `.xz`, `.zst` or nothing; the file's name may write it in capitals."""
    return next((suffix for suffix in COMPRESSIONS if without_query(location).lower().endswith(suffix)), "")


def open_text_bytes(location: str) -> BinaryIO:
    """The content, decompressed. A truncated file raises EOFError or OSError in the middle."""
    raw = open_bytes(location)
    suffix = compression(location)
    if suffix == ".gz":
        return cast(BinaryIO, io.BufferedReader(gzip.GzipFile(fileobj=raw), _BLOCK_BYTES))
    if suffix == ".bz2":
        return cast(BinaryIO, bz2.BZ2File(raw))
    if suffix == ".xz":
        return cast(BinaryIO, lzma.LZMAFile(raw))
    if suffix == ".zst":
        return cast(BinaryIO, pa.CompressedInputStream(pa.PythonFile(raw, mode="r"), "zstd"))
    return raw


def retried(action: Callable[[], T], location: str, *, is_first: bool = False, answer_s: float | None = None) -> T:
    """The action's result, tried again as RETRY says. Raises StorageError; what is surely final as it is.

    is_first: nothing was read of the place yet, so that one which cannot be reached at all is given up soon.
    answer_s: how long one try may take, instead of RETRY's.
    """
    retry, start = RETRY, time.monotonic()
    for attempt in range(1, retry.attempts + 1):
        try:
            return _in_time(action, answer_s or retry.answer_s)
        except (RaysftError, FileNotFoundError, NotADirectoryError, PermissionError):
            raise
        except Exception as error:  # what an fsspec backend raises is its own: aiohttp's, httpx's, botocore's...
            gives_up = is_first and (
                isinstance(error, ValueError) or (attempt >= _FIRST_CONTACTS and _is_unreachable(error))
            )
            if attempt == retry.attempts or gives_up or _is_final(error):
                text = " ".join(redacted(str(error)).split())[:300]
                raise StorageError(
                    f"cannot read {location}",
                    got=f"{type(error).__name__}: {text} ({attempt} attempts in {time.monotonic() - start:.0f} s)",
                    expected="a file that this machine can reach",
                    fix=_fix(location, error),
                ) from error
            wait = min(retry.first_wait_s * 2 ** (attempt - 1), retry.longest_wait_s) * random.uniform(0.5, 1)
            text = " ".join(redacted(str(error)).split())[:200]
            logger.warning("%s: %s; attempt %d in %.1f s", redacted(location), text, attempt + 1, wait)
            time.sleep(wait)
    raise AssertionError("unreachable")


def _in_time(action: Callable[[], T], seconds: float) -> T:
    """The action in a thread of its own, so that one that hangs can be left behind."""
    answers: queue.SimpleQueue[tuple[Any, BaseException | None]] = queue.SimpleQueue()

    def work() -> None:
        try:
            answers.put((action(), None))
        except BaseException as error:
            answers.put((None, error))

    threading.Thread(target=work, daemon=True).start()
    try:
        answer, error = answers.get(timeout=seconds)
    except queue.Empty:
        raise TimeoutError(f"no answer in {seconds:g} s") from None
    if error is not None:
        raise error
    return cast(T, answer)


def _is_final(error: Exception) -> bool:
    return "ACCESS_DENIED" in str(error) or type(error).__name__ == "OfflineModeIsEnabled"


_UNREACHABLE = (
    *("name resolution", "Name or service not known", "getaddrinfo", "resolve host", "refused", "unreachable"),
    *("No route", "NETWORK_CONNECTION"),
)


def _is_unreachable(error: Exception) -> bool:
    """Was there nobody to talk to? Libraries wrap what the system says in errors of their own."""
    return any(text in str(error) for text in _UNREACHABLE)


def _fix(location: str, error: Exception) -> str:
    if type(error).__name__ == "OfflineModeIsEnabled":
        return "unset HF_HUB_OFFLINE, or fetch the files first (`hf download`) and name the local folder"
    return f"check the address, the credentials and the network of every node for {location.split('://')[0]}://"


class _RemoteFile(ResumedFile):
    """A remote file that is opened anew after a failure and read on from the same byte."""

    def __init__(self, location: str) -> None:
        # Made once: pyarrow cannot make another for S3 while a read of this process hangs.
        self._fs, self._path = filesystem(location)
        self._file: Any = None
        super().__init__(location, retried(self._measure, location), retried)

    def _open(self) -> Any:
        return self._fs.open_input_file(self._path)

    def _measure(self) -> int:
        self._file = self._open()
        return int(self._file.size())

    def _read(self, count: int) -> bytes:
        file, self._file = self._file or self._open(), None  # after a failure nobody uses it again
        if file.size() != self._size:
            raise self._changed(f"{file.size():,} bytes", f"{self._size:,} bytes")
        data = bytes(file.read_at(count, self._position))
        if not data:
            raise self._nothing()
        self._file = file
        return data
