"""A judge at work: against a server on this machine that is fair, prefers places, talks nonsense, or is busy."""

from __future__ import annotations

import argparse
import json
import logging
import re
from pathlib import Path
from typing import Any

import pytest
from judge_server import judge_server
from rated import GOLD_PAIRS, answers_file, write_lines

from raysft.cli.evaluation_verbs import judge as verb
from raysft.errors import ConflictError, UserError
from raysft.human.command import Asked
from raysft.judge.client import TRIES, Endpoint
from raysft.judge.command import endpoint, judge

NUM = 8


def asked_of(folder: Path, **more: Any) -> Asked:
    """`after` is right, `before` wrong; of question 3 both are alike."""
    wrong = [str(i + 1 if i == 3 else i + 7) for i in range(NUM)]
    right = [str(i + 1) + " " * (i == 3) + "." * (i == 3) for i in range(NUM)]
    answers = {"before": answers_file(folder / "a.jsonl", wrong), "after": answers_file(folder / "b.jsonl", right)}
    return Asked(answers, (), **more)


def fair(messages: list[dict[str, str]], number: int) -> str:
    """Whichever answer is the question's number and 1."""
    text = messages[1]["content"]
    if "Gold" in text:
        return json.dumps({"verdict": "A" if "<answer_A>\ngood" in text else "B"})
    wanted = str(int(re.findall(r"How much is (\d+)", text)[0]) + 1)
    sides = [re.findall(rf"<answer_{name}>\n(.*)\n", text)[0].strip(". ") == wanted for name in "AB"]
    return json.dumps({"verdict": "tie" if all(sides) else "A" if sides[0] else "B" if sides[1] else "both_bad"})


def quick(url: str, waits: list[float] | None = None, **more: Any) -> Endpoint:
    return Endpoint(url, "judge", sleep=(waits if waits is not None else []).append, **more)


def test_a_fair_judge_is_asked_in_both_orders_once(tmp_path: Path) -> None:
    asked = asked_of(tmp_path, gold=write_lines(tmp_path / "g.jsonl", GOLD_PAIRS))
    out = str(tmp_path / "verdicts.jsonl")
    with judge_server(fair) as server:
        lines = judge(asked, quick(server.url), out, parallel=4, prices=(3.0, 15.0))
        assert len(server.asked) == 2 * (NUM + 4)
        assert {one["path"] for one in server.asked} == {"/v1/chat/completions"}
        assert {(one["model"], one["temperature"]) for one in server.asked} == {("judge", 0)}
        assert not any("before" in json.dumps(one) for one in server.asked)
        again = judge(asked, quick(server.url), out, parallel=1, prices=(0.0, 0.0))
        assert len(server.asked) == 2 * (NUM + 4), "what was judged is not asked again"
    text = "\n".join(lines)
    assert "0 won, 7 lost, 1 ties, 0 both bad" in text
    assert "12 of 12 verdicts survive" in text
    assert "gold         4 of 4 right" in text
    assert "2,400 tokens in, 240 out; 24 of 24 replies asked for now; 0.0108 at 3 and 15 a million" in text
    assert "0 of 24 replies asked for now" in "\n".join(again)


def test_a_judge_that_prefers_places_gives_ties(tmp_path: Path) -> None:
    with judge_server(lambda messages, number: '{"verdict": "A"}') as server:
        text = "\n".join(judge(asked_of(tmp_path), quick(server.url), str(tmp_path / "o"), parallel=4, prices=(0, 0)))
    assert "0 won, 0 lost, 8 ties" in text
    assert "0 of 8 verdicts survive" in text
    assert "came first was chosen in 100%" in text


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


def test_no_more_requests_in_a_minute_than_may(tmp_path: Path) -> None:
    waits: list[float] = []
    with judge_server(fair) as server:
        of = quick(server.url, waits, per_minute=60)
        judge(asked_of(tmp_path, most=3), of, str(tmp_path / "o"), parallel=3, prices=(0, 0))
    assert len(waits) == 6
    assert max(waits) == pytest.approx(5.0, abs=0.9), "a second between two of six"


def test_another_file_is_not_written_into(tmp_path: Path) -> None:
    (tmp_path / "o").write_text('{"generated": "x"}\n')
    with pytest.raises(ConflictError, match="something else"):
        judge(asked_of(tmp_path), quick("http://x/v1"), str(tmp_path / "o"), parallel=1, prices=(0, 0))


def test_scores_by_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = asked_of(tmp_path).answers
    with judge_server(lambda m, n: '{"scores": {"accuracy": 4}}' if "how" not in m[0] else "") as server:
        given: dict[str, Any] = {"mode": "scale", "criteria": "accuracy", "gold": None, "seed": 0, "items": 0}
        given |= {"answers": list(files.items()), "out": str(tmp_path / "o"), "url": server.url, "model": "m"}
        verb(argparse.Namespace(**given, per_minute=0, parallel=2, price=(0.0, 0.0)))
    assert "mean score   after, accuracy: 4.00" in capsys.readouterr().out
