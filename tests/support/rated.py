"""Files of answers and gold items, and a study of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from raysft.human.command import Asked, open_study
from raysft.human.store import Rating, Store
from raysft.human.study import Study


def write_lines(file: Path, records: list[dict[str, Any]]) -> str:
    file.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), encoding="utf-8")
    return str(file)


def answers_file(file: Path, texts: list[str], *, question: str = "How much is {} + 1? 请回答。") -> str:
    """As `raysft generate` writes it."""
    return write_lines(
        file,
        [
            {"number": i, "generated": text, "record": {"prompt": question.format(i)}, "key": "0" * 16}
            for i, text in enumerate(texts)
        ],
    )


GOLD_PAIRS = [
    {"prompt": f"Gold {i}?", "first": "good", "second": "bad", "best": "first", "why": f"because of {i}"}
    for i in range(4)
]


def pair_study(folder: Path, items: int = 6, raters: tuple[str, ...] = ("alice", "bob"), **asked: Any) -> Store:
    """Two systems, `items` questions, four gold items, seed 7."""
    answers = {
        "before": answers_file(folder / "a.jsonl", [f"before says {i}" for i in range(items)]),
        "after": answers_file(folder / "b.jsonl", [f"after says {i + 1}" for i in range(items)]),
    }
    gold = write_lines(folder / "gold.jsonl", GOLD_PAIRS)
    return open_study(str(folder / "study.db"), Asked(answers, raters, **{"gold": gold, "seed": 7, **asked}))


VERDICTS = {
    "alice": ["first", "first", "second", "tie", "both_bad", "first"],
    "bob": ["first", "second", "second", "tie", "both_bad", "first"],
}
"""Of items 4 to 9, which nobody knows."""


def ratings_of(study: Study) -> list[Rating]:
    found = [Rating(name, 4 + i, value, 2.0 + i, 1e9) for name, of in VERDICTS.items() for i, value in enumerate(of)]
    gold = {"alice": ["first"] * 4, "bob": ["second", "first", "tie", "first"]}
    return found + [Rating(name, i, value, 1.0, 1e9) for name, of in gold.items() for i, value in enumerate(of)]
