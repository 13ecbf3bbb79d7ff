"""Near duplicates: pairs by bands, clusters by connection, against the exact similarity."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from keyed_shards import gone, run

from raysft.data.rules import near_duplicates
from raysft.data.rules.near_duplicates import choose_bands
from raysft.recipe.cleaning import NearDuplicates

pytestmark = pytest.mark.usefixtures("in_process")

NEAR = NearDuplicates(rule="near_duplicates", threshold=0.7)


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
