"""LoRA: which layers get adapters, how they begin, and names that fit no layer."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from exports import FACTS, logits
from fakes import LLAMA, make_recipe, make_tokenizer
from families import tiny_fields
from models import local
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from raysft.errors import ModelError
from raysft.model.export import export_run
from raysft.model.load import load_model
from raysft.model.methods import adapted_layers, apply_method, is_adapted, merge
from raysft.model.shape import read_shape
from raysft.recipe.compatibility import cell_of, verdict
from raysft.recipe.traits import method_of
from raysft.recipe.tune_executor import obstacles


def test_all_linear_adapts_every_linear_layer_but_the_head(directory: Path) -> None:
    recipe = local(directory, method={"kind": "lora"})
    lora = apply_method(load_model(recipe, vocab_size=50), recipe)
    adapted = {name.split(".lora_")[0].rsplit(".", 1)[-1] for name, p in lora.named_parameters() if p.requires_grad}
    assert adapted == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


def test_targets_that_fit_no_layer_name_those_that_would(directory: Path) -> None:
    recipe = local(directory, method={"kind": "lora", "target_modules": ["query"]})
    with pytest.raises(ModelError, match="fits no layer") as caught:
        apply_method(load_model(recipe, vocab_size=50), recipe)
    assert "q_proj" in str(caught.value)


def test_fresh_adapters_follow_the_seed_and_merging_them_changes_nothing(directory: Path) -> None:
    recipe = local(directory, method={"kind": "lora"}, seed=5)
    first, second = (apply_method(load_model(recipe, vocab_size=50), recipe) for _ in range(2))
    for (name, a), (_, b) in zip(first.named_parameters(), second.named_parameters(), strict=True):
        assert torch.equal(a, b), name
    merged = merge(first)
    stored = load_file(directory / "model.safetensors")
    assert not is_adapted(merged)
    for name, parameter in merged.named_parameters():
        assert torch.equal(parameter, stored[name].float()), name


def test_another_rank_or_alpha_for_a_layer_that_has_no_adapter_is_refused(directory: Path) -> None:
    for field, value in (("ranks", {"o_proj": 4}), ("alphas", {"v_porj": 4.0})):
        recipe = local(directory, method={"kind": "lora", "target_modules": ["q_proj", "v_proj"], field: value})
        with pytest.raises(ModelError, match="has no adapter") as caught:
            apply_method(load_model(recipe, vocab_size=50), recipe)
        assert caught.value.got == next(iter(value))


def test_a_name_whose_layers_all_have_longer_names_is_refused(directory: Path) -> None:
    for field in ("ranks", "alphas"):
        pattern = {"q_proj": 4, "self_attn.q_proj": 2}
        recipe = local(directory, method={"kind": "lora", "target_modules": ["q_proj"], field: pattern})
        with pytest.raises(ModelError, match=f"method.{field} says the same layers twice") as caught:
            apply_method(load_model(recipe, vocab_size=50), recipe)
        assert caught.value.got.startswith("q_proj: ")


@pytest.mark.parametrize(
    ("method", "got", "fix", "most"),
    [
        (
            {"rank": 17, "target_modules": ["q_proj", "k_proj"]},
            "rank 17, model.layers.0.self_attn.k_proj [16, 32]",
            "set method.rank: 16 or less",
            16,
        ),
        (
            {"rank": 4, "ranks": {"v_proj": 40}, "target_modules": ["q_proj", "v_proj"]},
            "rank 40, ",
            "set method.ranks: {v_proj: 16} or less",
            16,
        ),
        ({"rank": 64}, "rank 64, ", "set method.rank: 32 or less", 32),
    ],
)
@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_more_ranks_than_a_layer_has_are_refused(
    kind: str, method: dict[str, Any], got: str, fix: str, most: int
) -> None:
    """k_proj and v_proj are [16, 32]; all-linear is refused where no layer has as many."""
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**LLAMA))
    with pytest.raises(ModelError, match="more ranks than its layer") as caught:
        apply_method(model, make_recipe(method={"kind": kind, **method}))
    assert caught.value.got.startswith(got)
    assert caught.value.fix.startswith(fix)
    fresh = AutoModelForCausalLM.from_config(AutoConfig.for_model(**LLAMA))
    apply_method(fresh, make_recipe(method={"kind": kind, "rank": most, "target_modules": ["q_proj"]}))


@pytest.mark.parametrize(
    ("model_type", "targets", "missing"),
    [
        ("llama", ["q_proj", "v_porj"], "v_porj"),
        ("llama", ["self_attn.q_proj", "mlp.q_proj"], "mlp.q_proj"),
        ("llama", ["q_proj", "self_attn"], "self_attn"),
        ("mamba", ["in_proj", "x_proj"], "x_proj"),  # its kernels read that one's weights past any adapter
        ("qwen3_moe", ["q_proj", "gate_porj"], "gate_porj"),
    ],
)
def test_a_name_that_fits_no_layer_is_refused_beside_those_that_do(
    model_type: str, targets: list[str], missing: str
) -> None:
    """peft passes over it: less would be trained than was asked for."""
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**tiny_fields(model_type)))
    with pytest.raises(ModelError, match="fits no layer") as caught:
        apply_method(model, make_recipe(method={"kind": "lora", "target_modules": targets}))
    assert caught.value.got.endswith(f"no layer is named {missing}")


@pytest.mark.parametrize(
    ("model_type", "targets", "adapted"),
    [
        (
            "llama",
            ["self_attn.o_proj", "1.mlp.up_proj"],
            {"0.self_attn.o_proj", "1.self_attn.o_proj", "1.mlp.up_proj"},
        ),
        ("gpt2", ["attn.c_proj"], {"0.attn.c_proj", "1.attn.c_proj"}),
        (
            "mixtral",
            ["w1", "w2", "w3"],
            {f"{i}.mlp.experts.{name}_proj" for i in (0, 1) for name in ("gate_up", "down")},
        ),
    ],
)
def test_names_of_places_and_of_experts_in_their_older_form(
    model_type: str, targets: list[str], adapted: set[str]
) -> None:
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**tiny_fields(model_type)))
    found = adapted_layers(apply_method(model, make_recipe(method={"kind": "lora", "target_modules": targets})))
    assert {re.sub(r"^.*?\.(?=\d)", "", name) for name in found} == adapted


DORA = {"kind": "dora", "rank": 4, "rslora": True, "target_modules": ["q_proj", "down_proj"]}


def test_dora_begins_as_the_base_and_the_planner_knows_its_size(directory: Path) -> None:
    recipe = local(directory, method=DORA)
    module = apply_method(load_model(recipe, vocab_size=50), recipe)
    plain = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    torch.testing.assert_close(logits(module), logits(plain))
    shape, trained = read_shape(recipe), [p for p in module.parameters() if p.requires_grad]
    assert sum(p.numel() for p in trained) == shape.num_layers * method_of(recipe).layer_parameters(
        recipe.method, shape, 1
    )


def test_an_export_of_dora_computes_what_was_trained(tmp_path: Path) -> None:
    fields, directory = {k: v for k, v in LLAMA.items() if k != "model_type"}, tmp_path / "base"
    LlamaForCausalLM(LlamaConfig(**fields, vocab_size=264, initializer_range=0.2)).save_pretrained(directory)
    recipe = local(directory, method=DORA, train={"precision": "fp32"})
    module = apply_method(load_model(recipe, vocab_size=264), recipe)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.requires_grad:
                parameter.add_(0.2 * torch.randn_like(parameter))
    expected = logits(module)
    weights = [(name, p.detach().clone()) for name, p in module.named_parameters() if p.requires_grad]
    adapter, merged = export_run(recipe, iter(weights), make_tokenizer(), out=str(tmp_path / "e"), card=FACTS)
    plain = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    assert not torch.allclose(logits(plain), expected, atol=1e-3)
    torch.testing.assert_close(logits(PeftModel.from_pretrained(plain, adapter)), expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(logits(AutoModelForCausalLM.from_pretrained(merged)), expected, atol=1e-4, rtol=1e-4)


def test_dora_is_refused_where_it_would_not_be_exact(directory: Path) -> None:
    cut = make_recipe(method={"kind": "dora"}, parallel={"tensor": 2, "zero": 1}, cluster={"workers": 2})
    assert verdict(cell_of(cut)).status == "refused"
    search = local(directory, method=DORA)
    space = {"method.rank": {"distribution": "choice", "values": [2, 4]}}
    tune = {"space": space, "executor": "fused", "budget": {"trials": 4}}
    assert any("lora" in one for one in obstacles(search, make_recipe(tune=tune).tune))
