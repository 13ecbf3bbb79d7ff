"""Ratings as a table, and as preferences that train. Pure: texts out."""

from __future__ import annotations

import csv
import io
import json
from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime
from statistics import mean

from raysft.human.store import Rating
from raysft.human.study import Item, Study, is_right


def to_csv(study: Study, ratings: Sequence[Rating]) -> str:
    """A line for each rating, with what was rated. What a spreadsheet would compute begins with an apostrophe."""
    out = io.StringIO()
    table = csv.writer(out, lineterminator="\n")
    rated = ["verdict", "winner"] if study.mode == "pairwise" else list(study.criteria)
    gold = ["gold", "right"]
    table.writerow(["rater", "item", "kind", "systems", *rated, *gold, "left", "seconds", "at", "prompt", "answers"])
    for one in ratings:
        item = study.items[one.item]
        kind = "training" if item.is_training else "item" if item.is_judged else "gold"
        value = one.value
        cells = (
            [value, dict(zip(("first", "second"), item.systems, strict=False)).get(value, "")]
            if study.mode == "pairwise"
            else [value[name] for name in study.criteria]
        )
        cells += (
            ["", ""]
            if item.is_judged
            else [item.gold if isinstance(item.gold, str) else json.dumps(item.gold), is_right(item, value)]
        )
        left = "second" if study.is_flipped(one.rater, one.item) else "first"
        at = datetime.fromtimestamp(one.at, UTC).isoformat(timespec="seconds")
        texts = [item.prompt, json.dumps(item.answers, ensure_ascii=False)]
        row = [one.rater, one.item, kind, " / ".join(item.systems), *cells, left, f"{one.seconds:.1f}", at, *texts]
        table.writerow([_harmless(cell) for cell in row])
    return out.getvalue()


def _harmless(cell: object) -> object:
    """A text that begins like a formula would be one where the file is opened (CSV injection)."""
    return f"'{cell}" if isinstance(cell, str) and cell[:1] in ("=", "+", "-", "@", "\t", "\r") else cell


def to_preferences(study: Study, ratings: Sequence[Rating]) -> str:
    """JSON lines of the format `preference`: prompts with the answer that most raters hold for the better one.

    Pairs: more raters for one answer than for the other, and than see none better. Scores: the answers of the same
    prompt with the highest and the lowest mean. `agreement`: share of the raters who say so; of scores, the gap.
    """
    by_item: dict[int, list[Rating]] = defaultdict(list)
    for one in ratings:
        if study.items[one.item].is_judged:
            by_item[one.item].append(one)
    found = _of_pairs(study, by_item) if study.mode == "pairwise" else _of_scores(study, by_item)
    return "".join(
        json.dumps(
            {
                "prompt": better.prompt,
                "chosen": better.answers[place],
                "rejected": worse.answers[other],
                "winner": better.systems[place],
                "loser": worse.systems[other],
                "agreement": round(sure, 4),
                "raters": count,
            },
            ensure_ascii=False,
        )
        + "\n"
        for better, place, worse, other, sure, count in found
    )


Preference = tuple[Item, int, Item, int, float, int]
"""The better answer (item, place in it), the worse one, how sure that is, raters."""


def _of_pairs(study: Study, by_item: dict[int, list[Rating]]) -> list[Preference]:
    found = []
    for number, rated in sorted(by_item.items()):
        item, said = study.items[number], [one.value for one in rated]
        first, second = said.count("first"), said.count("second")
        most = max(first, second)
        if first != second and most > len(said) - first - second:
            place = 0 if first > second else 1
            found.append((item, place, item, 1 - place, most / len(said), len(said)))
    return found


def _of_scores(study: Study, by_item: dict[int, list[Rating]]) -> list[Preference]:
    by_prompt: dict[str, list[tuple[float, Item, int]]] = defaultdict(list)
    for number, rated in sorted(by_item.items()):
        score = mean(value for one in rated for value in one.value.values())
        item = study.items[number]
        by_prompt[item.prompt].append((score, item, len(rated)))
    found = []
    for scored in by_prompt.values():
        best, worst = max(scored, key=lambda one: one[0]), min(scored, key=lambda one: one[0])
        if best[0] > worst[0] and best[1].answers != worst[1].answers:
            found.append((best[1], 0, worst[1], 0, best[0] - worst[0], min(best[2], worst[2])))
    return found
