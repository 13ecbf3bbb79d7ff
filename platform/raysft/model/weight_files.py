"""Files of weights of an export that is under way: each is written once, by some task, and kept if that is killed.

    a directory    <out>/.export-ID/weights/NAME        moved into merged/ when all of them are there
    a URI          <out>/merged/NAME                    at once, for there is no moving; export.json is gone before
    both           <out>/.export-ID/weights/NAME.json   its bytes and checksum, written after it

ID is made of what the export is of (steps, data, mathematics, parts): files of another are never taken for its own.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raysft import sealed, storage
from raysft.errors import StorageError
from raysft.model.export_manifest import MANIFEST
from raysft.model.save_plan import Read, SavePlan, header, write_file

STAGING = ".export-"
_COPY_BYTES = 2**24

Entries = dict[str, dict[str, Any]]
"""{name of a file of weights: its bytes and sha256}."""


@dataclass(frozen=True)
class WeightFiles:
    """Those of the export of an identity to the directory or URI `out`."""

    out: str
    identity: Mapping[str, Any]

    @property
    def staging(self) -> str:
        """Where this export keeps what is not published yet."""
        return storage.join(self.out, STAGING + sealed.checksum(self.identity)[:16])

    @property
    def is_moved(self) -> bool:
        """Are they staged, and published by a rename?"""
        return "://" not in self.out

    def write(self, plan: SavePlan, read: Read, names: Iterable[str]) -> Entries:
        """These files of the plan: written now, unless they were by an earlier task. Raises StorageError, and what
        `read` raises."""
        if self.is_moved:
            Path(storage.absolute(self._folder)).mkdir(parents=True, exist_ok=True)
        else:
            storage.remove_tree(storage.join(self.out, MANIFEST))  # from here on it is no longer the one before
        found = {}
        for name in names:
            record = storage.join(self._folder, f"{name}.json")
            entry = self._finished(plan, name, record)
            if entry is None:
                entry = self._write(plan, name, read)
                sealed.write(record, {"file": entry})
            found[name] = entry
        return found

    def clear_others(self, plan: SavePlan) -> None:
        """Remove what is staged and not of the plan: what a killed task was writing, or another version has."""
        for name in storage.list_names(self._folder):
            if name.removesuffix(".json") not in plan.files:
                storage.remove_tree(storage.join(self._folder, name))

    def publish(self, names: Iterable[str], part: Path) -> None:
        """Move staged files into the directory `part`; those of a URI are in their place. Raises StorageError."""
        if not self.is_moved:
            return
        for name in names:
            try:
                os.replace(Path(storage.absolute(self._folder), name), part / name)
            except FileNotFoundError as error:
                raise StorageError(
                    f"a file of weights that a task of this export has written is not there: {name}",
                    got=str(error),
                    expected=f"storage that all nodes of the cluster share at {self.out}",
                    fix="set `storage` to a shared directory or a URI; the same command goes on",
                ) from error

    @property
    def _folder(self) -> str:
        return storage.join(self.staging, "weights")

    def _place(self, name: str) -> str:
        return storage.join(self._folder if self.is_moved else storage.join(self.out, "merged"), name)

    def _finished(self, plan: SavePlan, name: str, record: str) -> dict[str, Any] | None:
        """The entry of a file that an earlier task has finished, as the plan has it; None: it has not."""
        kept, place, expected = sealed.read(record, {"file": dict}), self._place(name), header(plan.files[name])
        if kept is None:
            return None
        try:
            size, checksum = storage.size_and_sha256(place)
            first = next(storage.read_blocks(place, len(expected)), b"")
        except OSError:
            return None
        entry: dict[str, Any] = kept["file"]
        return entry if first == expected and entry == {"bytes": size, "sha256": checksum} else None

    def _write(self, plan: SavePlan, name: str, read: Read) -> dict[str, Any]:
        if self.is_moved:
            return write_file(Path(storage.absolute(self._place(name))), plan, read)
        with tempfile.TemporaryDirectory(prefix=STAGING) as here:
            path = Path(here, name)
            entry = write_file(path, plan, read)
            with path.open("rb") as file, storage.write_stream(self._place(name)) as stream:
                shutil.copyfileobj(file, stream, _COPY_BYTES)
        return entry
