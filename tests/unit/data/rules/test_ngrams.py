"""N-grams shared with a benchmark, against a plain search."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path

import pytest

from raysft.data.records import Conversation, Message
from raysft.data.rules.keys import key_maker, keys_hash
from raysft.recipe.cleaning import Contamination


def talk(question: str, answer: str) -> Conversation:
    return Conversation(1, (Message("user", question), Message("assistant", answer)))


def test_contamination_by_benchmark_ngrams(tmp_path: Path) -> None:
    path = tmp_path / "bench.jsonl"
    question = "a train leaves the station at noon and travels sixty miles an hour until the evening falls"
    records = [
        {"q": question, "more": {"a": ["forty two apples"]}},
        {"q": "Why do eight words stand in this text?"},
        {"q": "小明每天早上七点钟从家里出发去学校上课"},
    ]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    rule = Contamination(rule="contamination", files=(str(path),))
    maker = key_maker([rule])
    cases = [
        (
            talk("Tell me.", "First. The STATION, at noon  and travels: sixty miles an hour, until the (evening)"),
            True,
        ),
        (
            talk("Tell me.", "the station at noon and travels sixty miles an hour, then until the evening falls"),
            False,
        ),
        (talk("Say: why do eight words stand in this text, and no others?", "So."), True),
        (talk("Why do eight words stand in any text?", "So."), False),
        (talk("forty two apples", "forty two apples"), False),
        (talk("Translate: 小明每天早上七点钟从家里出发去。", "Xiao Ming"), True),
        (talk("Translate: 小明每天早上七点钟从家里。", "Xiao Ming"), False),
        (talk("", "a train leaves the station at noon"), False),  # goes on in the next record
        (talk("and travels sixty miles an hour", ""), False),
        (talk("", ""), False),
    ]
    talks, expected = zip(*cases, strict=True)
    assert maker.columns(talks)["contaminated"].to_pylist() == list(expected)
    before = keys_hash([rule])
    path.write_text('{"q": "another"}\n')
    assert keys_hash([rule]) != before
    assert key_maker([rule]).columns(talks)["contaminated"].to_pylist() == [False] * len(talks)


@pytest.mark.shared
def test_contamination_against_a_plain_search(shared_data: Path, tmp_path: Path) -> None:
    """Reference: 13-grams as joined words in Python sets, on real texts with pieces of a benchmark put into some."""
    draw = random.Random(0)
    bench = [json.loads(line)["question"] for line in (shared_data / "gsm8k_train.jsonl").open()][:200]
    path = tmp_path / "bench.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in bench))
    texts = [record["output"] for record in json.loads((shared_data / "alpaca_en_demo.json").read_text())[:300]]
    for place in range(0, 300, 3):
        words, length = draw.choice(bench).split(), draw.randint(8, 20)
        start = draw.randrange(max(1, len(words) - length))
        texts[place] += " " + " ".join(words[start : start + length]).upper() + " " + texts[place + 1]

    def grams(text: str, n: int = 13) -> set[str]:
        words = re.findall(r"\w+", text.casefold())
        return {" ".join(words[i : i + n]) for i in range(len(words) - n + 1)}

    known = set().union(*map(grams, bench))
    wholes = {n: w for n in range(8, 13) if (w := {g for t in bench for g in grams(t, n) if grams(t, n) == {g}})}
    expected = [bool(grams(t) & known) or any(grams(t, n) & w for n, w in wholes.items()) for t in texts]
    maker = key_maker([Contamination(rule="contamination", files=(str(path),))])
    assert maker.columns([talk("", text) for text in texts])["contaminated"].to_pylist() == expected
    assert 20 < sum(expected) < 100
