"""A judge at work against a server on this machine: fair, or fond of places; scores by the command."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest
from judge_server import judge_server
from judged import NUM, asked_of, fair, quick
from rated import GOLD_PAIRS, write_lines

from raysft.cli.evaluation_verbs import judge as verb
from raysft.judge.command import judge


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


def test_scores_by_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = asked_of(tmp_path).answers
    with judge_server(lambda m, n: '{"scores": {"accuracy": 4}}' if "how" not in m[0] else "") as server:
        given: dict[str, Any] = {
            "mode": "scale",
            "criteria": "accuracy",
            "gold": None,
            "seed": 0,
            "items": 0,
            "insecure_http": False,
        }
        given |= {"answers": list(files.items()), "out": str(tmp_path / "o"), "url": server.url, "model": "m"}
        verb(argparse.Namespace(**given, per_minute=0, parallel=2, price=(0.0, 0.0)))
    assert "mean score   after, accuracy: 4.00" in capsys.readouterr().out
