"""Versions of a recipe's training data: what was prepared when, from what, and which version counts.

    <storage>/datasets/<recipe name>/version-0003.json    created exclusively, never changed
    <storage>/datasets/<recipe name>/newest.json          a copy of the newest of them

A version is a token store. A rollback is a version too: it names the older store to use instead of those that came
after it, until the data changes again. Stores themselves are never touched. Records carry their sha256 and the
recipe's name: one that is damaged or of another recipe is named and passed over. The newest decides which data is
trained, so it lies there twice: the copy heals it, and without an intact one the command stops.
"""

from __future__ import annotations

import logging
import re
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from raysft import sealed
from raysft.data.store.manifest import read_manifest
from raysft.errors import DataError, StorageError, UserError
from raysft.recipe.fingerprint import differences
from raysft.recipe.schema import Recipe
from raysft.storage import absolute, create_exclusive, join, list_names, read_json, remove_tree, write_json

logger = logging.getLogger(__name__)

_RECORD = re.compile(r"version-(\d{4,})\.json")
_NEWEST = "newest.json"


@dataclass(frozen=True)
class Version:
    """One line of the log. `parent` is the version before; `instead_of` are the stores a rollback puts aside."""

    number: int
    at: str
    change: str
    fingerprint: str
    parent: int | None
    instead_of: tuple[str, ...] = ()

    @property
    def is_rollback(self) -> bool:
        return bool(self.instead_of)


def read_log(recipe: Recipe) -> list[Version]:
    """All versions that can be read, oldest first. Raises DataError when the newest cannot be."""
    folder = _folder(recipe)
    try:
        names = [name for name in list_names(folder) if _RECORD.fullmatch(name)]
    except NotADirectoryError:  # storage lies below a file: who writes there says so
        return []
    found: dict[int, Version] = {}
    damaged: dict[int, str] = {}
    for number, name in sorted((_number(name), name) for name in names):
        try:
            found[number] = _parsed(read_json(join(folder, name)), recipe, number)
        except (OSError, ValueError, TypeError, KeyError) as error:
            damaged[number] = f"{type(error).__name__}: {error}"
    _heal(recipe, found, damaged)
    for number, problem in damaged.items():
        _say_unread(_location(recipe, number), problem)
    return [found[number] for number in sorted(found)]


@lru_cache(maxsize=1000)
def _say_unread(location: str, problem: str) -> None:
    """Once in a process: a prepare reads the log twice."""
    logger.warning("data version %s cannot be read (%s): it is left out of the log", location, problem)


def _heal(recipe: Recipe, found: dict[int, Version], damaged: dict[int, str]) -> None:
    """Put the newest record back from its copy, or the copy from the record. Raises DataError without either."""
    location = join(_folder(recipe), _NEWEST)
    try:
        record = read_json(location)
        copy = _parsed(record, recipe, None)
    except (OSError, ValueError, TypeError, KeyError):
        copy = None
    if copy is not None and copy.number not in found:  # perhaps it was made since
        with suppress(OSError, ValueError, TypeError, KeyError):
            found[copy.number] = _parsed(read_json(_location(recipe, copy.number)), recipe, copy.number)
    newest = max([*found, *damaged], default=0)
    if copy is not None and found.get(copy.number, copy) != copy:
        raise DataError(
            f"two records of data version {copy.number} of {recipe.name!r} differ",
            got=f"{_location(recipe, copy.number)} and {location}",
            expected="the second to be a copy of the first: one of them was brought here from another storage",
            fix="delete the wrong one (see `fingerprint` and `change` in both)",
        )
    if copy is not None and copy.number >= newest and copy.number not in found:
        logger.warning("data version %d was damaged or gone: it is put back from %s", copy.number, _NEWEST)
        remove_tree(_location(recipe, copy.number))
        create_exclusive(_location(recipe, copy.number), record)
        damaged.pop(copy.number, None)
        found[copy.number] = copy
    elif newest in damaged:
        raise DataError(
            f"the newest data version of {recipe.name!r} cannot be read: {_location(recipe, newest)}",
            got=damaged[newest],
            expected=f"a whole record: it may say that the data was rolled back; {_NEWEST} is no help",
            fix="bring that file back from a copy; or delete it, then the data counts as it is now",
        )
    elif found and (copy is None or copy.number < newest):
        try:
            write_json(location, _record(recipe, found[newest]))
        except StorageError as error:  # to look at a log nobody needs to write
            logger.warning("the copy of the newest data version cannot be written: %s", error.got)


def _parsed(record: Any, recipe: Recipe, number: int | None) -> Version:
    """A record that is intact, of this recipe and of its name's number. Raises ValueError, TypeError, KeyError."""
    content = dict(record)
    if "sha256" in content and content.pop("sha256") != sealed.checksum(content):
        raise ValueError("it does not have its own sha256")
    if content.pop("recipe", recipe.name) != recipe.name:
        raise ValueError(f"it is of the recipe {record['recipe']!r}")
    version = Version(**{**content, "instead_of": tuple(content["instead_of"])})
    if number is not None and version.number != number:
        raise ValueError(f"it is version {version.number}")
    return version


def _record(recipe: Recipe, version: Version) -> dict[str, Any]:
    return sealed.sealed({**asdict(version), "instead_of": list(version.instead_of), "recipe": recipe.name})


def _number(name: str) -> int:
    match = _RECORD.fullmatch(name)
    return int(match[1]) if match else 0


def chosen_fingerprint(recipe: Recipe, fingerprint: str) -> str:
    """The store that counts where the recipe's data has this fingerprint: another one after a rollback."""
    versions = read_log(recipe)
    newest = versions[-1] if versions else None
    return newest.fingerprint if newest and fingerprint in newest.instead_of else fingerprint


def record_version(recipe: Recipe, fingerprint: str) -> None:
    """Note that this store is the recipe's data from now on; nothing when it was already."""
    noted = None
    while noted is None:
        versions = read_log(recipe)
        newest = versions[-1] if versions else None
        if newest and newest.fingerprint == fingerprint:
            return
        change = "; ".join(differing(recipe, newest.fingerprint, fingerprint)) if newest else "first version"
        noted = _append(recipe, versions, change or "the same inputs", fingerprint, ())


def roll_back(recipe: Recipe, number: int) -> Version:
    """Use version `number` instead of all that came after it. Raises UserError."""
    versions = read_log(recipe)
    wanted = find(recipe, versions, number)
    location = store_location(recipe, wanted.fingerprint)
    if manifest_of(recipe, wanted.fingerprint) is None:
        raise UserError(
            f"the store of version {number} is gone or damaged",
            got=f"no intact manifest at {location}",
            expected="a store that was not deleted",
            fix="choose another version (`raysft data log`), or restore the files it was made of",
        )
    aside = {version.fingerprint for version in versions} - {wanted.fingerprint}
    if versions[-1].fingerprint == wanted.fingerprint:
        raise UserError(
            f"version {number} is the one that counts already",
            got=f"a rollback to version {number}",
            expected="an older version",
            fix="see `raysft data log`",
        )
    change = f"rolled back to version {number}"
    noted = _append(recipe, versions, change, wanted.fingerprint, tuple(sorted(aside)))
    return noted or roll_back(recipe, number)


def find(recipe: Recipe, versions: list[Version], number: int) -> Version:
    """The version of this number. Raises UserError."""
    for version in versions:
        if version.number == number:
            return version
    raise UserError(
        f"{recipe.name} has no data version {number}",
        got=f"{len(versions)} versions" if versions else "no version: nothing was prepared yet",
        expected=f"a number from 1 to {len(versions)}" if versions else "`raysft prepare` first",
        fix="see `raysft data log`",
    )


def differing(recipe: Recipe, old: str, new: str) -> list[str]:
    """`what: old -> new` of the inputs and counts of two stores."""
    manifests = [manifest_of(recipe, fingerprint) or {} for fingerprint in (old, new)]
    first, second = ({**_flat(m.get("inputs", {})), **_counted(m)} for m in manifests)
    return differences(first, second)


def check_compatible(recipe: Recipe, fingerprint: str, inputs: dict[str, Any]) -> None:
    """Refuse a rolled-back store whose tokens are not those of the recipe's tokenizer, template and row length."""
    stored = (manifest_of(recipe, fingerprint) or {}).get("inputs", {})
    names = ("tokenizer", "template", "max_tokens", "answers")  # answers: of pairs only
    differ = [name for name in names if stored.get(name) != inputs.get(name)]
    if differ:
        raise UserError(
            "the version that the data was rolled back to does not fit this recipe",
            got=f"another {', '.join(differ)} in the store {fingerprint[:16]}"
            if stored
            else "that store is gone or damaged",
            expected="the tokenizer, template and data.max_tokens of the recipe",
            fix="roll back to another version (`raysft data log`), or give the recipe another `name`",
        )


def manifest_of(recipe: Recipe, fingerprint: str) -> dict[str, Any] | None:
    """The manifest of a store; None where it is gone, of another version or damaged, which is said."""
    try:
        return read_manifest(store_location(recipe, fingerprint))
    except DataError as error:
        logger.warning("%s (%s)", error.what, error.got)
        return None


def store_location(recipe: Recipe, fingerprint: str) -> str:
    """Where a store of this fingerprint lies."""
    return join(absolute(recipe.storage), "tokens", fingerprint)


def _append(
    recipe: Recipe, versions: list[Version], change: str, fingerprint: str, aside: tuple[str, ...]
) -> Version | None:
    """The version after these; None when another process was faster, which may have changed what is to be noted."""
    parent = versions[-1].number if versions else None
    taken = [_number(name) for name in list_names(_folder(recipe))]  # also by records that cannot be read
    now = datetime.now(UTC).isoformat(timespec="seconds")
    version = Version(max([0, *taken]) + 1, now, change, fingerprint, parent, aside)
    if version.number > (parent or 0) + 1 and read_log(recipe) != versions:
        return None
    record = _record(recipe, version)
    if not create_exclusive(_location(recipe, version.number), record):
        return None
    write_json(join(_folder(recipe), _NEWEST), record)
    return version


def _location(recipe: Recipe, number: int) -> str:
    return join(_folder(recipe), f"version-{number:04d}.json")


def _folder(recipe: Recipe) -> str:
    return join(absolute(recipe.storage), "datasets", recipe.name)


def _flat(inputs: dict[str, Any]) -> dict[str, Any]:
    """Inputs by name; files and rules one by one, so that what changed shows as itself."""
    flat = {name: value for name, value in inputs.items() if name not in ("files", "rules", "whole_data_rules")}
    flat |= {
        f"file {index} (source {entry[0]})": entry[-1][:12] for index, entry in enumerate(inputs.get("files", []))
    }
    rules = [*inputs.get("rules", []), *(rule for rule, _ in inputs.get("whole_data_rules", []))]
    flat |= {f"rule {rule['rule']}": {k: v for k, v in rule.items() if k != "rule" and v} for rule in rules}
    return flat


def _counted(manifest: dict[str, Any]) -> dict[str, Any]:
    counts = manifest.get("counts", {})
    return {name: counts.get(name) for name in ("records_read", "examples", "tokens", "target_tokens", "rows")}
