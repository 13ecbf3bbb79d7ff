"""Versions of a recipe's training data: what was prepared when, from what, and which version counts.

    <storage>/datasets/<recipe name>/version-0003.json    created exclusively, never changed

A version is a token store. A rollback is a version too: it names the older store to use instead of those that came
after it, until the data changes again. Stores themselves are never touched.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from raysft.data.store import read_manifest
from raysft.errors import UserError
from raysft.recipe.fingerprint import differences
from raysft.recipe.schema import Recipe
from raysft.storage import absolute, create_exclusive, join, list_names, read_json


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
    """All versions, oldest first."""
    folder = _folder(recipe)
    try:
        names = [name for name in list_names(folder) if name.startswith("version-")]
    except NotADirectoryError:  # storage lies below a file: who writes there says so
        return []
    records = [read_json(join(folder, name)) for name in names]
    return [Version(**{**record, "instead_of": tuple(record["instead_of"])}) for record in records]


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
    if read_manifest(location) is None:
        raise UserError(
            f"the store of version {number} is gone",
            got=f"no manifest at {location}",
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
    manifests = [read_manifest(store_location(recipe, fingerprint)) or {} for fingerprint in (old, new)]
    first, second = ({**_flat(m.get("inputs", {})), **_counted(m)} for m in manifests)
    return differences(first, second)


def check_compatible(recipe: Recipe, fingerprint: str, inputs: dict[str, Any]) -> None:
    """Refuse a rolled-back store whose tokens are not those of the recipe's tokenizer, template and row length."""
    stored = (read_manifest(store_location(recipe, fingerprint)) or {}).get("inputs", {})
    names = ("tokenizer", "template", "max_tokens")
    differ = [name for name in names if stored.get(name) != inputs[name]]
    if differ:
        raise UserError(
            "the version that the data was rolled back to does not fit this recipe",
            got=f"another {', '.join(differ)} in the store {fingerprint[:16]}" if stored else "that store is gone",
            expected="the tokenizer, template and data.max_tokens of the recipe",
            fix="roll back to another version (`raysft data log`), or give the recipe another `name`",
        )


def store_location(recipe: Recipe, fingerprint: str) -> str:
    """Where a store of this fingerprint lies."""
    return join(absolute(recipe.storage), "tokens", fingerprint)


def _append(
    recipe: Recipe, versions: list[Version], change: str, fingerprint: str, aside: tuple[str, ...]
) -> Version | None:
    """The version after these; None when another process was faster, which may have changed what is to be noted."""
    parent = versions[-1].number if versions else None
    now = datetime.now(UTC).isoformat(timespec="seconds")
    version = Version((parent or 0) + 1, now, change, fingerprint, parent, aside)
    created = create_exclusive(join(_folder(recipe), f"version-{version.number:04d}.json"), asdict(version))
    return version if created else None


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
