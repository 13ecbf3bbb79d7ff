"""The memory of a rank: it falls with every axis, and is cut as the engine and the head cut it."""

from __future__ import annotations

from pathlib import Path

import pytest
from fakes import LLAMA, make_recipe, recipe_8b
from transformers import AutoConfig, AutoModelForCausalLM

from raysft.model.fast.loss_head import chunk_targets
from raysft.model.shape import read_shape
from raysft.model.stages import stage_layers as real_stages
from raysft.planner import memory
from raysft.planner.devices import Cluster, find_device
from raysft.planner.speed import step_time
from raysft.recipe.change import change


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
            recipe_8b(8, parallel={"zero": 3, "overlap": False}),
        )
    ]
    assert three[1].states.total == 0
    assert three[2].buffers - three[0].buffers == pytest.approx(2 * 8.03e9 / 4, rel=0.01)
    assert three[3].buffers == three[0].buffers, "ZeRO 3 has one bucket, whatever runs beside what"
    two = recipe_8b(8, parallel={"zero": 2, "overlap": True})
    twice = memory.predict(two, read_shape(two), is_gpu=True)
    assert twice.buffers - plain.buffers == 2 * memory.REDUCE_BUCKET
    assert three[0].buffers == 2 * 10**9 + 2 * 2 * memory.REDUCE_BUCKET, "gathered weights, a bucket, its copy"
    assert moved.buffers == plain.buffers == 2 * 2 * memory.REDUCE_BUCKET
    recipe = recipe_8b(8, parallel={"zero": 2, "offload": "cpu"})
    on_cpu = memory.predict(recipe, read_shape(recipe), is_gpu=False)
    assert on_cpu.states == plain.states, "the host's memory is all there is"


def test_sums_that_are_made_after_the_passes_take_what_these_leave() -> None:
    """8B, bf16 under ZeRO 1: the fp32 sums are flat, and summed over ranks in bf16, 2 bytes of each of 8.03e9; where
    that is done in fp32 there is a gradient's copy alone, at most that of the embedding, 128,256 x 4,096."""
    for reduced, moved in (({}, 2 * 8_030_261_248), ({"reduce_precision": "fp32"}, 4 * 128_256 * 4096)):
        small = recipe_8b(8, parallel={"zero": 1}, data={"max_tokens": 64}, train=reduced)
        found = memory.predict(small, read_shape(small), is_gpu=True)
        assert found.activations + found.logits + found.buffers == max(moved, found.activations + found.logits)
    large = recipe_8b(8, parallel={"zero": 1})
    assert memory.predict(large, read_shape(large), is_gpu=True).buffers == 0, "activations were larger"
    lora = recipe_8b(8, parallel={"zero": 1}, data={"max_tokens": 8}, method={"kind": "lora", "rank": 16})
    found = memory.predict(lora, read_shape(lora), is_gpu=True)
    assert found.activations + found.logits + found.buffers == 41_943_040 * 6


def test_on_a_cpu_a_buffer_is_as_large_as_what_is_written() -> None:
    config = LLAMA | {"vocab_size": 1000}
    for zero in (1, 2, 3):
        recipe = make_recipe(model={"config": config}, parallel={"zero": zero}, cluster={"workers": 2})
        found = memory.predict(recipe, read_shape(recipe), is_gpu=False)
        assert found.buffers <= 4 * 4 * found.states.parameters
        assert memory.predict(recipe, read_shape(recipe), is_gpu=True).buffers >= 4 * memory.REDUCE_BUCKET


def test_live_teachers_are_whole_on_every_worker(tmp_path: Path) -> None:
    """Two bytes a parameter in bf16, four in fp32, whatever ZeRO partitions; their passes take time."""
    config = AutoConfig.for_model(**LLAMA, vocab_size=2000)
    teachers = [str(tmp_path / name) for name in ("one", "two")]
    for teacher in teachers:
        config.save_pretrained(teacher)
    parameters = AutoModelForCausalLM.from_config(config).num_parameters()
    cluster = Cluster(find_device("H100-80G"), 8, 8)
    for precision, size in (("bf16", 2), ("fp32", 4)):
        alone = recipe_8b(8, parallel={"zero": 3}, train={"precision": precision})
        distill = {"kind": "distill", "teachers": teachers, "live": True}
        taught = change(alone, {"objective": distill})
        shape = read_shape(taught)
        assert shape.teacher_parameters == 2 * parameters
        assert read_shape(change(taught, {"objective.live": False})).teacher_parameters == 0
        before, after = (memory.predict(alone, one, is_gpu=True) for one in (read_shape(alone), shape))
        logits = 256 * shape.vocab_size * 16
        assert after.total - before.total == after.classes["teachers"] == 2 * parameters * size + logits
        assert step_time(taught, shape, cluster).compute_s > step_time(alone, read_shape(alone), cluster).compute_s
