"""A model that each rank reads its part of trains as the model that each rank loads whole: the same bits."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
from bench import LORA, Bench, cells, furthest
from material import CONFIG
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM

BF16 = {"train__precision": "bf16"}
DORA = {**LORA, "method__kind": "dora"}
PROMPT = {"method__kind": "prompt", "method__virtual_tokens": 5}
LAYOUTS: dict[str, dict[str, Any]] = {
    "ZeRO 0": {"parallel__zero": 0},
    "ZeRO 1, bf16": {"parallel__zero": 1, **BF16},
    "ZeRO 2, LoRA, bf16": {"parallel__zero": 2, **LORA, **BF16},
    "ZeRO 3": {"parallel__zero": 3},
    "ZeRO 3, LoRA, bf16": {"parallel__zero": 3, **LORA, **BF16},
    "ZeRO 3, sequence 2": {"parallel__zero": 3, "parallel__sequence": 2},
    "2 stages, ZeRO 1": {"parallel__pipeline": 2, "parallel__zero": 1},
    "2 stages, LoRA, bf16": {"parallel__pipeline": 2, **LORA, **BF16},
    "tensor 2, ZeRO 1": {"parallel__tensor": 2, "parallel__zero": 1},
    "tensor 2, LoRA, bf16": {"parallel__tensor": 2, **LORA, **BF16},
    "ZeRO 3, offload": {"parallel__zero": 3, "parallel__offload": "cpu"},
    "ZeRO 0, DoRA": {"parallel__zero": 0, **DORA},
    "ZeRO 3, DoRA, bf16": {"parallel__zero": 3, **DORA, **BF16},
    "2 stages, DoRA": {"parallel__pipeline": 2, **DORA},
    "ZeRO 0, prompt": {"parallel__zero": 0, **PROMPT},
    "ZeRO 3, prompt, bf16": {"parallel__zero": 3, **PROMPT, **BF16},
    "ZeRO 2, nf4": {"parallel__zero": 2, **LORA, "method__base_precision": "nf4"},
    "ZeRO 0, nf4, bf16": {"parallel__zero": 0, **LORA, "method__base_precision": "nf4", **BF16},
}
OFTEN = (
    *("ZeRO 2, LoRA, bf16", "ZeRO 3", "ZeRO 3, LoRA, bf16", "2 stages, ZeRO 1", "tensor 2, ZeRO 1"),
    *("ZeRO 3, DoRA, bf16", "2 stages, DoRA", "ZeRO 3, prompt, bf16"),
)
PLAIN = ("ZeRO 3", "2 stages, ZeRO 1", "tensor 2, ZeRO 1")


@pytest.fixture(scope="module")
def source(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model in files: bf16, in several of them."""
    directory: Path = tmp_path_factory.mktemp("source")
    fields = CONFIG | {"vocab_size": len(bench.tokenizer)}
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**fields)).to(torch.bfloat16)
    model.save_pretrained(directory, max_shard_size="100KB")
    assert len(list(directory.glob("*.safetensors"))) > 1
    return str(directory)


@pytest.mark.parametrize("layout", cells(*LAYOUTS, often=OFTEN))
def test_every_split_trains_as_with_whole_models(bench: Bench, source: str, layout: str) -> None:
    if "nf4" in layout and importlib.util.find_spec("bitsandbytes") is None:
        pytest.skip("bitsandbytes is not installed")
    fields = {"workers": 2, "until": 3, "model__source": source, "model__config": None, **LAYOUTS[layout]}
    whole, parts = (bench.cell(**fields, by_shares=by_shares) for by_shares in (False, True))
    for ours, theirs in zip(parts, whole, strict=True):
        for name in ("losses", "norms", "weights", "held_out"):
            assert ours[name] == theirs[name], name
        assert 0 < ours["read"] <= 1.15 * bytes_of_share(source, LAYOUTS[layout])


@pytest.mark.parametrize("layout", cells(*LAYOUTS, often=("ZeRO 2, LoRA, bf16", *PLAIN)))
def test_every_split_makes_the_fresh_weights_of_a_whole_model(bench: Bench, layout: str) -> None:
    """Full weights in each plain layout, a frozen base in the others."""
    if "nf4" in layout and importlib.util.find_spec("bitsandbytes") is None:
        pytest.skip("bitsandbytes is not installed")
    fields = {"workers": 2, "until": 3, "model__config": CONFIG, **LAYOUTS[layout]}
    whole, parts = (bench.cell(**fields, by_shares=by_shares) for by_shares in (False, True))
    for ours, theirs in zip(parts, whole, strict=True):
        for name in ("losses", "norms", "weights", "held_out"):
            assert ours[name] == theirs[name], name
        assert ours["read"] == 0


def bytes_of_share(source: str, layout: dict[str, Any], *, is_begun: bool = False) -> float:
    """Of the larger rank of two, in bf16: embedding (tied) and norms everywhere but under ZeRO 3. A fresh DoRA asks
    each rank for the norms of one of two weights in a layer, here q_proj's and v_proj's."""
    tensors = load_model_tensors(source)
    if layout.get("method__kind") == "dora" and not is_begun:
        queries = sum(t.numel() for name, t in tensors.items() if ".q_proj." in name)
        return bytes_of_share(source, layout, is_begun=True) + 2.0 * queries
    layers = sum(t.numel() for name, t in tensors.items() if ".layers." in name)
    ends = sum(t.numel() for name, t in tensors.items() if ".layers." not in name)
    if layout.get("parallel__zero") == 3:
        return float(layers + ends)
    is_cut = "parallel__pipeline" in layout or "parallel__tensor" in layout
    return float(2 * (layers / 2 if is_cut else layers) + 2 * ends)


def load_model_tensors(source: str) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    for path in Path(source).glob("*.safetensors"):
        found |= load_file(path)
    return found


@pytest.mark.parametrize(
    "layout",
    cells("ZeRO 3", "ZeRO 3, LoRA, bf16", "2 stages, ZeRO 1", "ZeRO 3, DoRA, bf16", often=("ZeRO 3, DoRA, bf16",)),
)
def test_a_resume_by_shares_goes_on_as_the_run_with_whole_models(
    bench: Bench, source: str, tmp_path: Path, layout: str
) -> None:
    """And reads from the model's files only what the checkpoint does not have: no norms of weights either."""
    fields = {"workers": 2, "model__source": source, "model__config": None, **LAYOUTS[layout]}
    through = bench.cell(**fields, until=4)[0]
    bench.cell(**fields, until=2, run=str(tmp_path), save=True)
    for ours in bench.cell(**fields, until=4, run=str(tmp_path), by_shares=True):
        assert ours["first"] == 2
        assert ours["losses"] == through["losses"][2:]
        assert ours["weights"] == through["weights"]
        assert bool(ours["read"]) == ("RA" in layout)
        assert ours["read"] <= 1.15 * bytes_of_share(source, LAYOUTS[layout], is_begun=True)


@pytest.mark.full
def test_adapters_on_a_bf16_base_go_through_every_layout(bench: Bench, source: str, tmp_path: Path) -> None:
    """A frozen base that is read by shares, adapters that each layout reads of what another wrote."""
    fields = {"model__source": source, "model__config": None, **LORA, **BF16}
    base = bench.cell(1, until=10, **fields)[0]
    for workers, until, layout in (
        (2, 2, {"parallel__zero": 3}),
        (2, 4, {"parallel__pipeline": 2}),
        (2, 6, {"parallel__tensor": 2}),
        (1, 8, {"parallel__zero": 0}),
        (2, 10, {"parallel__zero": 2}),
    ):
        found = bench.cell(workers, until=until, save=True, run=str(tmp_path), by_shares=True, **layout, **fields)
        for ours in found:
            assert ours["first"] == until - 2
            assert furthest(ours["losses"], base["losses"][until - 2 : until]) < 5e-3


@pytest.mark.parametrize("layout", ["ZeRO 3", "2 stages, ZeRO 1"])
def test_what_one_rank_cannot_read_is_told_by_all(bench: Bench, source: str, layout: str) -> None:
    fields = {"workers": 2, "model__source": source, "model__config": None, **LAYOUTS[layout]}
    told = {answer["refused"] for answer in bench.cell(**fields, by_shares="torn")}
    assert len(told) == 1
    assert "have changed while they were loaded" in told.pop()
