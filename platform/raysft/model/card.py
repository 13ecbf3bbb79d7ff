"""The model card: Markdown with YAML front matter. Owns its words; writes no file.

Tells what was trained on what with which result and how to load it. Nothing of the machine goes in: no
environment, no absolute path, no storage URI.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
import yaml

import raysft
from raysft.recipe.forgetting import forgotten, guards
from raysft.recipe.measures import rows_of
from raysft.recipe.objective_traits import embeds, head_of, sample_name
from raysft.recipe.schema import Recipe
from raysft.recipe.traits import method_of


@dataclass(frozen=True)
class CardFacts:
    """What the card tells of a run besides its recipe. Plain values."""

    steps: int
    """Optimizer steps of the exported weights."""
    train_samples: int
    """Samples of the training data."""
    train_tokens: int
    """Tokens trained on, over all epochs."""
    train_target_tokens: int
    """Those of them that were predicted."""
    fingerprints: Mapping[str, str]
    """{data, mathematics, execution} -> hash."""
    before: Mapping[str, Any]
    """What was measured before training, by set (evaluate/evaluation.py); empty: nothing."""
    after: Mapping[str, Any]
    """The same after training."""


def model_card(recipe: Recipe, facts: CardFacts, part: str) -> str:
    """The card of one part of an export, `merged` or `adapter`."""
    front = yaml.safe_dump(_front_matter(recipe, part), sort_keys=False).strip()
    results, lost = _results(facts), _forgetting(recipe, facts)
    sections = [
        f"---\n{front}\n---",
        f"# {recipe.name}",
        _summary(recipe, part),
        "## Results\n\n" + results if results else "",
        "## Forgetting\n\n" + lost if lost else "",
        "## How to load\n\n" + _loading(recipe, part),
        "## Training\n\n" + _table(("", ""), _training(recipe, facts)),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _front_matter(recipe: Recipe, part: str) -> dict[str, Any]:
    front: dict[str, Any] = {
        "library_name": method_of(recipe).library if part == "adapter" else "transformers",
        "pipeline_tag": _task(recipe),
        "tags": [
            "raysft",
            *(["sentence-transformers"] if embeds(recipe) else []),
            recipe.objective.kind,
            recipe.method.kind,
        ],
    }
    if _is_hub_id(recipe.model.source):
        front["base_model"] = recipe.model.source
    return front


def _task(recipe: Recipe) -> str:
    """As the hub names it."""
    if embeds(recipe):
        return "sentence-similarity"
    return "text-classification" if head_of(recipe) else "text-generation"


def _summary(recipe: Recipe, part: str) -> str:
    how = method_of(recipe).title
    what = "The bare adapter of" if part == "adapter" else "The whole model of"
    return f"{what} the raysft recipe `{recipe.name}`: {_base(recipe)}, fine-tuned ({recipe.objective.kind}, {how})."


def _base(recipe: Recipe) -> str:
    source = recipe.model.source
    if recipe.model.config is not None:
        return f"random weights of type `{recipe.model.config.get('model_type')}`"
    if source.startswith("run://") or _is_hub_id(source):
        return f"`{source}`" + (f" at `{recipe.model.revision}`" if recipe.model.revision else "")
    return f"`{Path(source).name}` (a local directory)"


def _is_hub_id(source: str) -> bool:
    """`owner/name` or `name`, as on the hub; not a path, a URI or fresh weights."""
    is_path = source.startswith((".", "/", "~")) or "://" in source or Path(source).is_dir()
    return not is_path and source != "random" and source.count("/") <= 1


def _results(facts: CardFacts) -> str:
    rows: list[tuple[str, ...]] = []
    for row in rows_of(facts.before, facts.after):
        rows.append((f"{row.title} ({row.unit})" if row.unit else row.title, row.before, row.after))
    return _table(("held-out data", "before", "after"), rows) if rows else ""


def _forgetting(recipe: Recipe, facts: CardFacts) -> str:
    rows = forgotten(guards(recipe), facts.before, facts.after)
    cells: list[tuple[str, ...]] = [(row.title, row.before, row.after, row.text) for row in rows]
    return _table(("guarded set", "before", "after", "lost"), cells) if cells else ""


_VECTORS = """
inputs = tokenizer(["a text", "another one"], padding=True, padding_side="right", return_tensors="pt")
states, mask = model(**inputs).last_hidden_state, inputs["attention_mask"][..., None]
pooled = (states * mask).sum(1) / mask.sum(1)  # mean; cls: states[:, 0]; last: states at mask.sum(1) - 1
vectors = pooled / pooled.norm(dim=-1, keepdim=True)"""
_AS_MODULES = (
    "How states are pooled stands in `1_Pooling/config.json`. sentence-transformers needs no more than "
    '`SentenceTransformer(".")`.'
)


def _loading(recipe: Recipe, part: str) -> str:
    load = 'model = AutoModelForCausalLM.from_pretrained(".")\ntokenizer = AutoTokenizer.from_pretrained(".")'
    imports = "from transformers import AutoModelForCausalLM, AutoTokenizer"
    if head_of(recipe):
        load, imports = (one.replace("ForCausalLM", "ForSequenceClassification") for one in (load, imports))
    if embeds(recipe):
        load, imports = (one.replace("AutoModelForCausalLM", "AutoModel") for one in (load, imports))
        return f"```python\n{imports}\n\n{load}\n{_VECTORS}\n```\n\n{_AS_MODULES}"
    base = recipe.model.source if _is_hub_id(recipe.model.source) else "BASE_MODEL_DIRECTORY"
    if part == "adapter" and method_of(recipe).library == "raysft":
        return f"```python\n{_own_loader(recipe, base)}\n```"
    if part == "adapter":
        imports = "from peft import PeftModel\nfrom transformers import AutoModelForCausalLM"
        load = (
            f'base = AutoModelForCausalLM.from_pretrained("{base}", dtype="float32")\n'
            'model = PeftModel.from_pretrained(base, ".")'
        )
    return f"```python\n{imports}\n\n{load}\n```"


def _own_loader(recipe: Recipe, base: str) -> str:
    """What loads an adapter that peft does not know, with transformers alone."""
    kind, further = "AutoModelForCausalLM", ""
    if head_of(recipe):
        kind, further = "AutoModelForSequenceClassification", ', **config["head"]'
    return f"""import json

from safetensors.torch import load_file
from torch.nn import functional
from transformers import {kind}

with open("bottleneck_config.json") as file:
    config = json.load(file)
weights, activation = load_file("bottleneck.safetensors"), getattr(functional, config["activation"])
model = {kind}.from_pretrained("{base}", dtype="float32"{further})
model.load_state_dict({{name: weights[name] for name in model.state_dict().keys() & weights.keys()}}, strict=False)


def adapter(path):
    down, up = ((weights[f"{{path}}.{{name}}.weight"], weights[f"{{path}}.{{name}}.bias"]) for name in ("down", "up"))
    return lambda layer, inputs, y: y + functional.linear(activation(functional.linear(y, *down)), *up)


for path in config["layers"]:
    model.get_submodule(path).register_forward_hook(adapter(path))"""


def _training(recipe: Recipe, facts: CardFacts) -> list[tuple[str, ...]]:
    optimizer, train, method = recipe.optimizer, recipe.train, method_of(recipe)
    details = method.details(recipe.method)
    predicted = f", {facts.train_target_tokens:,} of them predicted" if facts.train_target_tokens else ""
    return [
        ("recipe", f"`{recipe.name}`"),
        ("base model", _base(recipe)),
        ("method", f"{method.title}, {details}" if details else recipe.method.kind),
        (
            "data",
            f"{facts.train_samples:,} {_samples(recipe)}",
        ),
        ("trained on", f"{facts.train_tokens:,} tokens{predicted}"),
        ("steps", f"{facts.steps:,} of {train.rows_per_step} packed rows of {recipe.data.max_tokens:,} tokens"),
        ("optimizer", f"{optimizer.title}, learning rate {optimizer.learning_rate:g}, {optimizer.schedule}"),
        ("precision", train.precision),
        ("seed", str(recipe.seed)),
        *((f"{name} fingerprint", f"`{value}`") for name, value in sorted(facts.fingerprints.items())),
        ("raysft", raysft.__version__),
        ("torch", torch.__version__),
        ("transformers", transformers.__version__),
    ]


def _samples(recipe: Recipe) -> str:
    return f"{sample_name(recipe)}s"


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
