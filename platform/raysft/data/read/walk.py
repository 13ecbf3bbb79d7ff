"""Files below a folder, local or remote: each file once, hidden ones and those of raysft itself left out by name.

Hidden are names that begin with `.` or, as in Arrow, Spark and Hive, with `_` (`_SUCCESS`, `_temporary`); a pattern
reads the latter, as shells do. A link to a folder is followed unless that folder is read anyway or holds the link.
Knows nothing of kinds of data.
"""

from __future__ import annotations

import os
import re
import stat
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from pyarrow import fs as pafs

from raysft.data.read.globs import matches, matches_path
from raysft.data.read.remote import retried, unreadable

_PART = re.compile(r"part-\d{5,}\.parquet|shard-\d{5,}\.arrow")


LINK_TO_NOTHING = "a link to nothing"


@dataclass(frozen=True)
class Found:
    """A file."""

    path: str
    """In its file system."""
    name: str
    """Its path below the folder that was walked."""
    num_bytes: int
    identity: str
    """The file behind all its names: what links lead to."""


@dataclass
class Walk:
    """What is below a folder."""

    files: list[Found] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)
    """Those that were looked into, the first included."""
    left_out: list[tuple[str, str]] = field(default_factory=list)
    """(path, why) of what was passed over."""


def hidden_in_folder(name: str) -> bool:
    """Is it no data where a folder is named?"""
    return name.startswith((".", "_"))


def hidden_from_pattern(name: str) -> bool:
    """Does `**` pass over it?"""
    return name.startswith(".")


def walk_local(folder: str, is_hidden: Callable[[str], bool]) -> Walk:
    """All below a local folder. Raises DataError for a folder that cannot be looked into."""
    walk, seen, top = Walk(), {os.path.realpath(folder)}, os.path.realpath(folder)
    plain, links = deque([folder]), deque[str]()
    while plain or links:
        if plain:
            path = plain.popleft()
        else:
            path = links.popleft()
            target = os.path.realpath(path)
            if target in seen or _holds(target, top) or _holds(target, os.path.realpath(os.path.dirname(path))):
                walk.left_out.append((path, f"a link to {target}, which is read once"))
                continue
            seen.add(target)
        entries = _entries(path)
        if ours := made_by_us(path, [entry.name for entry in entries]):
            walk.left_out.append((path, ours))
            continue
        walk.folders.append(path)
        for entry in entries:
            if is_hidden(entry.name):
                walk.left_out.append((entry.path, "hidden"))
            elif entry.is_dir(follow_symlinks=False):
                if (real := os.path.realpath(entry.path)) not in seen:
                    seen.add(real)
                    plain.append(entry.path)
            elif entry.is_symlink() and os.path.isdir(entry.path):
                links.append(entry.path)
            else:
                _add_file(walk, entry.path, os.path.relpath(entry.path, folder))
    return walk


def glob_local(base: str, patterns: Sequence[str]) -> Walk:
    """Files and folders (in `folders`) that match a pattern, as a shell matches them."""
    walk = Walk()
    single = [name for name, before in zip(patterns, ["", *patterns], strict=False) if not name == before == "**"]
    for path in dict.fromkeys(_matching(base, single, walk)):
        if os.path.isdir(path):
            walk.folders.append(path)
        else:
            _add_file(walk, path, os.path.relpath(path, base))
    return walk


def _matching(folder: str, patterns: Sequence[str], walk: Walk) -> Iterator[str]:
    head, rest = patterns[0], patterns[1:]
    if head == "**":
        below = walk_local(folder, hidden_from_pattern)
        walk.left_out += [(path, why) for path, why in below.left_out if why != "hidden"]
        if not rest:
            yield from (found.path for found in below.files)
        for path in below.folders if rest else ():
            yield from _matching(path, rest, walk)
        return
    for entry in _entries(folder):
        if matches(entry.name, head):
            if not rest:
                yield entry.path
            elif os.path.isdir(entry.path):
                yield from _matching(entry.path, rest, walk)


def walk_remote(fs: pafs.FileSystem, folder: str, location: str, is_hidden: Callable[[str], bool]) -> Walk:
    """All below a folder of an object store or the like, which has no links."""
    walk, names = Walk(), dict[str, list[str]]()
    infos = _remote_files(fs, folder, location)
    for info in infos:
        parent, _, name = info.path.rpartition("/")
        names.setdefault(parent, []).append(name)
    ours = {path: why for path, inside in names.items() if (why := made_by_us(path, inside))}
    walk.left_out += list(ours.items())
    for info in infos:
        name = _below(info.path, folder)
        if any(is_hidden(part) for part in name.split("/")):
            walk.left_out.append((info.path, "hidden"))
        elif not any(info.path.startswith(f"{path}/") for path in ours):
            walk.files.append(Found(info.path, name, info.size, info.path))
    return walk


def glob_remote(fs: pafs.FileSystem, base: str, patterns: Sequence[str], location: str) -> Walk:
    """Files that match a pattern."""
    walk = walk_remote(fs, base, location, lambda name: False)
    walk.files = [found for found in walk.files if matches_path(found.name.split("/"), patterns)]
    return walk


def made_by_us(folder: str, names: Iterable[str]) -> str | None:
    """What raysft keeps in this folder of its storage; None: nothing of its own. Token stores are no data."""
    inside = set(names)
    if ("manifest.json" in inside or "files.json" in inside) and any(map(_PART.fullmatch, inside)):
        return "a token store of raysft"
    if {"run.json", "attempts"} <= inside:
        return "a run of raysft"
    if folder.rstrip("/").endswith("/tokens") and "hashes.json" in inside:
        return "token stores of raysft"
    if any(re.fullmatch(r"version-\d{4,}\.json", name) for name in inside):
        return "versions of raysft"
    return None


def _remote_files(fs: pafs.FileSystem, folder: str, location: str) -> list[pafs.FileInfo]:
    selector = pafs.FileSelector(folder or "/", recursive=True, allow_not_found=True)
    try:
        infos = retried(lambda: fs.get_file_info(selector), location, is_first=True)
    except NotADirectoryError:
        return []
    return sorted((info for info in infos if info.type == pafs.FileType.File), key=lambda info: str(info.path))


def _below(path: str, folder: str) -> str:
    inside, base = path.strip("/"), folder.strip("/")
    return inside[len(base) :].lstrip("/") if inside.startswith(f"{base}/") else inside


def _entries(folder: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise unreadable(folder, error) from error


def _add_file(walk: Walk, path: str, name: str) -> None:
    try:
        found = os.stat(path)
    except OSError as error:
        if not os.path.islink(path):
            raise unreadable(path, error) from error
        walk.left_out.append((path, LINK_TO_NOTHING))
        return
    if stat.S_ISREG(found.st_mode):
        walk.files.append(Found(path, name, found.st_size, identity_of(path, found)))
    else:
        walk.left_out.append((path, "no regular file"))


def identity_of(path: str, found: os.stat_result) -> str:
    """What all names of a local file have in common: links lead to its path, hard links share its inode."""
    return f"inode {found.st_dev}:{found.st_ino}" if found.st_nlink > 1 else os.path.realpath(path)


def _holds(folder: str, path: str) -> bool:
    """Is the folder that path, or one above it?"""
    return path == folder or path.startswith(folder.rstrip("/") + "/")
