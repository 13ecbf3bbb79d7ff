"""The file of replies: what is asked again, what is kept, what is nonsense."""

from __future__ import annotations

from pathlib import Path

import pytest
from judge_server import judge_server
from judged import NUM, asked_of, fair, quick

from raysft.errors import ConflictError, UserError
from raysft.judge.client import TRIES
from raysft.judge.command import judge


def test_nonsense_is_asked_for_once_more_and_left_out(tmp_path: Path) -> None:
    def script(messages: list[dict[str, str]], number: int) -> str:
        text = messages[1]["content"]
        if "is 5 +" in text:
            return "As an AI I cannot say"
        if "is 6 +" in text and len(messages) == 2:
            return "hm"
        return fair(messages, number)

    with judge_server(script) as server:
        text = "\n".join(judge(asked_of(tmp_path), quick(server.url), str(tmp_path / "o"), parallel=2, prices=(0, 0)))
        assert len(server.asked) == 2 * NUM + 4
    assert "2 of 16 replies; 1 items are left out" in text
    assert "0 won, 6 lost, 1 ties" in text
    assert "2,000 tokens in" in text, "a reminder is paid for, too"


def test_a_server_that_stays_busy_ends_it_and_what_was_said_is_kept(tmp_path: Path) -> None:
    out = tmp_path / "o"
    waits: list[float] = []
    with judge_server(lambda m, n: fair(m, n) if n < 5 else (429, "later", {"Retry-After": "1e9"})) as server:
        with pytest.raises(UserError, match="gives no reply") as told:
            judge(asked_of(tmp_path), quick(server.url, waits), str(out), parallel=1, prices=(0, 0))
        assert len(server.asked) == 5 + TRIES
    assert "429" in told.value.got
    assert max(waits) <= 60, "no server makes us wait for ever"
    assert len(out.read_text().splitlines()) == 5
    out.write_text(out.read_text()[:-20])  # a kill tears the last line
    with judge_server(fair) as server:
        judge(asked_of(tmp_path), quick(server.url), str(out), parallel=1, prices=(0, 0))
        assert len(server.asked) == 2 * NUM - 4


def test_another_file_is_not_written_into(tmp_path: Path) -> None:
    (tmp_path / "o").write_text('{"generated": "x"}\n')
    with pytest.raises(ConflictError, match="something else"):
        judge(asked_of(tmp_path), quick("http://x/v1"), str(tmp_path / "o"), parallel=1, prices=(0, 0))
