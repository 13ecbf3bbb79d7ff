"""Whole-data rules on shards made by hand: what goes, what it is like, and that order and cutting do not matter."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raysft.data.records import Conversation, Message
from raysft.data.rules import near_duplicates
from raysft.data.rules.keys import key_maker
from raysft.data.rules.near_duplicates import choose_bands
from raysft.data.rules.whole_data import Selection, select
from raysft.recipe.cleaning import Conflicts, Contamination, ExactDuplicates, Leakage, NearDuplicates, Rule

EXACT = ExactDuplicates(rule="exact_duplicates")
NEAR = NearDuplicates(rule="near_duplicates", threshold=0.7)


@pytest.fixture(autouse=True)
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    def here(function: Callable[[Any], Any], items: Sequence[Any]) -> Iterator[Any]:
        return (function(item) for item in reversed(items))  # in no order

    def tables(
        function: Callable[[Any], Iterator[pa.Table]], items: Sequence[Any], *, ordered: bool
    ) -> Iterator[pa.Table]:
        return (table for item in reversed(items) for table in function(item))

    monkeypatch.setattr(near_duplicates, "on_ray", here)
    monkeypatch.setattr(near_duplicates, "tables_on_ray", tables)


def write(
    folder: Path, name: str, talks: list[tuple[str, str]], first_id: int, rules: list[Rule], **more: Any
) -> str:
    folder.mkdir(exist_ok=True)
    maker = key_maker(rules)
    ids = more.get("ids", range(first_id, first_id + len(talks)))
    conversations = [
        Conversation(i, (Message("user", q), Message("assistant", a))) for i, (q, a) in zip(ids, talks, strict=True)
    ]
    columns = {
        "sample_id": pa.array([c.id for c in conversations], pa.int64()),
        "held_out": pa.array(more.get("held_out", [False] * len(talks)), pa.bool_()),
        **maker.columns(conversations),
    }
    table = pa.table(columns)
    with pa.OSFile(str(folder / name), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=7)
    return str(folder / name)


def run(folder: Path, talks: list[tuple[str, str]], rules: list[Rule], pieces: int = 1, **more: Any) -> Selection:
    size = -(-len(talks) // pieces)
    shards = []
    for number, start in enumerate(range(0, len(talks), size)):
        own = {name: values[start : start + size] for name, values in more.items() if name in ("held_out", "ids")}
        shards.append(write(folder, f"{pieces}-{number}", talks[start : start + size], start, rules, **own))
    return select(shards, more.get("eval_shards", []), rules, out=str(folder / "out"))


def gone(selection: Selection, size: int = 10**9) -> dict[int, tuple[str, int]]:
    return {
        line["shard"] * size + line["row"]: (line["reason"], line["like"]) for line in selection.dropped.to_pylist()
    }


def test_nothing_to_compare(tmp_path: Path) -> None:
    assert run(tmp_path, [("a", "b")] * 3, []).dropped.num_rows == 0


def test_of_equal_records_the_first_stays(tmp_path: Path) -> None:
    talks = [("q", "a"), ("p", "a"), ("Q ", "a"), ("q", "b"), ("p", "A"), ("q", "a")]
    for pieces in (1, 2, 3):
        found = run(tmp_path, talks, [EXACT], pieces)
        expected = {2: ("exact_duplicates", 0), 4: ("exact_duplicates", 1), 5: ("exact_duplicates", 0)}
        assert gone(found, -(-6 // pieces)) == expected
        assert found.counts == {"exact_duplicates": 3}
        assert found.clusters[0] == {"rule": "exact_duplicates", "size": 3, "members": [0, 2, 5]}
    report = ExactDuplicates(rule="exact_duplicates", action="report")
    found = run(tmp_path, talks, [report])
    assert found.dropped.num_rows == 0
    assert found.counts == {"exact_duplicates": 3}


def test_leakage_from_both_kinds_of_held_out_data(tmp_path: Path) -> None:
    rules: list[Rule] = [Leakage(rule="leakage")]
    other = write(tmp_path, "eval", [("in files", "x")], 900, rules, held_out=[True])
    talks = [("q", "a"), ("In  Files", "y"), ("held", "b"), ("held", "c"), ("free", "d")]
    held_out = [False, False, True, False, False]
    found = run(tmp_path, talks, rules, held_out=held_out, eval_shards=[other])
    assert gone(found) == {1: ("leakage", -1), 3: ("leakage", -1)}


def test_conflicts(tmp_path: Path) -> None:
    talks = [("q", "a"), ("q", "A"), ("p", "a"), ("q", "b"), ("q", "a")]
    everything = run(tmp_path, talks, [Conflicts(rule="conflicts", action="drop")])
    assert sorted(gone(everything)) == [0, 1, 3, 4]
    first = run(tmp_path, talks, [Conflicts(rule="conflicts", action="drop", keep_first=True)])
    assert gone(first) == {3: ("conflicts", 0)}
    assert run(tmp_path, talks, [Conflicts(rule="conflicts")]).counts == {"conflicts": 4}


def test_rules_see_what_the_ones_before_left(tmp_path: Path) -> None:
    path = tmp_path / "bench.jsonl"
    path.write_text('{"text": "one two three four"}\n')
    against = Contamination(rule="contamination", files=(str(path),), ngram=3)
    talks = [("one two three four", "x"), ("q", "a"), ("One two three four", "x"), ("q", "a")]
    found = run(tmp_path, talks, [against, EXACT])
    assert gone(found) == {0: ("contamination", -1), 2: ("contamination", -1), 3: ("exact_duplicates", 1)}
    found = run(tmp_path, talks, [EXACT, against])
    assert gone(found) == {0: ("contamination", -1), 2: ("exact_duplicates", 0), 3: ("exact_duplicates", 1)}


def test_samples_of_one_record_are_not_each_other_s_duplicates(tmp_path: Path) -> None:
    """The parts of a split record have all of its keys; augmented copies are meant to be alike."""
    text = " ".join(f"word{i}" for i in range(80))
    talks = [(text, "a"), (text, "a"), (text + " more", "a"), (text, "a"), (text, "a"), (text + " more", "a")]
    ids = [7, 7, 7, 9, 9, 9]
    assert gone(run(tmp_path, talks, [EXACT], ids=ids)) == {
        **{3: ("exact_duplicates", 7), 4: ("exact_duplicates", 7), 5: ("exact_duplicates", 7)}
    }
    found = run(tmp_path, talks, [NEAR], 2, ids=ids)
    assert sorted(gone(found, 3)) == [3, 4, 5]
    assert found.clusters == [{"rule": "near_duplicates", "size": 4, "members": [7, 9, 9, 9]}]


def test_held_out_samples_are_no_one_s_first(tmp_path: Path) -> None:
    text = " ".join(f"word{i}" for i in range(80))
    talks = [(text, "a"), (text, "a"), (text, "a")]
    found = run(tmp_path, talks, [NEAR, EXACT], 3, held_out=[True, False, False])
    assert gone(found, 1) == {2: ("near_duplicates", 1)}


@pytest.mark.parametrize("num_hashes", [64, 128, 256])
def test_bands_find_pairs_at_the_threshold(num_hashes: int) -> None:
    """By drawing signatures whose places are equal with the chance `similarity`; longer bands would miss more."""
    draw = np.random.default_rng(0)
    for threshold in (0.3, 0.5, 0.8, 0.95):
        rule = NearDuplicates(rule="near_duplicates", threshold=threshold, num_hashes=num_hashes)
        bands, rows = choose_bands(rule)
        equal = draw.random((4000, num_hashes)) < threshold

        def found(bands: int, rows: int, equal: Any = equal) -> float:
            shape = (len(equal), bands, rows)
            return float(equal[:, : bands * rows].reshape(shape).all(axis=2).any(axis=1).mean())

        assert found(bands, rows) > 0.935
        assert found(num_hashes // (rows + 1), rows + 1) < 0.965
    assert choose_bands(NearDuplicates(rule="near_duplicates", threshold=1.0)) == (1, 128)
    assert choose_bands(NearDuplicates(rule="near_duplicates", threshold=0.05, num_hashes=16)) == (16, 1)


def test_clusters_are_connected_components() -> None:
    """Reference: a search from every line, in Python; chains, stars and loops in a shuffled order."""
    draw = random.Random(5)
    for size, count in ((2, 1), (10, 4), (300, 150), (300, 290), (2000, 1900)):
        pairs = [sorted(draw.sample(range(size), 2)) for _ in range(count)]
        pairs += [[i, i + 1] for i in range(size // 3)]
        draw.shuffle(pairs)
        neighbours: dict[int, set[int]] = {}
        for a, b in pairs:
            neighbours.setdefault(a, set()).add(b)
            neighbours.setdefault(b, set()).add(a)
        expected: dict[int, int] = {}
        for line in sorted(neighbours):
            todo = [] if line in expected else [line]
            while todo:
                if (one := todo.pop()) not in expected:
                    expected[one] = line
                    todo += neighbours[one]
        lines, roots = near_duplicates._join(np.array(pairs, np.int64).reshape(-1, 2))
        assert dict(zip(lines.tolist(), roots.tolist(), strict=True)) == {a: b for a, b in expected.items() if a != b}


def edited(words: list[str], count: int, draw: random.Random) -> list[str]:
    changed = list(words)
    for place in draw.sample(range(len(words)), count):
        changed[place] = f"z{draw.random():.6f}"
    return changed


def test_near_duplicates_against_the_exact_similarity(tmp_path: Path) -> None:
    """Reference: Jaccard of word 5-gram sets of every pair; a pair clearly above or below must be judged right."""
    draw = random.Random(3)
    vocabulary = [f"word{i}" for i in range(3000)]
    texts: list[list[str]] = []
    for _ in range(60):
        base = draw.choices(vocabulary, k=draw.randint(80, 160))
        texts.append(base)
        texts += [edited(base, draw.choice((0, 1, 2, 12, 25)), draw) for _ in range(draw.randint(0, 3))]
    draw.shuffle(texts)
    talks = [(" ".join(words[:10]), " ".join(words[10:])) for words in texts]
    grams = [
        {tuple(("\n".join(talk)).split()[i : i + 5]) for i in range(len(words) - 4)}
        for talk, words in zip(talks, texts, strict=True)
    ]
    exact = {(i, j): len(grams[i] & grams[j]) / len(grams[i] | grams[j]) for j in range(len(texts)) for i in range(j)}
    results = [gone(run(tmp_path, talks, [NEAR], pieces), -(-len(talks) // pieces)) for pieces in (1, 17)]
    assert results[0] == results[1], "the same however the data is cut"
    dropped = results[0]
    far, missed = 0, 0
    for j in range(len(texts)):
        best = max((exact[i, j] for i in range(j)), default=0.0)
        closest = max((exact[min(i, j), max(i, j)] for i in range(len(texts)) if i != j), default=0.0)
        far += j in dropped and closest < 0.55
        missed += j not in dropped and best > 0.85
    assert far == 0
    assert missed == 0
    assert len(dropped) > 20
    for j, (_, like) in dropped.items():
        assert like not in dropped
        assert like < j
    kept = pq.read_table(tmp_path / "out" / "clusters.parquet").to_pylist()
    assert {line["sample_id"]: line["cluster"] for line in kept} == {j: like for j, (_, like) in dropped.items()}
