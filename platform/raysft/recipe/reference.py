"""docs/reference/recipe.md, written from the recipe's JSON schema: every field with type, default, unit and meaning.

`python -m raysft.recipe.reference FILE` writes it (`make reference`).
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raysft.recipe.json_schema import recipe_schema

INTRODUCTION = """# Every field of a recipe

Written by `make reference` from the schema in `platform/raysft/recipe/`; a test holds the two equal. Edit the schema,
not this page.

A recipe is a YAML file. What is required must be given; a key that does not stand here is refused. On the command
line `--set section.field=value` sets one field. `raysft schema` writes the same as a JSON schema, for editors.
"""

UNITS = {
    "chars": "characters",
    "copies": "records",
    "cpus_per_worker": "CPUs",
    "epochs": "passes",
    "gib": "GiB",
    "gpus_per_worker": "GPUs",
    "hashes": "hashes",
    "hidden_size": "dimensions",
    "bottleneck_size": "dimensions",
    "hours": "hours",
    "max_failures": "failures",
    "keep_last": "commits",
    "kl_top_k": "tokens",
    "layers": "layers",
    "nats": "nats per target token",
    "ngram": "words",
    "pipeline": "workers",
    "prompts": "prompts",
    "concurrent": "trials",
    "reduction": "trials",
    "rows": "rows",
    "s": "seconds",
    "secondary_shards": "workers",
    "sequence": "workers",
    "steps": "optimizer steps",
    "tensor": "workers",
    "tokens": "tokens",
    "trials": "trials",
    "workers": "workers",
    "points": "values",
    "rank": "dimensions",
}
"""Unit by a field's name, or by the last of its words that stands here."""

PURE_NUMBERS = frozenset(
    {
        *(
            "alpha",
            "beta1",
            "beta2",
            "momentum",
            "moment_decay",
            "clip_threshold",
            "b_learning_rate_ratio",
            "learning_rate_ratio",
            "dropout",
            "embedding_noise",
            "adversarial_epsilon",
            "reduction_factor",
            "reversal",
            "eps",
            "entropy_top_k",
            "gamma",
            "focal_gamma",
            "class_weights",
            "high",
            "power",
            "share",
            "teacher_draws",
            "teacher_top_k",
            "teacher_weights",
            "label_smoothing",
            "layer",
            "learning_rate",
            "low",
            "max_grad_norm",
        ),
        *(
            "max_duplicate_lines",
            "max_duplicate_ngrams",
            "max_top_ngram",
            "min_confidence",
        ),
        *(
            "min_score",
            "probability",
            "quantile",
            "seed",
            "spike_factor",
            "step",
            "temperature",
            "threshold",
        ),
        *("weight_decay", "zero"),
    }
)
"""Numbers without a unit: shares, factors, seeds, and those whose unit is that of the field they are searched for."""

PURE_WORDS = frozenset({"beta", "fraction", "ratio", "share", "weight"})
"""Last words of names of numbers without a unit."""

Schema = dict[str, Any]


def reference(schema: Schema) -> str:
    """The page of a schema as recipe_schema() makes it: Markdown, one heading a section."""
    defs, tags = schema["$defs"], dict(_tags(schema))
    sections = {name: SchemaSection(each, tags.get(name)) for name, each in defs.items()}
    page = _pages("recipe", SchemaSection(schema, None), sections, set())
    return "\n".join([INTRODUCTION, *page]).rstrip() + "\n"


def unit(name: str, field: Schema) -> str:
    """A field's unit; nothing for what is no number, or a number without one. Raises KeyError for an unknown name."""
    is_number = {"integer", "number"} & {choice.get("type") for choice in _choices(field)}
    if not is_number or name in PURE_NUMBERS or name.rpartition("_")[2] in PURE_WORDS:
        return ""
    known = [word for word in (name, *reversed(name.split("_"))) if word in UNITS]
    return UNITS[known[0]] if known else UNITS[name]


@dataclass(frozen=True)
class SchemaSection:
    """A section's schema; tag: the field that says of which kind it is, where a union is told apart by one."""

    schema: Schema
    tag: str | None

    @property
    def is_table(self) -> bool:
        """Has it fields? A named list of values has none."""
        return self.schema.get("type") == "object"

    @property
    def kind(self) -> str:
        """The tag's value."""
        return str(self.schema["properties"][self.tag]["const"]) if self.tag else ""

    @property
    def fields(self) -> dict[str, Schema]:
        """Its fields, without the tag and what only editors read."""
        found = self.schema.get("properties", {})
        return {name: field for name, field in found.items() if name != self.tag and not name.startswith("$")}


def _tags(part: Any) -> Iterator[tuple[str, str]]:
    """(name of a section, the field that tells it apart from the others of its union)."""
    if isinstance(part, dict):
        union = part.get("discriminator", {})
        yield from ((_name(ref), union["propertyName"]) for ref in union.get("mapping", {}).values())
    for inner in part.values() if isinstance(part, dict) else part if isinstance(part, list) else ():
        yield from _tags(inner)


def _pages(
    path: str, section: SchemaSection, sections: Mapping[str, SchemaSection], written: set[str]
) -> Iterator[str]:
    """A section's heading and table, then those of the sections in it; each once, where it comes first."""
    which = f" with `{section.tag}: {section.kind}`" if section.tag else ""
    yield f"{'###' if '.' in path else '##'} `{path}`{which}\n"
    yield _cell(section.schema["description"]) + "\n"
    required = section.schema.get("required", [])
    if section.fields:
        yield "| field | type and bounds | default | unit | meaning |\n|---|---|---|---|---|"
    for name, field in section.fields.items():
        default = "required" if name in required else _default(field)
        meaning = field.get("description") or sections[_refs(field)[0]].schema["description"]
        cells = (f"`{name}`", _kind(field, sections), default, unit(name, field), meaning)
        yield f"| {' | '.join(map(_cell, cells))} |"
    yield ""
    for name, ref in ((name, ref) for name, field in section.fields.items() for ref in _refs(field)):
        if sections[ref].is_table and ref not in written:
            written.add(ref)
            inner = name if path == "recipe" else f"{path}.{name}"
            yield from _pages(inner, sections[ref], sections, written)


def _cell(text: str) -> str:
    """One line that stands in a table; `<EMAIL>` outside of code would be read as HTML."""
    code_and_prose = " ".join(text.replace("|", "\\|").split()).split("`")
    return "`".join(re.sub(r"<(?=\S)", r"\<", part) if i % 2 == 0 else part for i, part in enumerate(code_and_prose))


def _name(ref: str) -> str:
    return ref.rpartition("/")[2]


def _choices(field: Schema) -> list[Schema]:
    """What a field may be, unions taken apart, but for those that a tag tells apart."""
    apart = field.get("anyOf") or field.get("oneOf")
    if not apart or "discriminator" in field:
        return [field]
    return [choice for each in apart for choice in _choices(each)]


def _refs(field: Schema) -> list[str]:
    """Names of the sections that a field may be or hold, in its order, each once."""
    own = [_name(field["$ref"])] if "$ref" in field else []
    parts = [*field.get("anyOf", []), *field.get("oneOf", []), field.get("items"), field.get("additionalProperties")]
    return list(dict.fromkeys(own + [ref for part in parts if isinstance(part, dict) for ref in _refs(part)]))


def _kind(field: Schema, sections: Mapping[str, SchemaSection]) -> str:
    return " or ".join(dict.fromkeys(_one_kind(choice, sections) for choice in _choices(field)))


def _one_kind(field: Schema, sections: Mapping[str, SchemaSection]) -> str:
    if "discriminator" in field:
        kinds = ", ".join(f"`{sections[ref].kind}`" for ref in _refs(field))
        return f"section with `{field['discriminator']['propertyName']}`: {kinds}"
    if "$ref" in field:
        named = sections[_name(field["$ref"])]
        return "section" if named.is_table else _kind(named.schema, sections)
    if "enum" in field or "const" in field:
        return ", ".join(f"`{value}`" for value in field.get("enum", [field.get("const")]))
    kind = field.get("type")
    least = field.get("minItems") or field.get("minProperties")
    at_least = f" of at least {least}" if least else ""
    if kind == "array":
        return f"list{at_least}: {_kind(field.get('items', {}), sections)}"
    if kind == "object" and "properties" in field:
        return f"`{{{', '.join(field['properties'])}}}`"
    if kind == "object":
        values = field.get("additionalProperties")
        return f"mapping{at_least}: name -> {_kind(values if isinstance(values, dict) else {}, sections)}"
    words = {"null": "`null`", "string": "text", None: "any value"}
    return ", ".join([words.get(kind, str(kind)), *_bounds(field)])


def _bounds(field: Schema) -> Iterator[str]:
    signs = (("minimum", ">="), ("exclusiveMinimum", ">"), ("maximum", "<="), ("exclusiveMaximum", "<"))
    yield from (f"{sign} {field[key]:,}" for key, sign in signs if key in field)
    if "pattern" in field:
        yield f"matches `{field['pattern']}`"


def _default(field: Schema) -> str:
    """As YAML writes it in one line; a section's own defaults stand in its table."""
    default = field.get("default", {})  # a default that is made anew each time stands in no schema
    if isinstance(default, dict) and _refs(field):
        tag = next((one["discriminator"]["propertyName"] for one in _choices(field) if "discriminator" in one), None)
        return f"`{tag}: {default[tag]}`" if tag in default else "see below"
    return f"`{default if isinstance(default, str) else json.dumps(default)}`"


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(reference(recipe_schema()), encoding="utf-8")
