"""Clusters as they are written, the ranking of layouts, and what is refused before it starts."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fakes import LLAMA, LLAMA_8B, make_recipe, make_tokenizer, recipe_8b

from raysft.errors import ClusterError, RecipeError
from raysft.model.facts import read_facts
from raysft.model.fast.loss_head import chunk_targets
from raysft.model.shape import read_shape
from raysft.model.stages import stage_layers as real_stages
from raysft.planner import layout, memory, report
from raysft.planner.devices import GIB, Cluster, cluster_of, parse_cluster
from raysft.recipe.change import change
from raysft.recipe.facts import ClusterFacts, NodeFacts
from raysft.recipe.resolve import resolve
from raysft.recipe.schema import Recipe
from raysft.run import layout_choice as verbs


def ranked(recipe: Recipe, cluster: str) -> list[layout.LayoutForecast]:
    return layout.rank(recipe, read_facts(recipe), read_shape(recipe), parse_cluster(cluster))


@pytest.mark.parametrize(
    ("text", "name", "count", "per_node"),
    [
        ("8xH100-80G", "H100-80G", 8, 8),
        ("8xH100-80G,8xH100-80G", "H100-80G", 16, 8),
        ("2x8xh100", "H100-80G", 16, 8),
        ("8xH100-80G, 4xA100-40G", "A100-40G", 8, 4),  # the weakest, as many on each node
        ("2xCPU-16G", "CPU-16G", 2, 2),
    ],
)
def test_a_cluster(text: str, name: str, count: int, per_node: int) -> None:
    found = parse_cluster(text)
    assert (found.device.name, found.num_devices, found.devices_per_node) == (name, count, per_node)


@pytest.mark.parametrize(
    ("text", "word"),
    [("", "nothing"), ("8", "8xH100"), ("8xH100-80G,", "nothing"), ("0xH100", "8xH100"), ("8xH100-8G", "H100-80G")],
)
def test_a_cluster_that_cannot_be_read(text: str, word: str) -> None:
    with pytest.raises(ClusterError) as caught:
        parse_cluster(text)
    assert word in str(caught.value)
    assert caught.value.fix


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


def test_memory_falls_with_every_axis() -> None:
    def total(**parallel: int) -> int:
        recipe = recipe_8b(8, parallel={"zero": 1, **parallel})
        return memory.predict(recipe, read_shape(recipe), is_gpu=True).total

    base = total()
    for larger in ({"tensor": 2}, {"pipeline": 2}, {"sequence": 2}, {"zero": 2}, {"zero": 3}):
        assert total(**larger) < base, larger
    ends = memory.stages(recipe_8b(8, parallel={"zero": 1, "pipeline": 4}), read_shape(recipe_8b()), is_gpu=True)
    assert len(ends) == 4
    assert ends[0].activations > ends[3].activations  # 1F1B: four micro-batches in flight against one
    assert [rank.logits > 0 for rank in ends] == [False, False, False, True]


@pytest.mark.parametrize("stages", [1, 2, 3, 4])
def test_layers_fall_on_stages_as_the_engine_deals_them(stages: int) -> None:
    from raysft.model.load import load_model

    recipe = make_recipe(model={"config": LLAMA | {"vocab_size": 2000, "num_hidden_layers": 5}})
    model = load_model(recipe, vocab_size=2000)
    expected = [len(part) for part in real_stages(model, stages)]
    assert list(memory.stage_layers(read_shape(recipe), stages)) == expected


@pytest.mark.parametrize("vocab", [1000, 16_000, 128_256, 262_144])
def test_the_chunk_of_logits_is_the_heads(vocab: int) -> None:
    import torch

    for dtype in (torch.float32, torch.bfloat16):
        weight = torch.empty(0, dtype=dtype)
        planned = memory.chunk_targets(vocab, is_gpu=False, working=dtype.itemsize, is_trained=True)
        assert planned == chunk_targets(vocab, weight)


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


def test_what_ray_tells_of_a_cluster() -> None:
    nodes = tuple(NodeFacts(64, gpus, accelerator=kind) for gpus, kind in ((8, "A100"), (8, "H100"), (0, None)))
    assert cluster_of(nodes, 1) == replace(parse_cluster("2x8xA100-80G"))
    assert cluster_of(nodes, 0) is None
    assert cluster_of((*nodes, NodeFacts(1, 1)), 1) is None


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
    nothing = "\n".join(verbs.plan(recipe_8b(1), "1xL4-24G").lines())
    assert "none fits" in nothing
    assert "x L4-24G: " in nothing
    numbers = verbs.plan(recipe, "8xH100-80G").to_json()
    assert len(numbers["layouts"]) > 10
    lora = "\n".join(verbs.plan(recipe_8b(1, method={"kind": "lora"}), "1xH100-80G").lines())
    assert "41.943 M parameters" in lora


def test_the_matrix_is_printed() -> None:
    text = report.matrix_lines()
    assert all(len(line) <= 120 for line in text)
    assert any("tests/parity/" in line for line in text)
    assert "Instead: parallel.zero: 1." in " ".join(" ".join(text).split())


def test_a_recipe_for_gpus_needs_to_be_told_which() -> None:
    with pytest.raises(ClusterError, match="which GPUs"):
        verbs.plan(on_gpus(), None)
    cpu = verbs.plan(make_recipe(model={"config": LLAMA | {"vocab_size": 300}}), None).lines()
    assert any("CPU-" in line for line in cpu)
    assert isinstance(parse_cluster("1xCPU-1G"), Cluster)


def test_what_offload_and_second_copies_change_on_a_gpu() -> None:
    """8B, 8 GPUs, bf16: 8.03e9 parameters of 2 bytes; masters, sums and moments 16 bytes."""
    plain, moved = (
        memory.predict(recipe, read_shape(recipe), is_gpu=True)
        for recipe in (recipe_8b(8, parallel={"zero": 2}), recipe_8b(8, parallel={"zero": 2, "offload": "cpu"}))
    )
    assert plain.total - moved.total == plain.states.total - plain.states.parameters == pytest.approx(16e9, rel=0.01)
    three = [
        memory.predict(recipe, read_shape(recipe), is_gpu=True)
        for recipe in (
            recipe_8b(8, parallel={"zero": 3}),
            recipe_8b(8, parallel={"zero": 3, "offload": "cpu"}),
            recipe_8b(8, parallel={"zero": 3, "secondary_shards": 4}),
            recipe_8b(8, parallel={"zero": 3, "overlap": True}),
        )
    ]
    assert three[1].states.total == 0
    assert three[2].buffers - three[0].buffers == pytest.approx(2 * 8.03e9 / 4, rel=0.01)
    assert three[3].buffers - three[0].buffers == 2 * memory.REDUCE_BUCKET
    recipe = recipe_8b(8, parallel={"zero": 2, "offload": "cpu"})
    on_cpu = memory.predict(recipe, read_shape(recipe), is_gpu=False)
    assert on_cpu.states == plain.states, "the host's memory is all there is"


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
    lines = "\n".join(report.memory_advice(recipe, found, None))
    assert "parallel.offload: cpu" in lines
    assert "micro_batch_rows" not in lines  # it is 1 already
    assert "micro_batch_rows" in "\n".join(report.memory_advice(llama_70b(micro_batch_rows=2), None, None))


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
