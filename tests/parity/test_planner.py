"""The planner against reality: bytes of tensors by class, on models that are really built, within 5%."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from fakes import LLAMA, make_recipe
from torch import nn

from raysft.engine.ds_config import deepspeed_config
from raysft.model.facts import read_facts
from raysft.model.fast.attention import use_segment_attention
from raysft.model.fast.loss import hidden_states
from raysft.model.load import load_model
from raysft.model.methods import apply_method, base_model
from raysft.model.shape import read_shape
from raysft.planner import memory
from raysft.planner.activations import ForwardPass
from raysft.planner.states import Basis, basis, model_states
from raysft.recipe.load import parse_recipe
from raysft.recipe.resolve import resolve
from raysft.recipe.schema import Recipe

WIDE = {"hidden_size": 64, "intermediate_size": 176, "num_hidden_layers": 8, "vocab_size": 512}
GPT2 = {"model_type": "gpt2", "n_embd": 64, "n_layer": 8, "n_head": 4, "n_positions": 256, "vocab_size": 512}
DRY = {"resid_pdrop": 0.0, "attn_pdrop": 0.0, "embd_pdrop": 0.0}
NEOX = {key: value for key, value in LLAMA.items() if key != "num_key_value_heads"} | {"model_type": "gpt_neox"}
CONFIGS: dict[str, dict[str, Any]] = {
    "llama, fp32": {"model": LLAMA | WIDE},
    "llama, bf16": {"model": LLAMA | WIDE, "precision": "bf16"},
    "llama, bf16, checkpointing": {
        "model": LLAMA | WIDE | {"num_hidden_layers": 16},
        "precision": "bf16",
        "checkpointing": True,
    },
    "llama, bf16, LoRA on all": {"model": LLAMA | WIDE, "precision": "bf16", "targets": ["all-linear"]},
    "llama, fp32, LoRA on two": {"model": LLAMA | WIDE, "targets": ["q_proj", "v_proj"]},
    "qwen3, fp32": {"model": LLAMA | WIDE | {"model_type": "qwen3", "head_dim": 32}},
    "gemma, bf16": {"model": LLAMA | WIDE | {"model_type": "gemma", "head_dim": 16}, "precision": "bf16"},
    "gpt2, fp32": {"model": GPT2 | DRY},
    "gpt_neox, bf16": {"model": NEOX | WIDE, "precision": "bf16"},
}


def recipe_of(name: str) -> Recipe:
    wanted = CONFIGS[name]
    method = {"kind": "lora", "rank": 4, "target_modules": wanted["targets"]} if "targets" in wanted else {}
    train = {"precision": wanted.get("precision", "fp32"), "micro_batch_rows": 2}
    train["gradient_checkpointing"] = wanted.get("checkpointing", False)
    return make_recipe(model={"config": wanted["model"]}, data={"max_tokens": 96}, method=method, train=train)


def saved_bytes(model: nn.Module, run: ForwardPass) -> tuple[int, list[Any]]:
    """Bytes of all storages that autograd keeps of a forward pass up to the head, parameters aside."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, Any] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = (
                storage.nbytes(),
                tuple(tensor.shape),
                tensor,
            )  # alive: its address is its own
        return tensor

    ids = torch.zeros(run.rows, run.row_tokens, dtype=torch.int64)
    positions = torch.cat([torch.arange(40), torch.arange(run.row_tokens - 40)]).expand(run.rows, -1)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        hidden = hidden_states(base_model(model), ids, positions)
    assert hidden.requires_grad
    return sum(entry[0] for entry in kept.values()), list(kept.values())


@pytest.mark.parametrize("name", CONFIGS)
def test_saved_activations(name: str) -> None:
    recipe = recipe_of(name)
    model = load_model(recipe, vocab_size=512)
    use_segment_attention(model)
    if recipe.train.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    adapted = apply_method(model, recipe)
    nn.Module.to(adapted, torch.bfloat16 if recipe.train.precision == "bf16" else torch.float32)
    adapted.train()
    run = memory.forward_pass(recipe, is_gpu=False)
    measured, _ = saved_bytes(adapted, run)
    predicted = memory.saved_activations(recipe, read_shape(recipe), 0, is_gpu=False)
    assert predicted == pytest.approx(measured, rel=0.05), f"{predicted / measured:.3f}"


STATES = [(precision, zero, "full") for precision in ("fp32", "bf16") for zero in (1, 2, 3)]
STATES += [("fp32", 0, "full"), ("bf16", 2, "lora"), ("bf16", 3, "lora")]


def states_recipe(precision: str, zero: int, method: str) -> dict[str, Any]:
    recipe = make_recipe(
        model={"config": LLAMA | WIDE | {"num_hidden_layers": 2}},
        train={"precision": precision, "rows_per_step": 4},
        parallel={"zero": zero},
        cluster={"workers": 2},
        method={"kind": method} | ({"rank": 4} if method == "lora" else {}),
    )
    return recipe.model_dump(mode="json")


@pytest.fixture(scope="module")
def weighed(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, int, str], dict[str, int]]:
    """Every cell of STATES, trained for a step by two ranks."""
    directory = tmp_path_factory.mktemp("planner")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    script = Path(__file__).with_name("planner_process.py")
    cells = "".join(json.dumps(states_recipe(*cell)) + "\n" for cell in STATES)
    ranks = []
    for rank in range(2):
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        extra = {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": 1, "RESULTS": directory / f"{rank}.jsonl"}
        environment = os.environ | {name: str(value) for name, value in (place | extra).items()}
        with (directory / f"{rank}.txt").open("w") as log:
            command = [sys.executable, str(script)]
            process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=log, stderr=log, env=environment, text=True
            )
        assert process.stdin is not None
        process.stdin.write(cells)
        process.stdin.close()
        ranks.append(process)
    try:
        for rank, process in enumerate(ranks):
            assert process.wait(timeout=280) == 0, (directory / f"{rank}.txt").read_text()[-3000:]
    finally:
        for process in ranks:
            process.kill()
    lines = (directory / "0.jsonl").read_text().splitlines()
    return dict(zip(STATES, map(json.loads, lines), strict=True))


@pytest.mark.parametrize("cell", STATES, ids=str)
def test_model_states(weighed: dict[Any, dict[str, int]], cell: tuple[str, int, str]) -> None:
    measured, recipe = weighed[cell], parse_recipe(states_recipe(*cell))
    rank = memory.predict(recipe, read_shape(recipe), is_gpu=False)
    for name in ("parameters", "masters", "gradients", "optimizer"):
        ratio = rank.classes[name] / measured[name] if measured[name] else 1.0
        assert rank.classes[name] == pytest.approx(measured[name], rel=0.05, abs=512), f"{name}: {ratio:.3f}"


@pytest.mark.parametrize("devices", [1, 8, 64])
@pytest.mark.parametrize("size", [350_000_000, 2_851_000_000])
def test_deepspeeds_own_estimators(size: int, devices: int) -> None:
    """Its functions, not its page, which is older: ZeRO 2 is 2P + 18P/N, ZeRO 3 18P/N and 4 x the largest layer.

    It counts bf16 and fp32 gradients (6 bytes) under ZeRO 2 where raysft holds the fp32 sums (4).
    """
    from deepspeed.runtime.zero.stage3 import estimate_zero3_model_states_mem_needs as stage3
    from deepspeed.runtime.zero.stage_1_and_2 import estimate_zero2_model_states_mem_needs as stage2

    both = Basis("DeepSpeed's estimators", working=2, gradient=6, master=4, moments=8)
    ours = model_states(size, size, devices, 2, both)
    theirs = stage2(size, num_gpus_per_node=devices, num_nodes=1, cpu_offload=False)[1]
    assert ours.total == pytest.approx(theirs, rel=1e-6)
    states = model_states(size, size, devices, 3, basis("bf16", 3))
    largest = 100_000_000
    theirs = stage3(
        size, largest, num_gpus_per_node=devices, num_nodes=1, cpu_offload=False, cpu_offload_params=False
    )
    assert states.total + 4 * largest == pytest.approx(theirs[1], rel=1e-6)


def test_deepspeeds_settings_are_those_that_are_counted() -> None:
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig

    settings = DeepSpeedZeroConfig()
    assert settings.max_live_parameters == settings.max_reuse_distance == memory.MAX_LIVE_PARAMETERS
    recipe = recipe_of("llama, bf16")
    told = deepspeed_config(resolve(recipe, read_facts(recipe), None))["zero_optimization"]
    assert told["reduce_bucket_size"] == memory.REDUCE_BUCKET
    assert not {"stage3_max_live_parameters", "stage3_max_reuse_distance"} & told.keys()
