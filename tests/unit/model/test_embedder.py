"""Vectors of texts: an export gives those that were trained, by transformers alone, the tokenizer their ends."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from exports import FACTS, moved
from fakes import LLAMA, make_recipe, make_tokenizer
from torch import Tensor
from torch.nn.functional import normalize
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from raysft.errors import ModelError, RecipeError
from raysft.model.embedder import embed
from raysft.model.export import export_run
from raysft.model.load import load_model
from raysft.model.methods import apply_method, base_model
from raysft.model.rehearsal import rehearse
from raysft.objectives.batch import DeviceBatch
from raysft.objectives.known import known_of
from raysft.objectives.module import ObjectiveModule, make_objective
from raysft.recipe.checks import check_recipe
from raysft.recipe.compatibility import cell_of, verdict
from raysft.recipe.tune import TuneSection
from raysft.recipe.tune_executor import obstacles

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
ENCODERS: dict[str, dict[str, Any]] = {
    "bert": SIZES,
    "roberta": {**SIZES, "max_position_embeddings": 130, "pad_token_id": 1},
    "distilbert": {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64},
    "modernbert": {**SIZES, "num_hidden_layers": 3, "pad_token_id": 0, "cls_token_id": 1, "sep_token_id": 2},
}
METHODS: dict[str, dict[str, Any]] = {
    "probe": {"kind": "probe"},
    "full": {"kind": "full"},
    "lora": {"kind": "lora", "rank": 2, "target_modules": "all-linear"},
}
LENGTHS = (6, 4, 5, 3)


def base_at(directory: Path, kind: str) -> None:
    torch.manual_seed(0)
    if kind in ENCODERS:
        config = AutoConfig.for_model(kind, **ENCODERS[kind], vocab_size=270, initializer_range=0.2)
        AutoModel.from_config(config).save_pretrained(directory)
    else:
        config = AutoConfig.for_model(**{**LLAMA, "vocab_size": 270, "tie_word_embeddings": False})
        AutoModelForCausalLM.from_config(config).save_pretrained(directory)


def recipe_of(directory: Path, kind: str, method: str = "full", **sections: Any) -> Any:
    fields = {
        "model": {"source": str(directory), "config": None, "tokenizer": None},
        "method": METHODS[method],
        "data": {"packing": kind not in ENCODERS},
        "objective": {"kind": "contrastive"},
        **sections,
    }
    return make_recipe(**fields)


def batch_of(texts: list[Tensor], *, packing: bool) -> DeviceBatch:
    """Two texts an atom."""
    rows = [torch.cat(texts)] if packing else texts
    width = max(map(len, rows))
    ids, segment_of = torch.zeros(len(rows), width, dtype=torch.int64), torch.full((len(rows), width), -1)
    numbers = [torch.full((len(text),), number) for number, text in enumerate(texts)]
    for place, (row, own) in enumerate(zip(rows, [torch.cat(numbers)] if packing else numbers, strict=True)):
        ids[place, : len(row)], segment_of[place, : len(row)] = row, own
    positions = torch.cat([torch.arange(len(text)) for text in texts])[None] if packing else None
    predicts = torch.zeros_like(segment_of, dtype=torch.bool)
    predicts[:, :-1] = (segment_of[:, 1:] == segment_of[:, :-1]) & (segment_of[:, :-1] >= 0)
    zeros = {name: torch.zeros(2) for name in ("step_cost", "step_right", "step_rank")}
    zeros["step_slope"] = torch.zeros(4, 1)
    if positions is None:
        positions = torch.arange(width).expand(len(rows), -1)
    nothing, atom_of = torch.full_like(ids, -100), torch.tensor([0, 0, 1, 1])
    tensors = (ids, positions, nothing, torch.zeros(ids.shape), segment_of, predicts, atom_of)
    return DeviceBatch(*tensors, zeros, known_of(tensors))


def pooled(model: Any, text: Tensor, pooling: str) -> Tensor:
    """transformers alone, on one text alone."""
    states = model.eval()(input_ids=text[None]).last_hidden_state[0]
    return normalize({"mean": states.mean(0), "cls": states[0], "last": states[-1]}[pooling], dim=0)


@pytest.mark.parametrize(
    ("kind", "method", "pooling"),
    [
        *((kind, "full", "auto") for kind in (*ENCODERS, "llama")),
        ("bert", "lora", "auto"),
        ("bert", "full", "cls"),
        ("llama", "lora", "mean"),
        ("llama", "full", "cls"),
    ],
)
def test_an_export_gives_the_vectors_of_the_trained_model(
    tmp_path: Path, kind: str, method: str, pooling: str
) -> None:
    base_at(tmp_path / "base", kind)
    recipe = recipe_of(tmp_path / "base", kind, method, objective={"kind": "contrastive", "pooling": pooling})
    objective, module = make_objective(recipe), apply_method(load_model(recipe, vocab_size=264), recipe)
    weights = moved(module)
    texts = [torch.arange(3, 3 + length) * (number + 1) for number, length in enumerate(LENGTHS)]
    batch = batch_of(texts, packing=kind not in ENCODERS)
    module.train(False)
    with torch.no_grad():
        trained = ObjectiveModule(module, objective)(*batch.flat(objective.batch_columns)).vectors
    (part,) = export_run(recipe, weights, make_tokenizer(), out=str(tmp_path / "out"), card=FACTS)
    loaded = AutoModel.from_pretrained(part)
    how = pooling if pooling != "auto" else "mean" if kind in ENCODERS else "last"
    with torch.no_grad():
        expected = torch.stack([pooled(loaded, text, how) for text in texts])
    assert trained is not None
    torch.testing.assert_close(trained, expected, atol=1e-5, rtol=1e-5)
    assert float(expected.std(0).mean()) > 0.001
    whole = loaded if kind in ENCODERS else AutoModelForCausalLM.from_pretrained(part)
    found = embed(whole, [np.asarray(text) for text in texts], how)  # type: ignore[arg-type]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    files = json.loads((Path(part) / "1_Pooling" / "config.json").read_text())
    chosen = {"mean": "pooling_mode_mean_tokens", "cls": "pooling_mode_cls_token", "last": "pooling_mode_lasttoken"}
    assert [name for name, value in files.items() if value is True] == [chosen[how]]
    assert [one["path"] for one in json.loads((Path(part) / "modules.json").read_text())] == [
        "", "1_Pooling", "2_Normalize",
    ]  # fmt: skip
    assert "SentenceTransformer" in (Path(part) / "README.md").read_text()


def test_what_no_vector_is_made_of_is_not_trained(tmp_path: Path) -> None:
    for kind, left in (("bert", "pooler.dense.weight"), ("llama", "lm_head.weight")):
        base_at(tmp_path / kind, kind)
        recipe = recipe_of(tmp_path / kind, kind)
        module = apply_method(load_model(recipe, vocab_size=264), recipe)
        trained = {name for name, parameter in module.named_parameters() if parameter.requires_grad}
        assert {name for name, _ in module.named_parameters()} - trained >= {left}
        assert len(trained) > 10
        lora = recipe_of(tmp_path / kind, kind, "lora")
        adapted = base_model(apply_method(load_model(lora, vocab_size=264), lora))
        assert not any("pooler" in name for name, p in adapted.named_parameters() if p.requires_grad)


def test_a_base_whose_files_lack_weights_is_refused_but_for_the_pooler(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = AutoConfig.for_model("bert", **SIZES, vocab_size=270)
    AutoModel.from_config(config, add_pooling_layer=False).save_pretrained(tmp_path / "base")
    assert load_model(recipe_of(tmp_path / "base", "bert"), vocab_size=264)
    config.num_hidden_layers = 3
    config.save_pretrained(tmp_path / "base")
    with pytest.raises(ModelError, match="cannot load"):
        load_model(recipe_of(tmp_path / "base", "bert"), vocab_size=264)


def test_an_empty_micro_batch_has_no_vectors_and_passes_gradients(tmp_path: Path) -> None:
    for kind in ("bert", "llama"):
        base_at(tmp_path / kind, kind)
        recipe = recipe_of(tmp_path / kind, kind)
        objective, model = make_objective(recipe), apply_method(load_model(recipe, vocab_size=264), recipe)
        nothing = torch.full((1, 2), -1)
        zeros = {name: torch.zeros(0) for name in ("step_cost", "step_right", "step_rank")}
        zeros["step_slope"] = torch.zeros(0, 1)
        ids, positions, no_atoms = torch.zeros_like(nothing), torch.arange(2)[None], nothing[0, :0]
        tensors = (ids, positions, nothing * 100, torch.zeros(1, 2), nothing, nothing > 0, no_atoms)
        batch = DeviceBatch(*tensors, zeros, known_of(tensors))
        loss = ObjectiveModule(model, objective)(*batch.flat(objective.batch_columns))
        assert loss.vectors.shape == (0, model.config.hidden_size)
        loss.sums["contrastive"].backward()
        assert any(p.grad is not None for p in model.parameters())
        assert all(bool(torch.isfinite(p.grad).all()) for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize(
    ("sections", "named"),
    [
        ({"train": {"adversarial_epsilon": 0.5}}, "adversarial"),
        (
            {"evaluate": {"generate_prompts": 5}, "data": {"eval_fraction": 0.1, "packing": False}},
            "answers no prompts",
        ),
        ({"export": {"merged": False}}, "with a whole model"),
        ({"data": {"over_long": "split", "packing": False}}, "one sample"),
        ({"method": "probe"}, "a head of the objective's own"),
    ],
)
def test_what_vectors_cannot_be_trained_with(tmp_path: Path, sections: dict[str, Any], named: str) -> None:
    base_at(tmp_path / "base", "bert")
    check_recipe(recipe_of(tmp_path / "base", "bert"))
    assert rehearse(recipe_of(tmp_path / "base", "bert"), make_tokenizer())
    with pytest.raises(RecipeError, match=named):
        check_recipe(recipe_of(tmp_path / "base", "bert", **sections))


def test_no_pipeline_and_no_trials_on_one_base() -> None:
    cut = make_recipe(objective={"kind": "contrastive"}, parallel={"pipeline": 2, "zero": 1}, cluster={"workers": 2})
    assert verdict(cell_of(cut)).status == "refused"
    lora = make_recipe(objective={"kind": "contrastive"}, method=METHODS["lora"])
    rate = {"distribution": "uniform", "low": 1e-5, "high": 1e-3}
    search = TuneSection.model_validate({"space": {"optimizer.learning_rate": rate}})
    assert any("its own steps" in words for words in obstacles(lora, search))
