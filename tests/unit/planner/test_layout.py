"""Clusters as they are written, the ranking of layouts, and what is refused before it starts."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
from fakes import LLAMA, make_recipe, make_tokenizer, recipe_8b

from raysft.errors import ClusterError, RecipeError
from raysft.model.facts import read_facts
from raysft.model.shape import read_shape
from raysft.planner import layout
from raysft.planner.devices import GIB, Cluster, parse_cluster
from raysft.recipe.facts import ClusterFacts, NodeFacts
from raysft.recipe.resolve import resolve
from raysft.recipe.schema import Recipe
from raysft.run import layout_choice as verbs


def ranked(recipe: Recipe, cluster: str) -> list[layout.LayoutForecast]:
    return layout.rank(recipe, read_facts(recipe), read_shape(recipe), parse_cluster(cluster))


def test_an_8b_model_fits_where_it_does() -> None:
    """LoRA on one 80 GB device. Full fine-tuning not, but on eight with ZeRO 2 or 3; ZeRO 1 needs a split."""
    assert ranked(recipe_8b(1, method={"kind": "lora"}), "1xH100-80G")[0].fits
    assert not any(c.fits for c in ranked(recipe_8b(1), "1xH100-80G"))
    eight = {
        (p.zero, p.tensor, p.pipeline, p.sequence): c.fits
        for c in ranked(recipe_8b(8), "8xH100-80G")
        if not c.recipe.train.gradient_checkpointing
        for p in [c.recipe.parallel]
    }
    assert eight[2, 1, 1, 1]
    assert eight[3, 1, 1, 1]
    assert not eight[1, 1, 1, 1]


def test_the_ranking_leads_with_what_fits_by_time_then_comes_what_is_nearest() -> None:
    found = ranked(recipe_8b(16, train={"rows_per_step": 64}), "2x8xA100-40G")
    assert len(found) == len({(c.words, c.recipe.train.gradient_checkpointing) for c in found})
    fits = [c.fits for c in found]
    assert fits == sorted(fits, reverse=True)
    assert True in fits
    assert False in fits
    times = [c.time.total_s for c in found if c.fits]
    assert all(later > earlier * 0.98 for earlier, later in itertools.pairwise(times))
    sizes = [c.memory.total for c in found if not c.fits]
    assert sizes == sorted(sizes)
    for candidate in found:
        resolve(candidate.recipe, read_facts(candidate.recipe), None)  # the matrix allows it
        assert candidate.recipe.parallel.tensor <= 8


def facts(**node: Any) -> ClusterFacts:
    return ClusterFacts((NodeFacts(**({"cpus": 64, "gpus": 8, "memory_bytes": 512 * GIB} | node)),))


def on_gpus(workers: int = 8, **sections: Any) -> Recipe:
    return recipe_8b(workers, cluster={"gpus_per_worker": 1}, **sections)


def test_a_layout_that_cannot_fit_is_refused_before_it_starts() -> None:
    with pytest.raises(ClusterError) as caught:
        verbs.choose_layout(on_gpus(parallel={"zero": 1}, train={"micro_batch_rows": 2}), facts(accelerator="H100"))
    error = caught.value
    for part in ("gradients", "optimizer", "activations", "bf16 with fp32 sums"):
        assert part in error.got
    assert "H100-80G" in error.expected
    assert "set parallel." in error.fix
    unknown = verbs.choose_layout(on_gpus(parallel={"zero": 1}), facts(accelerator="TPU-V9"))
    assert "raysft plan" in unknown.memory  # not known, not refused


def test_auto_takes_the_fastest_tested_layout_that_fits() -> None:
    choice = verbs.choose_layout(on_gpus(parallel={"auto": True}), facts(accelerator="H100"))
    parallel = choice.recipe.parallel
    assert not parallel.auto
    best = next(c for c in ranked(on_gpus(), "8xH100-80G") if c.fits and c.status == "tested").recipe.parallel
    assert parallel == best
    assert "auto" in choice.lines[0]
    assert "GiB a worker" in choice.memory
    small = make_recipe(
        model={"config": LLAMA | {"vocab_size": 300}}, parallel={"auto": True}, cluster={"workers": 2}
    )
    assert not verbs.choose_layout(small, facts(gpus=0)).recipe.parallel.auto
    with pytest.raises(ClusterError, match="auto"):
        verbs.choose_layout(on_gpus(parallel={"auto": True}), facts(accelerator=None))
    with pytest.raises(RecipeError, match="open at once"):
        resolve(on_gpus(parallel={"auto": True, "tensor": 2}), read_facts(on_gpus()), None)


def test_a_fresh_model_is_counted_with_its_tokenizers_vocabulary(tmp_path: Path) -> None:
    """Operations, thus MFU and the balance of rows, as those of the model that will be trained."""
    tokenizer = make_tokenizer()
    tokenizer.save_pretrained(tmp_path)
    open_size = make_recipe(model={"source": "random", "config": LLAMA, "tokenizer": str(tmp_path)})
    assert "vocab_size" not in LLAMA
    named = make_recipe(model={"config": LLAMA | {"vocab_size": len(tokenizer)}, "tokenizer": "nowhere"})
    for cluster in (facts(gpus=0), ClusterFacts(())):
        choice = verbs.choose_layout(open_size, cluster)
        assert choice.model == read_facts(named)
        assert choice.recipe == open_size  # and thus its fingerprints


def test_a_recipe_for_gpus_needs_to_be_told_which() -> None:
    with pytest.raises(ClusterError, match="which GPUs"):
        verbs.plan(on_gpus(), None)
    cpu = verbs.plan(make_recipe(model={"config": LLAMA | {"vocab_size": 300}}), None).lines()
    assert any("CPU-" in line for line in cpu)
    assert isinstance(parse_cluster("1xCPU-1G"), Cluster)


def test_more_devices_than_rows_leave_the_other_layouts(tmp_path: Path) -> None:
    recipe = recipe_8b(4, train={"rows_per_step": 4}, method={"kind": "lora"})
    told = verbs.plan(recipe, "8xH100-80G").lines()
    assert any("its own layout cannot run here" in line for line in told)
    assert not any(
        c.recipe.parallel.tensor * c.recipe.parallel.pipeline * c.recipe.parallel.sequence == 1
        for c in ranked(recipe_8b(8, train={"rows_per_step": 4}), "8xH100-80G")
    )
    with pytest.raises(RecipeError):
        verbs.plan(recipe_8b(4, train={"rows_per_step": 4}, parallel={"zero": 3, "pipeline": 2}), "8xH100-80G")
