"""What is wrong with the database of a search, told without its password."""

from __future__ import annotations

from raysft.errors import StorageError, redacted


def damaged(url: str, number: int) -> StorageError:
    """The error of a trial that is not as it was written."""
    return StorageError(
        f"the study's database {url} is damaged",
        got=f"trial {number} does not have its checksum",
        expected="the values that were written when it ended",
        fix="put a copy of the database there, or give this search another `name`; its trials' own runs are whole",
    )


def cannot_open(url: str, error: Exception) -> StorageError:
    """The error of a database that does not answer, or is none."""
    return StorageError(
        f"cannot open the study's database {url}",
        got=f"{type(error).__name__}: {redacted(' '.join(str(error).split()))[:300]}",
        expected="sqlite:///FILE in a local directory, or postgresql://USER@HOST/NAME with its driver installed",
        fix="check tune.study and that the database answers",
    )
