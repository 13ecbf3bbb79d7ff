"""The database of a search from outside: is it as it was written, and what is wrong with it, without its password."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from raysft import sealed
from raysft.errors import RaysftError, StorageError, redacted

SEAL = "seal"
"""User attributes of a study: the checksum of each ended trial."""


@contextlib.contextmanager
def answering(url: str) -> Iterator[None]:
    """Inside, an error of the database, or of what it says, is a StorageError."""
    try:
        yield
    except RaysftError:
        raise
    except (ValueError, LookupError, TypeError) as error:  # it answers, with what nobody wrote
        raise damaged_database(url, f"{type(error).__name__}: {_line(error)}") from error
    except Exception as error:  # SQLAlchemy's many; process boundary to a database
        raise StorageError(
            f"cannot use the study's database {url}",
            got=f"{type(error).__name__}: {_line(error.__cause__ or error)}",
            expected="a whole sqlite:///FILE in a local directory with space left, or postgresql://USER@HOST/NAME "
            "with its driver installed",
            fix="check tune.study, the disk, and that the database answers; of a damaged file put a copy there, or "
            "give this search another `name`",
        ) from error


def check_seals(url: str, attributes: Mapping[str, Any], sums: Mapping[int, str]) -> None:
    """Refuse trials that are not as they ended. sums: {trial: checksum of what it is}. Raises StorageError."""
    sealed_ones = {key: value for key, value in attributes.items() if key.startswith(f"{SEAL}-")}
    for number, checksum in sums.items():
        if sealed_ones.pop(f"{SEAL}-{number}", checksum) != checksum:
            raise damaged_database(url, f"trial {number} does not have its checksum")
    for key in sealed_ones:
        raise damaged_database(url, f"there is no trial {key.removeprefix(SEAL + '-')}, which has ended")


def search_of(url: str, attributes: Mapping[str, Any], num_trials: int) -> dict[str, Any] | None:
    """What a study searches, as it was noted before its first trial; None: nothing is noted. Raises StorageError.

    A record without a checksum was written before there were any.
    """
    record = attributes.get("search")
    if record is None and not num_trials:
        return None
    if record is None or not sealed.is_intact(record):
        raise damaged_database(url, "the record of what is searched is missing, or does not have its checksum")
    return sealed.content(record)


def damaged_database(url: str, what: str) -> StorageError:
    """The error of a database that is not as it was written."""
    return StorageError(
        f"the study's database {url} is damaged",
        got=what,
        expected="what was written",
        fix="put a copy of the database there, or give this search another `name`; its trials' own runs are whole",
    )


def _line(error: BaseException) -> str:
    return redacted(" ".join(str(error).split()))[:300]
