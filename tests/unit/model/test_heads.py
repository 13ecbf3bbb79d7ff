"""A head of an objective's own: what is trained with it, and that plain transformers gives its scores."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from exports import classifier_at, moved
from fakes import GEMMA2, LLAMA, make_recipe, make_tokenizer
from transformers import AutoConfig, AutoModelForCausalLM

from raysft.errors import ModelError
from raysft.model.card import CardFacts
from raysft.model.decoder import unread
from raysft.model.export import export_run
from raysft.model.heads import add_head, as_classifier
from raysft.model.load import empty_model, load_model
from raysft.model.methods import apply_method, base_model
from raysft.model.rehearsal import rehearse

FACTS = CardFacts(1, 1, 1, 1, {"data": "d", "mathematics": "m", "execution": "e"}, {}, {})
LORA = {"kind": "lora", "rank": 2, "target_modules": ["q_proj", "v_proj"]}
IA3 = {"kind": "ia3"}
QWEN2 = {**{k: v for k, v in LLAMA.items() if k != "head_dim"}, "model_type": "qwen2"}
UNTIED = {**LLAMA, "tie_word_embeddings": False}


def base_at(directory: Path, fields: dict[str, Any]) -> None:
    torch.manual_seed(0)
    config = AutoConfig.for_model(**fields, vocab_size=270)
    AutoModelForCausalLM.from_config(config).save_pretrained(directory)


def recipe_of(directory: Path, method: dict[str, Any], **sections: Any) -> Any:
    model = {"source": str(directory), "config": None, "tokenizer": None}
    return make_recipe(model=model, method=method, objective={"kind": "reward"}, **sections)


@pytest.mark.parametrize("method", [{"kind": "full"}, {"kind": "probe"}, LORA, IA3], ids=lambda m: str(m["kind"]))
@pytest.mark.parametrize("fields", [LLAMA, UNTIED, GEMMA2, QWEN2], ids=["llama", "untied", "gemma2", "qwen2"])
def test_an_export_gives_the_scores_of_the_trained_model(
    tmp_path: Path, fields: dict[str, Any], method: dict[str, Any]
) -> None:
    base_at(tmp_path / "base", fields)
    recipe, tokenizer = recipe_of(tmp_path / "base", method), make_tokenizer()
    module = apply_method(load_model(recipe, vocab_size=264), recipe)
    (part,) = export_run(recipe, moved(module), tokenizer, out=str(tmp_path / "out"), card=FACTS)
    loaded = classifier_at(part)
    assert loaded.config.num_labels == 1
    ids, model = torch.arange(2, 14).reshape(2, 6), base_model(module).eval()
    with torch.no_grad():
        expected = model.get_submodule("score")(model.base_model(input_ids=ids).last_hidden_state)[:, -1]
        found = loaded.eval()(input_ids=ids).logits
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert float(expected.std()) > 0.01
    assert "AutoModelForSequenceClassification" in (tmp_path / "out/merged/README.md").read_text()
    assert json.loads((tmp_path / "out/merged/config.json").read_text())["architectures"][0].endswith(
        "Classification"
    )


def test_a_probe_trains_its_head_alone_and_others_leave_the_lm_head(tmp_path: Path) -> None:
    base_at(tmp_path / "base", UNTIED)
    probe = recipe_of(tmp_path / "base", {"kind": "probe"})
    module = apply_method(empty_model(probe, vocab_size=264), probe)
    assert [name for name, p in module.named_parameters() if p.requires_grad] == ["score.weight"]
    assert not unread(base_model(module)), "the head is read"
    full = recipe_of(tmp_path / "base", {"kind": "full"})
    still = [
        n for n, p in apply_method(empty_model(full, vocab_size=264), full).named_parameters() if not p.requires_grad
    ]
    assert still == ["lm_head.weight"]
    lines = rehearse(probe, make_tokenizer())
    assert lines[0].startswith("trained      32 of ")


def test_heads_begin_alike_on_every_rank_and_by_the_seed(tmp_path: Path) -> None:
    base_at(tmp_path / "base", LLAMA)
    recipe = recipe_of(tmp_path / "base", {"kind": "full"}, seed=3)
    found = []
    for noise in (0, 1):
        torch.manual_seed(noise)
        model = load_model(recipe, vocab_size=264)
        add_head(model, recipe)
        found.append(model.get_submodule("score").weight)
    torch.testing.assert_close(found[0], found[1], atol=0, rtol=0)
    assert float(found[0].detach().std()) == pytest.approx(0.02, rel=0.5)


def test_a_type_without_a_classifier_is_refused_before_the_run(tmp_path: Path) -> None:
    fields = {"model_type": "cohere", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1}
    fields |= {"num_attention_heads": 4, "num_key_value_heads": 2, "pad_token_id": None}
    config = AutoConfig.for_model(**fields, vocab_size=264)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    recipe = make_recipe(objective={"kind": "reward"})
    assert as_classifier(model, recipe, None) is model, "without a head it stays what it is"
    add_head(model, recipe)
    with pytest.raises(ModelError, match="cannot be exported"):
        as_classifier(model, recipe, None)
