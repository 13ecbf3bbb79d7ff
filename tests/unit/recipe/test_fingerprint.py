"""Which change of a recipe refuses a resume: a property over every field."""

from __future__ import annotations

import types
import typing
from typing import Any, Literal, get_args, get_origin

import pytest
from fakes import make_recipe
from pydantic import BaseModel

from raysft.recipe.fingerprint import default_of, differences, digest, fingerprints, first_mathematics, split_fields
from raysft.recipe.kinds import KINDS, kinds_with
from raysft.recipe.load import parse_recipe
from raysft.recipe.schema import Recipe

# Written from ARCHITECTURE.md: how a run is carried out, watched and kept may change on resume.
EXECUTION = {
    "name",
    "storage",
    "model.trust_remote_code",
    "model.attention",
    "train.micro_batch_rows",
    "train.gradient_checkpointing",
    "train.deterministic",
    "train.spike_factor",
    "train.log_every_steps",
    "train.trackers",
}
EXECUTION_SECTIONS = {"parallel", "cluster", "checkpoint", "evaluate", "export", "tune"}


def fields(section: type[BaseModel], prefix: str = "") -> list[tuple[str, Any]]:
    """(dotted name, annotation) of every leaf of the schema."""
    found: list[tuple[str, Any]] = []
    for name, info in section.model_fields.items():
        annotation = info.annotation
        if info.discriminator == "kind":
            found += [leaf for one in get_args(annotation) for leaf in fields(one, f"{prefix}{name}.")]
        elif isinstance(annotation, type) and issubclass(annotation, BaseModel):
            found += fields(annotation, f"{prefix}{name}.")
        else:
            found.append((prefix + name, annotation))
    return found


ALL = dict(reversed(fields(Recipe)))


def other_value(name: str, annotation: Any, old: Any) -> Any:
    """Some valid value that differs from `old`."""
    if get_origin(annotation) in (types.UnionType, typing.Union):
        annotation = next(a for a in get_args(annotation) if a is not type(None))
    if get_origin(annotation) is Literal:
        return next(choice for choice in get_args(annotation) if choice != old)
    if annotation is bool:
        return not old
    if annotation is int:
        return 0 if name == "cluster.gpus_per_worker" and old else (old or 0) + 1
    if name == "data.mixture.temperature":
        return 2.5
    if annotation is float:
        return (4.0 if old is None else old) / 2 + 0.125
    if annotation is str:
        return f"{old or ''}x"
    if name == "objective.teacher_weights":
        return [0.5]
    if name == "objective.class_weights":
        return {"spam": 2.0}
    if name == "objective.domains":
        return {"names": ["mail", "chat"]}
    if name == "train.trackers":
        return ["tensorboard"]
    if name == "model.config":
        return {**old, "hidden_size": 999}
    if name == "evaluate.sets":
        return {"dev": {"data": "dev.jsonl"}}
    if name == "checkpoint.keep_best_by":
        return "held_out/loss"
    if name == "cluster.env":
        return {"NCCL_DEBUG": "INFO"}
    if name == "data.columns":
        return {"instruction": "question"}
    if name in ("method.ranks", "method.alphas"):
        return {"q_proj": 4}
    if name == "method.options":
        return {"r": 4}
    if name == "data.rules":
        return [{"rule": "normalise"}]
    if name == "tune":
        return {"space": {"optimizer.learning_rate": {"distribution": "uniform", "low": 0.1, "high": 0.2}}}
    return ["another"]


def change(content: dict[str, Any], name: str, value: Any) -> dict[str, Any]:
    head, _, rest = name.partition(".")
    return {**content, head: change(content[head], rest, value) if rest else value}


@pytest.mark.parametrize("name", list(ALL))
def test_every_field_belongs_to_one_hash(name: str) -> None:
    section, _, field = name.partition(".")
    kinds = {section: {"kind": kinds_with(section, field)[-1]}} if section in KINDS and field != "kind" else {}
    old = make_recipe(**({} if name == "optimizer.kind" else {"method": {"kind": "lora"}} | kinds))
    content = old.model_dump(mode="json")
    value: Any = content
    for key in name.split("."):
        value = value[key]
    if name == "method.kind":
        new = make_recipe()
    elif name == "objective.kind":
        new = make_recipe(objective="dpo")
    elif name == "optimizer.kind":
        new = make_recipe(optimizer={"kind": "muon"})
    else:
        new = parse_recipe(change(content, name, other_value(name, ALL[name], value)))
    assert new != old
    before, after = fingerprints(old, "data-hash"), fingerprints(new, "data-hash")
    changed = {kind for kind in before if before[kind] != after[kind]}
    if name in EXECUTION or name.split(".")[0] in EXECUTION_SECTIONS:
        assert changed == {"execution"}
    elif name == "data.on_bad_record":
        assert "mathematics" not in changed
    elif name.startswith("data.") and name not in ("data.packing", "data.order"):
        assert changed == set()  # the data fingerprint speaks for them
    else:
        assert changed == {"mathematics"}


def test_the_data_fingerprint_is_part_of_the_mathematics() -> None:
    first, second = fingerprints(make_recipe(), "a"), fingerprints(make_recipe(), "b")
    assert (first["data"], second["data"]) == ("a", "b")
    assert first["mathematics"] != second["mathematics"]
    assert first["execution"] == second["execution"]


def test_a_default_spelled_out_changes_nothing() -> None:
    plain, spelled = make_recipe(), make_recipe(method={"kind": "full"}, seed=0)
    assert fingerprints(plain, "d") == fingerprints(spelled, "d")
    plain, spelled = make_recipe(method={"kind": "lora"}), make_recipe(method={"kind": "lora", "rank": 16})
    assert fingerprints(plain, "d") == fingerprints(spelled, "d")
    assert fingerprints(plain, "d") != fingerprints(make_recipe(), "d"), "a kind is no default of its fields"


FIRST_FULL = {
    "method.kind": "full",
    "method.rank": 8,
    "method.alpha": 32.0,
    "method.dropout": 0.0,
    "method.target_modules": ["all-linear"],
}
"""As versions wrote it that gave each kind all fields."""


def test_fields_of_another_kind_do_not_exist_in_older_records() -> None:
    full = split_fields(make_recipe())[0]
    lora = split_fields(make_recipe(method={"kind": "lora", "rank": 8}))[0]
    assert [name for name in full if name.startswith("method.")] == ["method.kind"]
    assert differences(full | FIRST_FULL, full) == differences(full, full | FIRST_FULL) == []
    assert differences(full | FIRST_FULL, lora) == ["method.kind: 'full' -> 'lora'"]
    assert differences(full | FIRST_FULL | {"method.kind": "lora"}, lora) == []
    assert differences(full | FIRST_FULL | {"method.kind": "lora"}, lora | {"method.rank": 4}) == [
        "method.rank: 8 -> 4"
    ]
    assert differences({"method.kind": "lora"}, lora | {"seed": 0}) != []


def test_the_first_fingerprint_is_that_of_all_fields() -> None:
    leaves = split_fields(make_recipe())[0] | FIRST_FULL | {"method.rank": 16, "objective": "sft"}
    leaves = {name: value for name, value in leaves.items() if not name.startswith("objective.")}
    assert first_mathematics(make_recipe(), "d") == digest({**leaves, "data": "d"})


def test_a_digest_is_of_content_not_of_order() -> None:
    assert digest({"a": 1, "b": [1, 2]}) == digest({"b": [1, 2], "a": 1})
    assert digest({"a": 1}) != digest({"a": 2})
    assert digest([1, 2]) != digest([2, 1])
    assert digest({"a": "é"}) == digest({"a": "\u00e9"})
    assert len(digest(None)) == 16


def test_differences_name_field_old_and_new() -> None:
    old, _ = split_fields(make_recipe())
    new, _ = split_fields(make_recipe(optimizer={"learning_rate": 0.5}, seed=3))
    assert differences(old, new) == ["optimizer.learning_rate: 2e-05 -> 0.5", "seed: 0 -> 3"]
    assert differences(old, old) == []


FIRST_DEFAULTS: dict[str, Any] = {
    "data.columns": {},
    "data.eval_fraction": 0.0,
    "data.format": "auto",
    "data.max_tokens": 1024,
    "data.mixture": {
        "balance_by": None,
        "curriculum": None,
        "descending": False,
        "temperature": None,
        "weight_column": None,
    },
    "data.mode": "prepared",
    "data.on_bad_record": "refuse",
    "data.order": "global",
    "data.over_long": "drop",
    "data.packing": True,
    "data.rules": [],
    "data.template": "tokenizer",
    "data.train_on": "all",
    "method.alpha": 32.0,
    "method.dropout": 0.0,
    "method.kind": "full",
    "method.rank": 16,
    "method.target_modules": ["all-linear"],
    "model.config": None,
    "model.revision": None,
    "model.tokenizer": None,
    "objective": "sft",
    "optimizer.beta1": 0.9,
    "optimizer.beta2": 0.95,
    "optimizer.eps": 1e-08,
    "optimizer.learning_rate": 2e-05,
    "optimizer.max_grad_norm": 1.0,
    "optimizer.min_lr_ratio": 0.0,
    "optimizer.schedule": "cosine",
    "optimizer.warmup_steps": 0,
    "optimizer.weight_decay": 0.0,
    "seed": 0,
    "train.epochs": 1,
    "train.max_steps": None,
    "train.precision": "bf16",
    "train.reduce_precision": None,
    "train.rows_per_step": 8,
}
"""Of the fields that say what is trained, as the first runs that must go on have them in their records."""


@pytest.mark.parametrize("name", FIRST_DEFAULTS)
def test_a_default_never_changes_its_meaning_for_older_runs(name: str) -> None:
    """A field is taken away, or gets another default: enter the former one in fingerprint.FORMER_DEFAULTS."""
    old = FIRST_DEFAULTS[name]
    assert differences({name: old}, {}) == differences({}, {name: old}) == []
    assert default_of(name) == old
