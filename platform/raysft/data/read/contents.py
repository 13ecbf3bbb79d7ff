"""What the bytes of input files are, and whether they still are what they were. No Ray.

The hash of a file is kept while nothing of its stamp changes: inode, size, time of writing and time of change, the
last of which no program can set (`touch -d`, tar and rsync -t set the others); of a remote file size, time and
checksum (ETag). A file that was changed within two seconds of being hashed has a stamp that proves nothing: it is
hashed again. Hashing costs 0.8 s a GiB and core (measured with SHA instructions), a kept hash one stat().
"""

from __future__ import annotations

import hashlib
import logging
import os
import stat
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from email.utils import parsedate_to_datetime
from typing import Any

from pyarrow import fs as pafs

from raysft import sealed
from raysft.data.read.remote import local_path, open_bytes, retried
from raysft.data.read.sources import SourceFile
from raysft.data.read.web import is_web, look
from raysft.errors import DataError, StorageError, redacted
from raysft.storage import filesystem

logger = logging.getLogger(__name__)

_SETTLED_S = 2.0
"""A change soon after another may leave the same time stamp: file systems count time in steps of up to that."""
_CACHE_VERSION = 2
_ASKERS = 16  # threads: remote storages answer slowly


@dataclass(frozen=True)
class FileContent:
    """The bytes of a file at the moment when they were hashed."""

    sha256: str
    stamp: str
    """What changes with the file; empty: its storage tells nothing."""
    is_settled: bool
    """As long as the stamp is the same, so are the bytes."""


Mapper = Callable[[Callable[[SourceFile], FileContent], Sequence[SourceFile]], Iterable[FileContent]]


def content(file: SourceFile) -> FileContent:
    """Read and hash a file. Raises DataError where it changes meanwhile."""
    started = time.time()
    digest = hashlib.sha256()
    try:
        before, changed_at = _stamp(file)
        with open_bytes(file.location) as stream:
            while block := stream.read(1 << 22):
                digest.update(block)
        after = _stamp(file)[0]
    except FileNotFoundError as error:
        raise _changed(file) from error
    if after != before:
        raise _changed(file)
    return FileContent(digest.hexdigest(), before, bool(before) and changed_at < started - _SETTLED_S)


def contents(
    files: Sequence[SourceFile], cache: str, map: Mapper = map, *, trusts_stores: bool = False
) -> list[FileContent]:
    """The content of every file; one whose stamp stands in the JSON file `cache` is not read again.

    `map` may work in parallel. A cache that is damaged is made anew. trusts_stores: the checksum that a remote store
    tells of a file stands for its bytes, which are not read then.
    """
    known = _read_cache(cache)
    with ThreadPoolExecutor(_ASKERS) as pool:
        stamps = pool.map(_known_stamp, files)
        found = {
            file.location: kept
            for file, stamp in zip(files, stamps, strict=True)
            if (kept := _kept(file, stamp, known, trusts_stores))
        }
    unknown = {file.location: file for file in files if file.location not in found}
    new = dict(zip(unknown, map(content, list(unknown.values())), strict=True))
    fresh = {_key(location): _entry(location, one) for location, one in new.items() if one.is_settled}
    if fresh:
        try:
            _write_cache(cache, {**known, **fresh})
        except StorageError as error:  # a storage that is read only may hold finished stores
            logger.warning("the hashes of the data cannot be kept: %s", error.got)
    return [(found | new)[file.location] for file in files]


def check_files_unchanged(files: Sequence[SourceFile], before: Sequence[FileContent]) -> None:
    """Raises DataError for a file that is not any more, or was not all the time, what it was when it was hashed."""
    with ThreadPoolExecutor(_ASKERS) as pool:
        for _ in pool.map(_check_unchanged, files, before):
            pass


def _check_unchanged(file: SourceFile, before: FileContent) -> None:
    now = check_stamp(file, before)
    is_proven = before.is_settled and now == before.stamp
    if not is_proven and content(file).sha256 != before.sha256:
        raise _changed(file)


def check_stamp(file: SourceFile, before: FileContent) -> str:
    """The file's stamp. Raises DataError where it was written to since; blind to the two seconds before the hash."""
    now = _known_stamp(file)
    if not _same_writing(now, before.stamp):
        raise _changed(file)
    return now


def _known_stamp(file: SourceFile) -> str:
    """The stamp of a file that was there when it was listed."""
    try:
        return _stamp(file)[0]
    except FileNotFoundError as error:
        raise _changed(file) from error


def _same_writing(now: str, then: str) -> bool:
    """Is all but the time of change the same? That changes with names and permissions, too."""
    return [part for part in now.split() if not part.startswith("changed:")] == [
        part for part in then.split() if not part.startswith("changed:")
    ]


def _stamp(file: SourceFile) -> tuple[str, float]:
    """(what changes with the file, seconds since 1970 of its last change; 0: a checksum tells of every change)."""
    path = local_path(file.location)
    if path is not None:
        found = os.stat(path)
        if not stat.S_ISREG(found.st_mode):
            raise DataError(
                f"{file.location} is no regular file",
                got=stat.filemode(found.st_mode),
                expected="a file that can be read more than once",
                fix="write its content into a file",
            )
        times = f"written:{found.st_mtime_ns} changed:{found.st_ctime_ns}"
        return f"{found.st_size} inode:{found.st_ino} {times}", max(found.st_mtime, found.st_ctime)
    if is_web(file.location):
        web = retried(lambda: look(file.location), file.location)
        if web.tag:
            return f"{web.num_bytes} checksum:{web.tag}", 0.0
        return (f"{web.num_bytes} written:{web.changed}", _seconds(web.changed)) if web.changed else ("", 0.0)
    fs, inside = filesystem(file.location)
    info = retried(lambda: fs.get_file_info(inside), file.location)
    tag = retried(lambda: _checksum(fs, inside), file.location)
    if tag:
        return f"{info.size} checksum:{tag}", 0.0
    return (f"{info.size} written:{info.mtime_ns}", info.mtime_ns / 1e9) if info.mtime_ns else ("", 0.0)


def _checksum(fs: pafs.FileSystem, path: str) -> str:
    """What a remote store says of a file's content without sending it: an ETag or a hash; empty: nothing."""
    if isinstance(fs, pafs.PyFileSystem):
        fs.handler.fs.invalidate_cache()
        said = fs.handler.fs.info(path)
        return next((str(said[name]) for name in _CHECKSUMS if said.get(name)), "")
    with fs.open_input_stream(path, compression=None) as stream:
        return str(stream.metadata().get("ETag", ""))


_CHECKSUMS = ("ETag", "etag", "md5Hash", "content_md5", "lfs", "blob_id", "checksum")
"""What libraries behind fsspec call it."""


def _seconds(http_date: str) -> float:
    try:
        return parsedate_to_datetime(http_date).timestamp()
    except ValueError:
        return time.time()  # of no use as a proof


def _changed(file: SourceFile) -> DataError:
    return DataError(
        f"{file.location} changed while it was read",
        got="other bytes, or another time of writing, than when it was first read",
        expected="files that nobody writes to; nothing of what was made of them is kept",
        fix="let the writer finish (or copy the file), then run the same command again",
    )


def _kept(file: SourceFile, stamp: str, known: dict[str, Any], trusts_stores: bool) -> FileContent | None:
    """What is known of a file without reading it."""
    if trusts_stores and " checksum:" in stamp:  # whatever the cache holds: the fingerprint shall not depend on it
        return FileContent(hashlib.sha256(stamp.encode()).hexdigest(), stamp, True)
    entry = known.get(_key(file.location))
    if entry is not None and stamp and entry["stamp"] == stamp:
        return FileContent(entry["sha256"], stamp, True)
    return None


def _key(location: str) -> str:
    """Addresses may hold secrets, and the cache lies open."""
    return hashlib.sha256(location.encode(errors="surrogatepass")).hexdigest()[:32]


def _entry(location: str, one: FileContent) -> dict[str, Any]:
    return {
        "file": redacted(location),
        **{name: value for name, value in asdict(one).items() if name != "is_settled"},
    }


def _read_cache(cache: str) -> dict[str, Any]:
    """Entries by _key; none where the file is absent, damaged or of another version."""
    try:
        stored = sealed.read(cache, {"version": int, "files": dict, "sha256": str})
    except OSError:  # a storage that is away costs the hashing of everything
        return {}
    return dict(stored["files"]) if stored and stored["version"] == _CACHE_VERSION else {}


def _write_cache(cache: str, files: dict[str, Any]) -> None:
    sealed.write(cache, {"version": _CACHE_VERSION, "files": files})
