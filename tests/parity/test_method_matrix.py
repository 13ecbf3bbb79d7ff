"""Every method under ZeRO 0 and ZeRO 3 on two workers: trained, cut off and resumed to the same bits, exported from
its last commit, and read again by plain transformers and peft, whose loss on the same samples is the engine's."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
from bench import Bench
from exports import FACTS
from material import make_samples, recipe_fields
from method_rows import hooked
from objective_material import Material, classify_loss, make_classified, make_pairs
from peft import PeftModel
from reference import mean_loss, tokens_and_targets
from test_objectives import OBJECTIVES
from torch import nn
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from raysft.model.export import export_run
from raysft.recipe import traits
from raysft.recipe.load import parse_recipe
from raysft.recipe.tuners import TUNERS
from raysft.run.remote_tasks import newest_checkpoint

CUT, UNTIL = 2, 4
LORA = {"kind": "lora", "rank": 4, "alpha": 8.0, "target_modules": ["q_proj", "v_proj"]}
TUNER = {"kind": "tuner", "target_modules": ["q_proj", "v_proj"]}
CHECKPOINTS = {"train__gradient_checkpointing": True}

METHODS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "full": ({"kind": "full"}, {}),
    "freeze": ({"kind": "freeze", "layers": 1, "parameters": ["*norm*"]}, {}),
    "probe": ({"kind": "probe"}, {}),
    "lora": ({**LORA, "rslora": True, "b_learning_rate_ratio": 4.0, "ranks": {"v_proj": 2}, "dropout": 0.1}, {}),
    "dora": ({**LORA, "kind": "dora"}, {}),
    "ia3": ({"kind": "ia3"}, {}),
    "adalora": (
        {"kind": "adalora", "rank": 4, "target_rank": 2, "target_modules": ["q_proj", "v_proj"]}
        | {"warmup_share": 0.25, "final_share": 0.25, "every_steps": 1},
        {},
    ),
    "tuner": ({**TUNER, "tuner": "miss", "options": {"r": 4}}, {}),
    "prompt": ({"kind": "prompt", "virtual_tokens": 4}, {}),
    "p_tuning": ({"kind": "p_tuning", "virtual_tokens": 4, "hidden_size": 24}, {}),
    "prefix": ({"kind": "prefix", "virtual_tokens": 4}, {}),
    "bottleneck": ({"kind": "bottleneck", "placement": "houlsby", "bottleneck_size": 4}, CHECKPOINTS),
    "freeze, one by one": (
        {"kind": "freeze", "layers": 2, "unfreeze_every_steps": 2},
        {"optimizer__weight_decay": 0.0},
    ),
    "lora, pissa": ({**LORA, "init": "pissa"}, {}),
    "lora, olora": ({**LORA, "init": "olora"}, {}),
    "lora, eva": ({**LORA, "init": "eva"}, {}),
    "lora, nf4": ({**LORA, "base_precision": "nf4"}, {}),
    "fourierft": ({**TUNER, "tuner": "fourierft", "options": {"n_frequency": 50, "scaling": 20.0}}, {}),
    "hra": ({**TUNER, "tuner": "hra", "options": {"r": 4}}, {}),
    "loha": ({**TUNER, "tuner": "loha", "options": {"r": 4}}, {}),
    "oft": ({**TUNER, "tuner": "oft", "options": {"oft_block_size": 4}}, {}),
    "vera": ({**TUNER, "tuner": "vera", "options": {"r": 8}}, {}),
    "p_tuning, lstm": ({"kind": "p_tuning", "virtual_tokens": 4, "encoder": "lstm", "dropout": 0.3}, {}),
    "prefix, projected": ({"kind": "prefix", "virtual_tokens": 4, "projection": True, "hidden_size": 24}, {}),
    "pfeiffer": ({"kind": "bottleneck", "bottleneck_size": 4}, {}),
}
"""{row: (the recipe's section, other fields)}: first one of each kind, then what else a kind can be."""

ZERO = (0, 3)
CELLS = [(name, zero) for name in METHODS for zero in ZERO if (name, zero) != ("lora, nf4", 3)]  # refused by name


def test_every_method_has_its_cells() -> None:
    assert {method["kind"] for method, _ in METHODS.values()} == traits.METHODS.keys()
    assert {method["tuner"] for method, _ in METHODS.values() if "tuner" in method} == TUNERS.keys()


@pytest.fixture(scope="module")
def base(bench: Bench) -> Path:
    return bench.directory / "base"


@pytest.fixture(scope="module")
def labelled(bench: Bench) -> Material:
    return make_classified(bench.directory / "matrix", make_pairs(bench.directory / "matrix", bench.tokenizer))


@pytest.mark.parametrize(("name", "zero"), CELLS)
def test_a_method_trains_resumes_and_is_read_again(
    bench: Bench, base: Path, labelled: Material, tmp_path: Path, name: str, zero: int
) -> None:
    method, others = METHODS[name]
    if method.get("base_precision") == "nf4" and importlib.util.find_spec("bitsandbytes") is None:
        pytest.skip("bitsandbytes is not installed")
    has_head = method["kind"] == "probe"
    fields = recipe_fields(
        str(bench.directory / "tokenizer"),
        **{"cluster__workers": 2, "model__source": str(base), "model__config": None, "parallel__zero": zero},
        **{"train__rows_per_step": 4, "train__max_steps": UNTIL},
        **{**others, **(OBJECTIVES["classify"] if has_head else {})},
    ) | {"method": method}
    recipe, store = parse_recipe(fields), labelled.store if has_head else bench.store
    cell = {"recipe": fields, "store": store, "until": UNTIL, "run": str(tmp_path), "by_shares": True}
    ranks = bench.run(2, {**cell, "commit_at": CUT})
    resumed = bench.run(2, {**cell, "save": True})[0]
    whole, members = ranks[0], sorted({member for rank in ranks for member in rank["samples"][0]})
    assert resumed["first"] == CUT
    assert resumed["losses"] == whole["losses"][CUT:]
    assert resumed["weights"] == whole["weights"]
    assert len({*whole["losses"]}) == UNTIL

    weights = newest_checkpoint(str(tmp_path)).weights()
    parts = export_run(recipe, weights, bench.tokenizer, out=str(tmp_path / "export"), card=FACTS)
    assert [Path(part).name for part in parts] == list(traits.method_of(recipe).exports)
    for part in parts:
        model = read_again(
            Path(part), base, has_head=has_head, in_four_bits=method.get("base_precision") == "nf4"
        ).eval()
        if has_head:
            loss = classify_loss(model, labelled, members)
        else:
            loss = mean_loss(model, [tokens_and_targets(bench.tokenizer, *text) for text in make_samples()], members)
        assert float(loss) == pytest.approx(resumed["held_out_loss"], rel=1e-5)


def read_again(part: Path, base: Path, *, has_head: bool, in_four_bits: bool) -> nn.Module:
    """By plain transformers, peft, or what the card says: an adapter of a base in 4 bits on one in 4 bits."""
    if part.name == "merged":
        kind: Any = AutoModelForSequenceClassification if has_head else AutoModelForCausalLM
        found: nn.Module = kind.from_pretrained(part)
    elif (part / "bottleneck_config.json").exists():
        found = hooked(part, base, is_classifier=has_head)
    else:
        model = AutoModelForCausalLM.from_pretrained(base)
        if in_four_bits:
            functional = importlib.import_module("bitsandbytes.functional")
            for layer in (m for m in model.model.modules() if isinstance(m, nn.Linear)):
                packed, state = functional.quantize_4bit(
                    layer.weight.data, compress_statistics=True, quant_type="nf4"
                )
                layer.weight.data = functional.dequantize_4bit(packed, state)
        found = PeftModel.from_pretrained(model, str(part))
    return found
