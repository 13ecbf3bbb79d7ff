"""prepare() on three nodes: all of them work; one is killed on the way and the store has the same bytes."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from programs import told_by

from raysft.data.text.tokenizer import train_tokenizer

PROGRAM = Path(__file__).with_name("three_nodes.py")
pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("nodes")
    draw = random.Random(0)
    words = ["".join(draw.choices("abcdefghijklmnop", k=draw.randint(2, 9))) for _ in range(500)]
    lines = []
    for index in range(6000):
        question, answer = (" ".join(draw.choices(words, k=draw.randint(5, 60))) for _ in range(2))
        lines.append(json.dumps({"instruction": f"{index % 5900} {question}", "output": answer}) + "\n")
    lines += lines[:100]  # duplicates that must go
    (made / "data.jsonl").write_text("".join(lines))
    train_tokenizer(
        [str(made / "data.jsonl")], columns={}, vocab_size=600, template="chatml", out=str(made / "tokenizer")
    )
    return made


def run(folder: Path, what: str) -> dict[str, Any]:
    found: dict[str, Any] = told_by(PROGRAM, folder, folder / what, what, timeout_s=300)
    return found


def contents(store: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(Path(store).iterdir()) if path.is_file()}


def test_a_node_dies_and_the_store_is_the_same_to_the_byte(folder: Path) -> None:
    calm, killed = run(folder, "calm"), run(folder, "kill")
    shards = calm["work"][0]
    assert len(shards) == 3, f"all three nodes made shards: {shards}"
    assert sum(shards.values()) == calm["shards"] > 30
    assert (calm["alive"], killed["alive"]) == (3, 2)
    assert 8 <= killed["at_kill"][0] < calm["shards"], "the node died in the middle"
    first, second = contents(calm["store"]), contents(killed["store"])
    assert len(first) > 6
    assert first.keys() == second.keys()
    assert first == second
    assert json.loads(first["manifest.json"])["counts"]["dropped"] == {"exact_duplicates": 100}
    left = [path.name for path in (folder / "kill" / "tokens").iterdir()]
    assert not [name for name in left if name.startswith("work")], "nothing is left behind"
