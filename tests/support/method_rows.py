"""What each method does on a family of models, against plain transformers and peft on the same samples.

A cell is walked as a run walks it, without Ray: the driver's checks and its rehearsal; a worker's module; steps of
training; the export; and what plain libraries make of the export.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from encoders import TYPES as ENCODERS
from fakes import make_recipe, make_tokenizer
from family_rows import FACTS, VOCABULARY, batch, make_base, quiet, samples
from peft import PeftModel
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification

from raysft.errors import RaysftError
from raysft.model.export import export_run
from raysft.model.facts import read_facts
from raysft.model.fast.attention import SEGMENTS
from raysft.model.fast.start_check import use_fast_paths
from raysft.model.load import load_model
from raysft.model.methods import (
    apply_method,
    base_model,
    forward_of,
    kept_parameters,
    set_start,
    start_tensors,
)
from raysft.model.rehearsal import rehearse
from raysft.objectives.batch import DeviceBatch
from raysft.objectives.known import known_of
from raysft.objectives.module import ObjectiveModule, make_objective
from raysft.recipe.resolve import resolve
from raysft.recipe.schema import Recipe

LABELS = ("spam", "ham", "odd")
CLASSIFY = {"kind": "classify", "labels": LABELS}
TOLERANCE = 1e-4
"""Of logits, relative to the largest."""
RATE = 0.05

METHODS: dict[str, dict[str, Any]] = {
    "full": {"kind": "full"},
    "freeze": {"kind": "freeze", "layers": 1, "parameters": ["*norm*"]},
    "unfreezing": {"kind": "freeze", "layers": -2, "unfreeze_every_steps": 1},
    "probe": {"kind": "probe"},
    "lora": {"kind": "lora", "rank": 4},
    "lora, rsLoRA, LoRA+": {"kind": "lora", "rank": 4, "rslora": True, "b_learning_rate_ratio": 4.0},
    "lora, PiSSA": {"kind": "lora", "rank": 4, "init": "pissa"},
    "lora, OLoRA": {"kind": "lora", "rank": 4, "init": "olora"},
    "dora": {"kind": "dora", "rank": 4},
    "adalora": {"kind": "adalora", "rank": 4, "target_rank": 2, "every_steps": 1},
    "ia3": {"kind": "ia3"},
    "fourierft": {"kind": "tuner", "tuner": "fourierft", "options": {"n_frequency": 40, "scaling": 20.0}},
    "hra": {"kind": "tuner", "tuner": "hra", "options": {"r": 4}},
    "loha": {"kind": "tuner", "tuner": "loha", "options": {"r": 4}},
    "miss": {"kind": "tuner", "tuner": "miss", "options": {"r": 4}},
    "oft": {"kind": "tuner", "tuner": "oft", "options": {"oft_block_size": 4}},
    "vera": {"kind": "tuner", "tuner": "vera", "options": {"r": 8}},
    "prompt": {"kind": "prompt", "virtual_tokens": 4},
    "p_tuning": {"kind": "p_tuning", "virtual_tokens": 3},
    "p_tuning, lstm": {"kind": "p_tuning", "virtual_tokens": 3, "encoder": "lstm"},
    "prefix": {"kind": "prefix", "virtual_tokens": 4},
    "prefix, projected": {"kind": "prefix", "virtual_tokens": 4, "projection": True},
    "pfeiffer": {"kind": "bottleneck", "bottleneck_size": 4},
    "houlsby": {"kind": "bottleneck", "placement": "houlsby", "bottleneck_size": 4},
}
"""{row: the recipe's section}: every kind, and what changes how a kind trains or is exported."""

ATTENTION = {"target_modules": ["q_proj", "v_proj"]}
OWN: dict[str, dict[str, dict[str, Any]]] = {
    "gpt2": {
        "freeze": {"parameters": ["*ln_*"]},
        "ia3": {"target_modules": ["c_attn", "mlp.c_proj"], "feedforward_modules": ["mlp.c_proj"]},
    },
    "bert": {
        "freeze": {"parameters": ["*LayerNorm*"]},
        "ia3": {"target_modules": ["key", "value", "output.dense"], "feedforward_modules": ["output.dense"]},
    },
    "qwen3_moe": {
        "ia3": {"target_modules": ["k_proj", "v_proj"], "feedforward_modules": []},
        **dict.fromkeys(
            ("lora, PiSSA", "lora, OLoRA", "dora", "adalora", "fourierft", "hra", "loha", "miss", "oft", "vera"),
            ATTENTION,
        ),
    },
}
"""{model type: {row: fields that it needs there}}: names of its own layers."""


def method_of(model_type: str, row: str) -> dict[str, Any]:
    """The recipe's section of a row, on a type."""
    return METHODS[row] | OWN.get(model_type, {}).get(row, {})


@dataclass(frozen=True)
class Outcome:
    """Of a method on a family."""

    refused: str = ""
    """What, got and fix of a refusal; empty: it trains."""
    adapter: float = float("nan")
    """Largest difference of logits by plain peft, relative; nan: there is no adapter."""
    merged: float = float("nan")
    """The same of the merged model by plain transformers."""

    @property
    def worst(self) -> float:
        """Of both."""
        return max(value for value in (self.adapter, self.merged) if value == value)


def make_any_base(model_type: str, directory: Path) -> bool:
    """A tiny model on disk, by transformers alone. Is it an encoder? Raises what a config raises."""
    if model_type not in ENCODERS:
        make_base(model_type, directory)
        return False
    torch.manual_seed(0)
    fields = {**ENCODERS[model_type], "vocab_size": VOCABULARY}
    sizes = {"hidden_size": 32, "intermediate_size": 48, "dim": 32, "hidden_dim": 48, "pooler_hidden_size": 32}
    fields |= {name: value for name, value in sizes.items() if name in fields or name == "pooler_hidden_size"}
    config = AutoConfig.for_model(model_type, **fields, initializer_range=0.2)
    AutoModel.from_config(config).save_pretrained(directory)
    return True


def recipe_of(base: Path, method: dict[str, Any], *, is_encoder: bool, **sections: Any) -> Recipe:
    """A recipe that trains a base by a method."""
    has_head = is_encoder or method["kind"] == "probe"
    fields: dict[str, Any] = {
        "data": {"packing": False, "max_tokens": 36 if is_encoder else 64},
        "optimizer": {"weight_decay": 0.0},
        "train": {"max_steps": 8},
        **({"objective": CLASSIFY} if has_head else {}),
    }
    model = {"source": str(base), "config": None, "tokenizer": None}
    return make_recipe(model=model, method=method, **fields | sections)


def walk(base: Path, out: Path, method: dict[str, Any], *, is_encoder: bool, **sections: Any) -> Outcome:
    """All of a cell. Raises what only a defect raises."""
    with quiet():
        try:
            recipe = recipe_of(base, method, is_encoder=is_encoder, **sections)
            tokenizer = make_tokenizer()
            resolve(recipe, read_facts(recipe), None)
            rehearse(recipe, tokenizer)
        except RaysftError as error:
            return Outcome(f"{error.what} | {error.got} | {error.expected} | {error.fix}")
        module = _module(recipe, len(tokenizer))
        _train(module, recipe)
        return _exported(recipe, module.model, base, out)


def _module(recipe: Recipe, vocab_size: int) -> ObjectiveModule:
    model = load_model(recipe, vocab_size=vocab_size)
    use_fast_paths(model, vocab_size, packing=recipe.data.packing, max_tokens=recipe.data.max_tokens)
    adapted = apply_method(model, recipe)
    if recipe.method.kind == "lora" and recipe.method.init in ("pissa", "olora"):
        set_start(adapted, start_tensors(adapted, recipe.method, {}))
    return ObjectiveModule(adapted, make_objective(recipe), None, forward_of(adapted, recipe))


def _train(module: ObjectiveModule, recipe: Recipe) -> None:
    """A few large steps."""
    objective = make_objective(recipe)
    trained = {name: p for name, p in module.named_parameters() if p.requires_grad}
    before = {name: p.detach().clone() for name, p in trained.items()}
    optimizer = torch.optim.SGD(trained.values(), lr=1.0)
    ids, positions, labels, weights = batch(recipe.data.packing)
    columns, segments = {}, torch.zeros_like(ids)
    if recipe.objective.kind == "classify":
        ids, positions, labels, weights = (one[:, : ids.shape[1] - 4] for one in (ids, positions, labels, weights))
        segments = torch.arange(len(ids))[:, None].expand_as(ids).contiguous()
        for row, sample in enumerate(samples()):
            segments[row, len(sample) :] = -1
        columns = {"label": torch.arange(len(ids), dtype=torch.float32)}
    atoms = torch.arange(int(segments.max()) + 1)
    tensors = (ids, positions, labels, weights, segments, segments.bool(), atoms)
    given = DeviceBatch(*tensors, columns, known_of(tensors))
    module.train()
    for _ in range(3):
        optimizer.zero_grad()
        sums = module(*given.flat(objective.columns)).sums
        loss = sum(sums[term.name] * term.weight for term in objective.terms)
        loss.backward()
        without = [name for name, p in trained.items() if p.grad is None]
        assert not without, f"no gradient: {without[:3]}"
        for parameter in trained.values():  # equal lengths, so that whatever learns moves
            if float(parameter.grad.norm()):
                parameter.grad.mul_(RATE * max(1.0, float(parameter.norm())) / parameter.grad.norm())
        optimizer.step()
    still = [name for name, p in trained.items() if torch.equal(p, before[name])]
    assert len(still) < len(trained), f"nothing moved of {len(trained)}"


def _exported(recipe: Recipe, module: nn.Module, base: Path, out: Path) -> Outcome:
    model = base_model(module)
    if model.config._attn_implementation == SEGMENTS:
        model.set_attn_implementation("sdpa")  # as others call it
    elif recipe.method.kind == "prefix":
        model.set_attn_implementation("eager")
    held = {name: p.detach().clone() for name, p in module.named_parameters() if p.requires_grad}
    held |= {name: p.detach().clone() for name, p in kept_parameters(module).items()}
    is_classifier = recipe.objective.kind == "classify"
    expected = _scores(module, recipe) if is_classifier else _logits(module)
    parts = export_run(recipe, held, make_tokenizer(), out=str(out), card=FACTS)
    found = {}
    for part in parts:
        name = Path(part).name
        if name == "merged":
            kind: Any = AutoModelForSequenceClassification if is_classifier else AutoModelForCausalLM
            loaded, told = kind.from_pretrained(part, dtype=torch.float32, output_loading_info=True)
            assert not told["missing_keys"], told["missing_keys"]
            assert not told["unexpected_keys"], told["unexpected_keys"]
        elif (Path(part) / "bottleneck_config.json").exists():
            loaded = hooked(Path(part), base, is_classifier=is_classifier)
        else:
            loaded = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), part)
        found[name] = _difference(_logits(loaded), expected)
    return Outcome("", **found)


def _logits(model: Any) -> Tensor:
    """[T, V], or [1, labels] of a classifier."""
    ids = samples()[1][None]
    with torch.no_grad():
        logits: Tensor = model.eval()(input_ids=ids).logits.float()[0]
    return logits[-ids.shape[1] :]


def _scores(module: nn.Module, recipe: Recipe) -> Tensor:
    """[labels] of a classifier in training."""
    model: Any = base_model(module).eval()
    ids = samples()[1][None]
    with torch.no_grad():
        if model.get_output_embeddings() is None:  # an encoder
            logits: Tensor = model(input_ids=ids).logits[0]
            return logits
        scores: Tensor = model.score(model.base_model(input_ids=ids)[0][0, -1])
        return scores


def hooked(adapter: Path, base: Path, *, is_classifier: bool) -> Any:
    """As the card says: y + W2 a(W1 y + b1) + b2 behind each layer."""
    config, weights = (
        json.loads((adapter / "bottleneck_config.json").read_text()),
        load_file(adapter / "bottleneck.safetensors"),
    )
    if is_classifier:
        model: Any = AutoModelForSequenceClassification.from_pretrained(base, num_labels=len(LABELS))
        own = {
            name: tensor for name, tensor in weights.items() if not any(name.startswith(p) for p in config["layers"])
        }
        told = model.load_state_dict(own, strict=False)
        assert not told.unexpected_keys, told.unexpected_keys
    else:
        model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    activation = getattr(nn.functional, config["activation"])

    def behind(path: str) -> Any:
        w1, b1, w2, b2 = (weights[f"{path}.{one}"] for one in ("down.weight", "down.bias", "up.weight", "up.bias"))
        return lambda layer, inputs, y: y + activation(y @ w1.T + b1) @ w2.T + b2

    for path in config["layers"]:
        model.get_submodule(path).register_forward_hook(behind(path))
    return model


def _difference(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())
