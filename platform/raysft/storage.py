"""Where bytes live: URIs, atomic writes and exclusive creation. Knows nothing of what is stored.

A location is an absolute URI or path string. Every write is atomic (a reader sees the old bytes, the new
bytes or nothing). `create_exclusive` is the primitive behind commit records: exactly one caller wins.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from pyarrow import fs as pafs

from raysft.errors import StorageError


def absolute(location: str) -> str:
    """A URI unchanged; a path made absolute (Ray Train workers change directory)."""
    return location if "://" in location else str(Path(location).expanduser().absolute())


def join(location: str, *parts: str) -> str:
    """Append path parts to a location."""
    return "/".join([location.rstrip("/"), *parts])


def filesystem(location: str) -> tuple[pafs.FileSystem, str]:
    """(filesystem, path inside it). `s3://`, `gs://`, `hdfs://` by pyarrow, other schemes by fsspec."""
    if "://" not in location:
        return pafs.LocalFileSystem(), absolute(location)
    scheme = location.split("://", 1)[0]
    try:
        if scheme in ("file", "s3", "gs", "gcs", "hdfs", "abfs", "abfss"):
            found: tuple[pafs.FileSystem, str] = pafs.FileSystem.from_uri(location)
            return found
        import fsspec

        handler = pafs.FSSpecHandler(fsspec.filesystem(scheme))
        return pafs.PyFileSystem(handler), location.split("://", 1)[1]
    except (ValueError, TypeError, ImportError, OSError) as error:  # TypeError: a scheme that needs more than a path
        raise StorageError(
            f"cannot open the storage location {location!r}",
            got=str(error),
            expected="a local path, s3://, gs://, or a scheme that fsspec knows",
            fix="check the scheme and the network of this machine; install the package it names",
        ) from error


def exists(location: str) -> bool:
    """Is there a file or a directory?"""
    fs, path = filesystem(location)
    return bool(fs.get_file_info(path).type != pafs.FileType.NotFound)


def modified_at(location: str) -> float | None:
    """When a file was last written, in Unix time; None: there is none, or the store does not tell."""
    filesystem_, path = filesystem(location)
    changed = filesystem_.get_file_info(path).mtime
    return changed.timestamp() if changed is not None else None


def list_names(location: str) -> list[str]:
    """Sorted names directly under a directory; [] when it does not exist, or is none."""
    fs, path = filesystem(location)
    if isinstance(fs, pafs.LocalFileSystem):  # pyarrow's listing fails when a file vanishes while it looks
        try:
            return sorted(os.listdir(path))
        except (FileNotFoundError, NotADirectoryError):
            return []
    infos = fs.get_file_info(pafs.FileSelector(path, allow_not_found=True))
    return sorted(info.base_name for info in infos)


def read_bytes(location: str) -> bytes:
    """The whole file. Raises FileNotFoundError."""
    fs, path = filesystem(location)
    with fs.open_input_stream(path, compression=None) as stream:
        return bytes(stream.read())


def read_blocks(location: str, block_bytes: int = 16 << 20) -> Iterator[bytes]:
    """The whole file, block by block. Raises FileNotFoundError."""
    fs, path = filesystem(location)
    with fs.open_input_stream(path, compression=None) as stream:
        while block := stream.read(block_bytes):
            yield block


class RandomReader(Protocol):
    """An open file of which any part can be read."""

    def read_at(self, nbytes: int, offset: int) -> bytes: ...

    def close(self) -> None: ...


def open_random(location: str) -> RandomReader:
    """Open a file for reading parts of it. Raises FileNotFoundError."""
    fs, path = filesystem(location)
    reader: RandomReader = fs.open_input_file(path)
    return reader


def size_and_sha256(location: str) -> tuple[int, str]:
    """A file's bytes, counted and summed without being held. Raises FileNotFoundError."""
    size, checksum = 0, hashlib.sha256()
    for block in read_blocks(location):
        size += len(block)
        checksum.update(block)
    return size, checksum.hexdigest()


def read_json(location: str) -> Any:
    """A JSON file's content. Raises FileNotFoundError, json.JSONDecodeError."""
    return json.loads(read_bytes(location))


def read_lines(location: str) -> Iterator[str]:
    """Complete lines of a text file; an unfinished last line (a writer died in it) is left out."""
    text = read_bytes(location).decode("utf-8", errors="replace")
    complete, _, _ = text.rpartition("\n")
    return iter(complete.split("\n") if complete else [])


def read_json_lines(location: str) -> Iterator[Any]:
    """Values of a file of JSON lines."""
    return (json.loads(line) for line in read_lines(location))


def write_bytes(location: str, data: bytes) -> None:
    """Write atomically, replacing what is there; parent directories are made."""
    fs, path = filesystem(location)
    try:
        if not isinstance(fs, pafs.LocalFileSystem):
            with fs.open_output_stream(path) as stream:  # object stores publish on close
                stream.write(data)
            return
        temporary = _write_temporary(Path(path), data)
        os.replace(temporary, path)
        _sync_directory(Path(path).parent)
    except OSError as error:
        raise cannot_write(location, error) from error


@contextmanager
def write_stream(location: str) -> Iterator[BinaryIO]:
    """A stream whose bytes appear at `location` when the block ends well (locally: only then)."""
    fs, path = filesystem(location)
    try:
        if not isinstance(fs, pafs.LocalFileSystem):
            with fs.open_output_stream(path) as stream:
                yield stream
            return
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=Path(path).parent, prefix=f".{Path(path).name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
            _sync_directory(Path(path).parent)
        except BaseException:
            os.unlink(temporary)
            raise
    except OSError as error:
        raise cannot_write(location, error) from error


def write_json(location: str, value: Any) -> None:
    """Write JSON atomically."""
    write_bytes(location, (json.dumps(value, indent=1, sort_keys=True) + "\n").encode())


def create_exclusive(location: str, value: Any) -> bool:
    """Create a JSON file only if nothing is there. True: this caller made it. Whole or absent, never torn.

    Locally a hard link, which the kernel makes for one caller only (Windows and some FUSE mounts lack it).
    """
    data = (json.dumps(value, indent=1, sort_keys=True) + "\n").encode()
    fs, path = filesystem(location)
    if not isinstance(fs, pafs.LocalFileSystem):
        return _create_exclusive_remote(location, data)
    try:
        temporary = _write_temporary(Path(path), data)
        try:
            os.link(temporary, path)
        except FileExistsError:
            return False
        finally:
            os.unlink(temporary)
        _sync_directory(Path(path).parent)
    except OSError as error:
        raise cannot_write(location, error) from error
    return True


def _create_exclusive_remote(location: str, data: bytes) -> bool:
    """fsspec's mode `xb`: a conditional PUT where the store has one (s3fs, gcsfs, memory)."""
    import fsspec

    try:
        with fsspec.open(location, "xb") as stream:
            stream.write(data)
    except FileExistsError:
        return False
    except Exception as error:  # boundary: each library behind fsspec has errors of its own
        raise cannot_write(location, error) from error
    return True


def is_directory(location: str) -> bool:
    """Is it a directory, or a link to one?"""
    fs, path = filesystem(location)
    return bool(fs.get_file_info(path).type == pafs.FileType.Directory)


def is_link(location: str) -> bool:
    """Is it a symbolic link? Object stores have none."""
    fs, path = filesystem(location)
    return isinstance(fs, pafs.LocalFileSystem) and os.path.islink(path)


def remove_tree(location: str) -> None:
    """Delete a directory with everything in it, or a file; nothing when it is absent, or vanishes meanwhile.

    Of a link the link itself, never what it leads to.
    """
    fs, path = filesystem(location)
    if is_link(location):
        with suppress(FileNotFoundError):
            os.unlink(path)
        return
    kind = fs.get_file_info(path).type
    with suppress(FileNotFoundError):
        if kind == pafs.FileType.File:
            fs.delete_file(path)
        elif kind == pafs.FileType.Directory and isinstance(fs, pafs.LocalFileSystem):
            shutil.rmtree(path, onerror=_unless_absent)
        elif kind == pafs.FileType.Directory:
            fs.delete_dir(path)


def _unless_absent(_function: object, _path: str, raised: tuple[Any, BaseException, Any]) -> None:
    """For shutil.rmtree: somebody else deletes the same tree."""
    if not isinstance(raised[1], FileNotFoundError):
        raise raised[1]


def check_writable(location: str) -> None:
    """Write and delete a probe file. Raises StorageError: better now than after hours of training."""
    probe = join(location, f".raysft-probe-{secrets.token_hex(8)}")
    write_bytes(probe, b"probe")
    remove_tree(probe)


def _write_temporary(target: Path, data: bytes) -> str:
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(temporary, 0o644)
    except OSError:
        os.unlink(temporary)
        raise
    return temporary


def _sync_directory(directory: Path) -> None:
    """A rename is durable only when its directory is."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def cannot_write(location: str, error: Exception) -> StorageError:
    """The error of a write that failed."""
    return StorageError(
        f"cannot write {location}",
        got=f"{type(error).__name__}: {error}",
        expected="a place this process may write to, with space left",
        fix="set `storage` to a writable directory or URI that every node sees",
    )
