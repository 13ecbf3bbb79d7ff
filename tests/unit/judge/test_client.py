"""The endpoint against a server that is busy, refuses, or is not there."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from judge_server import judge_server
from judged import asked_of, fair, quick

from raysft.errors import UserError
from raysft.judge.command import endpoint, judge


def test_a_busy_server_is_waited_for_as_it_asks(tmp_path: Path) -> None:
    busy = [
        (429, "slow down", {"Retry-After": "7"}),
        (503, "", {}),
        (200, "<html>", {}),
        (429, "", {"Retry-After": "x"}),
    ]
    waits: list[float] = []
    with judge_server(lambda messages, number: busy[number] if number < 4 else fair(messages, number)) as server:
        judge(asked_of(tmp_path, most=1), quick(server.url, waits), str(tmp_path / "o"), parallel=1, prices=(0, 0))
        assert len(server.asked) == 4 + 2
    assert waits == [7.0, 2.0, 4.0, 8.0]


@pytest.mark.parametrize("status", [400, 401, 404])
def test_a_refusal_is_no_reason_to_wait_and_no_key_is_told(status: int, tmp_path: Path, caplog: Any) -> None:
    caplog.set_level(logging.DEBUG)
    with judge_server(lambda messages, number: (status, "bad key sk-very-secret", {})) as server:
        with pytest.raises(UserError) as told:
            judge(
                asked_of(tmp_path),
                quick(server.url, key="sk-very-secret"),
                str(tmp_path / "o"),
                parallel=1,
                prices=(0, 0),
            )
        assert len(server.asked) == 1
        assert server.headers[0]["Authorization"] == "Bearer sk-very-secret"
    assert "sk-very-secret" not in str(told.value) + caplog.text + repr(quick("x", key="sk-very-secret"))


def test_no_server_at_all(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="gives no reply"):
        judge(
            asked_of(tmp_path, most=1), quick("http://127.0.0.1:9/v1"), str(tmp_path / "o"), parallel=1, prices=(0, 0)
        )
    for wrong in ("localhost:8000", "ftp://x/v1", "", "http://"):
        with pytest.raises(UserError, match="no address"):
            endpoint(wrong, "m", 0)


def test_a_key_does_not_travel_in_the_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYSFT_JUDGE_KEY", "sk-very-secret")
    with pytest.raises(UserError, match="everybody on the way") as told:
        endpoint("http://judge.example.com/v1", "m", 0)
    assert "sk-very-secret" not in str(told.value)
    for private in ("https://judge.example.com/v1", "http://127.0.0.1:8000/v1"):
        assert endpoint(private, "m", 0).key == "sk-very-secret"
    assert endpoint("http://judge.example.com/v1", "m", 0, insecure_http=True).key == "sk-very-secret"
    monkeypatch.delenv("RAYSFT_JUDGE_KEY")
    assert not endpoint("http://judge.example.com/v1", "m", 0).key


def test_a_proxy_does_not_stand_before_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with judge_server(fair) as server:
        judge(asked_of(tmp_path, most=1), quick(server.url), str(tmp_path / "o"), parallel=1, prices=(0, 0))
        assert len(server.asked) == 2


def test_no_more_requests_in_a_minute_than_may(tmp_path: Path) -> None:
    waits: list[float] = []
    with judge_server(fair) as server:
        of = quick(server.url, waits, per_minute=60)
        judge(asked_of(tmp_path, most=3), of, str(tmp_path / "o"), parallel=3, prices=(0, 0))
    assert len(waits) == 6
    assert max(waits) == pytest.approx(5.0, abs=0.9), "a second between two of six"
