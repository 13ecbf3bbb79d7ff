"""The manifest of a token store, and whether the store's files still hold what it says.

A manifest carries its own sha256 and those of the files that training reads. What is damaged is named; `raysft
prepare` makes it anew, everybody else refuses it. What stands in a manifest is assemble.py, in other files parts.py.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import Any

from raysft import sealed
from raysft.data.read.remote import local_path, retried
from raysft.errors import DataError, StorageError
from raysft.recipe.columns import TARGET
from raysft.storage import filesystem, join, read_json

FORMAT_VERSION = 3
MANIFEST = "manifest.json"
PROMPTS = "prompts.jsonl"
REJECTS = "rejects.jsonl"
_FINGERPRINT = re.compile("[0-9a-f]{64}")
_BLOCK_BYTES = 8 << 20
CHECKERS = 8
"""Threads that compare files."""
_ANSWER_S = 3600.0  # for a whole part


def read_manifest(location: str) -> dict[str, Any] | None:
    """The manifest, or None: then there is no store, or one of another version, which is made anew.

    Raises DataError for one that is damaged or belongs to another store, StorageError for one that cannot be read.
    """
    path = join(location, MANIFEST)
    try:
        manifest = read_json(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise _away(path, error) from error
    except (ValueError, RecursionError) as error:
        raise damaged_store(path, f"{type(error).__name__}: {error}") from error
    if not isinstance(manifest, dict):
        raise damaged_store(path, "it is no manifest")
    if manifest.get("sha256") != sealed.checksum(manifest):
        if set(manifest) >= {"format_version", "parts"} and "sha256" not in manifest:
            return None  # what earlier versions wrote
        raise damaged_store(path, "it does not have its own sha256")
    name = location.rstrip("/").rpartition("/")[2]
    if _FINGERPRINT.fullmatch(name) and manifest.get("fingerprint") != name:
        raise damaged_store(path, f"it is that of the store {str(manifest.get('fingerprint'))[:16]}")
    return manifest if manifest["format_version"] == FORMAT_VERSION else None


def part_sums(location: str) -> list[tuple[int, str]] | None:
    """(rows, sha256) of each part of a store, by its manifest of whatever version: equal ones hold the same rows.

    None: there is no such manifest.
    """
    try:
        manifest = read_json(join(location, MANIFEST))
    except (OSError, ValueError, RecursionError):
        return None
    parts = manifest.get("parts") if isinstance(manifest, dict) else None
    if not isinstance(parts, list) or any(sealed.problem_of(part, {"rows": int, "sha256": str}) for part in parts):
        return None
    return [(part["rows"], part["sha256"]) for part in parts]


def write_manifest(location: str, manifest: Mapping[str, Any]) -> None:
    """The last write: from now on there is a store."""
    content = {
        "format_version": FORMAT_VERSION,
        "prompts_sha256": None,
        "rejects_sha256": None,
        "fields": [asdict(TARGET)],
        **manifest,
    }
    sealed.write(join(location, MANIFEST), content)


def find_damage(location: str, manifest: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(file, what is wrong with it) of every file that training reads. Reads all of them."""
    files = [(part["name"], part["sha256"]) for part in manifest["parts"]]
    if manifest["prompts_sha256"] is not None:
        files.append((PROMPTS, manifest["prompts_sha256"]))
    with ThreadPoolExecutor(CHECKERS) as pool:
        problems = pool.map(lambda file: problem_of(join(location, file[0]), file[1]), files)
        for (name, _), problem in zip(files, problems, strict=True):
            if problem is not None:
                yield name, problem


def problem_of(location: str, sha256: str) -> str | None:
    """What is wrong with a file that should have this sum; None: nothing. Raises StorageError: nobody can tell."""
    try:
        if local_path(location) is not None:
            found = _hash(location)
        else:
            found = retried(lambda: _hash(location), location, answer_s=_ANSWER_S)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return "it is gone"
    except OSError as error:
        raise _away(location, error) from error
    return None if found == sha256 else "its bytes are not those that were written (sha256)"


def _hash(location: str) -> str:
    digest = hashlib.sha256()
    fs, path = filesystem(location)
    with fs.open_input_stream(path, compression=None) as stream:
        while block := stream.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def _away(location: str, error: OSError) -> StorageError:
    return StorageError(
        f"cannot read {location}",
        got=f"{type(error).__name__}: {error}",
        expected="a storage that answers; what it holds may well be whole",
        fix="run the same command again; if the disk is broken, delete the folder: the store is made anew",
    )


def damaged_store(location: str, problem: str) -> DataError:
    """The error of whoever would read that file."""
    return DataError(
        f"the token store is damaged: {location}",
        got=problem,
        expected="the bytes that `raysft prepare` wrote",
        fix="run the same command (or `raysft prepare`) again: it makes what is damaged anew from the data",
    )
