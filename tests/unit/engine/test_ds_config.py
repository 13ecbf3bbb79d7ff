"""The config that DeepSpeed gets: what a recipe asks for, and nothing that DeepSpeed would do by itself."""

from __future__ import annotations

from typing import Any

import pytest
from fakes import make_recipe

from raysft.engine.ds_config import deepspeed_config, effective_stage, keeps_bf16_apart
from raysft.model.facts import read_facts
from raysft.recipe.resolve import ResolvedRun, resolve


def run(workers: int = 4, precision: str = "fp32", gpus: int = 0, **parallel: Any) -> ResolvedRun:
    train = {"precision": precision, "micro_batch_rows": 3, "rows_per_step": 12}
    if "reduce_precision" in parallel:
        train["reduce_precision"] = parallel.pop("reduce_precision")
    config = {"vocab_size": 99, **make_recipe().model.config}  # type: ignore[dict-item]
    recipe = make_recipe(
        model={"config": config},
        train=train,
        optimizer={"max_grad_norm": 0.5},
        cluster={"workers": workers, "gpus_per_worker": gpus},
        parallel=parallel,
    )
    return resolve(recipe, read_facts(recipe), None)


@pytest.mark.parametrize(
    ("precision", "zero", "stage"), [("fp32", 0, 0), ("bf16", 0, 1), ("bf16", 1, 1), ("fp32", 3, 3), ("bf16", 2, 2)]
)
def test_bf16_always_has_masters(precision: str, zero: int, stage: int) -> None:
    found = run(precision=precision, zero=zero)
    assert effective_stage(found) == deepspeed_config(found)["zero_optimization"]["stage"] == stage


def test_steps_accumulation_and_clipping_are_the_engines() -> None:
    for zero in (0, 1, 2, 3):
        config = deepspeed_config(run(zero=zero))
        assert config["train_micro_batch_size_per_gpu"] == 3
        assert config["gradient_accumulation_steps"] == 1
        assert "optimizer" not in config
        assert "scheduler" not in config
        assert config["gradient_clipping"] == (0.5 if zero else 0.0), "ZeRO 0 is clipped by the engine"


def test_sums_are_fp32_in_bf16_and_travel_as_asked() -> None:
    assert "data_types" not in deepspeed_config(run())
    config = deepspeed_config(run(precision="bf16", zero=2))
    assert config["bf16"]["enabled"]
    assert config["data_types"] == {"grad_accum_dtype": "fp32"}
    assert "communication_data_type" not in config
    assert deepspeed_config(run(reduce_precision="bf16"))["communication_data_type"] == "bf16"


@pytest.mark.parametrize(
    ("zero", "gpus", "parts"), [(2, 1, {"offload_optimizer"}), (3, 0, {"offload_optimizer", "offload_param"})]
)
def test_what_lies_in_host_memory(zero: int, gpus: int, parts: set[str]) -> None:
    moved = run(zero=zero, offload="cpu", gpus=gpus, precision="bf16")
    config = deepspeed_config(moved)
    found = {name: part for name, part in config["zero_optimization"].items() if name.startswith("offload")}
    assert found == {part: {"device": "cpu", "pin_memory": gpus > 0} for part in parts}
    assert config["zero_force_ds_cpu_optimizer"] is False, "torch's AdamW: the other needs a compiler"
    assert not keeps_bf16_apart(moved)
    assert keeps_bf16_apart(run(zero=zero, precision="bf16"))
    assert not any(name.startswith("offload") for name in deepspeed_config(run(zero=zero))["zero_optimization"])


def test_what_communication_is_asked_for() -> None:
    config = deepspeed_config(run(zero=3, overlap=True, secondary_shards=2))["zero_optimization"]
    assert (config["overlap_comm"], config["zero_hpz_partition_size"]) == (True, 2)
    for zero, gpus, offload, expected in (
        (3, 1, "none", True),
        (3, 0, "none", False),
        (3, 1, "cpu", False),
        (2, 1, "none", False),
    ):
        asked = run(zero=zero, gpus=gpus, offload=offload)
        assert deepspeed_config(asked)["zero_optimization"]["overlap_comm"] is expected
    off = run(zero=3, gpus=1, overlap=False)
    assert deepspeed_config(off)["zero_optimization"]["overlap_comm"] is False
    assert deepspeed_config(run(zero=1, tensor=2))["tensor_parallel"] == {"autotp_size": 2}
    assert "tensor_parallel" not in deepspeed_config(run(zero=1))
