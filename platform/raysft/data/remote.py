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
import queue
import random
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, BinaryIO, TypeVar, cast

import pyarrow as pa

from raysft.errors import RaysftError, StorageError
from raysft.storage import filesystem

logger = logging.getLogger(__name__)

T = TypeVar("T")

COMPRESSIONS = (".gz", ".bz2", ".xz", ".zst")
_BLOCK_BYTES = 1 << 20
_REMOTE_BLOCK_BYTES = 8 << 20  # one request: large beside the latency of an object store
_QUERY = re.compile(r"\?\w+=.*$")


@dataclass(frozen=True)
class Retry:
    """How long a remote file is tried. `attempts` counts failures without a byte of progress between them."""

    attempts: int = 8
    first_wait_s: float = 0.5
    longest_wait_s: float = 30.0
    answer_s: float = 60.0  # for a library that waits for ever


RETRY = Retry()


def without_query(location: str) -> str:
    """`s3://bucket/key?region=...` without the options; a `?` of a glob stays."""
    return _QUERY.sub("", location) if "://" in location else location


def local_path(location: str) -> str | None:
    """The path of a local file; None: it is remote."""
    if "://" in location and not location.startswith("file://"):
        return None
    path: str = filesystem(location)[1]
    return path


def open_bytes(location: str) -> BinaryIO:
    """The file as it lies there, seekable. Raises OSError (local) or StorageError (remote)."""
    path = local_path(location)
    if path is not None:
        return open(path, "rb", buffering=_BLOCK_BYTES)
    return io.BufferedReader(_RemoteFile(location), _REMOTE_BLOCK_BYTES)


def compression(location: str) -> str:
    """`.gz`, `.bz2`, `.xz`, `.zst` or nothing."""
    return next((suffix for suffix in COMPRESSIONS if without_query(location).endswith(suffix)), "")


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


def retried(action: Callable[[], T], location: str) -> T:
    """The action's result, tried again as RETRY says. Raises StorageError; what is surely final as it is."""
    retry, start = RETRY, time.monotonic()
    for attempt in range(1, retry.attempts + 1):
        try:
            return _in_time(action, retry.answer_s)
        except (RaysftError, FileNotFoundError, PermissionError):
            raise
        except Exception as error:  # what an fsspec backend raises is its own: aiohttp's, httpx's, botocore's...
            if attempt == retry.attempts or _is_final(error):
                raise StorageError(
                    f"cannot read {location}",
                    got=f"{type(error).__name__}: {error} ({attempt} attempts in {time.monotonic() - start:.0f} s)",
                    expected="a file that this machine can reach",
                    fix=_fix(location, error),
                ) from error
            wait = min(retry.first_wait_s * 2 ** (attempt - 1), retry.longest_wait_s) * random.uniform(0.5, 1)
            logger.warning("%s: %s; attempt %d in %.1f s", location, error, attempt + 1, wait)
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


def _fix(location: str, error: Exception) -> str:
    if type(error).__name__ == "OfflineModeIsEnabled":
        return "unset HF_HUB_OFFLINE, or fetch the files first (`hf download`) and name the local folder"
    return f"check the address, the credentials and the network of every node for {location.split('://')[0]}://"


class _RemoteFile(io.RawIOBase):
    """A remote file that is opened anew after a failure and read on from the same byte."""

    def __init__(self, location: str) -> None:
        self._location, self._position = location, 0
        # Made once: pyarrow cannot make another for S3 while a read of this process hangs.
        self._fs, self._path = filesystem(location)
        self._file: Any = None
        self._size: int = retried(self._measure, location)

    def readinto(self, buffer: Any) -> int:
        wanted = min(len(buffer), self._size - self._position)
        if wanted <= 0:
            return 0
        data = retried(lambda: self._read(wanted), self._location)
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = base + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def _open(self) -> Any:
        return self._fs.open_input_file(self._path)

    def _measure(self) -> int:
        self._file = self._open()
        return int(self._file.size())

    def _read(self, count: int) -> bytes:
        file, self._file = self._file or self._open(), None  # after a failure nobody uses it again
        if file.size() != self._size:
            raise StorageError(
                f"{self._location} changed while it was read",
                got=f"{file.size():,} bytes",
                expected=f"{self._size:,} bytes, as at first",
                fix="let the writer finish, then start again",
            )
        data = bytes(file.read_at(count, self._position))
        if not data:
            raise OSError(f"no bytes at {self._position:,} of {self._size:,}")
        self._file = file
        return data
