"""The tree of errors. Every message says what happened, what was got, what was expected, how to fix it.

    RaysftError
    ├── UserError            the recipe, the data or the surroundings must change     exit code 2
    │   ├── RecipeError      a field is unknown, of a wrong type, or contradicts another
    │   ├── DataError        a file or a record cannot be used
    │   ├── ModelError       a model or tokenizer cannot be used
    │   ├── ClusterError     the cluster cannot hold the run
    │   ├── StorageError     a storage path cannot be read or written
    │   └── ConflictError    a run of this name exists and differs
    ├── InterruptedRunError  asked to stop; committed: the same command goes on       exit code 75
    └── PlatformError        raysft or the stack below it failed                      exit code 3
        ├── CheckpointError  a checkpoint is torn or belongs to something else
        └── TrainingError    training ended without a model (diverged, kept crashing)

All of them pickle, because they cross processes; where pickle is not wanted (records on storage, results of tasks)
they cross as the fields of `to_fields`. None holds a secret of an address: see `redacted`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any


class RaysftError(Exception):
    """Root of the tree. `exit_code` is what the CLI ends with."""

    exit_code = 3

    def __init__(self, what: str, *, got: str = "", expected: str = "", fix: str = "") -> None:
        self.what, self.got, self.expected, self.fix = map(redacted, (what, got, expected, fix))
        super().__init__(self.what)

    def __str__(self) -> str:
        parts = [("", self.what), ("got: ", self.got), ("expected: ", self.expected), ("fix: ", self.fix)]
        return "\n  ".join(label + text for label, text in parts if text)


class UserError(RaysftError):
    """Something the user can change."""

    exit_code = 2


class RecipeError(UserError):
    """Example: an unknown key, a learning rate that is a word, more workers than rows in a step."""


class DataError(UserError):
    """Example: a malformed JSON line under `data.on_bad_record: fail`, a file without records."""


class ModelError(UserError):
    """Example: a model directory without weights, a template that cannot be masked."""


class ClusterError(UserError):
    """Example: more workers than the cluster can ever hold."""


class StorageError(UserError):
    """Example: a storage path that cannot be written."""


class ConflictError(UserError):
    """Example: the run name is taken by a run of another recipe."""


class InterruptedRunError(RaysftError):
    """The run ended because somebody asked it to, after a commit. 75: EX_TEMPFAIL of sysexits.h, try again."""

    exit_code = 75


class PlatformError(RaysftError):
    """Something below the user failed."""


class CheckpointError(PlatformError):
    """Example: a checkpoint whose checksums do not match its commit record."""


class TrainingError(PlatformError):
    """Example: workers died more often than `cluster.max_failures` allows."""


def refuse_first(kind: type[RaysftError], *problems: tuple[bool, str, str, str, str]) -> None:
    """Raise the first of several problems that holds, if one does: (does it hold?, what, got, expected, fix)."""
    for holds, what, got, expected, fix in problems:
        if holds:
            raise kind(what, got=got, expected=expected, fix=fix)


_URL = re.compile(r"[A-Za-z][\w+.-]*://[^\s'\"<>]+")
_LOGIN = re.compile(r"(?<=://)[^/?#@]*@|(?<=://)[^/?#@:]*:(?!\d*(?:[/?#]|$))[^?#]*@")
_VALUE = re.compile(r"([?&;]\w[\w.%~-]*=)([^\s&;#)\]'\"]*)")
_OPEN = ("region=", "scheme=", "endpoint_override=", "revision=", "download=")
"""Options of addresses whose values are no secrets."""


def redacted(text: str) -> str:
    """A text whose addresses (`scheme://...`) show no login and no values of a query: keys, signatures, passwords."""
    if "://" not in text:
        return text
    text = _URL.sub(lambda match: _LOGIN.sub("***@", match[0]), text)  # a query may come behind a blank
    return _VALUE.sub(lambda match: match[0] if match[1][1:] in _OPEN else f"{match[1]}***", text)


def to_fields(error: RaysftError) -> dict[str, str]:
    """The wire form of an error: {kind, what, got, expected, fix}, all of it text.

    kind: its class in the tree above; of a class made elsewhere (Ray makes some), the nearest one that stands there.
    """
    return {
        "kind": next(kind.__name__ for kind in type(error).__mro__ if kind.__module__ == __name__),
        "what": error.what,
        "got": error.got,
        "expected": error.expected,
        "fix": error.fix,
    }


def from_fields(fields: Mapping[str, Any]) -> RaysftError:
    """The error that `to_fields` took apart, of the same kind. A kind that nobody knows here is a PlatformError."""
    kinds = {kind.__name__: kind for kind in _kinds(RaysftError) if kind.__module__ == __name__}
    kind = kinds.get(str(fields.get("kind")), PlatformError)
    what, got, expected, fix = (str(fields.get(name, "")) for name in ("what", "got", "expected", "fix"))
    return kind(what, got=got, expected=expected, fix=fix)


def _kinds(kind: type[RaysftError]) -> Iterator[type[RaysftError]]:
    yield kind
    for child in kind.__subclasses__():
        yield from _kinds(child)
