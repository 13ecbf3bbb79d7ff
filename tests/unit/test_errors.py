"""Errors cross processes: each pickles with all it says."""

from __future__ import annotations

import copy
import inspect
import json
import pickle

import pytest

from raysft import errors
from raysft.errors import InterruptedRunError, PlatformError, RaysftError, UserError, from_fields, redacted, to_fields

KINDS = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, RaysftError)]


def test_the_tree_is_complete() -> None:
    names = {kind.__name__ for kind in KINDS}
    assert {"RecipeError", "DataError", "ModelError", "ClusterError", "StorageError", "ConflictError"} <= names
    assert {"CheckpointError", "TrainingError"} <= names


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_an_error_survives_a_process_border(kind: type[RaysftError], protocol: int) -> None:
    error = kind("it broke", got="a pipe", expected="none", fix="call a plumber")
    for other in (pickle.loads(pickle.dumps(error, protocol)), copy.copy(error)):
        assert type(other) is kind
        assert (other.what, other.got, other.expected, other.fix) == ("it broke", "a pipe", "none", "call a plumber")
        assert str(other) == str(error)


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_survives_as_text(kind: type[RaysftError]) -> None:
    error = kind("it broke", got="a pipe", expected="none", fix="call a plumber")
    other = from_fields(json.loads(json.dumps(to_fields(error))))
    assert (type(other), str(other), other.exit_code) == (kind, str(error), kind.exit_code)


def test_an_error_that_nobody_knows_is_the_platforms() -> None:
    """Records on storage may be of another version, or damaged."""
    assert (type(from_fields({"kind": "Gone", "what": "it broke"})), str(from_fields({}))) == (PlatformError, "")
    assert type(from_fields({"kind": "SystemExit", "what": "it broke"})) is PlatformError


def test_the_message_says_what_got_expected_and_fix_each_on_its_line() -> None:
    text = str(RaysftError("it broke", got="a", expected="b", fix="c"))
    assert text.splitlines() == ["it broke", "  got: a", "  expected: b", "  fix: c"]
    assert str(RaysftError("it broke", fix="c")).splitlines() == ["it broke", "  fix: c"]


@pytest.mark.parametrize("kind", KINDS)
def test_exit_codes_tell_the_user_from_the_platform(kind: type[RaysftError]) -> None:
    if issubclass(kind, UserError):
        assert kind.exit_code == 2
    elif issubclass(kind, PlatformError) or kind is RaysftError:
        assert kind.exit_code == 3
    elif kind is InterruptedRunError:
        assert kind.exit_code == 75
    else:
        pytest.fail(f"{kind.__name__} is on no branch")


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        (
            "https://b.s3.amazonaws.com/a.jsonl?X-Amz-Credential=AK%2Fx&X-Amz-Signature=feed",
            "https://b.s3.amazonaws.com/a.jsonl?X-Amz-Credential=***&X-Amz-Signature=***",
        ),
        ("https://host:8080/a.jsonl?password=hunter2", "https://host:8080/a.jsonl?password=***"),
        ("https://me:hunter2@host/a.jsonl", "https://***@host/a.jsonl"),
        ("s3://AKIA:sec/ret+x@bucket/a.jsonl?region=eu", "s3://***@bucket/a.jsonl?region=eu"),
        ("postgresql://me:hun/ter2@host:5432/db", "postgresql://***@host:5432/db"),
        ("s3://bucket/v@1/part-?.jsonl", "s3://bucket/v@1/part-?.jsonl"),
        ("http://host:80/a@b/c.jsonl", "http://host:80/a@b/c.jsonl"),
        ("hf://datasets/o/n@main/a.parquet", "hf://datasets/o/n@main/a.parquet"),
        ("s3://b/k?region=eu&scheme=http&token=feed", "s3://b/k?region=eu&scheme=http&token=***"),
        ("https://h/a b.jsonl?sig=feed", "https://h/a b.jsonl?sig=***"),
        ("/data/what?=1/a.jsonl", "/data/what?=1/a.jsonl"),
    ],
)
def test_no_error_shows_the_secrets_of_an_address(address: str, shown: str) -> None:
    error = UserError(f"cannot read {address}", got=f"'{address}' (8 attempts)", fix=address)
    assert (error.what, error.got, error.fix) == (f"cannot read {shown}", f"'{shown}' (8 attempts)", shown)
    assert redacted(shown) == shown
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
