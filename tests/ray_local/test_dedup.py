"""Near duplicates on a small Ray cluster: the same decision as in this process, errors as they are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from raysft.data.rules import near_duplicates
from raysft.data.rules.whole_data import Selection, select
from raysft.errors import StorageError
from raysft.recipe.cleaning import ExactDuplicates, NearDuplicates

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]

NUM = 6000
RULES = [ExactDuplicates(rule="exact_duplicates"), NearDuplicates(rule="near_duplicates", num_hashes=64)]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A third of the signatures repeats an earlier one in 48 to 64 of 64 places; some hash to the same text."""
    draw = np.random.default_rng(0)
    words = draw.integers(0, 2**32, (NUM, 64), dtype=np.uint32)
    exact = np.arange(NUM)
    for line in range(NUM // 2, NUM // 2 + NUM // 3):
        original = draw.integers(0, line)
        kept = draw.permutation(64) < draw.integers(48, 65)
        words[line, kept] = words[original, kept]
        if line % 7 == 0:
            exact[line] = exact[original]
    shuffle = draw.permutation(NUM)
    folder = tmp_path_factory.mktemp("shards")
    found = []
    for number, lines in enumerate(np.array_split(shuffle, [1, 1, 900, 901, 3000, 5000])):
        signatures = pa.array([row.astype("<u4").tobytes() for row in words[lines]], pa.binary(256))
        table = pa.table(
            {
                "signature": signatures,
                "sample_id": pa.array(lines, pa.int64()),
                "exact": pa.array(exact[lines], pa.int64()),
                "held_out": pa.array([False] * len(lines), pa.bool_()),
            }
        )
        path = str(folder / f"{number}.arrow")
        with pa.OSFile(path, "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table, max_chunksize=300)
        found.append(path)
    return found


def here(function: Callable[[Any], Any], items: Sequence[Any]) -> Iterator[Any]:
    return map(function, items)


def tables_here(function: Callable[[Any], Iterator[pa.Table]], items: Sequence[Any], *, ordered: bool) -> Any:
    return (table for item in items for table in function(item))


def same(left: Selection, right: Selection) -> bool:
    return left.dropped.equals(right.dropped) and (left.counts, left.clusters) == (right.counts, right.clusters)


def test_the_cluster_decides_like_one_process(shards, tmp_path, monkeypatch):
    monkeypatch.setattr(near_duplicates, "_LINES_PER_PARTITION", 500)
    monkeypatch.setattr(near_duplicates, "_PAIRS_PER_TASK", 300)
    on_ray = select(shards, [], RULES, out=str(tmp_path / "ray"))
    assert on_ray.counts["exact_duplicates"] > 100
    assert on_ray.counts["near_duplicates"] > 500
    monkeypatch.undo()
    monkeypatch.setattr(near_duplicates, "on_ray", here)
    monkeypatch.setattr(near_duplicates, "tables_on_ray", tables_here)
    alone = select(shards, [], RULES, out=str(tmp_path / "here"))
    assert same(on_ray, alone)
    kept = [(tmp_path / name / "clusters.parquet").read_bytes() for name in ("ray", "here")]
    assert kept[0] == kept[1]
    assert [path.name for path in (tmp_path / "ray").iterdir()] == ["clusters.parquet"]


def test_nothing_is_alike(shards, tmp_path):
    strict = NearDuplicates(rule="near_duplicates", num_hashes=64, threshold=1.0)
    first = select([*shards[:2], shards[3]], [], [strict], out=str(tmp_path))
    assert first.dropped.num_rows == 0
    assert first.counts == {"near_duplicates": 0}


def test_a_folder_that_cannot_be_written(shards, tmp_path):
    (tmp_path / "bands").write_text("in the way")
    with pytest.raises(StorageError, match="cannot write"):
        select(shards, [], RULES, out=str(tmp_path))
