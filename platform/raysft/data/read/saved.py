"""Folders that Hugging Face `datasets` saved to disk: which of their Arrow files are the dataset.

`Dataset.save_to_disk` lists its files in state.json (others are caches of earlier steps); `DatasetDict.save_to_disk`
writes dataset_dict.json and a folder for each split.
"""

from __future__ import annotations

import os

from pyarrow import fs as pafs

from raysft.data.read.remote import local_path, retried, without_query
from raysft.data.read.splits import Purpose, choose_split, split_of
from raysft.data.read.walk import Found, Walk
from raysft.errors import DataError, redacted
from raysft.storage import read_json


def saved_split(fs: pafs.FileSystem, path: str, location: str, purpose: Purpose | None) -> str | None:
    """The folder of the split to read below a saved DatasetDict; None: it is another folder.

    Raises DataError where only a person can tell.
    """
    selector = pafs.FileSelector(path or "/", allow_not_found=True)
    infos = retried(lambda: fs.get_file_info(selector), location, is_first=True)
    if "dataset_dict.json" not in {info.base_name for info in infos}:
        return None
    splits: list[str] = sorted(info.base_name for info in infos if info.type == pafs.FileType.Directory)
    folder = redacted(without_query(location)).rstrip("/")
    named = [split for split in splits if split_of(f"{split}/data.arrow")]
    if len(splits) == 1:
        return splits[0]
    if purpose is not None and len(named) == len(splits):
        chosen = choose_split(folder, [f"{split}/data.arrow" for split in splits], purpose)
        if len(chosen.places) == 1:
            return splits[chosen.places[0]]
    raise DataError(
        f"{folder} holds several splits",
        got=", ".join(splits) or "no folder of a split",
        expected="one split",
        fix=f"name the one to read: {folder}/{splits[0] if splits else 'train'}",
    )


def saved_files(fs: pafs.FileSystem, walk: Walk, location: str) -> Walk:
    """The walk without Arrow files that their folder's state.json does not list."""
    arrow = {_folder(one.path) for one in walk.files if one.path.lower().endswith(".arrow")}
    folders = {_folder(one.path) for one in walk.files if one.path.endswith("/state.json")} & arrow
    listed: set[str] = set()
    for folder in folders:
        listed |= {f"{folder}/{name}" for name in _listed(folder, location)}
    kept, left_out = list[Found](), list(walk.left_out)
    for one in walk.files:
        if one.path.lower().endswith(".arrow") and _folder(one.path) in folders and one.path not in listed:
            left_out.append((one.path, "not of the saved dataset"))
        else:
            kept.append(one)
    present = {one.path for one in kept}
    if missing := sorted(listed - present):
        raise DataError(
            f"{redacted(without_query(location))} lacks a file of the saved dataset",
            got=f"no {os.path.basename(missing[0])}, which state.json lists",
            expected="all files that `save_to_disk` wrote",
            fix="copy the folder again, whole",
        )
    return Walk(kept, walk.folders, left_out)


def _folder(path: str) -> str:
    return path.rpartition("/")[0]


def _listed(folder: str, location: str) -> list[str]:
    """Names of the Arrow files. Empty where the folder's state.json is another program's."""
    plain = without_query(location)
    scheme = location.split("://", 1)[0] + "://" if "://" in location else ""
    state = f"{scheme}{folder}/state.json{location[len(plain) :]}"
    try:
        content = read_json(state) if local_path(location) is not None else retried(lambda: read_json(state), state)
        return [str(entry["filename"]) for entry in content["_data_files"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{redacted(folder)}/state.json is not what `save_to_disk` writes",
            got=f"{type(error).__name__}: {error}",
            expected='{"_data_files": [{"filename": ...}]}',
            fix="save the dataset again, or name its .arrow files",
        ) from error
