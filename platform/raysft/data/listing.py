"""A location of the recipe -> the files there: file, directory, glob, URI or Hugging Face dataset folder."""

from __future__ import annotations

import difflib
import logging
import re
from typing import Any

from pyarrow import fs as pafs

from raysft.data.readers import KINDS
from raysft.data.remote import COMPRESSIONS, compression, local_path, retried, without_query
from raysft.errors import DataError
from raysft.storage import absolute, filesystem, join, read_json

logger = logging.getLogger(__name__)

_UNCOMPRESSED = ("parquet", "arrow")  # they compress inside
_ABOUT_A_DATASET = ("state.json", "dataset_info.json", "dataset_dict.json")


def list_files(location: str) -> list[tuple[str, int]]:
    """(location, bytes) of the files, sorted. Raises DataError where there is none, StorageError if unreachable."""
    location = absolute(location)
    plain = without_query(location)
    query = location[len(plain) :]
    fs, path = filesystem(location)
    scheme = location.split("://", 1)[0] + "://" if "://" in location else ""
    info = _info(fs, path, location)
    if info.type == pafs.FileType.File:
        kind_of(location)
        return [(location, info.size)]
    if info.type == pafs.FileType.Directory:
        base, pattern = path, re.compile(".*", re.DOTALL)
        if chosen := _dataset_files(plain, query):
            return [(name, _info(*filesystem(name), name).size) for name in chosen]
    elif any(mark in path for mark in "*?["):
        base = path[: re.search(r"[*?\[]", path).start()].rpartition("/")[0]  # type: ignore[union-attr]
        pattern = _glob(path.lstrip("/"))
    else:
        raise _missing(location, fs, path)
    files = [
        i
        for i in _select(fs, base, location, recursive=True)
        if i.type == pafs.FileType.File and pattern.fullmatch(i.path.lstrip("/"))
    ]
    about = _ABOUT_A_DATASET if any(i.path.endswith(".arrow") for i in files) else ()
    usable = [i for i in files if _kind(i.path) and not i.base_name.startswith(".") and i.base_name not in about]
    if not usable:
        others = ", ".join(sorted(i.base_name for i in files)[:5]) or "no file"
        raise DataError(
            f"no input file in {location}", got=others, expected=_expected(), fix="check data.train / data.eval"
        )
    return sorted((scheme + i.path + query, i.size) for i in _without_notes(usable, location))


def _without_notes(infos: list[Any], location: str) -> list[Any]:
    """Beside data of other kinds, .md and .txt files are a README or a licence."""
    data = [info for info in infos if _kind(info.path) not in ("md", "txt")]
    if data and len(data) < len(infos):
        logger.warning("%s: .md and .txt files beside other data are not read; name them to do so", location)
    return data or infos


def kind_of(location: str) -> str:
    """One of KINDS, by the suffix before that of a compression."""
    kind = _kind(without_query(location))
    if kind is None:
        raise DataError(
            f"cannot read {location}",
            got=location.rpartition("/")[2],
            expected=_expected(),
            fix="convert it, or give it the suffix of what it is",
        )
    return kind


def _kind(path: str) -> str | None:
    packed = compression(path)
    stem, _, kind = path.removesuffix(packed).rpartition("/")[2].rpartition(".")
    return kind if stem and kind in KINDS and not (packed and kind in _UNCOMPRESSED) else None


def _expected() -> str:
    kinds = ", ".join(f".{kind}" for kind in KINDS)
    return f"files that end in {kinds}; all but {' and '.join(_UNCOMPRESSED)} also in {', '.join(COMPRESSIONS)}"


def _dataset_files(folder: str, query: str) -> list[str]:
    """The Arrow files of a folder that `datasets.Dataset.save_to_disk` wrote; [] for another folder."""
    fs, path = filesystem(folder + query)
    names = {info.base_name for info in _select(fs, path, folder)}
    if "dataset_dict.json" in names:
        splits = sorted(names - {"dataset_dict.json"})
        raise DataError(
            f"{folder} holds several splits",
            got=", ".join(splits),
            expected="one split",
            fix=f"name the one to read: {join(folder, splits[0] if splits else 'train')}",
        )
    if "state.json" not in names or not any(name.endswith(".arrow") for name in names):
        return []
    try:
        listed = read_json(join(folder, "state.json") + query)["_data_files"]
        return [join(folder, str(entry["filename"])) + query for entry in listed]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{folder}/state.json is not what `save_to_disk` writes",
            got=f"{type(error).__name__}: {error}",
            expected='{"_data_files": [{"filename": ...}]}',
            fix="save the dataset again, or name its .arrow files",
        ) from error


def _info(fs: pafs.FileSystem, path: str, location: str) -> Any:
    if local_path(location) is not None:
        return fs.get_file_info(path)
    return retried(lambda: fs.get_file_info(path), location)


def _select(fs: pafs.FileSystem, base: str, location: str, *, recursive: bool = False) -> list[Any]:
    selector = pafs.FileSelector(base or "/", recursive=recursive, allow_not_found=True)
    if local_path(location) is not None:
        return list(fs.get_file_info(selector))
    return list(retried(lambda: fs.get_file_info(selector), location))


def _glob(pattern: str) -> re.Pattern[str]:
    """`**/` any directories, `*` and `?` within one name, `[...]` a set."""
    parts = re.split(r"(\*\*/|\*|\?|\[[^]]*\])", pattern)
    known = {"**/": "(?:.*/)?", "*": "[^/]*", "?": "[^/]"}
    return re.compile("".join(known.get(part, part if part.startswith("[") else re.escape(part)) for part in parts))


def _missing(location: str, fs: pafs.FileSystem, path: str) -> DataError:
    parent, _, name = path.rpartition("/")
    siblings = [info.base_name for info in _select(fs, parent, location)]
    near = difflib.get_close_matches(name, siblings, n=1)
    return DataError(
        f"there is no file {location}",
        got=f"{len(siblings)} other names in {parent}" if siblings else f"nothing in {parent}",
        expected="a file, a directory or a glob that matches something",
        fix=f"did you mean {near[0]!r}?" if near else "check data.train / data.eval",
    )
