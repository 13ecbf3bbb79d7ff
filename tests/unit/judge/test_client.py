"""The endpoint against a server that is busy, refuses, or is not there."""

from __future__ import annotations

import logging
import socket
import threading
import time
from contextlib import suppress
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
from judge_server import judge_server
from judged import asked_of, fair, quick

from raysft.errors import UserError
from raysft.judge import client
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
    for wrong in ("localhost:8000", "ftp://x/v1", "", "http://", "http://[::1", "http://a:99999/v1", "http://a b/v1"):
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


def test_a_date_to_come_again_is_waited_for(tmp_path: Path) -> None:
    """RFC 9110: Retry-After is a number or a date."""
    dates = [formatdate(time.time() + 30, usegmt=True), formatdate(time.time() - 30), "Thu, 99 Foo 2026"]
    waits: list[float] = []

    def script(messages: list[dict[str, str]], number: int) -> Any:
        return (429, "", {"Retry-After": dates[number]}) if number < 3 else fair(messages, number)

    with judge_server(script) as server:
        judge(asked_of(tmp_path, most=1), quick(server.url, waits), str(tmp_path / "o"), parallel=1, prices=(0, 0))
    assert waits == [pytest.approx(30, abs=3), 2.0, 4.0]


def test_a_reply_that_drips_or_never_ends_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "REQUEST_S", 0.2)
    monkeypatch.setattr(client, "TRIES", 1)
    monkeypatch.setattr(client, "LONGEST_REPLY", 1000)
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def drip(piece: bytes) -> None:
            with listener.accept()[0] as connection, suppress(OSError):
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n")
                for _ in range(100):
                    connection.sendall(piece)
                    time.sleep(0.05)

        url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
        for piece, problem in ((b" ", "ReadTimeout"), (b" " * 1000, "more than 1,000 bytes")):
            thread = threading.Thread(target=drip, args=(piece,), daemon=True)
            thread.start()
            began = time.monotonic()
            with pytest.raises(UserError) as told:
                quick(url).ask([], 1)
            assert problem in told.value.got
            assert time.monotonic() - began < 2
            thread.join(10)


def test_what_a_server_says_is_told_in_one_line(tmp_path: Path) -> None:
    page = (404, "<html>\n<h1>Welcome\nto nginx", dict[str, str]())
    with judge_server(lambda messages, number: page) as server, pytest.raises(UserError) as told:
        quick(server.url).ask([], 1)
    assert told.value.got == "404 Not Found: <html> <h1>Welcome to nginx"


def test_a_key_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for wrong in ("two\nlines", "schl\u00fcssel"):
        monkeypatch.setenv("RAYSFT_JUDGE_KEY", wrong)
        with pytest.raises(UserError, match="no key") as told:
            endpoint("https://judge.example.com/v1", "m", 0)
        assert wrong not in str(told.value)
    monkeypatch.setenv("RAYSFT_JUDGE_KEY", "of-a-file\n")
    assert endpoint("https://judge.example.com/v1", "m", 0).key == "of-a-file"
