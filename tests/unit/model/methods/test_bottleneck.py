"""Bottleneck adapters from attaching to an export, against hooks in plain torch on plain transformers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from exports import FACTS, logits, moved, write_base
from fakes import make_recipe, make_tokenizer
from families import GPT2, LLAMA, NEOX, TIED, make_model, tiny_fields
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification

from raysft.engine.parameters import undecayed
from raysft.errors import ModelError, RecipeError
from raysft.evaluate.adapter_start import adapter_start
from raysft.evaluate.exported import load_exported
from raysft.model.export import export_run
from raysft.model.load import load_model
from raysft.model.methods import apply_method, merge, set_start
from raysft.model.rehearsal import rehearse
from raysft.model.shape import read_shape
from raysft.model.trained import WHOLE, load_adapted, load_trained
from raysft.recipe.checks import check_recipe
from raysft.recipe.families import WITH_SUBLAYERS
from raysft.recipe.schema import Recipe
from raysft.recipe.traits import method_of
from raysft.recipe.travel import locations
from raysft.run.remote_tasks import starting_model

FAMILIES: dict[str, tuple[dict[str, Any], tuple[str, str], type[nn.Module] | None]] = {
    "llama": (LLAMA, ("model.layers.{}.self_attn.o_proj", "model.layers.{}.mlp.down_proj"), None),
    "qwen3, tied": (TIED, ("model.layers.{}.self_attn.o_proj", "model.layers.{}.mlp.down_proj"), None),
    "gpt2": (GPT2, ("transformer.h.{}.attn.c_proj", "transformer.h.{}.mlp.c_proj"), None),
}
"""{family: (config, layers out of attention and MLP)}; written down here, not read from the package."""
FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": lambda x: x.clamp(min=0),
    "gelu": lambda x: 0.5 * x * (1 + torch.erf(x / 2**0.5)),
    "silu": lambda x: x / (1 + (-x).exp()),
}
METHOD = {"kind": "bottleneck", "placement": "houlsby", "bottleneck_size": 4}


def recipe_of(base: Path, **sections: Any) -> Recipe:
    model = {"source": str(base), "config": None, "tokenizer": None}
    return make_recipe(model=model, method={**METHOD, **sections.pop("method", {})}, **sections)


def hooked(model: Any, layers: list[str], weights: dict[str, Tensor], activation: str) -> Any:
    """Plain transformers with adapters by hand: y + W2 a(W1 y + b1) + b2 behind each layer."""

    def adapted(path: str) -> Any:
        w1, b1, w2, b2 = (weights[f"{path}.{name}"] for name in ("down.weight", "down.bias", "up.weight", "up.bias"))
        return lambda layer, inputs, y: y + FUNCTIONS[activation](y @ w1.T + b1) @ w2.T + b2

    for path in layers:
        model.get_submodule(path).register_forward_hook(adapted(path))
    return model


@pytest.mark.parametrize("activation", FUNCTIONS)
@pytest.mark.parametrize("placement", ["houlsby", "pfeiffer"])
@pytest.mark.parametrize("family", FAMILIES)
def test_an_export_computes_what_was_trained(tmp_path: Path, family: str, placement: str, activation: str) -> None:
    if activation != "relu" and family != "llama":
        pytest.skip("one family is enough")
    fields, (attention, mlp), _ = FAMILIES[family]
    base = write_base(tmp_path, fields)
    recipe = recipe_of(base, method={"placement": placement, "activation": activation})
    plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    module = apply_method(load_model(recipe, vocab_size=264), recipe)
    assert torch.equal(logits(module), logits(plain)), "it begins as the base"
    trained = {name: p for name, p in module.named_parameters() if p.requires_grad}
    assert sum(p.numel() for p in trained.values()) == read_shape(recipe).num_layers * method_of(
        recipe
    ).layer_parameters(recipe.method, read_shape(recipe), 1)
    assert {name for name, p in trained.items() if p in undecayed(module)} == {n for n in trained if "bias" in n}
    assert merge(module) is module, "there is nothing that it could be merged into"

    weights = moved(module)
    (adapter,) = export_run(recipe, dict(weights), make_tokenizer(), out=str(tmp_path / "e"), card=FACTS)
    ends = (mlp,) if placement == "pfeiffer" else (attention, mlp)
    layers = [end.format(number) for number in range(2) for end in ends]
    assert json.loads(Path(adapter, "bottleneck_config.json").read_text())["layers"] == layers
    stored = load_file(Path(adapter, "bottleneck.safetensors"))
    assert stored.keys() == weights.keys()
    expected = logits(hooked(plain, layers, stored, activation))
    torch.testing.assert_close(logits(module), expected, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(
        logits(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)), expected, atol=1e-2
    )
    again, tokenizer = load_exported(str(tmp_path / "e"))
    torch.testing.assert_close(logits(again), expected, atol=1e-5, rtol=1e-5)
    assert tokenizer.chat_template
    for load in (load_adapted, load_trained):
        torch.testing.assert_close(logits(load(recipe, weights, vocab_size=264)), expected, atol=1e-5, rtol=1e-5)


def by_readme(adapter: str, base: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The model that the card's own lines load."""
    text = Path(adapter, "README.md").read_text().split("```python\n")[1].split("```")[0]
    monkeypatch.chdir(adapter)
    names: dict[str, Any] = {}
    exec(text.replace("BASE_MODEL_DIRECTORY", str(base)), names)
    return names["model"].eval()


def test_the_card_loads_it_with_transformers_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = write_base(tmp_path, LLAMA)
    recipe = recipe_of(base)
    module = apply_method(load_model(recipe, vocab_size=264), recipe)
    (adapter,) = export_run(recipe, moved(module), make_tokenizer(), out=str(tmp_path / "e"), card=FACTS)
    loaded = by_readme(adapter, base, monkeypatch)
    torch.testing.assert_close(logits(loaded), logits(module), atol=1e-5, rtol=1e-5)


ENCODERS: dict[str, tuple[str, str]] = {
    "bert": ("bert.encoder.layer.{}.attention.output.dense", "bert.encoder.layer.{}.output.dense"),
    "roberta": ("roberta.encoder.layer.{}.attention.output.dense", "roberta.encoder.layer.{}.output.dense"),
    "distilbert": ("distilbert.transformer.layer.{}.attention.out_lin", "distilbert.transformer.layer.{}.ffn.lin2"),
    "modernbert": ("model.layers.{}.attn.Wo", "model.layers.{}.mlp.Wo"),
    "deberta-v2": ("deberta.encoder.layer.{}.attention.output.dense", "deberta.encoder.layer.{}.output.dense"),
    "mpnet": ("mpnet.encoder.layer.{}.attention.attn.o", "mpnet.encoder.layer.{}.output.dense"),
}
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48} | {
    "max_position_embeddings": 130,
    "pad_token_id": 0,
    "cls_token_id": 1,
    "sep_token_id": 2,
    "pooler_hidden_size": 32,
    **{"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48},
}


@pytest.mark.parametrize("kind", ["llama", *ENCODERS])
def test_a_classifier_goes_with_its_head(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    base, labels = tmp_path / "base", ("spam", "ham", "odd")
    if kind == "llama":
        write_base(tmp_path, LLAMA)
    else:
        torch.manual_seed(0)
        own = SIZES if kind == "distilbert" else {k: v for k, v in SIZES.items() if k not in ("dim", "n_layers")}
        AutoModel.from_config(AutoConfig.for_model(kind, **own, vocab_size=270)).save_pretrained(base)
    sections = {"data": {"packing": False}, "objective": {"kind": "classify", "labels": labels}}
    recipe = recipe_of(base, **sections)
    check_recipe(recipe)
    assert any(line.startswith("adapters") for line in rehearse(recipe, make_tokenizer()))
    module: Any = apply_method(load_model(recipe, vocab_size=264), recipe)
    weights = moved(module)
    (adapter,) = export_run(recipe, weights, make_tokenizer(), out=str(tmp_path / "e"), card=FACTS)
    stored = load_file(Path(adapter, "bottleneck.safetensors"))
    assert stored.keys() == weights.keys()
    plain = AutoModelForSequenceClassification.from_pretrained(base, num_labels=3, pad_token_id=0)
    head = {name: tensor for name, tensor in stored.items() if name in dict(plain.named_parameters())}
    assert head
    plain.load_state_dict(head, strict=False)
    ends = ENCODERS.get(kind, FAMILIES["llama"][1])
    layers = [end.format(number) for number in range(2) for end in ends]
    expected = logits(hooked(plain, layers, stored, "relu"))
    loaded = by_readme(adapter, base, monkeypatch)
    torch.testing.assert_close(logits(loaded), expected, atol=1e-5, rtol=1e-5)
    assert tuple(loaded.config.id2label.values()) == labels
    if kind != "llama":
        torch.testing.assert_close(logits(module), expected, atol=1e-5, rtol=1e-5)
    with pytest.raises(ModelError, match="answers nothing"):
        load_exported(adapter)


DECODERS = sorted(WITH_SUBLAYERS - {*ENCODERS, "camembert", "deberta", "electra", "xlm-roberta"})


@pytest.mark.parametrize("model_type", DECODERS)
def test_every_type_of_the_table_has_what_it_says(model_type: str) -> None:
    """Adapters are in every layer, all of them are on the way of every token, and nothing else of the model is."""
    fields = {name: value for name, value in tiny_fields(model_type).items() if name != "vocab_size"}
    model = make_model({"model_type": model_type, **fields})
    ids = torch.arange(1, 9)[None]
    before = model(input_ids=ids).logits
    recipe = make_recipe(method={**METHOD, "activation": "silu"})  # never dead
    module: Any = apply_method(model, recipe)
    assert torch.equal(module(input_ids=ids).logits, before)
    moved(module)
    module(input_ids=ids).logits.square().mean().backward()
    trained = {name: p for name, p in module.named_parameters() if p.requires_grad}
    assert len(trained) == 2 * 2 * 4
    assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in trained.values())


@pytest.mark.parametrize(
    ("fields", "method", "got"),
    [
        (LLAMA, {"bottleneck_size": 33}, "33, a model 32 wide"),
        (LLAMA, {"bottleneck_size": None, "reduction_factor": 64}, "64, a model 32 wide"),
        ({"model_type": "mixtral", **tiny_fields("mixtral")}, {}, "mixtral, whose last layer has self_attn.k_proj"),
        ({"model_type": "mamba", **tiny_fields("mamba")}, {}, "mamba, whose last layer has mixer."),
    ],
)
def test_what_it_cannot_be_put_into_is_refused(fields: dict[str, Any], method: dict[str, Any], got: str) -> None:
    with pytest.raises(ModelError) as caught:
        apply_method(make_model(fields), make_recipe(method={**METHOD, **method}))
    assert got in caught.value.got
    assert caught.value.fix


def test_a_size_is_said_once() -> None:
    with pytest.raises(RecipeError, match="twice"):
        check_recipe(make_recipe(method={**METHOD, "reduction_factor": 8}))


@pytest.mark.parametrize("broken", ["other base", "a weight is missing", "another format"])
def test_an_export_that_does_not_fit_is_refused(tmp_path: Path, broken: str) -> None:
    recipe = recipe_of(write_base(tmp_path, LLAMA))
    module = apply_method(load_model(recipe, vocab_size=264), recipe)
    (adapter,) = export_run(recipe, moved(module), make_tokenizer(), out=str(tmp_path / "e"), card=FACTS)
    path = Path(adapter, "bottleneck_config.json")
    config = json.loads(path.read_text())
    if broken == "other base":
        config["base_model"] = str(write_base(tmp_path / "other", NEOX))
    elif broken == "another format":
        config["format"] = "raysft bottleneck adapter 2"
    else:
        config["layers"] = config["layers"][:-1]
    path.write_text(json.dumps(config))
    with pytest.raises(ModelError, match="does not fit"):
        load_exported(adapter)


def test_what_is_drawn_follows_the_seed_alone(tmp_path: Path) -> None:
    base = write_base(tmp_path, LLAMA)

    def drawn(seed: int) -> Tensor:
        recipe = recipe_of(base, seed=seed)
        torch.rand(3)
        return apply_method(load_model(recipe, vocab_size=264), recipe).get_parameter(
            "model.layers.1.mlp.down_proj.down.weight"
        )

    assert torch.equal(drawn(1), drawn(1))
    assert not torch.equal(drawn(1), drawn(2))


@pytest.mark.parametrize("place", ["export", "export/adapter", "run://one"])
def test_a_run_goes_on_with_an_exported_adapter(tmp_path: Path, place: str) -> None:
    base, out = write_base(tmp_path, LLAMA), tmp_path / "runs" / "one" / "export"
    first = recipe_of(base, storage=str(tmp_path))
    module = apply_method(load_model(first, vocab_size=264), first)
    weights = moved(module)
    export_run(first, dict(weights), make_tokenizer(), out=str(out), card=FACTS)
    named = place if "://" in place else str(tmp_path / "runs" / "one" / place)
    recipe = recipe_of(base, storage=str(tmp_path), seed=9, method={"begin_from": named})
    rehearse(recipe, make_tokenizer())
    found = adapter_start(recipe, make_tokenizer(), None)
    again = apply_method(load_model(recipe, vocab_size=264), recipe)
    set_start(again, found)
    torch.testing.assert_close(logits(again), logits(module), atol=0, rtol=0)
    begun, _ = starting_model(recipe, make_tokenizer(), WHOLE)  # what is measured before training
    torch.testing.assert_close(logits(begun), logits(module))
    plain, forward = starting_model(first, make_tokenizer(), WHOLE)
    assert forward is None
    torch.testing.assert_close(logits(plain), logits(load_model(first, vocab_size=264)))
    assert [where for where in locations(recipe) if where[0] == "method.begin_from"] == [("method.begin_from", named)]


@pytest.mark.parametrize(
    ("changes", "got"),
    [
        ({"placement": "pfeiffer"}, "which this model has not"),
        ({"bottleneck_size": 5}, "which this model has not"),
        ({"activation": "gelu"}, "activation relu, method.activation: gelu"),
        ({"begin_from": "/nowhere"}, "nowhere"),
        ({"begin_from": "run://other"}, "nothing at"),
    ],
)
def test_an_adapter_that_it_cannot_go_on_with_is_refused_before_the_run(
    tmp_path: Path, changes: dict[str, Any], got: str
) -> None:
    base = write_base(tmp_path, LLAMA)
    first = recipe_of(base)
    module = apply_method(load_model(first, vocab_size=264), first)
    export_run(first, moved(module), make_tokenizer(), out=str(tmp_path / "e"), card=FACTS)
    recipe = recipe_of(base, storage=str(tmp_path), method={"begin_from": str(tmp_path / "e"), **changes})
    with pytest.raises(ModelError) as caught:
        rehearse(recipe, make_tokenizer())
    assert got in caught.value.got


def test_another_base_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Of the same shape: nothing else would say that it begins with what was learnt of other weights."""
    base = write_base(tmp_path / "one", LLAMA)
    first = recipe_of(base)
    module = apply_method(load_model(first, vocab_size=264), first)
    export_run(first, moved(module), make_tokenizer(), out=str(tmp_path / "e"), card=FACTS)
    begun = {"begin_from": str(tmp_path / "e")}
    rehearse(recipe_of(base, method=begun), make_tokenizer())
    assert not caplog.records
    other = write_base(tmp_path / "other", LLAMA)
    rehearse(recipe_of(other, method=begun), make_tokenizer())
    assert f"trained on {base}, model.source is {other}" in caplog.text


def test_an_adapter_of_fewer_layers_is_not_gone_on_with(tmp_path: Path) -> None:
    base = write_base(tmp_path, LLAMA)
    first = recipe_of(base, method={"placement": "pfeiffer"})
    module = apply_method(load_model(first, vocab_size=264), first)
    export_run(first, moved(module), make_tokenizer(), out=str(tmp_path / "e"), card=FACTS)
    with pytest.raises(ModelError, match=r"no model.layers.0.self_attn.o_proj"):
        rehearse(recipe_of(base, method={"begin_from": str(tmp_path / "e")}), make_tokenizer())
