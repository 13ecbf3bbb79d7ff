"""A location of the recipe -> the files there: file, folder, pattern, URI or web address.

What is not read is said in one line. A pattern reads what it matches; a folder reads its files of known kinds, of one
split where it holds several (splits.py). Empty files of a folder or pattern are passed over; one that is named is an
error.
"""

from __future__ import annotations

import difflib
import logging
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from pyarrow import fs as pafs

from raysft.data.read import walk as walks
from raysft.data.read.globs import expand_braces, is_pattern, split_pattern
from raysft.data.read.kinds import KNOWN_KINDS, data_kind, kind_of
from raysft.data.read.remote import local_path, open_bytes, retried, without_query
from raysft.data.read.saved import saved_files, saved_split
from raysft.data.read.splits import Purpose, choose_split
from raysft.data.read.walk import LINK_TO_NOTHING, Found, Walk
from raysft.data.read.web import is_web, look
from raysft.errors import DataError, StorageError, redacted
from raysft.storage import absolute, filesystem

logger = logging.getLogger(__name__)

_ABOUT_DATA = ("state.json", "dataset_info.json", "dataset_infos.json", "dataset_dict.json")
"""JSON files beside data that tell of it."""
_NOTES = ("md", "txt")
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True)
class Listed:
    """A file to read."""

    location: str
    num_bytes: int
    identity: str
    """The file behind all its names."""


def list_files(location: str, purpose: Purpose | None = None) -> list[Listed]:
    """The files, sorted. Raises DataError where there is none, StorageError if unreachable.

    purpose: what a folder that holds named splits is listed for; None: all of them are read.
    """
    if not location.strip():
        raise DataError(
            "a location of data is empty",
            got=repr(location),
            expected="a file, a folder, a pattern or a URI",
            fix="name one",
        )
    location = absolute(location)
    if is_web(location):
        return [_web_file(location)]
    plain = without_query(location)
    query, scheme = location[len(plain) :], location.split("://", 1)[0] + "://" if "://" in location else ""
    fs, path = filesystem(location)
    found = _one(fs, path, location, purpose)
    if found is None:
        alternatives = expand_braces(path)
        if len(alternatives) == 1 and not is_pattern(path):
            raise _missing(location, fs, path)
        found = _of_patterns(fs, alternatives, location, purpose)
    by_identity: dict[str, Found] = {}
    for one in sorted(found, key=lambda one: (one.path != one.identity, one.path)):  # names without links first
        by_identity.setdefault(one.identity, one)
    return sorted(
        (Listed(scheme + one.path + query, one.num_bytes, one.identity) for one in by_identity.values()),
        key=lambda listed: listed.location,
    )


def _web_file(location: str) -> Listed:
    kind_of(location)
    web = retried(lambda: look(location), location, is_first=True)
    size = web.num_bytes
    if size is None:
        with open_bytes(location) as stream:
            size = stream.seek(0, os.SEEK_END)
    if size == 0:
        raise _empty(location)
    return Listed(location, size, location)


def _one(fs: pafs.FileSystem, path: str, location: str, purpose: Purpose | None) -> list[Found] | None:
    """What lies at exactly this path; None: nothing does."""
    try:
        info = _info(fs, path, location)
    except OSError as error:
        if local_path(location) is None:
            raise
        raise _not_there(location, error) from error
    if info.type == pafs.FileType.Directory:
        return _of_folder(fs, path, location, purpose)
    if info.type == pafs.FileType.File:
        kind_of(location)
        if info.size == 0:
            raise _empty(location)
        identity = walks.identity_of(path, os.stat(path)) if local_path(location) is not None else path
        return [Found(path, path.rpartition("/")[2], info.size, identity)]
    if info.type == pafs.FileType.Unknown:
        raise DataError(
            f"{location} is no regular file",
            got="a pipe, a socket or a device",
            expected="a file that can be read more than once",
            fix="write its content into a file",
        )
    if local_path(location) is not None and os.path.islink(path):
        raise _broken_link(path)
    return None


def _of_folder(fs: pafs.FileSystem, path: str, location: str, purpose: Purpose | None) -> list[Found]:
    """The data below a folder, of one split where it has several."""
    split = saved_split(fs, path, location, purpose)
    base = f"{path.rstrip('/')}/{split}" if split else path
    if local_path(location) is not None:
        walk = walks.walk_local(base, walks.hidden_in_folder)
    else:
        walk = walks.walk_remote(fs, base, location, walks.hidden_in_folder)
    found = _usable(saved_files(fs, walk, location), location)
    if purpose is not None:
        chosen = choose_split(redacted(without_query(location)), [one.name for one in found.files], purpose)
        if chosen.split is not None:
            others = ", ".join(f"{name} ({_files(len(places))})" for name, places in chosen.others.items())
            rest = f"; not read: {others}" if others else ""
            if purpose == "train" and others:
                rest += "; data.eval may name the same folder"
            logger.warning("%s: the split %s is read%s", redacted(location), chosen.split, rest)
        found.files = [found.files[place] for place in chosen.places]
    return found.files


def _of_patterns(
    fs: pafs.FileSystem, alternatives: Sequence[str], location: str, purpose: Purpose | None
) -> list[Found]:
    """What the alternatives match together. A name without marks has to be there."""
    whole, matched = Walk(), list[Found]()
    for alternative in alternatives:
        if not is_pattern(alternative):
            one = _one(fs, alternative, location, purpose)
            if one is None:
                raise _missing(location, fs, alternative)
            matched += one
            continue
        base, names = split_pattern(alternative)
        is_local = local_path(location) is not None
        walk = walks.glob_local(base or "/", names) if is_local else walks.glob_remote(fs, base, names, location)
        if not walk.files and len(alternatives) > 1 and not walk.folders:
            logger.warning("%s: nothing matches %s", redacted(location), alternative)
        if not walk.files:  # as in a shell, a pattern may name folders
            for folder in walk.folders:
                matched += _of_folder(fs, folder, folder, purpose)
        elif walk.folders:
            shown = ", ".join(_file_name(folder) for folder in walk.folders[:5])
            logger.warning("%s: folders are not read: %s; `**` reads what is in them", redacted(location), shown)
        whole.files += walk.files
        whole.left_out += walk.left_out
    if matched and not whole.files:
        return matched
    return matched + _usable(whole, location).files


def _usable(walk: Walk, location: str) -> Walk:
    """The walk without files that are no data; says which. Raises DataError when nothing is left."""
    left_out, kept = list(walk.left_out), list[Found]()
    for path, why in walk.left_out:
        if why == LINK_TO_NOTHING and data_kind(path):
            raise _broken_link(path)
    is_data = [one for one in walk.files if data_kind(one.path) and _file_name(one.path) not in _ABOUT_DATA]
    has_data = any(data_kind(one.path) not in _NOTES for one in is_data)
    for one in walk.files:
        kind = data_kind(one.path)
        if kind is None:
            left_out.append((one.path, "of no known kind"))
        elif is_data and _file_name(one.path) in _ABOUT_DATA:
            left_out.append((one.path, "about a dataset"))
        elif has_data and kind in _NOTES:
            left_out.append((one.path, "a text beside other data"))
        elif one.num_bytes == 0:
            left_out.append((one.path, "empty"))
        else:
            kept.append(one)
    if not kept:
        others = ", ".join(f"{_file_name(path)} ({why})" for path, why in left_out[:5]) or "no file"
        raise DataError(
            f"no input file in {location}", got=others, expected=KNOWN_KINDS, fix="check data.train / data.eval"
        )
    if left_out:
        shown = ", ".join(f"{_file_name(path)} ({why})" for path, why in left_out[:5])
        more = f" and {len(left_out) - 5} more" if len(left_out) > 5 else ""
        logger.warning("%s: not read: %s%s", redacted(location), shown, more)
    return replace(walk, files=kept, left_out=left_out)


def _files(count: int) -> str:
    return "1 file" if count == 1 else f"{count} files"


def _file_name(path: str) -> str:
    return path.rstrip("/").rpartition("/")[2]


def _info(fs: pafs.FileSystem, path: str, location: str) -> pafs.FileInfo:
    if local_path(location) is not None:
        return fs.get_file_info(path)
    return retried(lambda: fs.get_file_info(path), location, is_first=True)


def _empty(location: str) -> DataError:
    return DataError(f"the file {location} is empty", got="0 bytes", expected="records", fix="remove or refill it")


def _not_there(location: str, error: OSError) -> DataError:
    return DataError(
        f"cannot read {location}", got=str(error), expected="a path that can be looked up", fix="check data.train"
    )


def _broken_link(path: str) -> DataError:
    return DataError(
        f"{path} is a link to nothing",
        got=f"a link to {os.readlink(path)}, which is not there",
        expected="a file, or a link to one",
        fix="bring back the file that it leads to (an interrupted download leaves such links), or delete the link",
    )


def _missing(location: str, fs: pafs.FileSystem, path: str) -> DataError:
    parent, _, name = path.rpartition("/")
    selector = pafs.FileSelector(parent or "/", allow_not_found=True)
    try:
        siblings = [info.base_name for info in retried(lambda: fs.get_file_info(selector), location, is_first=True)]
    except (OSError, StorageError):
        siblings = []
    near = difflib.get_close_matches(name, siblings, n=1)
    fix = f"did you mean {near[0]!r}?" if near else "check data.train / data.eval"
    here = os.path.relpath(path) if local_path(location) is not None else ""
    if not near and _HUB_NAME.fullmatch(here) and not here.startswith("."):
        fix = f"a dataset of the Hugging Face hub is hf://datasets/{here}; for a file, check data.train / data.eval"
    return DataError(
        f"there is no file {location}",
        got=f"{len(siblings)} other names in {parent}" if siblings else f"nothing in {parent}",
        expected="a file, a folder or a pattern that matches something",
        fix=fix,
    )
