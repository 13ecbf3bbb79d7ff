"""Places far away: tried again, given up with a reason, and in time."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from raysft.data.read import listing, remote
from raysft.data.read.listing import list_files
from raysft.errors import StorageError


def test_a_place_that_cannot_be_reached_is_given_up_soon(monkeypatch):
    tried = []

    class Unreachable:
        def get_file_info(self, _path):
            tried.append(1)
            raise OSError("[Errno -2] Name or service not known\n" + "very long " * 500)

    monkeypatch.setattr(remote, "RETRY", remote.RetryPolicy(first_wait_s=0.001, longest_wait_s=0.001))
    monkeypatch.setattr(listing, "filesystem", lambda location: (Unreachable(), "org/name"))
    with pytest.raises(StorageError, match=r"cannot read hf://datasets/org/name(.|\n)*3 attempts") as caught:
        list_files("hf://datasets/org/name")
    assert len(tried) == 3
    assert len(str(caught.value)) < 700


@pytest.mark.parametrize(
    ("location", "plain", "is_local", "packed"),
    [
        ("/a/b.jsonl", "/a/b.jsonl", True, ""),
        ("/a/b?.jsonl.gz", "/a/b?.jsonl.gz", True, ".gz"),
        ("s3://bucket/a.jsonl.ZST?region=eu", "s3://bucket/a.jsonl.ZST", False, ".zst"),
        ("s3://bucket/a?.jsonl", "s3://bucket/a?.jsonl", False, ""),
        ("https://host/a.json.xz?sig=1#part", "https://host/a.json.xz", False, ".xz"),
        ("https://host/a.csv?x=b.bz2", "https://host/a.csv", False, ""),
    ],
)
def test_what_an_address_says(location: str, plain: str, is_local: bool, packed: str) -> None:
    assert remote.without_query(location) == plain
    assert (remote.local_path(location) is not None) is is_local
    assert remote.compression(location) == packed


def patient(monkeypatch: pytest.MonkeyPatch, **policy: float) -> list[float]:
    """Waits that were made, without waiting."""
    waits: list[float] = []
    monkeypatch.setattr(remote, "RETRY", remote.RetryPolicy(**{"attempts": 5, "first_wait_s": 2.0, **policy}))
    monkeypatch.setattr(remote.time, "sleep", waits.append)
    return waits


def failing(times: int, error: Exception) -> Callable[[], str]:
    left = iter([error] * times)

    def act() -> str:
        for one in left:
            raise one
        return "done"

    return act


def test_waits_double_up_to_a_limit_and_the_answer_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    waits = patient(monkeypatch, longest_wait_s=5.0)
    assert remote.retried(failing(4, OSError("reset by peer")), "s3://b/a") == "done"
    for wait, most in zip(waits, (2.0, 4.0, 5.0, 5.0), strict=True):
        assert most / 2 <= wait <= most


def test_it_is_given_up_with_the_reason_and_without_the_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    patient(monkeypatch)
    with pytest.raises(StorageError) as caught:
        remote.retried(failing(5, OSError("reset https://me:geheim@host/x")), "s3://b/a")
    assert "5 attempts" in caught.value.got
    assert "reset" in caught.value.got
    assert "geheim" not in str(caught.value)
    assert "s3://" in caught.value.fix


@pytest.mark.parametrize("error", [FileNotFoundError("a"), PermissionError("a"), NotADirectoryError("a")])
def test_what_is_final_comes_at_once_and_as_it_is(monkeypatch: pytest.MonkeyPatch, error: OSError) -> None:
    waits = patient(monkeypatch)
    with pytest.raises(type(error)):
        remote.retried(failing(1, error), "s3://b/a")
    assert waits == []


@pytest.mark.parametrize(
    ("error", "is_first", "tries"),
    [
        (OSError("AWS Error ACCESS_DENIED during HeadObject"), False, 1),
        (OSError("could not resolve host"), True, 3),
        (OSError("could not resolve host"), False, 5),
        (ValueError("no such bucket name"), True, 1),
        (OSError("slow down"), True, 5),
    ],
)
def test_a_place_that_may_be_a_typing_error_is_given_up_sooner(
    monkeypatch: pytest.MonkeyPatch, error: Exception, is_first: bool, tries: int
) -> None:
    waits = patient(monkeypatch)
    with pytest.raises(StorageError):
        remote.retried(failing(5, error), "s3://b/a", is_first=is_first)
    assert len(waits) == tries - 1


def test_an_act_that_hangs_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    patient(monkeypatch, attempts=2, answer_s=60.0)
    forever = threading.Event()
    with pytest.raises(StorageError, match=r"TimeoutError: no answer in 0\.05 s \(2 attempts"):
        remote.retried(lambda: forever.wait(60), "s3://b/a", answer_s=0.05)
    forever.set()
