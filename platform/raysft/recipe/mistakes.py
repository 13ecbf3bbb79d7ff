"""What is wrong with a recipe, in its own words: field, value, what would be right, what may have been meant."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from raysft.recipe.kinds import KINDS, kinds_with
from raysft.recipe.schema import Recipe
from raysft.recipe.sections.method import TunerMethod

MEANT = {
    "batch_size": "train.rows_per_step",
    "global_batch_size": "train.rows_per_step",
    "train_batch_size": "train.rows_per_step",
    "gradient_accumulation_steps": "train.rows_per_step (over all workers and passes)",
    "micro_batch_size": "train.micro_batch_rows",
    "per_device_train_batch_size": "train.micro_batch_rows",
    "num_epochs": "train.epochs",
    "num_train_epochs": "train.epochs",
    "bf16": "train.precision: bf16",
    "fp16": "train.precision: bf16",
    "dtype": "train.precision",
    "lr": "optimizer.learning_rate",
    "lr_scheduler_type": "optimizer.schedule",
    "warmup_ratio": "optimizer.warmup_steps",
    "max_length": "data.max_tokens",
    "max_seq_length": "data.max_tokens",
    "max_seq_len": "data.max_tokens",
    "cutoff_len": "data.max_tokens",
    "sequence_len": "data.max_tokens",
    "sample_packing": "data.packing",
    "dataset": "data.train",
    "datasets": "data.train",
    "chat_template": "data.template",
    "train_on_inputs": "data.train_on",
    "val_set_size": "data.eval_fraction",
    "base_model": "model.source",
    "model_name_or_path": "model.source",
    "attn_implementation": "model.attention",
    "adapter": "method.kind",
    "r": "method.rank",
    "lora_r": "method.rank",
    "lora_rank": "method.rank",
    "lora_alpha": "method.alpha",
    "lora_dropout": "method.dropout",
    "lora_target_modules": "method.target_modules",
    "num_virtual_tokens": "method.virtual_tokens",
    "prompt_tuning_init": "method.init",
    "encoder_reparameterization_type": "method.encoder",
    "encoder_hidden_size": "method.hidden_size",
    "deepspeed": "parallel.zero",
    "num_gpus": "cluster.workers",
    "save_steps": "checkpoint.every_steps",
    "save_total_limit": "checkpoint.keep_last",
    "eval_steps": "evaluate.every_steps",
    "output_dir": "storage, and name",
}
"""Fields of other tools, and ours."""

KINDS_MEANT: dict[str, dict[str, str]] = {
    "method": {
        **dict.fromkeys(("fft", "full_ft", "sft", "finetune", "full_finetuning"), "full"),
        **dict.fromkeys(("qlora", "nf4", "bnb"), "lora with base_precision: nf4"),
        "rslora": "lora with rslora: true",
        **dict.fromkeys(("lora_plus", "loraplus", "lora+"), "lora with b_learning_rate_ratio: 16"),
        **{init: f"lora with init: {init}" for init in ("pissa", "olora", "eva")},
        **dict.fromkeys(("linear_probe", "linear_probing", "head"), "probe"),
        **dict.fromkeys(("gradual_unfreezing", "unfreezing"), "freeze with unfreeze_every_steps"),
        **dict.fromkeys(("prompt_tuning", "soft_prompt"), "prompt"),
        **dict.fromkeys(("prefix_tuning", "ptuning_v2", "p_tuning_v2"), "prefix"),
        "ptuning": "p_tuning",
        **dict.fromkeys(("adapter", "adapters"), "bottleneck"),
        **{name: f"bottleneck with placement: {name}" for name in ("houlsby", "pfeiffer")},
        **{name: f"tuner with tuner: {name}" for name in get_args(TunerMethod.model_fields["tuner"].annotation)},
    },
    "objective": {
        **dict.fromkeys(("pretrain", "pt", "clm", "text", "critique", "cft"), "sft (data.format says what is read)"),
        **dict.fromkeys(("neftune", "neft"), "sft with train.embedding_noise"),
        "asft": "dft with kl_weight",
        **{name: f"dpo with loss: {name}" for name in ("ipo", "hinge", "robust")},
        **dict.fromkeys(("slic", "rpo"), "dpo"),
        **dict.fromkeys(("kd", "gkd", "distillation"), "distill"),
        **dict.fromkeys(("rm", "reward_model", "reward_modeling", "ranking"), "reward"),
        **dict.fromkeys(("cls", "classification", "seq_cls", "focal"), "classify"),
        "dann": "classify with domains",
        **dict.fromkeys(("infonce", "simcse", "embedding", "mnrl"), "contrastive"),
    },
    "optimizer": dict.fromkeys(("adam", "adamw_torch", "adam_w", "adamw_8bit"), "adamw"),
}
"""{section: {what elsewhere is a kind, in small letters with `_`: the kind here, and what else is to be said}}."""

_EXPECTED = {
    "string_type": "text",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "finite_number": "a finite number",
    "tuple_type": "a list",
    "too_short": "at least one",
    "string_too_short": "text that is not empty",
    "dict_type": "a mapping",
    "model_type": "a section with fields of its own",
    "model_attributes_type": "a section with fields of its own",
    "greater_than": "more than {gt:g}",
    "greater_than_equal": "{ge:g} or more",
    "less_than": "less than {lt:,}",
    "less_than_equal": "{le:g} or less",
    "literal_error": "{expected}",
    "union_tag_invalid": "`{tag_field}` is one of {expected_tags}",
    "union_tag_not_found": "a mapping with `{tag_field}`",
}
"""pydantic's kinds of problems, which speak of Python, in the words of a recipe."""

_OF_FIELD = {
    "objective.teacher_weights": "a list of numbers above 0, one for each teacher",
    "name": "letters, digits and . _ -, at most 100, the first a letter or a digit",
    "cluster.workers": "a whole number, 1 or more, or {min: a, max: b}",
    "method.layers": "a whole number, or layers from a lower number to a higher one, each once: 8-15, or 0-3, 12-15",
    "data.train": "a path, a source with a `path`, or a list of them",
    "data.train.0": "a path, or a source with a `path`",
    "data.rules": "a list of {rule: NAME, ...}",
}
"""What is right at a field that takes more than one kind of value."""


@dataclass(frozen=True)
class Mistake:
    """One of them."""

    what: str
    got: str
    expected: str
    hint: str

    def in_one_line(self) -> str:
        """Among others."""
        parts = [("got ", self.got), ("expected ", self.expected), ("", self.hint)]
        return ", ".join([self.what, *(label + text for label, text in parts if text)])


def mistakes(error: ValidationError) -> list[Mistake]:
    """Each field that is wrong, once, in order."""
    found = list(_deepest(error.errors(include_url=False)))
    kept = {mistake.what: mistake for mistake in map(_mistake, reversed(found))}
    return list(reversed(kept.values()))


def _deepest(problems: Sequence[Any]) -> Iterator[Any]:
    """What pydantic tells of a value that may be of several kinds is what keeps it from each: the innermost count."""
    places = [_place(problem["loc"]) for problem in problems]
    for problem, place in zip(problems, places, strict=True):
        if not any(len(other) > len(place) and other[: len(place)] == place for other in places):
            yield problem


def _place(location: Sequence[Any]) -> list[str]:
    """The path of a field, without the names of kinds that pydantic puts in."""
    parts = [str(part) for part in location]
    tag = 1 if parts[:1] and parts[0] in KINDS else 3 if parts[:2] in (["data", "rules"], ["tune", "space"]) else None
    kept = []
    for index, part in enumerate(parts):
        is_kind = part in ("str", "int", "[key]") or re.fullmatch(r"[A-Z]\w*|.*\[.*\]", part) is not None
        if not (is_kind or index == tag):
            kept.append(part)
    return kept


def _mistake(problem: Any) -> Mistake:
    place = _place(problem["loc"])
    dotted = ".".join(place)
    if problem["type"] == "extra_forbidden":
        if len(place) == 2 and place[0] in KINDS and len(problem["loc"]) == 3:
            return _unknown_to_kind(place[0], str(problem["loc"][1]), place[1], problem["input"])
        known = fields_at(place[:-1])
        expected = f"one of {', '.join(known)}" if known else "a known key"
        return Mistake(f"unknown key {dotted}", _short(problem["input"]), expected, _meant(place, known))
    if problem["type"] == "missing":
        return Mistake(f"{dotted} is missing", "nothing", f"a value for {dotted}", "")
    context: Mapping[str, Any] = problem.get("ctx", {})
    values = {name: value.strip("'") if isinstance(value, str) else value for name, value in context.items()}
    if "discriminator" in values:
        values["tag_field"] = values["discriminator"]
    if isinstance(values.get("expected_tags"), str):
        values["expected_tags"] = str(context["expected_tags"]).replace("'", "")
    if problem["type"] == "literal_error":
        values["expected"] = str(context["expected"]).replace("'", "")
    told = _EXPECTED.get(problem["type"])
    if told is None and "pattern" in context:
        told = "text with {{prompt}} in it" if "prompt" in str(context["pattern"]) else "text of another form"
    if problem["type"] not in ("too_short", "missing") and dotted in _OF_FIELD:
        told = _OF_FIELD[dotted].replace("{", "{{").replace("}", "}}")
    elif problem["type"] == "tuple_type":
        told = "a string or a list of strings"
    given = problem["input"]
    if problem["type"] == "union_tag_invalid" and place[0] in KINDS:
        dotted, given = f"{dotted}.kind", values["tag"]
    tag = str(values.get("tag", ""))
    meant = KINDS_MEANT.get(place[0], {}).get(tag.lower().replace("-", "_")) if len(place) == 1 else None
    hint = f"did you mean {meant}?" if meant else _close(tag, str(values.get("expected_tags", "")).split(", "))
    said = problem["msg"].removeprefix("Value error, ")  # of a validator of our own: what is expected
    text = told.format(**values) if told else said.removeprefix("Input should be ")
    return Mistake(f"{dotted} is wrong", _short(given), text, hint)


def _unknown_to_kind(section: str, kind: str, field: str, given: object) -> Mistake:
    """A field that the section's kind does not have: other kinds may, or none."""
    known = [name for name in KINDS[section][kind].model_fields if name != "kind"]
    others = kinds_with(section, field)
    if not others:
        fields = ", ".join(["kind", *known])
        meant = _meant([section, field], fields_at([section]))
        return Mistake(f"unknown key {section}.{field}", _short(given), f"one of {fields}", meant)
    return Mistake(
        f"{section}.kind: {kind} has no field {field}",
        f"{section}.{field}: {_short(given)}",
        f"{field} only with {section}.kind: {' or '.join(others)}, which has it",
        f"set {section}.kind: {others[0]}, or remove {section}.{field}.",
    )


def _meant(place: Sequence[str], known: Sequence[str]) -> str:
    """What an unknown key may have been meant for: a field of that name elsewhere, another tool's, or a slip."""
    key, section = place[-1], ".".join(place[:-1])
    elsewhere = [name for name in _all_fields() if name.rpartition(".")[2] == key and name != ".".join(place)]
    if close := difflib.get_close_matches(key, known, n=1, cutoff=0.8):
        return f"did you mean {'.'.join([*place[:-1], close[0]])}?"
    if elsewhere or key in MEANT:
        return f"did you mean {' or '.join(elsewhere[:3] or [MEANT[key]])}?"
    loose = [name for name in known if key.startswith(f"{name}_")] or difflib.get_close_matches(key, known, 1, 0.7)
    return f"did you mean {section}.{loose[0]}?" if loose and section else ""


def _close(given: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(given, known, n=1, cutoff=0.6) if given else []
    return f"did you mean {close[0]}?" if close else ""


def _all_fields() -> list[str]:
    """Every field of a recipe's sections by its dotted name."""
    return [f"{name}.{field}" for name in Recipe.model_fields for field in fields_at([name])]


def fields_at(location: Sequence[str]) -> list[str]:
    """The fields of the section there; [] where there is none."""
    sections: Sequence[type[BaseModel]] = [Recipe]
    for number, key in enumerate(location):
        if number == 0 and key in KINDS:
            sections = list(KINDS[key].values())
            continue
        annotations = [section.model_fields[key].annotation for section in sections if key in section.model_fields]
        kinds = [kind for one in annotations for kind in (one, *get_args(one))]  # also of a union with None
        found = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)]
        sections = found[:1]
    return list(dict.fromkeys(name for section in sections for name in section.model_fields))


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 100 else text[:97] + "..."
