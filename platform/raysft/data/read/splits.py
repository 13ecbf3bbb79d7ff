"""Named splits in a folder of data files: which files are for training, which are held out. Pure.

The rule is that of Hugging Face `datasets`: a word `train` (`training`), `validation` (`valid`, `val`, `dev`) or
`test` (`testing`, `eval`, `evaluation`) in a folder's or a file's name. What stands before `-00000-of-00007` names a
split of its own where it holds such a word (`train_sft`). A folder whose files have no such names, or all the same,
is read whole; so is one with training files and others that have no such name.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Literal

from raysft.errors import DataError

Purpose = Literal["train", "eval"]
"""What a folder is listed for."""

_WORDS = {
    "train": "train",
    "training": "train",
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
}
_SHARD = re.compile(r"(?P<name>.+)-\d{5}-of-\d{5}(?=[-.])")
_HELD_OUT = ("validation", "test")
"""The split for `data.eval`, the first that is there."""


@dataclass(frozen=True)
class ChosenFiles:
    """The files that are read, by their place in the list, and the splits that are not."""

    places: list[int]
    split: str | None = None
    others: dict[str, list[int]] = field(default_factory=dict)


def choose_split(folder: str, names: Sequence[str], purpose: Purpose) -> ChosenFiles:
    """Which of the files (paths below the folder) to read. Raises DataError where only a person can tell."""
    by_split: dict[str, list[int]] = {}
    for place, name in enumerate(names):
        by_split.setdefault(split_of(name), []).append(place)
    unnamed = by_split.pop("", [])
    everything = ChosenFiles(
        list(range(len(names))), next(iter(by_split)) if len(by_split) == 1 and not unnamed else None
    )
    if not by_split or everything.split or (purpose == "train" and set(by_split) == {"train"}):
        _refuse_forms(folder, names)
        return everything
    wanted = ["train"] if purpose == "train" else [*_HELD_OUT]
    split = next((name for name in wanted if name in by_split), None)
    if split is None:
        places = by_split[min(by_split)]
        raise DataError(
            f"{folder} holds named splits, and files of none" if unnamed else f"{folder} holds several splits",
            got=", ".join([*sorted(by_split), *(names[place] for place in unnamed[:3])]),
            expected="a split that is called " + " or ".join(wanted),
            fix=f"name the files to read, e.g. {_example(folder, names[(unnamed or places)[0]])}",
        )
    _refuse_forms(folder, [names[place] for place in by_split[split]])
    others = {name: places for name, places in by_split.items() if name != split}
    if unnamed:
        others["no split"] = unnamed
    return ChosenFiles(by_split[split], split, others)


def split_of(name: str) -> str:
    """The split that a path names: train, validation, test, a shard's own name (`train_sft`), or nothing."""
    *folders, file = PurePosixPath(name).parts
    shard = _SHARD.match(file)
    if shard is not None and _words(shard["name"]):
        return _WORDS.get(shard["name"].lower(), shard["name"])
    for part in [*folders, file]:
        words = _words(part)
        if len(words) == 1:
            return words.pop()
    return ""


def _words(text: str) -> set[str]:
    return {_WORDS[word] for word in re.split(r"[-._ 0-9]+", text.lower()) if word in _WORDS}


def _refuse_forms(folder: str, names: Sequence[str]) -> None:
    """The Hub keeps forms of one dataset in folders beside each other, with the same names of shards in each."""
    by_name: dict[str, set[str]] = {}
    for path in map(PurePosixPath, names):
        shard = _SHARD.match(path.name)
        if shard is not None and _words(shard["name"]):
            by_name.setdefault(path.name, set()).add(str(path.parent))
    listed = next((sorted(places) for places in by_name.values() if len(places) > 1), [])
    if listed:
        raise DataError(
            f"{folder} holds several forms of a dataset",
            got=f"shards of the same names in {', '.join(listed[:8])}",
            expected="one folder of shards: another is mostly the same data in another form",
            fix=f"name the folder: {folder.rstrip('/')}/{listed[0]} (or several, as a list)",
        )


def _example(folder: str, name: str) -> str:
    """A pattern for the files of the same split."""
    path = PurePosixPath(name)
    shard = _SHARD.match(path.name)
    if shard is not None:
        return f"{folder.rstrip('/')}/{path.with_name(shard['name'])}-*{path.suffix}"
    return f"{folder.rstrip('/')}/{path}"
