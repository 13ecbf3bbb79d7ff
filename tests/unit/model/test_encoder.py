"""Encoders with a new head: trained, exported and read again as transformers' own classifiers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from exports import classifier_at, moved
from fakes import LLAMA, make_recipe, make_tokenizer
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification

from raysft.errors import CheckpointError, ModelError
from raysft.model.card import CardFacts
from raysft.model.encoder import head_of_encoder, is_encoder, text_scores
from raysft.model.export import export_run
from raysft.model.heads import auxiliary_head
from raysft.model.load import load_model
from raysft.model.methods import apply_method, base_model
from raysft.model.rehearsal import rehearse

FACTS = CardFacts(1, 1, 1, 1, {"data": "d", "mathematics": "m", "execution": "e"}, {}, {})
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
ENCODERS: dict[str, dict[str, Any]] = {
    "bert": SIZES,
    "roberta": {**SIZES, "max_position_embeddings": 130, "pad_token_id": 1},
    "distilbert": {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64},
    "modernbert": {**SIZES, "num_hidden_layers": 3, "pad_token_id": 0, "cls_token_id": 1, "sep_token_id": 2},
    "deberta-v2": {**SIZES, "pooler_hidden_size": 32},
}
LABELS = ("spam", "ham", "odd")
METHODS: dict[str, dict[str, Any]] = {
    "full": {"kind": "full"},
    "probe": {"kind": "probe"},
    "lora": {"kind": "lora", "rank": 2, "target_modules": "all-linear"},
    "ia3": {"kind": "ia3", "target_modules": ["key", "value"], "feedforward_modules": []},
}


def base_at(directory: Path, kind: str) -> None:
    """A stored encoder without any head, as sentence-transformers have them."""
    torch.manual_seed(0)
    AutoModel.from_config(AutoConfig.for_model(kind, **ENCODERS[kind], vocab_size=270)).save_pretrained(directory)


def recipe_of(directory: Path, method: dict[str, Any], **sections: Any) -> Any:
    model = {"source": str(directory), "config": None, "tokenizer": None}
    fields = {"data": {"packing": False}, "objective": {"kind": "classify", "labels": LABELS}, **sections}
    return make_recipe(model=model, method=method, **fields)


def test_which_types_are_encoders() -> None:
    for kind in ENCODERS:
        assert is_encoder(AutoConfig.for_model(kind))
    for kind in ("llama", "qwen2", "gemma2", "gpt2", "bart"):
        assert not is_encoder(AutoConfig.for_model(kind))
    assert not is_encoder(AutoConfig.for_model("bert", is_decoder=True))


@pytest.mark.parametrize(
    ("kind", "method"),
    [(kind, "full") for kind in ENCODERS] + [("bert", method) for method in METHODS if method != "full"],
)
def test_an_export_gives_the_scores_of_the_trained_model(tmp_path: Path, kind: str, method: str) -> None:
    base_at(tmp_path / "base", kind)
    recipe, tokenizer = recipe_of(tmp_path / "base", METHODS[method]), make_tokenizer()
    module = apply_method(load_model(recipe, vocab_size=264), recipe)
    (part,) = export_run(recipe, moved(module), tokenizer, out=str(tmp_path / "out"), card=FACTS)
    loaded = classifier_at(part)
    assert tuple(loaded.config.id2label.values()) == LABELS
    assert json.loads((tmp_path / "out/merged/config.json").read_text())["problem_type"].startswith("single")
    ids = torch.arange(3, 15).reshape(2, 6)
    places = torch.tensor([[0] * 6, [1] * 4 + [-1] * 2])
    with torch.no_grad():
        found, _ = text_scores(base_model(module).eval(), ids, places, 2)
        expected = torch.cat([loaded.eval()(input_ids=ids[:1]).logits, loaded(input_ids=ids[1:, :4]).logits])
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert float(expected.std()) > 0.01


@pytest.mark.parametrize("kind", ENCODERS)
def test_states_of_texts_are_those_that_the_head_makes_scores_of(tmp_path: Path, kind: str) -> None:
    base_at(tmp_path / "base", kind)
    recipe = recipe_of(tmp_path / "base", METHODS["full"])
    model = apply_method(load_model(recipe, vocab_size=264), recipe).eval()
    ids, places = torch.arange(3, 15).reshape(2, 6), torch.tensor([[0] * 6, [1] * 4 + [-1] * 2])
    with torch.no_grad():
        _, found = text_scores(base_model(model), ids, places, 2)
        outputs = base_model(model).base_model(input_ids=ids, attention_mask=(places >= 0).long())
    first = outputs.pooler_output if kind == "bert" else outputs.last_hidden_state[:, 0]
    torch.testing.assert_close(found, first)
    assert not any(part._forward_pre_hooks for part in base_model(model).children())


def test_an_export_leaves_the_second_head_out(tmp_path: Path) -> None:
    base_at(tmp_path / "base", "bert")
    domains = {"names": ["mail", "chat"], "hidden_size": 5}
    recipe = recipe_of(
        tmp_path / "base",
        METHODS["lora"],
        objective={"kind": "classify", "labels": LABELS, "domains": domains},
    )
    lines = rehearse(recipe, make_tokenizer())
    assert [line for line in lines if "second head" in line] == [
        f"second head  {33 * 5 + 6 * 2} parameters beside the model: trained, kept by commits, not exported"
    ]
    module, model = apply_method(load_model(recipe, vocab_size=264), recipe), load_model(recipe, vocab_size=264)
    second = auxiliary_head(model, recipe)
    assert second is not None
    weights = {**moved(module), **{f"auxiliary.{name}": value for name, value in second.state_dict().items()}}
    (part,) = export_run(recipe, weights, make_tokenizer(), out=str(tmp_path / "out"), card=FACTS)
    assert classifier_at(part).state_dict().keys() == model.state_dict().keys()
    assert "auxiliary" not in " ".join(load_file(Path(part) / "model.safetensors"))
    with pytest.raises(CheckpointError, match="no trained parameter"):
        export_run(recipe, {**weights, "other": weights["auxiliary.0.bias"]}, make_tokenizer(), out="x", card=FACTS)


@pytest.mark.parametrize(("method", "least"), [("probe", 2), ("lora", 2), ("ia3", 2)])
def test_the_head_is_trained_whole_whatever_the_method(tmp_path: Path, method: str, least: int) -> None:
    base_at(tmp_path / "base", "bert")
    recipe = recipe_of(tmp_path / "base", METHODS[method])
    module = apply_method(load_model(recipe, vocab_size=264), recipe)
    head = head_of_encoder(base_model(module))
    assert head is not None
    trained = [p for p in head.parameters() if p.requires_grad]
    assert [tuple(p.shape) for p in trained] == [(3, 32), (3,)]
    others = [
        name for name, p in module.named_parameters() if p.requires_grad and all(p is not own for own in trained)
    ]
    assert bool(others) == (method != "probe")
    assert all("lora_" in name or "ia3_" in name for name in others)
    assert len(trained) == least


def test_new_heads_are_alike_on_every_rank_and_follow_the_seed(tmp_path: Path) -> None:
    base_at(tmp_path / "base", "bert")
    found = []
    for seed, noise in ((0, 1), (0, 2), (1, 1)):
        torch.manual_seed(noise)
        model = load_model(recipe_of(tmp_path / "base", METHODS["full"], seed=seed), vocab_size=264)
        head = head_of_encoder(model)
        assert head is not None
        found.append(next(head.parameters()).detach())
    torch.testing.assert_close(found[0], found[1], atol=0, rtol=0)
    assert not torch.equal(found[0], found[2])


def test_an_empty_micro_batch_has_no_scores_and_passes_gradients(tmp_path: Path) -> None:
    base_at(tmp_path / "base", "bert")
    model = load_model(recipe_of(tmp_path / "base", METHODS["full"]), vocab_size=264)
    found, _ = text_scores(model, torch.zeros(1, 2, dtype=torch.long), torch.full((1, 2), -1), 0)
    assert found.shape == (0, 3)
    found.sum().backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert gradients
    assert all(bool(torch.isfinite(g).all()) for g in gradients)


@pytest.mark.parametrize(
    ("sections", "named"),
    [
        ({"data": {"packing": True}}, "see each other"),
        ({"objective": {"kind": "sft"}}, "writes no text"),
        ({"parallel": {"tensor": 2}, "cluster": {"workers": 2}}, "over no axis"),
        ({"train": {"embedding_noise": 5.0}}, "into the embeddings"),
    ],
)
def test_what_an_encoder_cannot_be_trained_with(tmp_path: Path, sections: dict[str, Any], named: str) -> None:
    base_at(tmp_path / "base", "bert")
    assert rehearse(recipe_of(tmp_path / "base", METHODS["full"]), make_tokenizer())
    with pytest.raises(ModelError, match=named):
        rehearse(recipe_of(tmp_path / "base", METHODS["full"], **sections), make_tokenizer())


def test_a_decoder_gets_a_head_for_its_labels(tmp_path: Path) -> None:
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(AutoConfig.for_model(**LLAMA, vocab_size=270)).save_pretrained(tmp_path / "base")
    recipe = recipe_of(tmp_path / "base", METHODS["probe"], data={"packing": True})
    module = apply_method(load_model(recipe, vocab_size=264), recipe)
    weights = {name: p.detach().clone() for name, p in module.named_parameters() if p.requires_grad}
    assert {name: tuple(tensor.shape) for name, tensor in weights.items()} == {"score.weight": (3, 32)}
    (part,) = export_run(recipe, weights, make_tokenizer(), out=str(tmp_path / "out"), card=FACTS)
    loaded = AutoModelForSequenceClassification.from_pretrained(part)
    assert tuple(loaded.config.id2label.values()) == LABELS
