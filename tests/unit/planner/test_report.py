"""What a plan says: why, within its columns, and what would fit instead."""

from __future__ import annotations

from typing import Any

from fakes import LLAMA_8B, recipe_8b

from raysft.model.facts import read_facts
from raysft.model.shape import read_shape
from raysft.planner import layout, report
from raysft.planner.devices import GIB, parse_cluster
from raysft.recipe.change import change
from raysft.recipe.facts import ClusterFacts, NodeFacts
from raysft.recipe.schema import Recipe
from raysft.run import layout_choice as verbs


def facts(**node: Any) -> ClusterFacts:
    return ClusterFacts((NodeFacts(**({"cpus": 64, "gpus": 8, "memory_bytes": 512 * GIB} | node)),))


def test_the_plan_says_why_within_its_columns() -> None:
    recipe = recipe_8b(8)
    text = verbs.plan(recipe, "8xH100-80G").lines()
    assert all(len(line) <= 120 for line in text), max(text, key=len)
    joined = "\n".join(text)
    for part in (
        "8.030 B parameters",
        "18 bytes a trained parameter",
        "fastest",
        "too large",
        "place",
        "40% of the peak",
    ):
        assert part in joined, part

    def told(recipe: Recipe, cluster: str) -> str:
        return "\n".join(verbs.plan(recipe, cluster).lines())

    nothing = told(recipe_8b(1), "1xL4-24G")
    assert "none fits" in nothing
    assert "x L4-24G: " in nothing
    assert "fresh weights: each worker makes what it keeps" in joined
    dora = recipe_8b(1, method={"kind": "dora"})
    assert "fresh weights: each worker makes what it keeps" in told(dora, "1xL4-24G")
    numbers = verbs.plan(recipe, "8xH100-80G").to_json()
    assert len(numbers["layouts"]) > 10
    assert "41.943 M parameters" in told(recipe_8b(1, method={"kind": "lora"}), "1xH100-80G")


def test_the_matrix_is_printed() -> None:
    text = report.matrix_lines()
    assert all(len(line) <= 120 for line in text)
    assert any("tests/parity/" in line for line in text)
    assert "Instead: parallel.zero: 1." in " ".join(" ".join(text).split())


def llama_70b(**train: Any) -> Recipe:
    large = {"hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80, "num_attention_heads": 64}
    recipe = recipe_8b(16, train={"rows_per_step": 64, **train})
    return change(recipe, {"model.config": {**LLAMA_8B, **large}})


def test_what_fits_with_host_memory_is_offered() -> None:
    """70B in full on 16 H100: not without, but with the optimizer's state in host memory."""
    recipe, cluster = llama_70b(), parse_cluster("2x8xH100-80G")
    facts, shape = read_facts(recipe), read_shape(recipe)
    assert not any(c.fits for c in layout.rank(recipe, facts, shape, cluster))
    found = layout.offloaded(recipe, facts, shape, cluster)
    assert found is not None
    assert found.fits
    assert found.recipe.parallel.offload == "cpu"
    lines = "\n".join(report.memory_advice(recipe, shape, cluster, found, None))
    assert "parallel.offload: cpu" in lines
    assert "and 1,188.4 GiB of host memory a node" in lines
    assert "micro_batch_rows" not in lines  # it is 1 already
    assert "micro_batch_rows" in "\n".join(
        report.memory_advice(llama_70b(micro_batch_rows=2), shape, cluster, None, None)
    )
